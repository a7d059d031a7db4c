//! Rings: sizes, buffers and header split.

use std::fmt;
use std::time::Instant;

use netlink::{Attr, Attrs, Listener, Request, Result};
use serde::{Deserialize, Serialize};

use super::{Ethtool, cmd, header};
use crate::Ifindex;
use crate::parse::{Parsed, attributes};

attributes! {
    /// Attributes: `ETHTOOL_A_RINGS_*`.
    pub(super) mod attr {
        HEADER = 1, nest("header", header::ALL);
        RX_MAX = 2, number("rx-max");
        TX_MAX = 5, number("tx-max");
        RX = 6, number("rx");
        TX = 9, number("tx");
        RX_BUF_LEN = 10, number("rx-buf-len");
        TCP_DATA_SPLIT = 11, choice("tcp-data-split", &["unknown", "disabled", "enabled"]);
        CQE_SIZE = 12, number("cqe-size");
        TX_PUSH = 13, number("tx-push");
        RX_PUSH = 14, number("rx-push");
        HDS_THRESH = 17, number("hds-thresh");
        HDS_THRESH_MAX = 18, number("hds-thresh-max");
    }
}

impl Ethtool {
    /// Reads the ring sizes and buffer settings of a device (`rings_prepare_data`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device without rings.
    #[doc(alias = "ETHTOOL_MSG_RINGS_GET")]
    pub fn rings(&mut self, ifindex: Ifindex) -> Result<Rings> {
        let request = self.about(cmd::RINGS_GET, "rings-get", ifindex);
        self.0.ask(&request, Rings::parse)
    }

    /// Changes ring sizes or buffer settings of a device (`ethnl_set_rings`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for what the driver can't change; `EINVAL` for sizes above the maximum, for
    /// header split with an XDP program that can't have it, and for header split off or a threshold
    /// while a memory provider is bound.
    #[doc(alias = "ETHTOOL_MSG_RINGS_SET")]
    pub fn set_rings(&mut self, ifindex: Ifindex, change: &RingsChange) -> Result<()> {
        let mut request = self.about(cmd::RINGS_SET, "rings-set", ifindex);
        change.write(&mut request);
        self.0.socket.tell(&request)
    }
}

/// A listener for changes of devices' ring settings.
#[derive(Debug)]
pub struct RingChanges {
    listener: Listener,
    family: u16,
}

impl Ethtool {
    /// Listens for changes of ring settings from now on. The handle becomes the listener's.
    ///
    /// # Errors
    /// Those of joining a multicast group.
    #[doc(alias = "ETHTOOL_MSG_RINGS_NTF")]
    pub fn ring_changes(self) -> Result<RingChanges> {
        let group = self.0.family.group("monitor")?;
        let family = self.0.family.id();
        Ok(RingChanges {
            listener: self.0.socket.listen(&[group])?,
            family,
        })
    }
}

impl RingChanges {
    /// Whether the ring settings of a device have changed since the last call. A request that
    /// changes nothing succeeds without a notification (`ethnl_default_set_doit`), so a
    /// notification tells a setting of the request from one that the driver makes by itself, which
    /// [`Ethtool::rings`] can't.
    ///
    /// # Errors
    /// [`Error::is_overrun`](netlink::Error::is_overrun) where notifications were lost.
    pub fn is_changed(&mut self, ifindex: Ifindex) -> Result<bool> {
        /// Command of a notification about changed rings: `ETHTOOL_MSG_RINGS_NTF`.
        const RINGS_NTF: u8 = 17;
        let mut changed = false;
        // Notifications are sent before the request is answered.
        while let Some(message) = self.listener.next(Some(Instant::now()))? {
            let about = message.generic().and_then(|(cmd, attrs)| {
                let ours = message.kind() == self.family && cmd == RINGS_NTF;
                Ok(ours && parse_device(attrs)? == Some(ifindex))
            });
            changed |= about.map_err(|e| netlink::Error::malformed("listen", "ethtool", e))?;
        }
        Ok(changed)
    }
}

/// Device that a notification is about.
fn parse_device(attrs: Attrs<'_>) -> Parsed<Option<Ifindex>> {
    for attr in attrs {
        let attr = attr?;
        if attr.kind() != attr::HEADER {
            continue;
        }
        for attr in attr.nested() {
            let attr = attr?;
            if attr.kind() == header::DEV_INDEX {
                return Ok(Some(Ifindex::new(attr.u32()?)));
            }
        }
    }
    Ok(None)
}

/// State of header split, of packets into headers and payload (`enum ethtool_tcp_data_split`).
#[doc(alias = "ETHTOOL_TCP_DATA_SPLIT_ENABLED")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderSplit {
    /// The driver decides whether to split, the kernel's "unknown". Setting this value undoes an
    /// earlier setting.
    Auto,
    /// Packets are not split.
    Disabled,
    /// Packets are split, as device memory requires.
    Enabled,
}

impl HeaderSplit {
    fn raw(self) -> u8 {
        match self {
            Self::Auto => 0,
            Self::Disabled => 1,
            Self::Enabled => 2,
        }
    }

    fn parse(attr: &Attr<'_>) -> Parsed<Self> {
        match attr.u8()? {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Disabled),
            2 => Ok(Self::Enabled),
            other => Err(attr.unexpected(other)),
        }
    }
}

impl fmt::Display for HeaderSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Disabled => "off",
            Self::Enabled => "on",
        })
    }
}

/// Ring sizes and buffer settings of a device. `None` is a value that the driver does not report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rings {
    /// Number of descriptors in an rx ring.
    pub rx: Option<u32>,
    /// Greatest number that [`Rings::rx`] can have.
    pub rx_max: Option<u32>,
    /// Number of descriptors in a tx ring.
    pub tx: Option<u32>,
    /// Greatest number that [`Rings::tx`] can have.
    pub tx_max: Option<u32>,
    /// Length of an rx buffer in bytes.
    pub rx_buf_len: Option<u32>,
    /// State of header split.
    pub tcp_data_split: Option<HeaderSplit>,
    /// Size in bytes up to which packets are not split into headers and payload.
    pub hds_thresh: Option<u32>,
    /// Greatest number that [`Rings::hds_thresh`] can have.
    pub hds_thresh_max: Option<u32>,
    /// Size of a completion entry in bytes.
    pub cqe_size: Option<u32>,
    /// Whether tx descriptors are written to the device instead of to memory
    /// (`ETHTOOL_A_RINGS_TX_PUSH`).
    pub tx_push: Option<bool>,
    /// Whether rx descriptors are written to the device instead of to memory
    /// (`ETHTOOL_A_RINGS_RX_PUSH`).
    pub rx_push: Option<bool>,
}

impl Rings {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let mut rings = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::RX => rings.rx = Some(attr.u32()?),
                attr::RX_MAX => rings.rx_max = Some(attr.u32()?),
                attr::TX => rings.tx = Some(attr.u32()?),
                attr::TX_MAX => rings.tx_max = Some(attr.u32()?),
                attr::RX_BUF_LEN => rings.rx_buf_len = Some(attr.u32()?),
                attr::TCP_DATA_SPLIT => rings.tcp_data_split = Some(HeaderSplit::parse(&attr)?),
                attr::HDS_THRESH => rings.hds_thresh = Some(attr.u32()?),
                attr::HDS_THRESH_MAX => rings.hds_thresh_max = Some(attr.u32()?),
                attr::CQE_SIZE => rings.cqe_size = Some(attr.u32()?),
                attr::TX_PUSH => rings.tx_push = Some(attr.u8()? != 0),
                attr::RX_PUSH => rings.rx_push = Some(attr.u8()? != 0),
                _ => {}
            }
        }
        Ok(rings)
    }
}

/// A change of ring settings. `None` is not sent, so the kernel leaves the setting as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingsChange {
    /// Number of descriptors in an rx ring.
    pub rx: Option<u32>,
    /// Number of descriptors in a tx ring.
    pub tx: Option<u32>,
    /// Length of an rx buffer in bytes.
    pub rx_buf_len: Option<u32>,
    /// State of header split.
    pub tcp_data_split: Option<HeaderSplit>,
    /// Size in bytes up to which packets are not split into headers and payload.
    pub hds_thresh: Option<u32>,
}

impl RingsChange {
    pub(super) fn write(&self, request: &mut Request) {
        let attrs = request.attrs();
        for (kind, value) in [
            (attr::RX, self.rx),
            (attr::TX, self.tx),
            (attr::RX_BUF_LEN, self.rx_buf_len),
        ] {
            if let Some(value) = value {
                attrs.u32(kind, value);
            }
        }
        if let Some(split) = self.tcp_data_split {
            attrs.u8(attr::TCP_DATA_SPLIT, split.raw());
        }
        if let Some(thresh) = self.hds_thresh {
            attrs.u32(attr::HDS_THRESH, thresh);
        }
    }
}
