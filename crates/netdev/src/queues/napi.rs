//! NAPI instances: the contexts that poll queues.

use netlink::{Attrs, Result};
use serde::Serialize;

use super::{Netdev, cmd};
use crate::parse::{Parsed, attributes, required};
use crate::{Ifindex, NapiId};

attributes! {
    /// Attributes of a NAPI instance: `NETDEV_A_NAPI_*`.
    pub(super) mod attr {
        IFINDEX = 1, number("ifindex");
        ID = 2, number("id");
        IRQ = 3, number("irq");
        PID = 4, number("pid");
        DEFER_HARD_IRQS = 5, number("defer-hard-irqs");
        GRO_FLUSH_TIMEOUT = 6, number("gro-flush-timeout");
        IRQ_SUSPEND_TIMEOUT = 7, number("irq-suspend-timeout");
        THREADED = 8, number("threaded");
    }
}

impl Netdev {
    /// Reads a NAPI instance (`netdev_nl_napi_get_doit`).
    ///
    /// # Errors
    /// `ENOENT` where no instance has that number in this network namespace.
    #[doc(alias = "NETDEV_CMD_NAPI_GET")]
    pub fn napi(&mut self, id: NapiId) -> Result<Napi> {
        let mut request = self
            .0
            .family
            .request(cmd::NAPI_GET, "napi-get", id.to_string());
        request.attrs().u32(attr::ID, id.get());
        self.0.ask(&request, Napi::parse)
    }

    /// Lists the NAPI instances of one device or of all (`netdev_nl_napi_get_dumpit`).
    ///
    /// # Errors
    /// `ENODEV` without such a device.
    #[doc(alias = "NETDEV_CMD_NAPI_GET")]
    pub fn napis(&mut self, of: Option<Ifindex>) -> Result<Vec<Napi>> {
        let request = self.listing(cmd::NAPI_GET, "napi-get", attr::IFINDEX, of);
        self.0.dump(&request, Napi::parse)
    }
}

/// Context in which a NAPI instance is polled (`enum netdev_napi_threaded`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threaded {
    /// The instance is polled in a softirq.
    Disabled,
    /// The instance is polled in a kernel thread of its own.
    Enabled,
    /// The instance is polled in a kernel thread that never sleeps.
    BusyPoll,
}

/// State of a NAPI instance (`netdev_nl_napi_fill_one`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Napi {
    /// Number of the instance.
    pub id: NapiId,
    /// Device that the instance serves.
    pub ifindex: Ifindex,
    /// Number of the interrupt.
    pub irq: Option<u32>,
    /// Process id of the instance's kernel thread, if it has one.
    pub pid: Option<u32>,
    /// Number of empty polls before the interrupt is switched on again.
    pub defer_hard_irqs: Option<u32>,
    /// Time in nanoseconds after which a watchdog polls the instance.
    pub gro_flush_timeout: Option<u64>,
    /// Time in nanoseconds for which busy polling keeps the interrupt off.
    pub irq_suspend_timeout: Option<u64>,
    /// Context in which the instance is polled.
    pub threaded: Option<Threaded>,
}

impl Napi {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let (mut id, mut ifindex) = (None, None);
        let mut napi = Self {
            id: NapiId::new(0),
            ifindex: Ifindex::new(0),
            irq: None,
            pid: None,
            defer_hard_irqs: None,
            gro_flush_timeout: None,
            irq_suspend_timeout: None,
            threaded: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::IFINDEX => ifindex = Some(Ifindex::new(attr.u32()?)),
                attr::ID => id = Some(NapiId::new(attr.u32()?)),
                attr::IRQ => napi.irq = Some(attr.u32()?),
                attr::PID => napi.pid = Some(attr.u32()?),
                attr::DEFER_HARD_IRQS => napi.defer_hard_irqs = Some(attr.u32()?),
                attr::GRO_FLUSH_TIMEOUT => napi.gro_flush_timeout = Some(attr.uint()?),
                attr::IRQ_SUSPEND_TIMEOUT => napi.irq_suspend_timeout = Some(attr.uint()?),
                attr::THREADED => {
                    napi.threaded = Some(match attr.uint()? {
                        0 => Threaded::Disabled,
                        1 => Threaded::Enabled,
                        2 => Threaded::BusyPoll,
                        other => return Err(attr.unexpected(other)),
                    });
                }
                _ => {}
            }
        }
        napi.id = required(id, attr::ID)?;
        napi.ifindex = required(ifindex, attr::IFINDEX)?;
        Ok(napi)
    }
}
