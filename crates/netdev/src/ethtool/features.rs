//! Features: offloads of a device, by name.

use std::collections::BTreeSet;

use netlink::{Attr, AttrSpec, Attrs, Family, Request, Result};
use serde::Serialize;

use super::{Ethtool, HEADER, cmd, header};
use crate::Ifindex;
use crate::parse::{Parsed, required};

/// Netlink attributes of features, `ETHTOOL_A_FEATURES_*`, and of bit sets, `ETHTOOL_A_BITSET_*`.
mod attr {
    pub(super) const HW: u16 = 2;
    pub(super) const WANTED: u16 = 3;
    pub(super) const ACTIVE: u16 = 4;
    pub(super) const NOCHANGE: u16 = 5;

    pub(super) const NOMASK: u16 = 1;
    pub(super) const BITS: u16 = 3;
    pub(super) const BIT: u16 = 1;
    pub(super) const BIT_NAME: u16 = 2;
    pub(super) const BIT_VALUE: u16 = 3;
}

/// Netlink format of the feature attributes.
pub(super) const ATTRS: &[AttrSpec] = &[
    HEADER,
    AttrSpec::bytes(attr::HW, "hw"),
    AttrSpec::nest(attr::WANTED, "wanted", BITSET),
    AttrSpec::bytes(attr::ACTIVE, "active"),
    AttrSpec::bytes(attr::NOCHANGE, "nochange"),
];

/// Netlink format of a bit set in a request.
const BITSET: &[AttrSpec] = &[
    AttrSpec::flag(attr::NOMASK, "nomask"),
    AttrSpec::nest(attr::BITS, "bits", BITS),
];

/// Format of the list of bits in a bit set.
const BITS: &[AttrSpec] = &[AttrSpec::nest(attr::BIT, "bit", BIT)];

/// Netlink format of one bit in a bit set.
const BIT: &[AttrSpec] = &[
    AttrSpec::text(attr::BIT_NAME, "name"),
    AttrSpec::flag(attr::BIT_VALUE, "value"),
];

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
    request.attrs().nest(header::NEST, |nest| {
        nest.u32(header::DEV_INDEX, ifindex.get())
            .u32(header::FLAGS, header::OMIT_REPLY);
    });
    request.attrs().nest(attr::WANTED, |set| {
        set.nest(attr::BITS, |bits| {
            bits.nest(attr::BIT, |bit| {
                bit.str(attr::BIT_NAME, name);
                if on {
                    bit.flag(attr::BIT_VALUE);
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
            attr::NOMASK => masked = false,
            attr::BITS => bits = Some(attr),
            _ => {}
        }
    }
    for bit in required(bits, attr::BITS)?.nested() {
        let (mut name, mut value) = (None, false);
        for attr in bit?.nested() {
            let attr = attr?;
            match attr.kind() {
                attr::BIT_NAME => name = Some(attr.str()?),
                attr::BIT_VALUE => value = true,
                _ => {}
            }
        }
        if let Some(name) = name.filter(|_| value || !masked) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}
