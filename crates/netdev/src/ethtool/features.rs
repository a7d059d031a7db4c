//! Features: offloads of a device, by name.

use std::collections::BTreeSet;

use netlink::{Attr, Attrs, Family, Request, Result};
use serde::Serialize;

use super::{Ethtool, OMIT_REPLY, cmd, header};
use crate::Ifindex;
use crate::parse::{Parsed, attributes, required};

attributes! {
    /// Attributes: `ETHTOOL_A_FEATURES_*`.
    pub(super) mod attr {
        HEADER = 1, nest("header", header::ALL);
        HW = 2, bytes("hw");
        WANTED = 3, nest("wanted", bitset::ALL);
        ACTIVE = 4, bytes("active");
        NOCHANGE = 5, bytes("nochange");
    }
}

attributes! {
    /// Attributes of a set of bits: `ETHTOOL_A_BITSET_*`.
    mod bitset {
        NOMASK = 1, flag("nomask");
        BITS = 3, nest("bits", bits::ALL);
    }
}

attributes! {
    /// Attributes of a list of bits: `ETHTOOL_A_BITSET_BITS_*`.
    mod bits {
        BIT = 1, nest("bit", bit::ALL);
    }
}

attributes! {
    /// Attributes of one bit: `ETHTOOL_A_BITSET_BIT_*`.
    mod bit {
        NAME = 2, text("name");
        VALUE = 3, flag("value");
    }
}

impl Ethtool {
    /// Reads which features of a device are on, and which can be changed (`features_prepare_data`).
    ///
    /// # Errors
    /// `ENODEV` without such a device.
    #[doc(alias = "ETHTOOL_MSG_FEATURES_GET")]
    pub fn features(&mut self, ifindex: Ifindex) -> Result<Features> {
        let request = self.about(cmd::FEATURES_GET, "features-get", ifindex);
        self.0.ask(&request, Features::parse)
    }

    /// Turns a feature of a device on or off, by its name in `ethtool -k`: `rx-gro-hw`
    /// (`ethnl_set_features`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a name that the kernel does not know, and an error without number where
    /// the driver keeps the feature as it is.
    #[doc(alias = "ETHTOOL_MSG_FEATURES_SET")]
    pub fn set_feature(&mut self, ifindex: Ifindex, name: &str, on: bool) -> Result<()> {
        let object = format!("{} {name}", self.0.device(ifindex));
        let request = set(&self.0.family, ifindex, name, on, object);
        self.0.socket.tell(&request)?;
        // The kernel reports success even if the feature did not change.
        let active = self.features(ifindex)?.active.contains(name);
        if active == on {
            Ok(())
        } else {
            Err(request.invalid("the device keeps it as it is"))
        }
    }
}

pub(super) fn set(
    family: &Family,
    ifindex: Ifindex,
    name: &str,
    on: bool,
    object: String,
) -> Request {
    let mut request = family.request(cmd::FEATURES_SET, "features-set", object);
    request.attrs().nest(attr::HEADER, |nest| {
        nest.u32(header::DEV_INDEX, ifindex.get())
            .u32(header::FLAGS, OMIT_REPLY);
    });
    request.attrs().nest(attr::WANTED, |set| {
        set.nest(bitset::BITS, |bits| {
            bits.nest(bits::BIT, |bit| {
                bit.str(bit::NAME, name);
                if on {
                    bit.flag(bit::VALUE);
                }
            });
        });
    });
    request
}

/// Features of a device, by name (`netdev_features_strings`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Features {
    /// Names of features that can be turned on and off.
    pub hw: BTreeSet<String>,
    /// Names of features that the user requested.
    pub wanted: BTreeSet<String>,
    /// Names of features that are on.
    pub active: BTreeSet<String>,
    /// Names of features that no driver can change.
    pub nochange: BTreeSet<String>,
}

impl Features {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let mut features = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::HW => features.hw = bit_names(&attr)?,
                attr::WANTED => features.wanted = bit_names(&attr)?,
                attr::ACTIVE => features.active = bit_names(&attr)?,
                attr::NOCHANGE => features.nochange = bit_names(&attr)?,
                _ => {}
            }
        }
        Ok(features)
    }
}

/// Names of the bits that are set in a bit set (`ethnl_put_bitset32`).
fn bit_names(set: &Attr<'_>) -> Parsed<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut bits = None;
    // With a mask each bit has a value; without one, only the bits that are set are listed.
    let mut masked = true;
    for attr in set.nested() {
        let attr = attr?;
        match attr.kind() {
            bitset::NOMASK => masked = false,
            bitset::BITS => bits = Some(attr),
            _ => {}
        }
    }
    for bit in required(bits, bitset::BITS)?.nested() {
        let (mut name, mut value) = (None, false);
        for attr in bit?.nested() {
            let attr = attr?;
            match attr.kind() {
                bit::NAME => name = Some(attr.str()?),
                bit::VALUE => value = true,
                _ => {}
            }
        }
        if let Some(name) = name.filter(|_| value || !masked) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}
