//! Runs the selftests inside the VM and prints KTAP.
//!
//! Each case runs in a process of its own, with a deadline, on a software NIC loaded afresh: a case
//! that panics, hangs or leaves something behind fails alone. A warning that the kernel logs
//! meanwhile fails the case, too.

#![deny(unsafe_code)]

mod bed;
mod cases;
mod isolate;
mod kmsg;
mod ktap;
mod machine;
mod tool;
mod xdp;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use cases::{Case, Skip};
use ktap::{Ktap, Verdict};

/// Status of a case's process that cannot hold here; its reason is on the last line of stdout.
const EXIT_SKIP: u8 = 4;

#[derive(Parser)]
#[command(about = "Runs the devmem-tcp selftests in this VM and prints KTAP")]
struct Args {
    /// Run only the cases whose name contains this
    filter: Option<String>,
    /// Name the cases and end
    #[arg(long)]
    list: bool,
    /// Seconds a case may take before it is killed and fails
    #[arg(long, default_value_t = 90)]
    deadline: u64,
    /// Run this one case here and now (how the runner starts its cases)
    #[arg(long, hide = true)]
    case: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.case {
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
    let Some(case) = cases::ALL.iter().find(|case| case.name == name) else {
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

/// Runs the chosen cases one after the other; true if none failed.
fn run_all(args: &Args) -> Result<bool> {
    let wanted = |case: &&Case| {
        args.filter
            .as_ref()
            .is_none_or(|part| case.name.contains(part))
    };
    let chosen: Vec<&Case> = cases::ALL.iter().filter(wanted).collect();
    if chosen.is_empty() {
        bail!(
            "no case's name contains {:?}",
            args.filter.as_deref().unwrap_or("")
        );
    }
    let mut out = io::stdout().lock();
    if args.list {
        for case in chosen {
            io::Write::write_all(&mut out, format!("{}\n", case.name).as_bytes())?;
        }
        return Ok(true);
    }
    let mut kernel = kmsg::Kmsg::open().context("the kernel's log")?;
    let mut ktap = Ktap::begin(out, chosen.len())?;
    for case in chosen {
        let verdict = run_apart(
            case,
            Duration::from_secs(args.deadline),
            &mut kernel,
            &mut ktap,
        )?;
        ktap.verdict(case.name, &verdict)?;
    }
    Ok(ktap.end()?)
}

/// Runs one case in a process of its own and clears up behind it.
fn run_apart<W: io::Write>(
    case: &Case,
    deadline: Duration,
    kernel: &mut kmsg::Kmsg,
    ktap: &mut Ktap<W>,
) -> Result<Verdict> {
    let end = isolate::run_case(case.name, deadline)?;
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
    if let Err(error) = bed::clear() {
        ktap.note(&format!("clearing up: {error:#}"))?;
        verdict = Verdict::Failed;
    }
    let complaints = kernel.complaints().context("the kernel's log")?;
    if !complaints.is_empty() {
        ktap.note(&complaints)?;
        verdict = Verdict::Failed;
    }
    Ok(verdict)
}
