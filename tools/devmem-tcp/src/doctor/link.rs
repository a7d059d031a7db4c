//! Checks of the link: up, mtu, XDP, coalescing.

use std::fs;

use netdev::link::{Xdp, XdpMode};
use netdev::shell_word;

use super::check::{Area, Check, Finding};
use super::nic::Nic;

/// Size of a niov in bytes, where the memory does not have larger ones.
const PAGE: u32 = 4096;
/// Length of the headers of IPv4 and TCP with time stamps.
const HEADERS: u32 = 52;
/// Name of the feature that packs payload of several packets into one niov.
const COALESCE: &str = "rx-gro-hw";

pub(super) const CHECKS: &[Check<Nic>] = &[
    Check {
        id: "link.up",
        areas: &[Area::Rx, Area::Tx],
        what: "the link is up",
        run: check_up,
    },
    Check {
        id: "link.carrier",
        areas: &[Area::Rx, Area::Tx],
        what: "the link has a carrier",
        run: check_carrier,
    },
    Check {
        id: "link.xdp",
        areas: &[Area::Rx],
        what: "no XDP program is attached",
        run: check_xdp,
    },
    Check {
        id: "link.mtu",
        areas: &[Area::Rx],
        what: "the mtu is large enough for IPv6, and for payload worth its headers",
        run: check_mtu,
    },
    Check {
        id: "link.coalesce",
        areas: &[Area::Rx],
        what: "the payload of a packet, or of several, fills whole pages",
        run: check_coalescing,
    },
];

fn check_up(nic: &Nic) -> Option<Finding> {
    Some(if nic.link.up {
        Finding::ok("up")
    } else {
        let command = format!("ip link set dev {} up", shell_word(nic.name()));
        Finding::fail("down").remedy(nic.namespace.command(&command))
    })
}

fn check_carrier(nic: &Nic) -> Option<Finding> {
    match (nic.link.up, nic.link.running) {
        (false, _) => None,
        (true, true) => Some(Finding::ok("carrier")),
        (true, false) => Some(
            Finding::fail("no carrier: the other end of the wire is missing or down")
                .remedy("check the cable and the other end"),
        ),
    }
}

/// Checks that no XDP program is attached: `__netif_mp_open_rxq` refuses one, and while a queue is
/// bound, `dev_xdp_install` does.
fn check_xdp(nic: &Nic) -> Option<Finding> {
    let Some(Xdp { mode, prog_id, .. }) = nic.link.xdp else {
        return Some(Finding::ok("none"));
    };
    let (words, flag) = match mode {
        XdpMode::Driver => ("in the driver", "xdpdrv"),
        XdpMode::Generic => ("generic", "xdpgeneric"),
        XdpMode::Hardware => ("in the NIC", "xdpoffload"),
        _ => ("several", "xdp"),
    };
    let Some(id) = prog_id else {
        let command = format!("bpftool net show dev {}", shell_word(nic.name()));
        return Some(Finding::fail(words).remedy(nic.namespace.command(&command)));
    };
    let found = format!("program {id}, {words}");
    let remedy = match bpf_link_of(id) {
        // A program that a BPF link attached is detached only with the link (`dev_xdp_attach`).
        Some(link) => format!("bpftool link detach id {link}"),
        None => format!("ip link set dev {} {flag} off", shell_word(nic.name())),
    };
    Some(Finding::fail(found).remedy(nic.namespace.command(&remedy)))
}

/// BPF link that holds this program, from the `fdinfo` of processes (`bpf_link_show_fdinfo`).
fn bpf_link_of(program: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let folders = processes.map(|process| process.path().join("fdinfo"));
    let mut infos = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|infos| infos.flatten())
        .filter_map(|info| fs::read_to_string(info.path()).ok());
    infos.find_map(|info| {
        // Some of these files are written by processes, as those of FUSE, so only numbers are
        // accepted.
        let field = |name: &str| -> Option<u32> {
            let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
            info.lines().find_map(value)
        };
        field("link_id:").filter(|_| field("prog_id:") == Some(program))
    })
}

fn check_mtu(nic: &Nic) -> Option<Finding> {
    let mtu = nic.link.mtu;
    let found = format!("{mtu}");
    Some(if mtu >= 1280 {
        Finding::ok(found)
    } else {
        let command = format!("ip link set dev {} mtu 1500", shell_word(nic.name()));
        Finding::warn(found + ": too small for IPv6, and pages stay almost empty")
            .remedy(nic.namespace.command(&command))
    })
}

/// Checks that the NIC coalesces payload: otherwise each packet takes whole niovs.
fn check_coalescing(nic: &Nic) -> Option<Finding> {
    let payload = nic.link.mtu.saturating_sub(HEADERS).max(1);
    let pages = payload.div_ceil(PAGE);
    let full = payload * 100 / (pages * PAGE);
    let found = format!("{payload} bytes of payload fill {full} % of {pages} × {PAGE}");
    Some(match nic.feature(COALESCE) {
        (true, _) => Finding::ok(format!(
            "{COALESCE} is on: pages are filled by several packets"
        )),
        _ if full >= 60 => Finding::ok(found),
        (false, true) => Finding::warn(format!("{found}, {COALESCE} is off"))
            .remedy(nic.ethtool("-K", &format!("{COALESCE} on"))),
        (false, false) => match nic.link.max_mtu {
            Some(max) if max >= PAGE + HEADERS => {
                let command = format!(
                    "ip link set dev {} mtu {}",
                    shell_word(nic.name()),
                    PAGE + HEADERS
                );
                Finding::warn(format!("{found}; the other end needs the same mtu"))
                    .remedy(nic.namespace.command(&command))
            }
            _ => Finding::warn(found + ", and neither mtu nor coalescing can change it"),
        },
    })
}
