//! Runs the selftests inside the VM and prints KTAP.
//!
//! Each case runs in a process of its own, with a deadline, on a software NIC loaded afresh: a case
//! that panics, hangs or leaves something behind fails alone. A warning that the kernel logs
//! meanwhile fails the case, too, and so does a setting of the machine that is not what it was.

#![deny(unsafe_code)]

#[macro_use]
mod runner;
mod cases;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

use framework::driver::Driver;
use framework::memory::{self, Kind};
use framework::{Skip, machine, nic_state, sysctl, testbed};

use runner::ktap::{Ktap, Verdict};
use runner::registry::{ALL, Case};
use runner::{isolate, kmsg, selection};

/// Status of a case's process that cannot hold here; its reason is on the last line of stdout.
const EXIT_SKIP: u8 = 4;

/// A case that takes longer says so.
const LONG: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "Runs the devmem-tcp selftests in this VM and prints KTAP")]
struct Args {
    /// Run only the cases whose name contains one of these
    filter: Vec<String>,
    /// Those that are about one of these kinds of memory, once for each
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "udmabuf,heap,fd,socket"
    )]
    memories: Vec<Kind>,
    /// Have the software NIC behave as one of this driver's
    #[arg(long, value_enum, default_value = "swnic")]
    driver: Driver,
    /// Run only a few cases, which say whether the tools cope with a driver
    #[arg(long, conflicts_with = "filter")]
    brief: bool,
    /// Name the cases and end
    #[arg(long)]
    list: bool,
    /// Run every Nth of them only, from the Ith on, and leave the others to other VMs
    #[arg(long, value_name = "I/N", value_parser = share, default_value = "1/1")]
    share: (usize, usize),
    /// Seconds a case may take before it is killed and fails
    #[arg(long, default_value_t = 180)]
    deadline: u64,
    /// Run this one case here and now (how the runner starts its cases)
    #[arg(long, hide = true)]
    case: Option<String>,
    /// With this memory
    #[arg(long, hide = true, value_enum, default_value = "udmabuf")]
    with: Kind,
}

/// `2/3`: the second of three shares.
fn share(text: &str) -> Result<(usize, usize), String> {
    let (first, of) = text.split_once('/').unwrap_or((text, "1"));
    match (first.parse(), of.parse()) {
        (Ok(first), Ok(of)) if (1..=of).contains(&first) => Ok((first, of)),
        _ => Err(format!("{text:?} is no share such as 1/2")),
    }
}

fn main() -> ExitCode {
    // A case that receives in its own process has a guardian, too.
    if let Some(code) = nic::guardian() {
        return code;
    }
    let args = Args::parse();
    if let Some(name) = &args.case {
        memory::choose(args.with);
        args.driver.play();
        return run_here(name);
    }
    match run_all(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("selftests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one case in this process.
#[allow(clippy::print_stdout)] // the case's diagnostics; the runner reads them
fn run_here(name: &str) -> ExitCode {
    let Some(case) = ALL.iter().find(|case| case.name == name) else {
        println!("no case is called {name}");
        return ExitCode::FAILURE;
    };
    match (case.run)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => {
                println!("{}", skip.0);
                ExitCode::from(EXIT_SKIP)
            }
            None => {
                println!("{error:?}");
                ExitCode::FAILURE
            }
        },
    }
}

/// A case, and the memory that it receives into.
struct Turn {
    case: &'static Case,
    memory: Kind,
    name: String,
}

impl Turn {
    /// What the runner starts itself with, to run it.
    fn arguments(&self, driver: Driver) -> [&str; 6] {
        [
            "--case",
            &self.case.name,
            "--with",
            self.memory.name(),
            "--driver",
            driver.name(),
        ]
    }
}

/// Those that were asked for.
fn turns(args: &Args) -> Vec<Turn> {
    let turn = |case: &'static Case, memory: Kind| {
        let name = match memory {
            Kind::Udmabuf => case.name.clone(),
            _ => format!("{}({})", case.name, memory.name()),
        };
        Turn { case, memory, name }
    };
    let with = |memory: &Kind| {
        let memory = *memory;
        let about = ALL
            .iter()
            .filter(move |case| case.memories.contains(&memory));
        about.map(move |case| turn(case, memory))
    };
    let wanted = |turn: &Turn| match args.filter.is_empty() {
        true if args.brief => selection::BRIEF.contains(&turn.case.name.as_str()),
        true => selection::runs(args.driver, &turn.case.name),
        false => args.filter.iter().any(|part| turn.name.contains(part)),
    };
    let (first, step) = args.share;
    let all = args.memories.iter().flat_map(with).filter(wanted);
    all.skip(first - 1).step_by(step).collect()
}

/// Runs the chosen cases one after the other; true if none failed.
fn run_all(args: &Args) -> Result<bool> {
    let chosen = turns(args);
    let mut out = io::stdout().lock();
    if args.list {
        for turn in chosen {
            io::Write::write_all(&mut out, format!("{}\n", turn.name).as_bytes())?;
        }
        return Ok(true);
    }
    if chosen.is_empty() && args.share.0 == 1 {
        bail!("no case's name contains any of {:?}", args.filter);
    }
    let program = machine::stage()?;
    let mut kernel = kmsg::Kmsg::open().context("the kernel's log")?;
    let mut settings = sysctl::Snapshot::take().context("the machine's settings")?;
    let mut ktap = Ktap::begin(out, chosen.len())?;
    for turn in chosen {
        if let Some(why) = selection::why_skipped(args.driver, &turn.case.name) {
            ktap.verdict(&turn.name, &Verdict::Skipped(why.to_owned()))?;
            continue;
        }
        let verdict = run_apart(
            &program,
            &turn,
            args.driver,
            Duration::from_secs(args.deadline),
            &mut kernel,
            &mut settings,
            &mut ktap,
        )?;
        ktap.verdict(&turn.name, &verdict)?;
    }
    Ok(ktap.end()?)
}

/// Runs one case in a process of its own and clears up behind it.
fn run_apart<W: io::Write>(
    program: &Path,
    turn: &Turn,
    driver: Driver,
    deadline: Duration,
    kernel: &mut kmsg::Kmsg,
    settings: &mut sysctl::Snapshot,
    ktap: &mut Ktap<W>,
) -> Result<Verdict> {
    let begun = Instant::now();
    let end = isolate::run_case(program, &turn.arguments(driver), deadline)?;
    let took = begun.elapsed();
    let mut verdict = match end.status {
        isolate::Status::Exited(0) => Verdict::Passed,
        isolate::Status::Exited(code) if code == i32::from(EXIT_SKIP) => {
            Verdict::Skipped(end.output.trim().to_owned())
        }
        isolate::Status::Exited(_) => Verdict::Failed,
        isolate::Status::Signalled(signal) => {
            ktap.note(&format!("killed by {signal}"))?;
            Verdict::Failed
        }
        isolate::Status::TimedOut => {
            ktap.note(&format!("no end after {} s: killed", deadline.as_secs()))?;
            Verdict::Failed
        }
    };
    if !matches!(verdict, Verdict::Skipped(_)) {
        ktap.note(&end.output)?;
    }
    if took > LONG {
        ktap.note(&format!("took {:.0} s", took.as_secs_f32()))?;
    }
    // A guardian that was left behind would go on for some time.
    let cleared = nic_state::clear().and_then(|()| testbed::clear());
    if let Err(error) = cleared {
        ktap.note(&format!("clearing up: {error:#}"))?;
        verdict = Verdict::Failed;
    }
    let now = sysctl::Snapshot::take()?;
    for left in now.differences(settings) {
        ktap.note(&left.to_string())?;
        if let Err(error) = left.put_back() {
            ktap.note(&format!("{error:#}"))?;
        }
        verdict = Verdict::Failed;
    }
    settings.go_on_from(now);
    let complaints = kernel.complaints().context("the kernel's log")?;
    if !complaints.is_empty() {
        ktap.note(&complaints)?;
        verdict = Verdict::Failed;
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Args;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
