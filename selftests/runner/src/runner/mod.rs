//! The runner: a process for each case, the kernel's log, and KTAP.

mod here;
mod isolate;
mod kmsg;
mod ktap;
#[macro_use]
pub(crate) mod registry;
mod selection;
mod turn;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use framework::driver::Driver;
use framework::memory::{self, Kind};
use framework::{machine, nic_state, sysctl, testbed};

use ktap::{Ktap, Verdict};
use turn::{Turn, turns};

/// Exit status of a case's process that skips the case; the last line of stdout has the reason.
const EXIT_SKIP: u8 = 4;

/// Duration from which on a case's time is printed.
const LONG: Duration = Duration::from_secs(5);

#[derive(clap::Parser)]
#[command(about = "Runs the devmem-tcp selftests in this VM and prints KTAP")]
pub(crate) struct Args {
    /// Run only the cases whose name contains one of these
    filter: Vec<String>,
    /// Run the cases that are about one of these kinds of memory, once for each
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
    /// Run only every Nth case, from the Ith on, and leave the others to other VMs
    #[arg(long, value_name = "I/N", value_parser = share, default_value = "1/1")]
    share: (usize, usize),
    /// Seconds a case may take before it is killed and fails
    #[arg(long, default_value_t = 300)]
    deadline: u64,
    /// Run this one case here and now (how the runner starts its cases)
    #[arg(long, hide = true)]
    case: Option<String>,
    /// The kind of memory of that case
    #[arg(long, hide = true, value_enum, default_value = "udmabuf")]
    with: Kind,
}

/// Parses a share of the cases such as `2/3`: the second of three.
fn share(text: &str) -> Result<(usize, usize), String> {
    let (first, of) = text.split_once('/').unwrap_or((text, "1"));
    match (first.parse(), of.parse()) {
        (Ok(first), Ok(of)) if (1..=of).contains(&first) => Ok((first, of)),
        _ => Err(format!("{text:?} is no share such as 1/2")),
    }
}

impl Args {
    /// Runs one case in this process, or all chosen cases in a process each.
    pub(crate) fn run(&self) -> ExitCode {
        if let Some(name) = &self.case {
            memory::choose(self.with);
            self.driver.imitate();
            return here::run(name);
        }
        match self.run_all() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("selftests: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    /// Runs the chosen cases one after the other; true if none failed.
    fn run_all(&self) -> Result<bool> {
        let chosen = turns(self);
        let mut out = io::stdout().lock();
        if self.list {
            for turn in chosen {
                io::Write::write_all(&mut out, format!("{}\n", turn.name).as_bytes())?;
            }
            return Ok(true);
        }
        if chosen.is_empty() && self.share.0 == 1 {
            bail!("no case's name contains any of {:?}", self.filter);
        }
        let mut runner = Runner {
            program: machine::stage()?,
            driver: self.driver,
            deadline: Duration::from_secs(self.deadline),
            kernel: kmsg::Kmsg::open().context("the kernel's log")?,
            settings: sysctl::Snapshot::take().context("the machine's settings")?,
            ktap: Ktap::begin(out, chosen.len())?,
        };
        for turn in chosen {
            let verdict = match selection::why_skipped(self.driver, &turn.case.name) {
                Some(why) => Verdict::Skipped(why.to_owned()),
                None => runner.run_apart(&turn)?,
            };
            runner.ktap.verdict(&turn.name, &verdict)?;
        }
        Ok(runner.ktap.end()?)
    }
}

/// A run of the chosen cases.
struct Runner<W: io::Write> {
    /// Path of this program, from which it is started again for each case.
    program: PathBuf,
    driver: Driver,
    deadline: Duration,
    kernel: kmsg::Kmsg,
    /// The machine's settings before the first case.
    settings: sysctl::Snapshot,
    ktap: Ktap<W>,
}

impl<W: io::Write> Runner<W> {
    /// Runs one case in its own process, and removes what it left.
    fn run_apart(&mut self, turn: &Turn) -> Result<Verdict> {
        let mut verdict = self.verdict(turn)?;
        // A guardian that was left behind would go on for some time.
        let cleared = nic_state::clear().and_then(|()| testbed::clear());
        if let Err(error) = cleared {
            self.ktap.note(&format!("clearing up: {error:#}"))?;
            verdict = Verdict::Failed;
        }
        let left = self.put_settings_back()?;
        let complaints = self.kernel.complaints().context("the kernel's log")?;
        for text in [left, complaints] {
            if !text.is_empty() {
                self.ktap.note(&text)?;
                verdict = Verdict::Failed;
            }
        }
        Ok(verdict)
    }

    /// Runs one case in its own process, and writes its output as diagnostics.
    fn verdict(&mut self, turn: &Turn) -> Result<Verdict> {
        let begun = Instant::now();
        let end = isolate::run_case(
            &self.program,
            &turn.runner_arguments(self.driver),
            self.deadline,
        )?;
        let took = begun.elapsed();
        let verdict = match end.status {
            isolate::Status::Exited(0) => Verdict::Passed,
            isolate::Status::Exited(code) if code == i32::from(EXIT_SKIP) => {
                return Ok(Verdict::Skipped(end.output.trim().to_owned()));
            }
            isolate::Status::Exited(_) => Verdict::Failed,
            isolate::Status::Signalled(signal) => {
                self.ktap.note(&format!("killed by {signal}"))?;
                Verdict::Failed
            }
            isolate::Status::TimedOut => {
                let seconds = self.deadline.as_secs();
                self.ktap
                    .note(&format!("no end after {seconds} s: killed"))?;
                Verdict::Failed
            }
        };
        self.ktap.note(&end.output)?;
        if took > LONG {
            let seconds = took.as_secs_f32();
            self.ktap.note(&format!("took {seconds:.0} s"))?;
        }
        Ok(verdict)
    }

    /// Restores each setting of the machine that the case changed, and returns a line for each.
    fn put_settings_back(&mut self) -> Result<String> {
        let now = sysctl::Snapshot::take()?;
        let mut lines = Vec::new();
        for left in now.differences(&self.settings) {
            lines.push(left.to_string());
            if let Err(error) = left.put_back() {
                lines.push(format!("{error:#}"));
            }
        }
        self.settings.accept_new(now);
        Ok(lines.join("\n"))
    }
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
