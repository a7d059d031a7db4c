//! The netkit that is meant: there, or gone by itself.

use anyhow::{Result, bail};
use netdev::{Ifindex, Link, LinkInfo, NetNs};

use super::ending::Ending;
use crate::args::NetNsArg;
use crate::remedy::Hint;
use crate::way::record::{Record, Records};

/// A netkit and what is known of it.
#[derive(Debug)]
pub(super) struct Target {
    /// The guest end's name, and its namespace's.
    pub(super) name: String,
    pub(super) netns: String,
    /// What was noted when it was leased to.
    pub(super) record: Option<Record>,
    /// An end of it that can be deleted, and the namespace that this one is in.
    end: Option<(NetNs, Ifindex)>,
    /// The guest end's number, and where it is.
    guest: Option<(Ifindex, Place)>,
}

/// Where a guest end is.
#[derive(Debug)]
pub(crate) enum Place {
    /// In a namespace that can be entered.
    Entered(NetNs),
    /// In one that this one knows by an id; `None`: in this one.
    Id(Option<i32>),
}

impl Target {
    /// Finds it by the name of either end, in the namespace that was named, in this one, or where
    /// a lease was noted.
    pub(super) fn find(name: &str, arg: Option<&NetNsArg>, records: &Records) -> Result<Self> {
        let here = NetNs::current()?;
        let opened = match arg {
            Some(arg) => arg.open(),
            None => Ok(here.clone()),
        };
        let missing: anyhow::Error = match opened {
            Ok(netns) => match Link::open_in(&netns)?.by_name(name) {
                Ok(link) => return Self::there(&here, netns, link, records),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => error.into(),
                Err(error) => return Err(error.into()),
            },
            // A name without a namespace, a pid without a process.
            Err(error) => error.into(),
        };
        let label = arg.map(label);
        let mut noted = records.all().iter().filter(|record| {
            record.netkit == name && label.as_ref().is_none_or(|label| *label == record.netns)
        });
        match (noted.next(), noted.next()) {
            (Some(record), None) => Self::noted(&here, record),
            (Some(one), Some(other)) => Err(Hint::new(
                format!(
                    "unlease {name}: there was one in namespace {} and one in {}",
                    one.netns, other.netns
                ),
                "say which: --netns",
            )
            .into()),
            (None, _) => Err(missing),
        }
    }

    /// One whose end of this name is there.
    fn there(here: &NetNs, netns: NetNs, link: LinkInfo, records: &Records) -> Result<Self> {
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
            return Self::by_host_end(here, netns, &link, records);
        }
        // The guest end of a pair, or a single.
        let host = Self::host_of(here, &netns, &link)?;
        let record = match &host {
            Some(host) => records.of_anchor(here, host)?,
            None => records.of_anchor(&netns, &link)?,
        };
        Ok(Self {
            record: record.cloned(),
            end: Some((netns.clone(), link.ifindex)),
            netns: netns.label().to_owned(),
            guest: Some((link.ifindex, Place::Entered(netns))),
            name,
        })
    }

    /// One whose host end was named.
    fn by_host_end(here: &NetNs, netns: NetNs, host: &LinkInfo, records: &Records) -> Result<Self> {
        let record = records.of_anchor(&netns, host)?.cloned();
        let mut target = Self {
            name: host.name.clone(),
            netns: netns.label().to_owned(),
            record,
            end: Some((netns.clone(), host.ifindex)),
            guest: None,
        };
        target.guest_of(here, &netns, host)?;
        if let Some(record) = &target.record {
            (target.name, target.netns) = (record.netkit.clone(), record.netns.clone());
        }
        Ok(target)
    }

    /// One that was noted, and is not where it was.
    fn noted(here: &NetNs, record: &Record) -> Result<Self> {
        let mut target = Self {
            name: record.netkit.clone(),
            netns: record.netns.clone(),
            record: Some(record.clone()),
            end: None,
            guest: None,
        };
        let found = match here.identity()? == record.anchor_netns {
            true => {
                let anchor = record.find_anchor(&mut Link::open()?)?;
                anchor.map(|anchor| (here.clone(), anchor))
            }
            false => record.find_elsewhere()?,
        };
        let Some((netns, anchor)) = found else {
            return Ok(target);
        };
        target.end = Some((netns.clone(), anchor.ifindex));
        match record.pair {
            true => target.guest_of(here, &netns, &anchor)?,
            false => target.guest = Some((anchor.ifindex, Place::Entered(netns))),
        }
        Ok(target)
    }

    /// The host end of a pair, if it is here.
    fn host_of(here: &NetNs, netns: &NetNs, guest: &LinkInfo) -> Result<Option<LinkInfo>> {
        let Some(host) = guest.link else {
            return Ok(None);
        };
        let is_here = match guest.link_netns_id {
            None => here.is_same(netns)?,
            Some(id) => Link::open_in(netns)?.nsid(here)? == Some(id),
        };
        match is_here {
            true => Ok(Some(Link::open()?.get(host)?)),
            false => Ok(None),
        }
    }

    /// Looks from a host end for the guest's, which has its namespace's id in this one.
    fn guest_of(&mut self, here: &NetNs, netns: &NetNs, host: &LinkInfo) -> Result<()> {
        let (Some(guest), true) = (host.link, here.is_same(netns)?) else {
            return Ok(());
        };
        let mut links = Link::open()?;
        let mut place = Place::Id(host.link_netns_id);
        for seen in NetNs::visible()?.spaces {
            let Ok(netns) = seen.open() else { continue };
            let found = match host.link_netns_id {
                None => here.is_same(&netns)?,
                Some(id) => links.nsid(&netns)? == Some(id),
            };
            if found {
                if self.record.is_none() {
                    let link = Link::open_in(&netns)?.get(guest)?;
                    (self.name, self.netns) = (link.name, netns.label().to_owned());
                }
                place = Place::Entered(netns);
                break;
            }
        }
        self.guest = Some((guest, place));
        Ok(())
    }

    /// Whether there is anything to be deleted.
    pub(super) fn is_there(&self) -> bool {
        self.end.is_some()
    }

    /// The guest's namespace, if it can be entered.
    pub(super) fn guest_netns(&self) -> Option<&NetNs> {
        match &self.guest {
            Some((_, Place::Entered(netns))) => Some(netns),
            _ => None,
        }
    }

    /// Its leases, of NICs here; if there are none, of NICs in other namespaces.
    pub(super) fn leases(&self) -> Result<Vec<Ending>> {
        let Some((guest, place)) = &self.guest else {
            return Ok(Vec::new());
        };
        let leases = Ending::of(&NetNs::current()?, *guest, place)?;
        let (true, Place::Entered(_)) = (leases.is_empty(), place) else {
            return Ok(leases);
        };
        for other in NetNs::visible()?.spaces.iter().skip(1) {
            let Ok(other) = other.open() else { continue };
            let leases = Ending::of(&other, *guest, place)?;
            if !leases.is_empty() {
                return Ok(leases);
            }
        }
        Ok(Vec::new())
    }

    /// Deletes it, both ends.
    pub(super) fn delete(&self) -> Result<()> {
        let Some((netns, ifindex)) = &self.end else {
            return Ok(());
        };
        match Link::open_in(netns)?.delete(*ifindex) {
            // It went in this very moment.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            deleted => Ok(deleted?),
        }
    }
}

/// What a namespace is called in messages and records.
fn label(arg: &NetNsArg) -> String {
    match arg {
        NetNsArg::Name(name) => name.clone(),
        NetNsArg::Path(path) => path.clone(),
        NetNsArg::Pid(pid) => format!("of process {pid}"),
    }
}
