//! `devmem-tcp doctor`: checks what receiving into device memory, sending from it and leasing a
//! queue require, with a remedy where it is not met. It changes nothing.
//!
//! Each check is a small function in the table of its file. What the kernel would refuse is found
//! by requests that it must refuse.

mod check;
mod distance;
mod driver;
mod leftovers;
mod link;
mod listening;
mod machine;
mod memory;
mod namespace;
mod netkit;
mod nic;
mod print;
mod probe;
mod providers;
mod queues;
mod steering;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::process::ExitCode;

use ::memory::{Choice, DEFAULT_LEN};
use anyhow::Result;
use netdev::{Link, QueueId, shell_command};

use crate::address::Address;
use crate::args::{NetNsArg, Pages, Size, netns};
use crate::report;
use crate::style::Style;
use check::{Area, CheckResult, Status};
use listening::Listening;
use machine::{Machine, Wanted};
use namespace::Namespace;
use netkit::Netkit;
use nic::Nic;
use print::{Report, Summary, works};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device to receive on, a NIC or a netkit that leases one's queue [default: a line for
    /// each NIC]
    #[arg(value_name = "IF")]
    device: Option<String>,
    /// The namespace of the device: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// The rx queue to receive on; may be given again [default: as for recv]
    #[arg(long = "queue", value_name = "N", requires = "device")]
    queues: Vec<QueueId>,
    /// Address to listen on, as for recv; may be given again
    #[arg(long, short, value_name = "ADDR:PORT", requires = "device")]
    listen: Vec<Address>,
    /// Only connections from this address
    #[arg(long, value_name = "ADDR", requires = "listen")]
    from: Option<IpAddr>,
    /// Memory to receive into: udmabuf, heap:NAME, drm:/dev/dri/cardN, cuda:N, cuda:N:pcie, fd:N,
    /// or socket:PATH
    #[arg(long, value_name = "MEMORY", default_value_t)]
    memory: Choice,
    /// Size of the dmabuf [default: 64M]; of one that is passed, its least size
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Pages that a udmabuf consists of
    #[arg(long, value_enum, default_value_t = Pages::Auto)]
    pages: Pages,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `devmem-tcp doctor`. It exits with success only if receiving would work.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let namespace = Namespace::new(netns(args.netns.as_ref())?)?;
    let machine = Machine::look(
        namespace.clone(),
        recv_options(args),
        rerun_arguments(args, &namespace),
    );
    let mut checks = check::run(machine::CHECKS, &machine, None);
    checks.extend(check::run(memory::CHECKS, &machine, None));
    checks.extend(check::run(providers::CHECKS, &machine, None));
    checks.extend(check::run(leftovers::CHECKS, &machine, None));
    let report = match &args.device {
        Some(name) => {
            checks.extend(check_device(&machine, namespace, name, &args.queues)?);
            Report {
                device: Some(name.clone()),
                receives: works(&checks, Area::Rx),
                sends: works(&checks, Area::Tx),
                leases: works(&checks, Area::Lease),
                checks,
                nics: Vec::new(),
            }
        }
        None => check_all(&machine, &namespace, checks)?,
    };
    if args.json {
        report::json(&report)?;
    } else {
        report::text(&report.text(Style::stdout(), report::columns()))?;
    }
    Ok(match report.receives {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Memory and addresses that `recv` is to use.
fn recv_options(args: &Args) -> Wanted {
    Wanted {
        memory: args.memory.clone(),
        size: args.size.map_or(DEFAULT_LEN, |size| size.0),
        given: args.size.is_some(),
        pages: args.pages.choice(),
        listen: args.listen.clone(),
        from: args.from,
    }
}

/// Arguments of the current run without the size, for a remedy that is another run of `doctor`.
fn rerun_arguments(args: &Args, namespace: &Namespace) -> String {
    let mut words: Vec<String> = args.device.iter().cloned().collect();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some(netns) = namespace.argument() {
        option("--netns", netns.to_owned());
    }
    if args.memory != Choice::default() {
        option("--memory", args.memory.to_string());
    }
    for queue in &args.queues {
        option("--queue", queue.to_string());
    }
    for address in &args.listen {
        option("--listen", address.to_string());
    }
    if let Some(from) = args.from {
        option("--from", from.to_string());
    }
    shell_command(words.iter().map(String::as_str))
}

/// Runs all checks of a NIC, or of a netkit and the NIC behind it.
fn check_device(
    machine: &Machine,
    namespace: Namespace,
    name: &str,
    queues: &[QueueId],
) -> Result<Vec<CheckResult>> {
    let link = Link::open_in(&namespace.netns)?.by_name(name)?;
    let listening = Listening {
        namespace: namespace.clone(),
        link: link.clone(),
        wanted: machine.wanted.clone(),
    };
    let mut lines = check::run(listening::CHECKS, &listening, Some(&link.name));
    if link.is_physical() {
        let nic = Nic::look(machine, namespace, link, queues, None)?;
        lines.extend(of_nic(&nic));
        return Ok(lines);
    }
    let name = link.name.clone();
    let netkit = Netkit::look(machine, namespace, link, queues)?;
    lines.extend(check::run(netkit::CHECKS, &netkit, Some(&name)));
    if let Some(nic) = netkit.nic(machine) {
        lines.extend(of_nic(&nic?));
    }
    Ok(lines)
}

fn of_nic(nic: &Nic) -> Vec<CheckResult> {
    let tables = [
        driver::CHECKS,
        distance::CHECKS,
        link::CHECKS,
        queues::CHECKS,
        steering::CHECKS,
        listening::OF_NIC,
        leftovers::OF_NIC,
    ];
    let run = |table: &&[check::Check<Nic>]| check::run(table, nic, Some(nic.name()));
    let mut lines: Vec<CheckResult> = tables.iter().flat_map(run).collect();
    if works(&lines, Area::Rx) {
        lines.extend(run(&listening::REST));
    }
    lines
}

/// Runs the checks of the machine, and those of each NIC for a summary.
fn check_all(machine: &Machine, namespace: &Namespace, checks: Vec<CheckResult>) -> Result<Report> {
    let mut nics = Vec::new();
    netkit::each_nic(machine, namespace, |nic| {
        let lines = of_nic(&nic);
        let can = |area| works(&checks, area) && works(&lines, area);
        let failed = lines.iter().filter(|line| line.status == Status::Fail);
        nics.push(Summary {
            device: nic.name().to_owned(),
            driver: nic.driver.clone(),
            receives: can(Area::Rx),
            sends: can(Area::Tx),
            leases: can(Area::Lease),
            failed: failed.map(|line| line.id).collect(),
        });
        ControlFlow::Continue(())
    })?;
    Ok(Report {
        device: None,
        receives: nics.iter().any(|nic| nic.receives),
        sends: nics.iter().any(|nic| nic.sends),
        leases: nics.iter().any(|nic| nic.leases),
        checks,
        nics,
    })
}
