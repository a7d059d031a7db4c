//! `devmem-tcp unlease`: ends leases, and restores what was changed for them.
//!
//! The kernel has no operation that ends a lease: it ends when the netkit (`netkit_uninit`,
//! `netkit_queue_unlease`) or the NIC is removed. So a netkit that `lease` made is deleted, and
//! what was changed for it outside of it is restored.

mod target;

use anyhow::{Result, bail};
use netdev::shell_word;
use serde::Serialize;

use crate::args::NetNsArg;
use crate::ending_lease::{self, EndingLease};
use crate::exit;
use crate::guest_route::lease_journal::LeaseJournal;
use crate::guest_route::lease_journal::clear::{Cleared, clear_stale};
use crate::holder;
use crate::remedy::Hint;
use crate::report;
use target::Target;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The netkit device that leases, or the host end of its pair
    #[arg(required_unless_present = "all_stale")]
    netkit: Option<String>,
    /// The namespace of the netkit device: a name, a path, or pid:PID [default: this one, then that
    /// of the lease]
    #[arg(long, value_name = "NETNS", requires = "netkit")]
    netns: Option<NetNsArg>,
    /// Delete the netkit even if `devmem-tcp lease` did not make it
    #[arg(long, requires = "netkit")]
    delete: bool,
    /// Delete the netkit even while a process receives through it
    #[arg(long, requires = "netkit")]
    force: bool,
    /// Restore what leases changed whose netkits are gone
    #[arg(long, conflicts_with = "netkit")]
    all_stale: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Result of ending the leases of a netkit, in the form in which it is printed.
#[derive(Debug, Serialize)]
struct Unleased {
    netkit: String,
    netns: String,
    /// Whether the netkit was made for its leases.
    made: bool,
    /// Whether the netkit existed; `false` if it was already gone.
    found: bool,
    /// Whether the netkit was deleted.
    deleted: bool,
    /// Leases that ended with the netkit.
    leases: Vec<EndingLease>,
    #[serde(flatten)]
    cleared: Cleared,
    /// Whether the command was a dry run.
    dry_run: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let done = match &args.netkit {
        Some(netkit) => vec![unlease_netkit(args, netkit)?],
        None => clear_stale_leases(args.dry_run)?,
    };
    if args.json {
        return match args.all_stale {
            true => report::json(&done),
            false => done.iter().try_for_each(report::json),
        };
    }
    if done.is_empty() {
        return report::text("no lease left anything behind\n");
    }
    done.iter()
        .try_for_each(|unleased| report::text(&unleased.to_text()))
}

fn clear_stale_leases(dry_run: bool) -> Result<Vec<Unleased>> {
    let cleared = clear_stale(dry_run)?;
    let told = cleared.into_iter().map(|(record, cleared)| Unleased {
        netkit: record.netkit,
        netns: record.netns,
        made: record.made,
        found: false,
        deleted: false,
        leases: Vec::new(),
        cleared,
        dry_run,
    });
    Ok(told.collect())
}

fn unlease_netkit(args: &Args, netkit: &str) -> Result<Unleased> {
    let mut journal = LeaseJournal::open(args.dry_run)?;
    let target = Target::find(netkit, args.netns.as_ref(), &journal)?;
    let mut unleased = Unleased {
        netkit: target.name.clone(),
        netns: target.netns.clone(),
        made: target.record.as_ref().is_some_and(|record| record.made),
        found: target.is_there(),
        deleted: false,
        leases: target.leases()?,
        cleared: Cleared::default(),
        dry_run: args.dry_run,
    };
    if unleased.found {
        may_delete(args, &unleased, &target)?;
        if !args.dry_run {
            target.delete()?;
            unleased.deleted = true;
        }
    }
    // Before the wait, which may fail: what is left over would not be reported.
    let cleared = match &target.record {
        Some(record) => journal.clear(record, args.dry_run),
        None => Ok(Cleared::default()),
    };
    let waited = match unleased.deleted {
        true => ending_lease::wait(&target.name, &unleased.leases),
        false => Ok(()),
    };
    match cleared {
        Ok(cleared) => unleased.cleared = cleared,
        Err(error) => {
            exit::all([waited, Err(error)])?;
            return Ok(unleased);
        }
    }
    waited.map(|()| unleased)
}

/// Refuses to delete a netkit that `lease` did not make, or that is in use.
fn may_delete(args: &Args, unleased: &Unleased, target: &Target) -> Result<()> {
    let netkit = &unleased.netkit;
    let leases: Vec<String> = unleased.leases.iter().map(EndingLease::to_string).collect();
    let leases = match leases.is_empty() {
        true => "it leases no queue of a NIC that can be seen from here".to_owned(),
        false => format!("its leases are {}", leases.join(", ")),
    };
    if !unleased.made && !args.delete {
        return Err(Hint::new(
            format!(
                "unlease {netkit}: the kernel ends a lease only with its netkit, and this one was \
                 not made by `devmem-tcp lease`; {leases}"
            ),
            format!("--delete deletes {} even so, both ends", shell_word(netkit)),
        )
        .into());
    }
    let Some(dmabuf) = unleased.leases.iter().find_map(EndingLease::bound) else {
        return Ok(());
    };
    if args.force {
        return Ok(());
    }
    let holders = holder::find(target.guest_netns());
    let by = match holders.is_empty() {
        true => "by a process that cannot be seen from here".to_owned(),
        false => format!("likely by {}", holders.join(", ")),
    };
    if args.dry_run {
        bail!("unlease {netkit}: {dmabuf} is bound to it, {by}: without --force unlease refuses");
    }
    Err(Hint::new(
        format!("unlease {netkit}: {dmabuf} is bound to it, {by}; {leases}"),
        "end that process first; --force deletes the netkit under it",
    )
    .into())
}

impl Unleased {
    fn to_text(&self) -> String {
        let Self { netkit, netns, .. } = self;
        let place = match netns.as_str() {
            "current" => String::new(),
            netns => format!(" (namespace {netns})"),
        };
        let line = |now: &str, past: &str, what: &dyn std::fmt::Display| match self.dry_run {
            true => format!("would {now} {what}\n"),
            false => format!("{past} {what}\n"),
        };
        let mut text = match self.found {
            true => line(
                "delete netkit",
                "deleted netkit",
                &format!("{netkit}{place}"),
            ),
            false => format!("netkit {netkit}{place} was already gone\n"),
        };
        for lease in &self.leases {
            text += &line("end the lease of", "ended the lease of", lease);
        }
        for setting in &self.cleared.restored {
            text += &line("put back", "put back", setting);
        }
        for rule in &self.cleared.rules {
            text += &line("remove rule", "removed rule", rule);
        }
        for proxy in &self.cleared.proxies {
            text += &line("remove proxy entry", "removed proxy entry", proxy);
        }
        for kept in &self.cleared.kept {
            text += &format!("left {kept}\n");
        }
        text
    }
}
