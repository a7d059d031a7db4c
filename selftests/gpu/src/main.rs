//! Compares a GPU's work on payload with the CPU's, and measures it.

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
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use cuda::{Allocation, DeviceMemory, Driver, Gpu, Mapping};

use random::Random;
use report::Report;

/// Granularity of the measured region in bytes: a multiple of all piece lengths and page sizes.
const REGION_GRANULARITY: u64 = 64 << 10;

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
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    region: u64,
    /// Minutes after which nothing more is begun: two fifths of them to compare, the rest to measure
    #[arg(long, value_name = "N", default_value_t = 5)]
    minutes: u64,
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
        Ok(_) => return report_no_gpu("the driver has none"),
        Err(error) => return report_no_gpu(&format!("{:#}", anyhow::Error::from(error))),
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

fn report_no_gpu(why: &str) -> ExitCode {
    eprintln!("no GPU here: nothing was run ({why})");
    ExitCode::FAILURE
}

/// A kind of GPU memory to work in, and whether the driver exports it as a dmabuf.
struct MemoryKind {
    name: &'static str,
    allocation: Allocation,
    memory: DeviceMemory,
    exported: bool,
}

/// Allocates GPU memory of each kind that the driver has; why a kind is missing goes to the report.
fn allocate_kinds(gpu: &Gpu, report: &mut Report) -> Result<Vec<MemoryKind>> {
    let mut kinds = Vec::new();
    for (name, allocation) in [
        ("cuMemAlloc", Allocation::Plain),
        ("cuMemCreate", Allocation::Virtual),
    ] {
        let memory = match gpu.allocate_memory(compare::REGION, allocation) {
            Ok(memory) => memory,
            Err(error) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::from(error));
                eprintln!("LEFT OUT: memory of {name}: {why}");
                report.left_out.push((name, why));
                continue;
            }
        };
        let exported = match memory.export(Mapping::Default) {
            Ok(_) => true,
            Err(error) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::from(error));
                eprintln!("NO DMABUF: memory of {name}: {why}");
                report.not_exported.push((name, why));
                false
            }
        };
        kinds.push(MemoryKind {
            name,
            allocation,
            memory,
            exported,
        });
    }
    Ok(kinds)
}

fn run(args: &Args, driver: &Driver) -> Result<Report> {
    let seed = args.seed.map_or_else(Random::seed, Ok).context("a seed")?;
    let mut random = Random::new(seed);
    let began = Instant::now();
    let after = |fifths: u64| began + Duration::from_secs(args.minutes * 60 * fifths / 5);
    let gpu = driver.open(args.device)?;
    let info = gpu.info();
    let mut report = Report {
        gpu: info.name.clone(),
        fake: info.name.contains("fake"),
        compute: info.compute,
        driver: driver.version()?.to_string(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        seed,
        batches: args.batches,
        compared: Vec::new(),
        left_out: Vec::new(),
        not_exported: Vec::new(),
        cells: Vec::new(),
        cells_left_out: 0,
        passing: Vec::new(),
        seconds: 0.0,
    };
    let kinds = allocate_kinds(&gpu, &mut report)?;
    let Some(first) = kinds.first() else {
        bail!("no memory of the GPU could be allocated: nothing was run");
    };
    for (number, kind) in kinds.iter().enumerate() {
        let name = kind.name;
        eprintln!(
            "comparing {} batches of each kind in memory of {name}",
            args.batches
        );
        // Each has its share of the time, whatever the one before took.
        let end = after(2 * (number as u64 + 1) / kinds.len() as u64);
        let same = compare::compare(&kind.memory, args.batches, end, &mut random);
        let same = same.with_context(|| format!("{name}, --seed {seed}"))?;
        report.compared.push((name, same));
    }
    if args.repeats > 0 {
        let region =
            (args.region << 20).min(info.memory / 4) / REGION_GRANULARITY * REGION_GRANULARITY;
        eprintln!("measuring in {} MiB", region >> 20);
        let memory = gpu.allocate_memory(region, first.allocation)?;
        (report.cells, report.cells_left_out) =
            measure::measure(&memory, region, args.repeats, after(5), &mut random)?;
        drop(memory);
        let exported = kinds.iter().filter(|kind| kind.exported);
        let exported: Vec<_> = exported.map(|kind| (kind.name, kind.allocation)).collect();
        report.passing = measure::measure_passing(&gpu, &exported, region, args.repeats)?;
    }
    report.seconds = began.elapsed().as_secs_f64();
    if let Some(path) = &args.json {
        let json = serde_json::to_string(&report)?;
        fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(report)
}
