//! `devmem-tcp restore`: restoring what other processes left on the NICs.

use std::fmt::Write;

use anyhow::{Result, bail};
use nic::{Change, Outcome, Owner, RunDir, Which};
use serde::Serialize;

use crate::args::{NetNsArg, netns};
use crate::enter::enter;
use crate::remedy::of_nic;
use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this NIC; what `devmem-tcp apply` did to it ends, too
    #[arg(value_name = "IF")]
    device: Option<String>,
    /// The namespace of that NIC: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS", requires = "device")]
    netns: Option<NetNsArg>,
    /// Restore also what a running process has set up, and forget a NIC that can't be found
    #[arg(long, requires = "device")]
    force: bool,
    /// Change nothing, print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Result of restoring a NIC, in the form in which it is printed.
#[derive(Serialize)]
pub(crate) struct Row {
    device: String,
    /// `restored`, `in-use`, `gone`, `forgotten`, `other-boot`, `failed`, or, of a dry run, `found`.
    outcome: &'static str,
    /// Changes that would be made.
    changes: Vec<String>,
    /// Whether the command was a dry run.
    dry_run: bool,
    /// Owners that ended without restoring the NIC, or that applied changes to stay.
    ended: Vec<String>,
    /// Owners that still need the changes.
    kept: Vec<String>,
    error: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let netns = netns(args.netns.as_ref())?;
    let which = match (&args.device, &args.netns) {
        (None, _) => Which::All,
        (Some(device), None) => Which::Named(device),
        (Some(device), Some(_)) => Which::In(&netns, device),
    };
    let restored = match args.dry_run {
        true => nic::would_restore(which, args.force)?,
        false => nic::restore(&RunDir::open()?, which, args.force)?,
    };
    let (within, _) = enter(&netns).unwrap_or_default();
    let restored = restored.into_iter();
    let rows: Vec<Row> = restored
        .map(|one| row(one.device, one.outcome, args.dry_run, &within))
        .collect();
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

fn row(device: String, outcome: Outcome, dry_run: bool, within: &str) -> Row {
    let mut planned = Vec::new();
    let (outcome, ended, kept, error) = match outcome {
        Outcome::Would {
            changes,
            ended,
            kept,
        } => {
            planned = changes.iter().map(Change::to_string).collect();
            ("found", ended, kept, None)
        }
        Outcome::Forgotten => ("forgotten", Vec::new(), Vec::new(), None),
        Outcome::Restored { ended, kept } => ("restored", ended, kept, None),
        Outcome::InUse { kept } => ("in-use", Vec::new(), kept, None),
        Outcome::Gone => ("gone", Vec::new(), Vec::new(), None),
        Outcome::OtherBoot => ("other-boot", Vec::new(), Vec::new(), None),
        Outcome::Failed(error) => {
            let text = with_remedy(&error, within);
            ("failed", Vec::new(), Vec::new(), Some(text))
        }
        _ => ("unknown", Vec::new(), Vec::new(), None),
    };
    Row {
        device,
        outcome,
        changes: planned,
        dry_run,
        ended: owner_names(ended),
        kept: owner_names(kept),
        error,
    }
}

/// Formats an error of restoring a NIC, its causes and its remedies, of which there may be several.
fn with_remedy(error: &nic::Error, within: &str) -> String {
    let text = common::with_sources(error);
    match of_nic(error, within) {
        Some(remedy) => format!("{text} ({remedy})"),
        None => text,
    }
}

fn owner_names(owners: impl IntoIterator<Item = Option<Owner>>) -> Vec<String> {
    let name = |owner: Option<Owner>| {
        owner.map_or_else(|| "devmem-tcp apply".to_owned(), |owner| owner.to_string())
    };
    owners.into_iter().map(name).collect()
}

fn text(only: Option<&str>, rows: &[Row]) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        let Row { device, .. } = row;
        let was = if row.dry_run { "would be" } else { "was" };
        let (ended, kept) = (row.ended.join(", "), row.kept.join(", "));
        match row.outcome {
            "restored" => write!(text, "{device}: as it was before {ended}")?,
            "in-use" => write!(text, "{device}: nothing to restore")?,
            "gone" => write!(text, "{device}: the NIC is gone, its journal {was} removed")?,
            "forgotten" => write!(text, "{device}: not found, its journal {was} removed")?,
            "other-boot" => write!(text, "{device}: of another boot, its journal {was} removed")?,
            "found" => {
                for change in &row.changes {
                    writeln!(text, "{device}: would change: {change}")?;
                }
                write!(text, "{device}: would be put back after {ended}")?;
            }
            // The error is returned at the end.
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
