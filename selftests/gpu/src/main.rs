//! A GPU's work on payload: held against the processor's, and measured.

#![forbid(unsafe_code)]

mod compare;
mod measure;
mod random;
mod report;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cuda::{Allocation, Driver, Mapping};

use random::Random;
use report::Report;

/// A length that pieces and pages divide.
const GRAIN: u64 = 64 << 10;

/// Compares a GPU's work on payload with the processor's, and measures it.
#[derive(Parser)]
struct Args {
    /// The GPU's number
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// The driver's library, where it is not the loader's to find
    #[arg(long, value_name = "PATH")]
    library: Option<String>,
    /// Random batches to compare, of each operation, in memory of each kind
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    batches: u64,
    /// Runs of each measurement; 0 measures nothing
    #[arg(long, value_name = "N", default_value_t = 15)]
    repeats: usize,
    /// MiB that are measured in; a quarter of the GPU's memory at most
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    region: u64,
    /// The seed of all random numbers, to do the same again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write what was measured to this file, too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the tables are what this is for")]
fn main() -> ExitCode {
    let args = Args::parse();
    let driver = match &args.library {
        Some(library) => Driver::load_from(library),
        None => Driver::load(),
    };
    let found = driver.and_then(|driver| driver.devices().map(|devices| (driver, devices)));
    let driver = match found {
        Ok((driver, devices)) if !devices.is_empty() => driver,
        Ok(_) => return nothing("the driver has none"),
        Err(error) => return nothing(&format!("{:#}", anyhow::Error::from(error))),
    };
    match run(&args, &driver) {
        Ok(report) => {
            print!("{}", report.text());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn nothing(why: &str) -> ExitCode {
    eprintln!("no GPU here: nothing was run ({why})");
    ExitCode::FAILURE
}

fn run(args: &Args, driver: &Driver) -> Result<Report> {
    let seed = args.seed.map_or_else(Random::seed, Ok).context("a seed")?;
    let mut random = Random::new(seed);
    let gpu = driver.open(args.device)?;
    let info = gpu.info();
    let (mut compared, mut kinds, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (name, kind) in [
        ("cuMemAlloc", Allocation::Plain),
        ("cuMemCreate", Allocation::Virtual),
    ] {
        eprintln!(
            "comparing {} batches of each kind in memory of {name}",
            args.batches
        );
        let memory = match gpu.allocate_as(compare::REGION, kind, Mapping::Default) {
            Ok(memory) => memory,
            Err(error) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::from(error));
                eprintln!("LEFT OUT: memory of {name}: {why}");
                left_out.push((name, why));
                continue;
            }
        };
        kinds.push((name, kind));
        let same = compare::compare(&memory, args.batches, &mut random);
        compared.push((
            name,
            same.with_context(|| format!("{name}, --seed {seed}"))?,
        ));
    }
    let Some(&(_, kind)) = kinds.first() else {
        bail!("the GPU's memory is to be had in no way: nothing was run");
    };
    let region = (args.region << 20).min(info.memory / 4) / GRAIN * GRAIN;
    let (mut cells, mut passing) = (Vec::new(), Vec::new());
    if args.repeats > 0 {
        eprintln!("measuring in {} MiB", region >> 20);
        let memory = gpu.allocate_as(region, kind, Mapping::Default)?;
        cells = measure::measure(&memory, region, args.repeats, &mut random)?;
        drop(memory);
        passing = measure::passing(&gpu, &kinds, region, args.repeats)?;
    }
    let report = Report {
        gpu: info.name.clone(),
        fake: info.name.contains("fake"),
        compute: info.compute,
        driver: driver.version()?.to_string(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        seed,
        compared,
        left_out,
        cells,
        passing,
    };
    if let Some(path) = &args.json {
        let json = serde_json::to_string(&report)?;
        fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(report)
}
