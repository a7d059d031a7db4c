//! Checks of the addresses to listen on, and of the changes of the NIC that `recv` would make for
//! them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use devmem::listen::{self, SocketOptions};
use netdev::QueueId;
use netdev::ethtool::{Action, FlowRule};
use netdev::link::LinkInfo;
use nic::{Error, Plan, RunDir};

use super::check::{Area, Check, Finding};
use super::machine::Wanted;
use super::namespace::Namespace;
use super::nic::Nic;
use crate::address::resolve_all;
use crate::plan::flows;
use crate::remedy::{self, in_namespace};

/// Addresses to listen on, in the namespace of the receiving device.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) namespace: Namespace,
    pub(super) link: LinkInfo,
    pub(super) wanted: Wanted,
}

pub(super) const CHECKS: &[Check<Listening>] = &[
    Check {
        id: "listen.address",
        areas: &[Area::Rx],
        what: "the addresses can be listened on",
        run: check_address,
    },
    Check {
        id: "listen.from",
        areas: &[Area::Rx],
        what: "connections from the one address can come to the others",
        run: check_peer_address,
    },
];

/// Checks of the NIC for the addresses: what `recv` finds before it changes anything.
pub(super) const OF_NIC: &[Check<Nic>] = &[
    Check {
        id: "queues.owner",
        areas: &[Area::Rx],
        what: "no other receiver has the queue",
        run: check_queue_owner,
    },
    Check {
        id: "ntuple.flow",
        areas: &[Area::Rx],
        what: "no other rule has the packets",
        run: check_flow,
    },
    Check {
        id: "rss.spread",
        areas: &[Area::Rx],
        what: "a flow can be spread over the queues",
        run: check_spread,
    },
];

/// Check that reports a refusal of `recv` that no other check has found.
pub(super) const REST: &[Check<Nic>] = &[Check {
    id: "nic.plan",
    areas: &[Area::Rx],
    what: "the NIC can be set up",
    run: check_rest,
}];

/// Made-up address for a flow rule where none was given (RFC 7600's dummy address, the discard
/// port).
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)), 9);

impl Wanted {
    /// Plan of `recv` for a NIC with these queues. Where no address was named, a made-up one stands
    /// for any, because at least one rule is needed.
    pub(super) fn plan(&self, nic: &LinkInfo, queues: &[QueueId]) -> Plan {
        let plan = Plan::new(&nic.name, nic.ifindex)
            .header_split()
            .reserve(queues);
        let mut flows: Vec<FlowRule> = self
            .listen
            .iter()
            .flat_map(|at| FlowRule::tcp_to_listener(at.on_the_wire(), self.from, Action::Drop))
            .collect();
        if self.listen.is_empty() {
            flows.push(FlowRule::tcp_to(ANY, Action::Drop));
        }
        let steer = |plan: Plan, flow| plan.steer(flow, queues);
        match queues {
            [] => plan,
            _ => flows.into_iter().fold(plan, steer),
        }
    }
}

fn check_address(listening: &Listening) -> Option<Finding> {
    let Listening {
        namespace,
        link,
        wanted,
    } = listening;
    if wanted.listen.is_empty() {
        return None;
    }
    // All at once, as `recv` binds them.
    let bind = || -> anyhow::Result<Vec<listen::Bound>> {
        let all = resolve_all(&wanted.listen, &namespace.netns, link.ifindex)?;
        let bind = |at| listen::bind(at, &SocketOptions::default());
        let bound = namespace
            .netns
            .run(|| all.into_iter().map(bind).collect::<Result<_, _>>())?;
        Ok(bound?)
    };
    let bound = bind();
    Some(match bound {
        Ok(_) => Finding::ok("the addresses are free"),
        Err(error) => failure(in_namespace(error, &namespace.netns)),
    })
}

fn check_peer_address(listening: &Listening) -> Option<Finding> {
    let wanted = &listening.wanted;
    wanted.from?;
    let mut listen = wanted.listen.iter();
    let never = listen.find_map(|address| flows(address.on_the_wire(), wanted.from).err());
    Some(match never {
        None => Finding::ok("the addresses are of one family"),
        Some(error) => failure(error),
    })
}

fn failure(error: anyhow::Error) -> Finding {
    let finding = Finding::fail(format!("{error:#}"));
    match remedy::remedy(&error) {
        Some(remedy) => finding.remedy(remedy),
        None => finding,
    }
}

fn check_queue_owner(nic: &Nic) -> Option<Finding> {
    match &nic.preview {
        Err(Error::QueueTaken { queue, .. }) => {
            // A queue that is bound, too, is reported by another check.
            let there = nic.queues.iter().find(|there| there.id == *queue);
            let bound = there.is_some_and(|there| there.dmabuf.is_some());
            (!bound).then(|| refusal(nic))
        }
        _ if nic.wanted.is_empty() => None,
        _ => Some(Finding::ok("none")),
    }
}

fn check_flow(nic: &Nic) -> Option<Finding> {
    match &nic.preview {
        Err(Error::FlowTaken { .. }) => Some(refusal(nic)),
        _ if !nic.listens => None,
        _ => Some(Finding::ok("none")),
    }
}

fn check_spread(nic: &Nic) -> Option<Finding> {
    match &nic.preview {
        Err(Error::NoContexts { .. }) => Some(refusal(nic)),
        _ if nic.wanted.len() < 2 => None,
        _ => Some(Finding::ok("the flow can be spread")),
    }
}

fn check_rest(nic: &Nic) -> Option<Finding> {
    match &nic.preview {
        // Reported by the check of the machine.
        Err(Error::RunDir(_)) if RunDir::check_writable().is_err() => None,
        Err(_) => Some(refusal(nic)),
        Ok(()) => Some(Finding::ok("it can")),
    }
}

/// Error that `recv` would print, with its remedy.
fn refusal(nic: &Nic) -> Finding {
    match &nic.preview {
        Ok(()) => Finding::ok("no refusal"),
        Err(error) => {
            let finding = Finding::fail(common::with_sources(error));
            match remedy::of_nic(error, &nic.namespace.command("")) {
                Some(remedy) => finding.remedy(remedy),
                None => finding,
            }
        }
    }
}
