//! Search for the netkit to delete.

use anyhow::{Result, bail};
use netdev::link::LinkInfo;
use netdev::{Ifindex, Link, NetNs};

use crate::args::NetNsArg;
use crate::ending_lease::{EndingLease, GuestLocation};
use crate::guest_route::lease_journal::{LeaseJournal, LeaseRecord};
use crate::remedy::Hint;

/// The netkit to delete, and the record of its lease.
#[derive(Debug)]
pub(super) struct Target {
    /// Name of the guest end, and of its namespace.
    pub(super) name: String,
    pub(super) netns: String,
    /// Record of the lease.
    pub(super) record: Option<LeaseRecord>,
    /// End of the netkit that can be deleted, and the namespace of that end.
    end: Option<(NetNs, Ifindex)>,
    /// Number of the guest end, and its location.
    guest: Option<(Ifindex, GuestLocation)>,
}

impl Target {
    /// Finds the netkit to delete by the name of either end, in the namespace that was named, in
    /// this one, or in that of a record.
    pub(super) fn find(name: &str, arg: Option<&NetNsArg>, journal: &LeaseJournal) -> Result<Self> {
        let here = NetNs::current()?;
        let opened = match arg {
            Some(arg) => arg.open(),
            None => Ok(here.clone()),
        };
        let missing: anyhow::Error = match opened {
            Ok(netns) => match Link::open_in(&netns)?.by_name(name) {
                Ok(link) => return Self::of_existing_end(netns, link, journal),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => error.into(),
                Err(error) => return Err(error.into()),
            },
            // A name without a namespace, a pid without a process.
            Err(error) => error.into(),
        };
        let label = arg.map(label);
        let mut noted = journal.all().iter().filter(|record| {
            record.netkit == name && label.as_ref().is_none_or(|label| *label == record.netns)
        });
        match (noted.next(), noted.next()) {
            (Some(record), None) => Self::of_record(&here, record),
            (Some(one), Some(other)) => Err(Hint::new(
                format!(
                    "unlease {name}: two were leased to, in namespace {} and in {}",
                    one.netns, other.netns
                ),
                "name one with --netns",
            )
            .into()),
            (None, _) => Err(missing),
        }
    }

    /// Finds the netkit to delete by an end that exists.
    fn of_existing_end(netns: NetNs, link: LinkInfo, journal: &LeaseJournal) -> Result<Self> {
        let name = link.name.clone();
        let Some(netkit) = link
            .netkit
            .as_ref()
            .filter(|_| link.kind.as_deref() == Some("netkit"))
        else {
            let kind = link.kind.as_deref().unwrap_or("physical device");
            bail!("unlease {name}: a {kind}, not a netkit");
        };
        if netkit.primary && link.link.is_some() {
            return Self::by_host_end(netns, &link, journal);
        }
        // The guest end of a pair, or a single.
        let record = match Self::host_of(&netns, &link)? {
            Some((there, host)) => journal.record_of(&there, &host)?,
            None => journal.record_of(&netns, &link)?,
        };
        Ok(Self {
            record: record.cloned(),
            end: Some((netns.clone(), link.ifindex)),
            netns: netns.label().to_owned(),
            guest: Some((link.ifindex, GuestLocation::Entered(netns))),
            name,
        })
    }

    /// Finds the netkit to delete by its host end.
    fn by_host_end(netns: NetNs, host: &LinkInfo, journal: &LeaseJournal) -> Result<Self> {
        let record = journal.record_of(&netns, host)?.cloned();
        let mut target = Self {
            name: host.name.clone(),
            netns: netns.label().to_owned(),
            record,
            end: Some((netns.clone(), host.ifindex)),
            guest: None,
        };
        target.guest_of(&netns, host)?;
        if let Some(record) = &target.record {
            (target.name, target.netns) = (record.netkit.clone(), record.netns.clone());
        }
        Ok(target)
    }

    /// Finds the netkit to delete by a record of a lease, where it is not where the name was looked
    /// for.
    fn of_record(here: &NetNs, record: &LeaseRecord) -> Result<Self> {
        let mut target = Self {
            name: record.netkit.clone(),
            netns: record.netns.clone(),
            record: Some(record.clone()),
            end: None,
            guest: None,
        };
        let found = match here.identity()? == record.owner_netns {
            true => {
                let owner_end = record.find_owner_end(&mut Link::open()?)?;
                owner_end.map(|owner_end| (here.clone(), owner_end))
            }
            false => record.find_elsewhere()?,
        };
        let Some((netns, owner_end)) = found else {
            return Ok(target);
        };
        target.end = Some((netns.clone(), owner_end.ifindex));
        match record.pair {
            true => target.guest_of(&netns, &owner_end)?,
            false => target.guest = Some((owner_end.ifindex, GuestLocation::Entered(netns))),
        }
        Ok(target)
    }

    /// Finds the host end of a netkit pair and its namespace, if that can be entered.
    fn host_of(netns: &NetNs, guest: &LinkInfo) -> Result<Option<(NetNs, LinkInfo)>> {
        let other = Link::open_in(netns)?.other_end(netns, guest)?;
        let Some((there, host)) = other else {
            return Ok(None);
        };
        let Ok(mut links) = Link::open_in(&there) else {
            return Ok(None);
        };
        Ok(Some((there, links.get(host)?)))
    }

    /// Finds the guest end that belongs to a host end, by the id of the guest's namespace in that
    /// of the host end.
    fn guest_of(&mut self, netns: &NetNs, host: &LinkInfo) -> Result<()> {
        let Some(guest) = host.link else {
            return Ok(());
        };
        let mut location = GuestLocation::Id(host.link_netns_id);
        if let Some((netns, _)) = Link::open_in(netns)?.other_end(netns, host)? {
            if self.record.is_none() {
                let link = Link::open_in(&netns)?.get(guest)?;
                (self.name, self.netns) = (link.name, netns.label().to_owned());
            }
            location = GuestLocation::Entered(netns);
        }
        self.guest = Some((guest, location));
        Ok(())
    }

    /// Whether the netkit to delete exists.
    pub(super) fn is_there(&self) -> bool {
        self.end.is_some()
    }

    /// Namespace of the guest end, if it can be entered.
    pub(super) fn guest_netns(&self) -> Option<&NetNs> {
        match &self.guest {
            Some((_, GuestLocation::Entered(netns))) => Some(netns),
            _ => None,
        }
    }

    /// Lists the netkit's leases, from NICs here; if there are none, from NICs in other namespaces.
    pub(super) fn leases(&self) -> Result<Vec<EndingLease>> {
        let Some((guest, location)) = &self.guest else {
            return Ok(Vec::new());
        };
        let nics = match (&self.end, location) {
            (Some((netns, _)), GuestLocation::Id(_)) => netns.clone(),
            _ => NetNs::current()?,
        };
        let leases = EndingLease::of(&nics, *guest, location)?;
        let (true, GuestLocation::Entered(_)) = (leases.is_empty(), location) else {
            return Ok(leases);
        };
        for other in NetNs::visible()?.namespaces.iter().skip(1) {
            let Ok(other) = other.open() else { continue };
            let leases = EndingLease::of(&other, *guest, location)?;
            if !leases.is_empty() {
                return Ok(leases);
            }
        }
        Ok(Vec::new())
    }

    /// Deletes the netkit, both ends.
    pub(super) fn delete(&self) -> Result<()> {
        let Some((netns, ifindex)) = &self.end else {
            return Ok(());
        };
        match Link::open_in(netns)?.delete(*ifindex) {
            // It was deleted in this moment.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            deleted => Ok(deleted?),
        }
    }
}

/// Name of a namespace in messages and records.
fn label(arg: &NetNsArg) -> String {
    match arg {
        NetNsArg::Name(name) => name.clone(),
        NetNsArg::Path(path) => path.clone(),
        NetNsArg::Pid(pid) => format!("of process {pid}"),
    }
}
