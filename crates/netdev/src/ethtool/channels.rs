//! Channels: how many queues a device has in use.

use netlink::{Attrs, Request, Result};
use serde::{Deserialize, Serialize};

use super::{Ethtool, cmd, header};
use crate::Ifindex;
use crate::parse::{Parsed, attributes};

attributes! {
    /// Attributes: `ETHTOOL_A_CHANNELS_*`.
    pub(super) mod attr {
        HEADER = 1, nest("header", header::ALL);
        RX_MAX = 2, number("rx-max");
        TX_MAX = 3, number("tx-max");
        OTHER_MAX = 4, number("other-max");
        COMBINED_MAX = 5, number("combined-max");
        RX = 6, number("rx");
        TX = 7, number("tx");
        OTHER = 8, number("other");
        COMBINED = 9, number("combined");
    }
}

impl Ethtool {
    /// Reads the number of channels of a device, and its limits (`channels_prepare_data`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device without channels.
    #[doc(alias = "ETHTOOL_MSG_CHANNELS_GET")]
    pub fn channels(&mut self, ifindex: Ifindex) -> Result<Channels> {
        let request = self.about(cmd::CHANNELS_GET, "channels-get", ifindex);
        self.0.ask(&request, Channels::parse)
    }

    /// Changes the number of channels (`ethnl_set_channels`).
    ///
    /// # Errors
    /// `EINVAL` above the maximum, and for fewer channels than the RSS table, a flow rule, an
    /// AF_XDP socket or a memory provider needs.
    #[doc(alias = "ETHTOOL_MSG_CHANNELS_SET")]
    pub fn set_channels(&mut self, ifindex: Ifindex, change: &ChannelsChange) -> Result<()> {
        let mut request = self.about(cmd::CHANNELS_SET, "channels-set", ifindex);
        change.write(&mut request);
        self.0.socket.tell(&request)
    }
}

/// Number of a device's channels, by kind. `None` is a kind that the driver does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Channels {
    /// Number of channels for receiving only.
    pub rx: Option<u32>,
    /// Number of channels for sending only.
    pub tx: Option<u32>,
    /// Number of channels for other purposes, such as link interrupts.
    pub other: Option<u32>,
    /// Number of channels for both directions.
    pub combined: Option<u32>,
    /// Greatest number that [`Channels::rx`] can have.
    pub rx_max: Option<u32>,
    /// Greatest number that [`Channels::tx`] can have.
    pub tx_max: Option<u32>,
    /// Greatest number that [`Channels::other`] can have.
    pub other_max: Option<u32>,
    /// Greatest number that [`Channels::combined`] can have.
    pub combined_max: Option<u32>,
}

impl Channels {
    /// Number of rx queues: those of `rx` and `combined` channels.
    pub fn rx_queues(&self) -> u32 {
        self.rx
            .unwrap_or(0)
            .saturating_add(self.combined.unwrap_or(0))
    }

    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let mut channels = Self::default();
        for attr in attrs {
            let attr = attr?;
            let field = match attr.kind() {
                attr::RX => &mut channels.rx,
                attr::TX => &mut channels.tx,
                attr::OTHER => &mut channels.other,
                attr::COMBINED => &mut channels.combined,
                attr::RX_MAX => &mut channels.rx_max,
                attr::TX_MAX => &mut channels.tx_max,
                attr::OTHER_MAX => &mut channels.other_max,
                attr::COMBINED_MAX => &mut channels.combined_max,
                _ => continue,
            };
            *field = Some(attr.u32()?);
        }
        Ok(channels)
    }
}

/// A change of the number of channels. `None` leaves a number as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelsChange {
    /// Number of channels for receiving only.
    pub rx: Option<u32>,
    /// Number of channels for sending only.
    pub tx: Option<u32>,
    /// Number of channels for other purposes, such as link interrupts.
    pub other: Option<u32>,
    /// Number of channels for both directions.
    pub combined: Option<u32>,
}

impl ChannelsChange {
    pub(super) fn write(&self, request: &mut Request) {
        let fields = [
            (attr::RX, self.rx),
            (attr::TX, self.tx),
            (attr::OTHER, self.other),
            (attr::COMBINED, self.combined),
        ];
        for (kind, value) in fields {
            if let Some(value) = value {
                request.attrs().u32(kind, value);
            }
        }
    }
}
