//! RSS: which queue a packet goes to that no flow rule is about.

use netlink::{Attr, AttrSpec, Attrs, Family, ParseError, Request, Result};
use serde::{Deserialize, Serialize};

use super::{Ethtool, HEADER, about, cmd};
use crate::parse::Parsed;
use crate::{Ifindex, QueueId, RssContextId};

/// Attributes: `ETHTOOL_A_RSS_*`.
mod attr {
    pub(super) const CONTEXT: u16 = 2;
    pub(super) const HFUNC: u16 = 3;
    pub(super) const INDIR: u16 = 4;
    pub(super) const HKEY: u16 = 5;
    pub(super) const INPUT_XFRM: u16 = 6;
}

/// How they read.
pub(super) const ATTRS: &[AttrSpec] = &[
    HEADER,
    AttrSpec::number(attr::CONTEXT, "context"),
    AttrSpec::number(attr::HFUNC, "hfunc"),
    AttrSpec::bytes(attr::INDIR, "indir"),
    AttrSpec::bytes(attr::HKEY, "hkey"),
    AttrSpec::number(attr::INPUT_XFRM, "input-xfrm"),
];

impl Ethtool {
    /// The RSS of a device, not that of its additional contexts (`rss_prepare_get`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device without.
    pub fn rss(&mut self, ifindex: Ifindex) -> Result<Rss> {
        let request = self.about(cmd::RSS_GET, "rss-get", ifindex);
        self.0.ask(&request, Rss::parse)
    }

    /// An additional RSS context (`rss_prepare_ctx`).
    ///
    /// # Errors
    /// `ENOENT` where there is none of that number.
    pub fn rss_context(&mut self, ifindex: Ifindex, context: RssContextId) -> Result<Rss> {
        let request = self.about_context(cmd::RSS_GET, "rss-get", ifindex, context);
        self.0.ask(&request, Rss::parse)
    }

    /// The RSS of a device and of all its additional contexts (`ethnl_rss_dumpit`).
    ///
    /// # Errors
    /// Those of a dump.
    pub fn rss_contexts(&mut self, ifindex: Ifindex) -> Result<Vec<Rss>> {
        let request = self.about(cmd::RSS_GET, "rss-get", ifindex);
        self.0.dump(&request, Rss::parse)
    }

    /// Changes the RSS of a device, or of one of its contexts (`ethnl_rss_set`).
    ///
    /// # Errors
    /// `EINVAL` for a table with a queue out of range, or of a length that does not divide the
    /// device's; `EOPNOTSUPP` for what the driver can't.
    pub fn set_rss(
        &mut self,
        ifindex: Ifindex,
        context: Option<RssContextId>,
        change: &RssChange,
    ) -> Result<()> {
        let (cmd, op) = (cmd::RSS_SET, "rss-set");
        let mut request = match context {
            Some(context) => self.about_context(cmd, op, ifindex, context),
            None => self.about(cmd, op, ifindex),
        };
        change.write(&mut request);
        self.0.socket.tell(&request)
    }

    /// Creates an additional context; its number is in the answer (`ethnl_rss_create_doit`).
    ///
    /// # Errors
    /// As for [`Ethtool::set_rss`]; `EOPNOTSUPP` for a device without contexts.
    pub fn create_rss_context(&mut self, ifindex: Ifindex, change: &RssChange) -> Result<Rss> {
        let mut request = self.about(cmd::RSS_CREATE_ACT, "rss-create", ifindex);
        change.write(&mut request);
        self.0.ask(&request, Rss::parse)
    }

    /// Whether an additional context could be created now. Asks for one that the kernel must refuse, for a
    /// queue in its table that no device has: `ethnl_rss_create_validate` looks first at whether the
    /// driver has contexts, and that many; `rss_set_prep_indir` then at the table.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`; those of a dump.
    pub fn has_room_for_rss_context(&mut self, ifindex: Ifindex) -> Result<bool> {
        let used = self.rss_contexts(ifindex)?;
        let used = used.iter().filter(|rss| rss.context.is_some()).count();
        let next = RssContextId::new(u32::try_from(used).unwrap_or(u32::MAX).saturating_add(1));
        let mut request = self.about_context(cmd::RSS_CREATE_ACT, "rss-create", ifindex, next);
        let impossible = RssChange {
            table: Some(vec![QueueId::new(u32::MAX)]),
            ..RssChange::default()
        };
        impossible.write(&mut request);
        match self.0.ask(&request, Rss::parse) {
            Ok(_) => Err(request.invalid("the kernel took an impossible table")),
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ERANGE) => Ok(false),
                Some(libc::EINVAL) => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Deletes an additional context (`ethnl_rss_delete_doit`).
    ///
    /// # Errors
    /// `ENOENT` where there is none of that number, `EBUSY` while a flow rule uses it.
    pub fn delete_rss_context(&mut self, ifindex: Ifindex, context: RssContextId) -> Result<()> {
        let request = self.about_context(cmd::RSS_DELETE_ACT, "rss-delete", ifindex, context);
        self.0.socket.tell(&request)
    }

    fn about_context(
        &self,
        cmd: u8,
        op: &'static str,
        ifindex: Ifindex,
        context: RssContextId,
    ) -> Request {
        let object = format!("{} context {context}", self.0.device(ifindex));
        about_context(&self.0.family, cmd, op, (ifindex, context), object)
    }
}

pub(super) fn about_context(
    family: &Family,
    cmd: u8,
    op: &'static str,
    (ifindex, context): (Ifindex, RssContextId),
    object: String,
) -> Request {
    let mut request = about(family, cmd, op, ifindex, object);
    request.attrs().u32(attr::CONTEXT, context.get());
    request
}

/// The RSS of a device or of one of its contexts (`rss_fill_reply`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rss {
    /// Which context; `None` is the device itself.
    pub context: Option<RssContextId>,
    /// The hash function, one of the bits `ETH_RSS_HASH_*`; `None` where the device's goes for a
    /// context.
    pub hfunc: Option<u32>,
    /// The indirection table: a packet's hash chooses an entry, which is a queue.
    pub table: Vec<QueueId>,
    /// The hash key; empty where the device's goes for a context.
    pub key: Vec<u8>,
    /// What is done to the input before it is hashed: bits `RXH_XFRM_*`.
    pub input_xfrm: u32,
}

impl Rss {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let mut rss = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::CONTEXT => rss.context = Some(RssContextId::new(attr.u32()?)),
                attr::HFUNC => rss.hfunc = Some(attr.u32()?),
                attr::INDIR => rss.table = table(&attr)?,
                attr::HKEY => rss.key = attr.bytes().to_vec(),
                attr::INPUT_XFRM => rss.input_xfrm = attr.u32()?,
                _ => {}
            }
        }
        Ok(rss)
    }
}

/// An array of queues, in host byte order.
fn table(attr: &Attr<'_>) -> Parsed<Vec<QueueId>> {
    let entries = attr.bytes().chunks(4).map(|entry| match entry.try_into() {
        Ok(entry) => Ok(QueueId::new(u32::from_ne_bytes(entry))),
        Err(_) => Err(ParseError::Size {
            kind: attr.kind(),
            want: 4,
            got: entry.len(),
        }),
    });
    entries.collect()
}

/// What to change about RSS. What is `None` stays, or is the driver's choice in a new context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RssChange {
    /// The indirection table. A shorter one is repeated; its length must divide the device's. An
    /// empty one, for the device itself only, goes back to all queues alike.
    pub table: Option<Vec<QueueId>>,
    /// The hash function.
    pub hfunc: Option<u32>,
    /// The hash key, of the device's length.
    pub key: Option<Vec<u8>>,
    /// What is done to the input before it is hashed.
    pub input_xfrm: Option<u32>,
}

impl RssChange {
    /// The change that makes it what `rss` is: to put back what was found.
    pub fn back_to(rss: &Rss) -> Self {
        Self {
            table: Some(rss.table.clone()),
            hfunc: rss.hfunc,
            key: (!rss.key.is_empty()).then(|| rss.key.clone()),
            input_xfrm: None,
        }
    }

    pub(super) fn write(&self, request: &mut Request) {
        let attrs = request.attrs();
        if let Some(hfunc) = self.hfunc {
            attrs.u32(attr::HFUNC, hfunc);
        }
        if let Some(table) = &self.table {
            let bytes: Vec<u8> = table
                .iter()
                .flat_map(|queue| queue.get().to_ne_bytes())
                .collect();
            attrs.put(attr::INDIR, &bytes);
        }
        if let Some(key) = &self.key {
            attrs.put(attr::HKEY, key);
        }
        if let Some(xfrm) = self.input_xfrm {
            attrs.u32(attr::INPUT_XFRM, xfrm);
        }
    }
}

/// A table of `size` entries that spreads over the first `queues` queues: `ethtool -X eth0 equal N`
/// (`ethtool_rxfh_indir_default`). Empty for no queues.
pub fn equal_table(size: usize, queues: u32) -> Vec<QueueId> {
    (0..queues).map(QueueId::new).cycle().take(size).collect()
}
