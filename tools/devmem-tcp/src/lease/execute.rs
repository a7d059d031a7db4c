//! All of the steps, or none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Error, Result, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::steps::{Site, Step};
use crate::guest_route::lease_journal::{LeaseJournal, LeaseRecord};

/// Notes what will be changed, and does the steps; after a refusal takes all of them back.
pub(super) fn all_or_nothing(
    site: &mut Site,
    steps: &[Step],
    record: Option<LeaseRecord>,
    journal: &mut LeaseJournal,
) -> Result<()> {
    let (stop, ends) = signals().context("signal handlers")?;
    let done = execute_noted(site, steps, record, journal, &stop);
    // Who comes now is the first to be heard; or he was heard, and too late.
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&ends)).context("signal handlers")?;
    }
    ends.fetch_or(stop.load(Ordering::Relaxed), Ordering::Relaxed);
    done
}

/// What a signal sets, and what is to be set when the next one may end the process. From here on they
/// end the steps, not the process between two of them; afterwards a second one ends the process, which may
/// be stuck in the printing of what was done.
fn signals() -> std::io::Result<(Arc<AtomicBool>, Arc<AtomicBool>)> {
    let [stop, ends] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&ends))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok((stop, ends))
}

fn execute_noted(
    site: &mut Site,
    steps: &[Step],
    record: Option<LeaseRecord>,
    journal: &mut LeaseJournal,
    stop: &AtomicBool,
) -> Result<()> {
    let before = match &record {
        Some(record) => {
            let file = record.file();
            let before = journal.all().iter().find(|it| it.file() == file).cloned();
            journal.write(record.clone())?;
            before
        }
        None => None,
    };
    let Err((done, error)) = execute_all(site, steps, record.as_ref(), journal, stop) else {
        return Ok(());
    };
    let failures = undo_all(site, &steps[..done]);
    if let (Some(record), true) = (&record, failures.is_empty()) {
        match before {
            Some(before) => journal.write(before)?,
            None => journal.remove(record)?,
        }
    }
    Err(failed(site, error, &failures))
}

/// Does the steps; if one fails, says how many were done before.
fn execute_all(
    site: &mut Site,
    steps: &[Step],
    record: Option<&LeaseRecord>,
    journal: &mut LeaseJournal,
    stop: &AtomicBool,
) -> Result<(), (usize, Error)> {
    for (done, step) in steps.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err((done, anyhow!("lease {}: interrupted", site.netkit)));
        }
        site.execute(step).map_err(|error| (done, error))?;
        if let (Step::Make { .. }, Some(record)) = (step, record) {
            let mut record = record.clone();
            record.owner_end.ifindex = if record.pair { site.host } else { site.guest };
            let written = journal.write(record);
            written.map_err(|error| (done + 1, error))?;
        }
    }
    Ok(())
}

/// Takes the steps back, the last one first; what can't be taken back is said.
fn undo_all(site: &mut Site, steps: &[Step]) -> Vec<String> {
    let mut failures = Vec::new();
    for step in steps.iter().rev() {
        if let Err(error) = site.undo(step) {
            failures.push(format!("{error:#}"));
        }
    }
    failures
}

/// The first error, and in its wake what remains of the steps before it.
fn failed(site: &Site, error: Error, failures: &[String]) -> Error {
    let mut remains = Vec::new();
    if !failures.is_empty() {
        remains.push(format!("taking it back: {}", failures.join("; ")));
    }
    if !site.made && !site.leases.is_empty() {
        let queues: Vec<String> = site
            .leases
            .iter()
            .map(|lease| lease.phys_queue.to_string())
            .collect();
        remains.push(format!(
            "rx {} of {} stay leased, since {} was there before and stays",
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
