//! RSS: the spreading of packets over queues, where no flow rule matches.

use netlink::{Attr, Attrs, Family, ParseError, Request, Result};
use serde::{Deserialize, Serialize};

use super::{Ethtool, about, cmd, header};
use crate::parse::{Parsed, attributes};
use crate::{Ifindex, QueueId, RssContextId};

attributes! {
    /// Attributes: `ETHTOOL_A_RSS_*`.
    pub(super) mod attr {
        HEADER = 1, nest("header", header::ALL);
        CONTEXT = 2, number("context");
        HFUNC = 3, number("hfunc");
        INDIR = 4, bytes("indir");
        HKEY = 5, bytes("hkey");
        INPUT_XFRM = 6, number("input-xfrm");
    }
}

impl Ethtool {
    /// Reads the RSS settings of a device, not those of its additional contexts
    /// (`rss_prepare_get`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device without RSS.
    #[doc(alias = "ETHTOOL_MSG_RSS_GET")]
    pub fn rss(&mut self, ifindex: Ifindex) -> Result<Rss> {
        let request = self.about(cmd::RSS_GET, "rss-get", ifindex);
        self.0.ask(&request, Rss::parse)
    }

    /// Reads the settings of an additional RSS context (`rss_prepare_ctx`).
    ///
    /// # Errors
    /// `ENOENT` where no context has that number.
    #[doc(alias = "ETHTOOL_MSG_RSS_GET")]
    pub fn rss_context(&mut self, ifindex: Ifindex, context: RssContextId) -> Result<Rss> {
        let request = self.about_context(cmd::RSS_GET, "rss-get", ifindex, context);
        self.0.ask(&request, Rss::parse)
    }

    /// Reads the RSS settings of a device and of all its additional contexts (`ethnl_rss_dumpit`).
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "ETHTOOL_MSG_RSS_GET")]
    pub fn rss_contexts(&mut self, ifindex: Ifindex) -> Result<Vec<Rss>> {
        let request = self.about(cmd::RSS_GET, "rss-get", ifindex);
        self.0.dump(&request, Rss::parse)
    }

    /// Changes the RSS settings of a device, or of one of its contexts (`ethnl_rss_set`).
    ///
    /// # Errors
    /// `EINVAL` for a table with a queue out of range, or of a length that does not divide the
    /// device's; `EOPNOTSUPP` for what the driver can't change.
    #[doc(alias = "ETHTOOL_MSG_RSS_SET")]
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

    /// Creates an additional RSS context and returns its settings, with its number
    /// (`ethnl_rss_create_doit`).
    ///
    /// # Errors
    /// As for [`Ethtool::set_rss`]; `EOPNOTSUPP` for a device without contexts.
    #[doc(alias = "ETHTOOL_MSG_RSS_CREATE_ACT")]
    pub fn create_rss_context(&mut self, ifindex: Ifindex, change: &RssChange) -> Result<Rss> {
        let mut request = self.about(cmd::RSS_CREATE_ACT, "rss-create", ifindex);
        change.write(&mut request);
        self.0.ask(&request, Rss::parse)
    }

    /// Whether an additional RSS context could be created now. The call requests a context that the
    /// kernel must refuse, with a queue in its table that no device has:
    /// `ethnl_rss_create_validate` first checks that the driver has contexts, and room for another;
    /// then `rss_set_prep_indir` checks the table.
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

    /// Deletes an additional RSS context (`ethnl_rss_delete_doit`).
    ///
    /// # Errors
    /// `ENOENT` where no context has that number, `EBUSY` while a flow rule uses it.
    #[doc(alias = "ETHTOOL_MSG_RSS_DELETE_ACT")]
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

/// RSS settings of a device or of one of its contexts (`rss_fill_reply`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rss {
    /// Number of the RSS context; `None` is the device itself.
    pub context: Option<RssContextId>,
    /// Hash function of RSS, one of the bits `ETH_RSS_HASH_*`; `None` for a context that uses the
    /// device's.
    pub hfunc: Option<u32>,
    /// Indirection table of RSS: the hash of a packet selects an entry, which is a queue.
    pub table: Vec<QueueId>,
    /// Hash key of RSS; empty for a context that uses the device's.
    pub key: Vec<u8>,
    /// Changes to a packet's fields before they are hashed: bits `RXH_XFRM_*`.
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
                attr::INDIR => rss.table = parse_table(&attr)?,
                attr::HKEY => rss.key = attr.bytes().to_vec(),
                attr::INPUT_XFRM => rss.input_xfrm = attr.u32()?,
                _ => {}
            }
        }
        Ok(rss)
    }
}

/// Parses an array of queues in host byte order.
fn parse_table(attr: &Attr<'_>) -> Parsed<Vec<QueueId>> {
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

/// A change of RSS settings. `None` leaves a setting as it is; in a new context the driver chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RssChange {
    /// Indirection table of RSS. A shorter table than the device's is repeated; its length must
    /// divide the device's. An empty table, for the device itself only, restores the default table
    /// over all queues.
    pub table: Option<Vec<QueueId>>,
    /// Hash function of RSS, one of the bits `ETH_RSS_HASH_*`.
    pub hfunc: Option<u32>,
    /// Hash key of RSS, of the device's length.
    pub key: Option<Vec<u8>>,
    /// Changes to a packet's fields before they are hashed: bits `RXH_XFRM_*`.
    pub input_xfrm: Option<u32>,
}

impl RssChange {
    /// Creates the change that restores the RSS settings `rss`.
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

/// Creates an RSS indirection table of `size` entries that spreads over the first `queues` queues,
/// as `ethtool -X eth0 equal N` (`ethtool_rxfh_indir_default`). Empty for no queues.
pub fn equal_table(size: usize, queues: u32) -> Vec<QueueId> {
    (0..queues).map(QueueId::new).cycle().take(size).collect()
}
