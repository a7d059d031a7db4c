//! `devmem-tcp restore`: what others left behind on the NICs.

use std::fmt::Write;

use anyhow::{Result, bail};
use netdev::Link;
use nic::{Outcome, Owner, RunDir, State};
use serde::Serialize;

use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this NIC; what `devmem-tcp apply` did to it ends, too
    #[arg(value_name = "IF")]
    device: Option<String>,
    /// Change nothing, say what there is to restore
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of one NIC, as it is printed.
#[derive(Serialize)]
pub(crate) struct Row {
    device: String,
    /// `restored`, `in-use`, `gone`, `other-boot`, `failed`, or, of a dry run, `found`.
    outcome: &'static str,
    /// Who ended without putting it back, or was applied to stay.
    ended: Vec<String>,
    /// Who still needs it.
    kept: Vec<String>,
    error: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let own = args.device.as_deref().map(own_name);
    let wanted = |device: &str| match (&args.device, &own) {
        (Some(given), Some(own)) => device == given || device == own,
        _ => true,
    };
    let rows: Vec<Row> = if args.dry_run {
        let states = nic::state()?.into_iter();
        states
            .filter(|state| wanted(&state.device))
            .map(found)
            .collect()
    } else {
        let restored = nic::restore(&RunDir::open()?, args.device.as_deref())?;
        restored
            .into_iter()
            .map(|one| row(one.device, one.outcome))
            .collect()
    };
    if args.json {
        report::json(&rows)?;
    } else {
        report::text(&text(args.device.as_deref(), &rows)?)?;
    }
    let failed: Vec<&str> = rows.iter().filter_map(|row| row.error.as_deref()).collect();
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("restore: {}", failed.join("; "))
    }
}

/// The name of the device that is called so, if it is here.
fn own_name(given: &str) -> String {
    let link = Link::open().and_then(|mut link| link.by_name(given));
    link.map_or_else(|_| given.to_owned(), |link| link.name)
}

fn found(state: State) -> Row {
    Row {
        device: state.device,
        outcome: "found",
        ended: names(state.orphans.into_iter().map(Some)),
        kept: names(state.owners),
        error: state.damaged,
    }
}

fn row(device: String, outcome: Outcome) -> Row {
    let (outcome, ended, kept, error) = match outcome {
        Outcome::Restored { ended, kept } => ("restored", ended, kept, None),
        Outcome::InUse { kept } => ("in-use", Vec::new(), kept, None),
        Outcome::Gone => ("gone", Vec::new(), Vec::new(), None),
        Outcome::OtherBoot => ("other-boot", Vec::new(), Vec::new(), None),
        Outcome::Failed(error) => ("failed", Vec::new(), Vec::new(), Some(with_remedy(&error))),
        _ => ("unknown", Vec::new(), Vec::new(), None),
    };
    Row {
        device,
        outcome,
        ended: names(ended),
        kept: names(kept),
        error,
    }
}

/// The error, its causes, and what to do about it: of several there may be several remedies.
fn with_remedy(error: &nic::Error) -> String {
    let text = common::with_sources(error);
    match error.remedy() {
        Some(remedy) => format!("{text} ({remedy})"),
        None => text,
    }
}

fn names(owners: impl IntoIterator<Item = Option<Owner>>) -> Vec<String> {
    let name = |owner: Option<Owner>| {
        owner.map_or_else(|| "devmem-tcp apply".to_owned(), |owner| owner.to_string())
    };
    owners.into_iter().map(name).collect()
}

fn text(only: Option<&str>, rows: &[Row]) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        let Row { device, .. } = row;
        let (ended, kept) = (row.ended.join(", "), row.kept.join(", "));
        match row.outcome {
            "restored" => write!(text, "{device}: as it was before {ended}")?,
            "in-use" => write!(text, "{device}: nothing to restore")?,
            "gone" => write!(text, "{device}: the NIC is gone, its journal was removed")?,
            "other-boot" => write!(text, "{device}: of another boot, its journal was removed")?,
            "found" if !ended.is_empty() => {
                write!(text, "{device}: would be put back from {ended}")?;
            }
            "found" => write!(text, "{device}: nothing to restore")?,
            // The error is told at the end.
            _ => continue,
        }
        if !kept.is_empty() {
            write!(text, "; {kept} still needs what it set")?;
        }
        writeln!(text)?;
    }
    if rows.is_empty() {
        match only {
            Some(device) => writeln!(text, "{device}: nothing to restore")?,
            None => writeln!(text, "nothing to restore")?,
        }
    }
    Ok(text)
}
