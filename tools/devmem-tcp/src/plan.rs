//! `devmem-tcp plan` and `devmem-tcp apply`: setting a NIC up for another program's receiver.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use netdev::ethtool::{Action, FlowRule};
use netdev::{Link, QueueId};
use nic::{Change, Plan};
use serde::Serialize;

use crate::address::FlowDestination;
use crate::args::{NetNsArg, netns};
use crate::remedy::{Hint, in_namespace};
use crate::report;

// Not `#[group(...)]`, which is the group of all arguments: then the NIC's name alone would be
// enough.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("wish").required(true).multiple(true)
    .args(["queues", "header_split", "channels", "rx_ring"]))]
pub(crate) struct Args {
    /// The physical NIC to set up
    #[arg(value_name = "IF")]
    device: String,
    /// The namespace of the NIC: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// An rx queue for payload: RSS puts nothing on it, and headers are split; may be given again
    #[arg(long = "queue", value_name = "N")]
    queues: Vec<QueueId>,
    /// Steer TCP to this address to the queues, as a socket that listens there takes it; ADDR:any takes
    /// all ports, ssh included; may be given again
    #[arg(long = "flow", value_name = "ADDR:PORT", requires = "queues")]
    flows: Vec<FlowDestination>,
    /// Only flows from this address
    #[arg(long, value_name = "ADDR", requires = "flows")]
    from: Option<IpAddr>,
    /// Split headers from payload, whatever the payload's size
    #[arg(long)]
    header_split: bool,
    /// Least number of channels that receive: combined ones, or rx where there are only those
    #[arg(long, value_name = "N")]
    channels: Option<u32>,
    /// Least number of descriptors in each rx ring
    #[arg(long, value_name = "N")]
    rx_ring: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    plan: Args,
    /// Change nothing, say what would change
    #[arg(long)]
    dry_run: bool,
}

/// Changes of a NIC, in the form in which they are printed.
#[derive(Serialize)]
pub(crate) struct Changes<'a> {
    device: &'a str,
    /// Whether the changes were made, or only planned.
    applied: bool,
    changes: Vec<Change>,
}

/// Runs `devmem-tcp plan`: prints what `apply` would do.
pub(crate) fn run(args: &Args) -> Result<()> {
    let netns = netns(args.netns.as_ref())?;
    let plan = plan(args, &netns)?;
    let changes = plan.preview(&netns);
    let changes = changes.map_err(|error| in_namespace(error, &netns))?;
    print(&args.device, changes, false, args.json)
}

/// Runs `devmem-tcp apply`: changes the NIC until `devmem-tcp restore IF`.
pub(crate) fn apply(args: &ApplyArgs) -> Result<()> {
    if args.dry_run {
        return run(&args.plan);
    }
    let args = &args.plan;
    let netns = netns(args.netns.as_ref())?;
    let changes = plan(args, &netns)?.apply_to_stay(&netns);
    let changes = changes.map_err(|error| in_namespace(error, &netns))?;
    print(&args.device, changes, true, args.json)
}

fn plan(args: &Args, netns: &netdev::NetNs) -> Result<Plan> {
    let link = Link::open_in(netns)?.by_name(&args.device);
    let link = link.map_err(|error| in_namespace(error, netns))?;
    let mut plan = Plan::new(link.name, link.ifindex).reserve(&args.queues);
    if args.header_split || !args.queues.is_empty() {
        plan = plan.header_split();
    }
    if let Some(channels) = args.channels {
        plan = plan.channels(channels);
    }
    if let Some(descriptors) = args.rx_ring {
        plan = plan.rx_ring(descriptors);
    }
    for flow in &args.flows {
        let rules = flows(flow.on_the_wire(), args.from)?;
        for rule in rules {
            plan = plan.steer(rule, &args.queues);
        }
    }
    Ok(plan)
}

/// Flow rules for all connections to a socket at this address, without their action.
pub(crate) fn flows(at: SocketAddr, from: Option<IpAddr>) -> Result<Vec<FlowRule>> {
    let rules = FlowRule::tcp_to_listener(at, from, Action::Drop);
    match (rules.is_empty(), from) {
        (true, Some(from)) => Err(Hint::new(
            format!("--from {from}: nothing from there can come to {at}"),
            "give two addresses of one family",
        )
        .into()),
        _ => Ok(rules),
    }
}

/// Prints the changes of a NIC, one on each line.
pub(crate) fn print(device: &str, changes: Vec<Change>, applied: bool, json: bool) -> Result<()> {
    if json {
        return report::json(&Changes {
            device,
            applied,
            changes,
        });
    }
    let mut text = String::new();
    if changes.is_empty() {
        writeln!(text, "{device}: nothing changes")?;
    }
    let would = if applied { "" } else { "would change: " };
    for change in changes {
        writeln!(text, "{device}: {would}{change}")?;
    }
    report::text(&text)
}
