//! Benchmark of receivers: the same transfer, on the same NIC, to one receiver after the other.
//!
//! Each round runs every contender once, in an order that moves on by one from round to round, so that
//! what changes with time, and what one leaves to the next, strikes all of them. A round 0 comes before,
//! which is written down as such, and left out of every figure. A receiver's CPU time is that of its
//! process from before the first byte is sent until it has nothing to do any more, or has closed the
//! connection; what it costs to begin and end is measured by a transfer of next to nothing. The NIC's
//! work is left to NAPI threads of the kernel, which no receiver is charged with.

mod contender;
mod counters;
mod echo;
mod meters;
mod plot;
mod report;
mod sample;
mod sender;
mod sweep;
mod testbench;
mod transfer;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use udmabuf::HugePage;

use contender::{Contender, HUGE, OURS};
use counters::Anchor;
use report::{Docs, Report};
use sample::{About, Cost, Counts, Guest, Kind, Line, Parts, Sample};
use sweep::{Point, Series};
use testbench::Testbench;
use transfer::MeasureOptions;

/// Length in bytes of a transfer whose payload costs next to nothing, to measure set-up and
/// tear-down.
const TINY_TRANSFER: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Measures what receivers cost, ours and others, side by side, and compares them
#[derive(Parser)]
#[command(name = "selftests-bench")]
enum Args {
    /// Run the transfers, in the VM, and write what was measured
    Measure(Measure),
    /// Print the comparison of what was measured, and write it with its figures and pictures
    Report(Report),
    /// Print the comparison of figures that were written before, and write it with its pictures
    Docs(Docs),
    /// Answer one connection with what it sends (how the measurement starts its server)
    #[command(hide = true)]
    Echo {
        listen: SocketAddr,
        /// Have each packet wake the loop that answers
        #[arg(long)]
        no_gather: bool,
    },
}

#[derive(clap::Args)]
struct Measure {
    /// Where to write what was measured, a JSON object a line
    file: PathBuf,
    /// MiB of a transfer
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    mib: u64,
    /// Rounds of the comparison
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// Rounds of the sweeps
    #[arg(long, value_name = "N", default_value_t = 3)]
    sweeps: u32,
    /// Which guest this is: that decides what is measured, and how
    #[arg(long, value_enum, default_value = "two-cpu")]
    guest: Guest,
    /// Only without, or only with, receive coalescing
    #[arg(long)]
    gro: Option<bool>,
    /// Measure the echo, and the parts of set-up and tear-down, too
    #[arg(long)]
    echo_too: bool,
    /// Only contenders and series with one of these words in their names
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
}

fn main() -> ExitCode {
    // A receiver in this process has a guardian, too.
    if let Some(code) = nic::guardian() {
        return code;
    }
    let done = match Args::parse() {
        Args::Measure(measure) => measure.run(),
        Args::Report(report) => report.run(),
        Args::Docs(docs) => docs.run(),
        Args::Echo { listen, no_gather } => echo::serve_echo(listen, !no_gather),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

impl Guest {
    /// Returns the kinds of transfer that each receiver gets in a round, in this kind of guest.
    fn transfer_kinds(self) -> &'static [Kind] {
        match self {
            Self::OneCpu => &[
                Kind::Whole,
                Kind::Counted,
                // To bind memory of 4 KiB pages costs by turns more and less: a round has both.
                Kind::Nothing,
                Kind::Nothing,
            ],
            Self::Words => &[Kind::Whole],
            Self::TwoCpu => &[Kind::Whole, Kind::Settled],
        }
    }
}

impl Measure {
    fn run(&self) -> Result<()> {
        Bench::new(self)?.run()
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word))
    }

    fn wants_gro(&self, gro: bool) -> bool {
        self.gro.is_none_or(|wanted| wanted == gro)
    }
}

/// A running benchmark: its arguments, output file and testbench.
struct Bench<'a> {
    args: &'a Measure,
    out: fs::File,
    testbench: Testbench,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Measure) -> Result<Self> {
        let path = &args.file;
        Ok(Self {
            args,
            out: fs::File::create(path).with_context(|| path.display().to_string())?,
            testbench: Testbench::prepare()?,
        })
    }

    fn run(mut self) -> Result<()> {
        let args = self.args;
        let kernel = nix::sys::utsname::uname().context("uname")?;
        self.write(&Line::About(About {
            kernel: kernel.release().to_string_lossy().into_owned(),
            guest: args.guest,
            mib: args.mib,
            rounds: args.rounds,
            sweeps: args.sweeps,
        }))?;
        for gro in [false, true] {
            if args.wants_gro(gro) {
                self.compare(gro, args.guest.transfer_kinds(), true)?;
            }
        }
        for series in Series::SWEEPS {
            if args.wants(series.name()) && series.is_possible()? {
                self.sweep(series)?;
            }
        }
        if args.echo_too {
            self.echo()?;
            for pages in [HugePage::None, HugePage::Mb2] {
                for _ in 0..2 * args.rounds {
                    let parts = self.testbench.measure_setup_parts(pages)?;
                    self.write(&Line::Parts(parts))?;
                }
            }
        }
        if args.guest == Guest::TwoCpu {
            let _anchor = Anchor::new()?;
            for gro in [false, true] {
                if args.wants_gro(gro) {
                    self.compare(gro, &[Kind::Counted], false)?;
                }
            }
        }
        self.testbench.restore()
    }

    /// Runs all receivers, one after the other, for several rounds; with `warms_up` a warm-up round
    /// comes first.
    fn compare(&mut self, gro: bool, kinds: &[Kind], warms_up: bool) -> Result<()> {
        let args = self.args;
        let point = Point {
            gro,
            ..Point::default()
        };
        let sets_up = args.guest == Guest::OneCpu;
        let wanted = |it: &&Contender| args.wants(it.name) && (sets_up || !it.setup_only);
        let mut chosen: Vec<_> = contender::ALL.iter().filter(wanted).collect();
        for round in u32::from(!warms_up)..=args.rounds {
            for contender in &chosen {
                say(&format!("gro {gro}, round {round}: {}", contender.name));
                let bytes = contender.bytes(self.full_transfer_bytes());
                let of = |kind| (Series::Compare, kind, round);
                if round == 0 {
                    self.transfer(contender, of(Kind::WarmUp), &point, bytes)?;
                    continue;
                }
                for kind in kinds {
                    match kind {
                        Kind::Nothing => {
                            self.transfer(contender, of(*kind), &point, TINY_TRANSFER)?;
                        }
                        _ if contender.setup_only => {}
                        _ => self.transfer(contender, of(*kind), &point, bytes)?,
                    }
                }
            }
            if round > 0 && !chosen.is_empty() {
                chosen.rotate_left(1);
            }
        }
        Ok(())
    }

    /// Runs `devmem-tcp recv` under a series of conditions, one of which varies.
    fn sweep(&mut self, series: Series) -> Result<()> {
        let points = series.points().into_iter();
        let mut points: Vec<_> = points.filter(|it| self.args.wants_gro(it.gro)).collect();
        for round in 1..=self.args.sweeps {
            say(&format!("{}, round {round}", series.name()));
            for point in &points {
                // Many connections get more: else they would be over before their windows grow.
                let least = self.full_transfer_bytes() / 16 * u64::from(point.connections);
                let bytes = self.full_transfer_bytes().max(least);
                let contender = match point.rx_page {
                    Some(_) => &HUGE,
                    None => &OURS,
                };
                self.transfer(contender, (series, Kind::Whole, round), point, bytes)?;
            }
            if !points.is_empty() {
                points.rotate_left(1);
            }
        }
        Ok(())
    }

    /// Measures the echo with gathering and without, alternating.
    fn echo(&mut self) -> Result<()> {
        let mut nth = 0;
        for round in 0..=self.args.rounds {
            say(&format!("echo, round {round}"));
            let first = round % 2 == 0;
            for gathers in [first, !first] {
                let echo = echo::measure(&mut self.testbench, gathers, round, nth)?;
                self.write(&Line::Echo(echo))?;
                nth += 1;
            }
        }
        Ok(())
    }

    fn full_transfer_bytes(&self) -> u64 {
        self.args.mib * MIB
    }

    /// Runs one transfer to one receiver, and writes its cost to the output file.
    fn transfer(
        &mut self,
        contender: &Contender,
        (series, kind, round): (Series, Kind, u32),
        point: &Point,
        bytes: u64,
    ) -> Result<()> {
        let look = MeasureOptions {
            settles: self.args.guest != Guest::TwoCpu
                || matches!(kind, Kind::Settled | Kind::Counted),
            counts: kind == Kind::Counted,
        };
        let cost = self
            .testbench
            .transfer(contender, point, bytes, look)
            .with_context(|| format!("{}, {bytes} bytes, {point:?}", contender.name))?;
        self.write(&Line::Sample(Box::new(Sample {
            who: contender.name.to_owned(),
            series,
            kind,
            round,
            at: *point,
            bytes,
            cost,
        })))
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        Ok(self.out.write_all(b"\n")?)
    }
}

fn say(text: &str) {
    let _closed = writeln!(std::io::stderr(), "# {text}");
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
