//! `devmem-tcp lease`: leases rx queues of a NIC to a netkit, and routes a guest's traffic.

mod args;
mod choose;
mod execute;
mod plan;
mod report;
mod site;
mod steps;

use anyhow::Result;

pub(crate) use args::Args;
use execute::execute;
use plan::Plan;
use report::report;

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut plan = Plan::of(args)?;
    if !args.dry_run {
        execute(&mut plan)?;
    }
    report(args, plan)
}
