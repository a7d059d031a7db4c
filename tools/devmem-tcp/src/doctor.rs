//! `devmem-tcp doctor`: what must be true to receive into device memory, to send from it, and to
//! lease a queue; and what to do where it is not. It changes nothing.
//!
//! Each check is a small function in the table of its file; what the kernel would refuse is found
//! by requests that it must refuse.

mod driver;
mod left;
mod line;
mod link;
mod listening;
mod machine;
mod memory;
mod netkit;
mod nic;
mod place;
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
use line::{Area, Line, Status};
use listening::Listening;
use machine::{Machine, Wanted};
use netkit::Netkit;
use nic::Nic;
use place::Place;
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
    /// Where is to be listened, as for recv; may be given again
    #[arg(long, short, value_name = "ADDR:PORT", requires = "device")]
    listen: Vec<Address>,
    /// Only connections from this address
    #[arg(long, value_name = "ADDR", requires = "listen")]
    from: Option<IpAddr>,
    /// What is to be received into: udmabuf, heap:NAME, drm:/dev/dri/cardN, cuda:N, cuda:N:pcie,
    /// fd:N, or socket:PATH
    #[arg(long, value_name = "MEMORY", default_value_t)]
    memory: Choice,
    /// Size of the dmabuf [default: 64M]; of one that is passed, what it must have at least
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Pages that a udmabuf is made of
    #[arg(long, value_enum, default_value_t = Pages::Auto)]
    pages: Pages,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Success only if receiving would work.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let place = Place::new(netns(args.netns.as_ref())?)?;
    let machine = Machine::look(place.clone(), wanted(args), again(args, &place));
    let mut checks = line::run(machine::CHECKS, &machine, None);
    checks.extend(line::run(memory::CHECKS, &machine, None));
    checks.extend(line::run(providers::CHECKS, &machine, None));
    checks.extend(line::run(left::CHECKS, &machine, None));
    let report = match &args.device {
        Some(name) => {
            checks.extend(device(&machine, place, name, &args.queues)?);
            Report {
                device: Some(name.clone()),
                receives: works(&checks, Area::Rx),
                sends: works(&checks, Area::Tx),
                leases: works(&checks, Area::Lease),
                checks,
                nics: Vec::new(),
            }
        }
        None => all(&machine, &place, checks)?,
    };
    if args.json {
        report::json(&report)?;
    } else {
        report::text(&report.text(Style::stdout()))?;
    }
    Ok(match report.receives {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The memory that is asked about.
fn wanted(args: &Args) -> Wanted {
    Wanted {
        memory: args.memory.clone(),
        size: args.size.map_or(DEFAULT_LEN, |size| size.0),
        given: args.size.is_some(),
        pages: args.pages.choice(),
        listen: args.listen.clone(),
        from: args.from,
    }
}

/// The arguments of the present run, for a remedy that is another run; without the size.
fn again(args: &Args, place: &Place) -> String {
    let mut words: Vec<String> = args.device.iter().cloned().collect();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some(netns) = place.argument() {
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

/// All checks of a NIC, or of a netkit and of the NIC behind it.
fn device(machine: &Machine, place: Place, name: &str, queues: &[QueueId]) -> Result<Vec<Line>> {
    let link = Link::open_in(&place.netns)?.by_name(name)?;
    let listening = Listening {
        place: place.clone(),
        link: link.clone(),
        wanted: machine.wanted.clone(),
    };
    let mut lines = line::run(listening::CHECKS, &listening, Some(&link.name));
    if link.is_physical() {
        let nic = Nic::look(machine, place, link, queues, None)?;
        lines.extend(of_nic(&nic));
        return Ok(lines);
    }
    let name = link.name.clone();
    let netkit = Netkit::look(machine, place, link, queues)?;
    lines.extend(line::run(netkit::CHECKS, &netkit, Some(&name)));
    if let Some(nic) = netkit.nic(machine) {
        lines.extend(of_nic(&nic?));
    }
    Ok(lines)
}

fn of_nic(nic: &Nic) -> Vec<Line> {
    let tables = [
        driver::CHECKS,
        link::CHECKS,
        queues::CHECKS,
        steering::CHECKS,
        listening::OF_NIC,
        left::OF_NIC,
    ];
    let run = |table: &&[line::Check<Nic>]| line::run(table, nic, Some(nic.name()));
    let mut lines: Vec<Line> = tables.iter().flat_map(run).collect();
    if works(&lines, Area::Rx) {
        lines.extend(run(&listening::REST));
    }
    lines
}

/// The checks of the machine, and a line for each NIC.
fn all(machine: &Machine, place: &Place, checks: Vec<Line>) -> Result<Report> {
    let mut nics = Vec::new();
    netkit::each_nic(machine, place, |nic| {
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
