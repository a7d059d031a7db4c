//! A snapshot of everything that a lease may leave behind, to compare before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netdev::link::Address;
use netdev::{Link, Netdev};

use crate::nic_state::{self, Observer};
use crate::testbed::NIC;
use crate::tool::until;
use crate::xdp;
use crate::{ifindex, println_line};

/// Time that leftovers of a device or namespace may take to go.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(5);

/// `RT_SCOPE_LINK`.
const ON_LINK: u8 = 253;

/// Snapshot, as text, of everything that a lease may change in this namespace: devices, queues,
/// settings of the NIC, routes, addresses, proxy entries, sysctls, BPF programs, files, named
/// namespaces.
#[derive(Debug, PartialEq, Eq)]
pub struct Footprint(BTreeMap<String, String>);

impl Footprint {
    /// Takes a snapshot once the NIC has its link-local address, past duplicate address detection.
    pub fn settled() -> Result<Self> {
        let mut links = Link::open()?;
        let nic = ifindex(NIC)?;
        until("settled addresses", LEFTOVERS_LIMIT, || {
            let own = links.addresses(Some(nic))?;
            let on_link = own.iter().any(|address| address.scope == ON_LINK);
            Ok(on_link && !own.iter().any(Address::is_tentative))
        })?;
        Self::now()
    }

    fn now() -> Result<Self> {
        let mut links = Link::open()?;
        let mut things = BTreeMap::new();
        let mut note = |what: &str, text: String| {
            things.insert(what.to_owned(), text);
        };
        let all = links.list()?;
        // Not their flags: a NIC's promiscuity, say, is nobody's here.
        let names: Vec<_> = all.iter().map(|link| (&link.name, link.up)).collect();
        note("devices", format!("{names:?}"));
        let queues = Netdev::open()?.queues(Some(ifindex(NIC)?))?;
        let users: Vec<_> = queues
            .iter()
            .map(|queue| (queue.id, &queue.lease, queue.dmabuf))
            .collect();
        note("queues", format!("{users:?}"));
        note("the NIC", format!("{:?}", Observer::of(NIC)?.state()?));
        note("routes", lines(&links.routes()?));
        note("addresses", lines(&links.addresses(None)?));
        note("proxy entries", lines(&links.proxies()?));
        note("BPF programs", format!("{:?}", xdp::programs()?));
        note("files", format!("{:?}", nic_state::runtime_files()?));
        note("namespaces", format!("{:?}", names_in("/run/netns")?));
        for family in ["ipv4", "ipv6"] {
            for device in [NIC, "all", "default"] {
                let folder = format!("/proc/sys/net/{family}/conf/{device}");
                for name in names_in(&folder)? {
                    // Some can be written only.
                    let path = Path::new(&folder).join(&name);
                    let value = fs::read_to_string(path).unwrap_or_default();
                    note(&format!("{family} {device} {name}"), value);
                }
            }
        }
        Ok(Self(things))
    }

    /// Waits until everything is as in the snapshot.
    pub fn soon_again(&self) -> Result<()> {
        let end = Instant::now() + LEFTOVERS_LIMIT;
        loop {
            let now = Self::now()?;
            if now == *self {
                return Ok(());
            }
            if Instant::now() > end {
                return self.differs(&now);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks that everything is as in the snapshot.
    pub fn same(&self) -> Result<()> {
        let now = Self::now()?;
        match now == *self {
            true => Ok(()),
            false => self.differs(&now),
        }
    }

    fn differs(&self, now: &Self) -> Result<()> {
        let mut differ = Vec::new();
        for (what, before) in &self.0 {
            let after = now.0.get(what).map_or("", String::as_str);
            if after != before {
                println_line(&format!("{what}: before\n{before}\nafter\n{after}"));
                differ.push(what.as_str());
            }
        }
        bail!("not as before: {}", differ.join(", "))
    }
}

fn lines<T: std::fmt::Debug>(things: &[T]) -> String {
    let mut lines: Vec<String> = things.iter().map(|thing| format!("{thing:?}")).collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn names_in(folder: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.to_owned())? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
