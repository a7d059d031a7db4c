//! What receivers cost, side by side: the same transfer, on the same NIC, one after the other.
//!
//! Each round runs every contender once, so that what changes with time strikes all of them. A
//! receiver's CPU time is that of its threads, from before the first byte is sent until it has nothing
//! to do any more; what it costs to begin and end is told by a transfer of next to nothing. The NIC's
//! work is left to NAPI threads of the kernel, which nobody is charged with.

mod contender;
mod ground;
mod meters;
mod plot;
mod report;
mod sender;
mod sweep;
mod transfer;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use contender::Contender;
use ground::Ground;
pub(crate) use report::report;
use sweep::{Point, Series};
use transfer::Look;

/// What costs next to nothing, in bytes.
const NOTHING: u64 = 4096;
const MIB: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare the receivers, and write what was measured to this file, a JSON object a line
    #[arg(long, value_name = "FILE", hide = true)]
    bench: Option<PathBuf>,
    /// Bytes of a transfer
    #[arg(long, value_name = "MIB", default_value_t = 64, hide = true)]
    bench_mib: u64,
    /// Rounds of the comparison
    #[arg(long, value_name = "N", default_value_t = 5, hide = true)]
    bench_rounds: u32,
    /// Rounds of the sweeps
    #[arg(long, value_name = "N", default_value_t = 3, hide = true)]
    bench_sweeps: u32,
    /// Count the system calls, too, in one more transfer of 16 MiB each, and of nothing
    #[arg(long, hide = true)]
    bench_calls: bool,
    /// Look what the loop costs, and by transfers of nothing what it costs to begin and end
    #[arg(long, hide = true)]
    bench_cost: bool,
    /// Only contenders and series with one of these words in their names
    #[arg(long, value_name = "WORD", hide = true)]
    bench_only: Vec<String>,
    /// Print the comparison of what was measured earlier by the clock of instructions, by the same
    /// without instructions that move strings of bytes, and by an ordinary clock
    #[arg(long, value_names = ["COST", "WORDS", "SPEED"], num_args = 3, hide = true)]
    bench_report: Vec<PathBuf>,
    /// Where to leave the comparison as JSON and as pictures
    #[arg(long, value_name = "DIR", hide = true)]
    bench_out: Option<PathBuf>,
}

impl Args {
    /// Does what was asked for; `false` if nothing was.
    pub(crate) fn run(&self) -> Result<bool> {
        if let [cost, words, speed] = &self.bench_report[..] {
            report(cost, words, speed, self.bench_out.as_deref())?;
            return Ok(true);
        }
        let Some(path) = &self.bench else {
            return Ok(false);
        };
        Bench::new(self, path)?.run()?;
        Ok(true)
    }

    fn wants(&self, name: &str) -> bool {
        self.bench_only.is_empty() || self.bench_only.iter().any(|word| name.contains(word))
    }
}

/// One transfer's cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The contender.
    pub(crate) who: String,
    /// What it was a part of.
    pub(crate) series: Series,
    /// Under which conditions.
    #[serde(flatten)]
    pub(crate) at: Point,
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) cost: Cost,
}

/// What a transfer took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// From the first byte sent to the receiver's last close.
    pub(crate) seconds: f64,
    /// CPU time of the receiver's process from its start to its end, in seconds.
    pub(crate) cpu: f64,
    /// That from its first byte to its last.
    pub(crate) in_loop: Option<f64>,
    /// Of that, in user mode, as the kernel's ticks tell.
    pub(crate) user: f64,
    /// The most memory that it had, without what it shares, in KiB.
    pub(crate) memory: u64,
    /// Its system calls, where they were counted.
    pub(crate) calls: Option<u64>,
    /// What it counted itself, if it did.
    pub(crate) counts: Option<Counts>,
    /// Times that the NIC had no buffer for a packet meanwhile.
    pub(crate) alloc_fail: u64,
    /// TCP segments sent again meanwhile, at either end.
    pub(crate) retransmitted: u64,
    /// What TCP dropped or timed out meanwhile, by its own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// What a receiver counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) recvmsg: u64,
    pub(crate) frags: u64,
    /// Calls of `setsockopt(SO_DEVMEM_DONTNEED)`.
    pub(crate) dontneed: u64,
}

/// The measurement under way.
struct Bench<'a> {
    args: &'a Args,
    out: fs::File,
    ground: Ground,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args, path: &Path) -> Result<Self> {
        Ok(Self {
            args,
            out: fs::File::create(path).with_context(|| path.display().to_string())?,
            ground: Ground::prepare()?,
        })
    }

    fn run(mut self) -> Result<()> {
        for gro in [false, true] {
            self.compare(gro)?;
        }
        for series in Series::SWEEPS {
            if !self.args.wants(series.name()) || !series.is_possible()? {
                continue;
            }
            for round in 1..=self.args.bench_sweeps {
                say(&format!("{}, round {round}", series.name()));
                for point in series.points() {
                    // Many connections get more: else they would be over before their windows grow.
                    let least = self.whole() / 16 * u64::from(point.connections);
                    let bytes = self.whole().max(least);
                    self.transfer(&contender::OURS, series, &point, bytes, self.look())?;
                }
            }
        }
        self.ground.restore()
    }

    /// The contenders, one after the other.
    fn compare(&mut self, gro: bool) -> Result<()> {
        let args = self.args;
        let point = Point {
            gro,
            ..Point::default()
        };
        let all = contender::ALL.iter();
        let chosen: Vec<_> = all.filter(|it| args.wants(it.name)).collect();
        for round in 1..=args.bench_rounds {
            for contender in &chosen {
                say(&format!("gro {gro}, round {round}: {}", contender.name));
                let bytes = self.whole() / contender.smaller;
                self.transfer(contender, Series::Compare, &point, bytes, self.look())?;
                if args.bench_cost {
                    self.transfer(contender, Series::Compare, &point, NOTHING, self.look())?;
                }
            }
        }
        if args.bench_calls {
            for contender in &chosen {
                say(&format!("gro {gro}, system calls: {}", contender.name));
                for bytes in [16 * MIB, NOTHING] {
                    self.transfer(contender, Series::Compare, &point, bytes, Look::Calls)?;
                }
            }
        }
        Ok(())
    }

    fn look(&self) -> Look {
        match self.args.bench_cost {
            true => Look::Loop,
            false => Look::Fleeting,
        }
    }

    fn whole(&self) -> u64 {
        self.args.bench_mib * MIB
    }

    /// One transfer to one contender, written down.
    fn transfer(
        &mut self,
        contender: &Contender,
        series: Series,
        point: &Point,
        bytes: u64,
        look: Look,
    ) -> Result<()> {
        let cost = self
            .ground
            .transfer(contender, point, bytes, look)
            .with_context(|| format!("{}, {bytes} bytes, {point:?}", contender.name))?;
        let sample = Sample {
            who: contender.name.to_owned(),
            series,
            at: *point,
            bytes,
            cost,
        };
        serde_json::to_writer(&mut self.out, &sample)?;
        Ok(self.out.write_all(b"\n")?)
    }
}

fn say(text: &str) {
    let _closed = writeln!(std::io::stderr(), "# {text}");
}
