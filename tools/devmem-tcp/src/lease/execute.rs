//! Execution of a lease: all of its steps, or none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Error, Result, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::plan::Plan;
use super::site::Site;
use super::steps::Step;

/// Writes the lease's record and executes the steps. If one fails, those before it are undone.
pub(super) fn execute(plan: &mut Plan) -> Result<()> {
    let (stop, ends) = signals().context("signal handlers")?;
    let done = all_or_nothing(plan, &stop);
    // A signal from now on counts as the first, unless one came too late to stop the steps.
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&ends)).context("signal handlers")?;
    }
    ends.fetch_or(stop.load(Ordering::Relaxed), Ordering::Relaxed);
    done
}

/// Catches SIGINT and SIGTERM. Returns the flag that a signal sets to stop the steps, and the flag
/// that lets the next signal end the process. Signals stop the steps from here on, and not the
/// process in the middle of a step; after the steps, a second signal ends the process, which may be
/// stuck in printing its results.
fn signals() -> std::io::Result<(Arc<AtomicBool>, Arc<AtomicBool>)> {
    let [stop, ends] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&ends))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok((stop, ends))
}

fn all_or_nothing(plan: &mut Plan, stop: &AtomicBool) -> Result<()> {
    let before = match &plan.record {
        Some(record) => plan.journal.write(record.clone())?,
        None => None,
    };
    let Err((done, error)) = execute_all(plan, stop) else {
        return Ok(());
    };
    let Plan {
        site,
        steps,
        record,
        journal,
    } = plan;
    let mut failures = undo_all(site, &steps[..done]);
    if let (Some(record), true) = (record, failures.is_empty()) {
        let restored = match before {
            Some(before) => journal.write(before).map(drop),
            None => journal.remove(record),
        };
        // The error that ended the lease is reported in any case.
        if let Err(error) = restored {
            failures.push(format!("{error:#}"));
        }
    }
    Err(failed(site, error, &failures))
}

/// Executes the steps in order. After a failure, returns the number of steps to undo and the error.
fn execute_all(plan: &mut Plan, stop: &AtomicBool) -> Result<(), (usize, Error)> {
    let Plan {
        site,
        steps,
        record,
        journal,
    } = plan;
    for (done, step) in steps.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err((done, anyhow!("lease {}: interrupted", site.netkit)));
        }
        site.execute(step).map_err(|error| (done, error))?;
        if let (Step::Make { .. }, Some(record)) = (step, &record) {
            let mut record = record.clone();
            (record.owner_end, _) = site.owner_end();
            let written = journal.write(record);
            written.map_err(|error| (done + 1, error))?;
        }
    }
    Ok(())
}

/// Undoes the steps, the last one first. Returns the texts of the errors.
fn undo_all(site: &mut Site, steps: &[Step]) -> Vec<String> {
    let mut failures = Vec::new();
    for step in steps.iter().rev() {
        if let Err(error) = site.undo(step) {
            failures.push(format!("{error:#}"));
        }
    }
    failures
}

/// Error of a failed lease, with the changes that could not be undone.
fn failed(site: &Site, error: Error, failures: &[String]) -> Error {
    let mut remains = Vec::new();
    if !failures.is_empty() {
        remains.push(format!("undoing it: {}", failures.join("; ")));
    }
    if !site.is_made() && !site.leases.is_empty() {
        let queues: Vec<String> = site
            .leases
            .iter()
            .map(|lease| lease.phys_queue.to_string())
            .collect();
        remains.push(format!(
            "rx {} of {} stay leased, because {} existed before and stays",
            queues.join(", "),
            site.phys.name,
            site.netkit
        ));
    }
    match remains.is_empty() {
        true => error,
        false => error.context(format!("lease {}: {}", site.netkit, remains.join("; "))),
    }
}
