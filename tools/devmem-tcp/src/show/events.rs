//! Differences between two snapshots, as events.

use netdev::{DmabufId, Ifindex};
use serde::Serialize;

use crate::snapshot::{Identity, LeaseEnd, LeaseView, Snapshot};

/// Kind of an event in `show --watch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EventKind {
    /// The watch has begun: from here on no change is missed.
    Watching,
    DeviceCame,
    DeviceWent,
    Leased,
    /// One end of a lease was moved to another namespace, with its device.
    LeaseMoved,
    LeaseEnded,
    Bound,
    Unbound,
}

impl EventKind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::DeviceCame => "device came",
            Self::DeviceWent => "device went",
            Self::Leased => "leased",
            Self::LeaseMoved => "lease moved",
            Self::LeaseEnded => "lease ended",
            Self::Bound => "bound",
            Self::Unbound => "unbound",
        }
    }
}

/// A NIC or a netkit: a device that can lease queues, or have them leased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Device {
    /// Name of the namespace, empty for the current one.
    pub(super) netns: String,
    pub(super) device: String,
    pub(super) ifindex: Ifindex,
    /// Kind of the device: `netkit`, or `physical`.
    pub(super) kind: &'static str,
    #[serde(skip)]
    identity: Identity,
}

impl Device {
    fn is_same(&self, other: &Self) -> bool {
        (self.identity, self.ifindex) == (other.identity, other.ifindex)
    }
}

/// Binding of a NIC's queue, and of the netkit's queue that leases it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    phys: LeaseEnd,
    virt: Option<LeaseEnd>,
    dmabuf: DmabufId,
}

impl Bound {
    fn is_same(&self, other: &Self) -> bool {
        // A NIC may move while it is bound, and a dmabuf may be bound to several queues.
        let place = same_place(&self.phys, &other.phys) || same_virt(&self.virt, &other.virt);
        self.dmabuf == other.dmabuf
            && (place
                || (self.phys.ifindex, self.phys.queue) == (other.phys.ifindex, other.phys.queue))
    }
}

/// An event of `show --watch`, without its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct WatchEvent {
    pub(super) what: EventKind,
    /// Queue of the NIC that the event is about.
    pub(super) phys: Option<LeaseEnd>,
    /// Queue of the netkit that leases the NIC's queue.
    pub(super) virt: Option<LeaseEnd>,
    pub(super) dmabuf: Option<DmabufId>,
    /// Device that came or went.
    pub(super) device: Option<Device>,
}

impl WatchEvent {
    pub(super) fn new(what: EventKind) -> Self {
        Self {
            what,
            phys: None,
            virt: None,
            dmabuf: None,
            device: None,
        }
    }

    /// Whether the event is about the device of this name, at either end.
    pub(super) fn names(&self, device: &str) -> bool {
        let ends = [&self.phys, &self.virt].into_iter().flatten();
        let names = ends.filter_map(|end| end.device.as_deref());
        let came = self.device.iter().map(|device| device.device.as_str());
        names.chain(came).any(|name| name == device)
    }
}

/// Parts of a snapshot whose changes are events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WatchedParts {
    devices: Vec<Device>,
    leases: Vec<LeaseView>,
    bound: Vec<Bound>,
}

impl WatchedParts {
    pub(super) fn of(snapshot: &Snapshot) -> anyhow::Result<Self> {
        let leases = snapshot.leases()?;
        let (mut devices, mut bound) = (Vec::new(), Vec::new());
        for namespace in &snapshot.namespaces {
            for link in &namespace.links {
                let kind = match link.kind.as_deref() {
                    Some("netkit") => "netkit",
                    _ if link.is_physical() => "physical",
                    _ => continue,
                };
                devices.push(Device {
                    netns: namespace.name.clone(),
                    device: link.name.clone(),
                    ifindex: link.ifindex,
                    kind,
                    identity: namespace.identity(),
                });
            }
            for queue in &namespace.queues {
                let Some(dmabuf) = queue.dmabuf else { continue };
                let end = namespace.end(queue.ifindex, queue.id);
                // If the netkit's side reports the binding, too, it is still one.
                if leases.iter().any(|lease| same_place(&lease.virt, &end)) {
                    continue;
                }
                let lease = leases.iter().find(|lease| same_place(&lease.phys, &end));
                bound.push(Bound {
                    virt: lease.map(|lease| lease.virt.clone()),
                    phys: end,
                    dmabuf,
                });
            }
        }
        Ok(Self {
            devices,
            leases,
            bound,
        })
    }

    /// Keeps the netkit's end of a lease from the former snapshot where its namespace can't be
    /// looked into any more: it may exist a moment longer than its name.
    pub(super) fn remember(&mut self, before: &Self) {
        let known = |phys: &LeaseEnd, virt: &LeaseEnd| {
            let old = before.leases.iter().find(|old| same_place(&old.phys, phys));
            let old = old.map(|old| old.virt.clone());
            old.filter(|old| (old.ifindex, old.queue) == (virt.ifindex, virt.queue))
        };
        for lease in &mut self.leases {
            if lease.virt.identity.is_none() {
                lease.virt = known(&lease.phys, &lease.virt).unwrap_or(lease.virt.clone());
            }
        }
        for bound in &mut self.bound {
            let virt = bound.virt.as_mut().filter(|virt| virt.identity.is_none());
            if let Some(virt) = virt {
                *virt = known(&bound.phys, virt).unwrap_or(virt.clone());
            }
        }
    }

    /// Events between a former snapshot and this one: ends first, the inner before the outer, then
    /// begins, the outer before the inner.
    pub(super) fn since(&self, before: &Self) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        for old in without(&before.bound, &self.bound, Bound::is_same) {
            events.push(binding(EventKind::Unbound, old));
        }
        for old in without(&before.leases, &self.leases, same_lease) {
            events.push(lease(EventKind::LeaseEnded, old));
        }
        for old in without(&before.devices, &self.devices, Device::is_same) {
            events.push(device(EventKind::DeviceWent, old));
        }
        for new in without(&self.devices, &before.devices, Device::is_same) {
            events.push(device(EventKind::DeviceCame, new));
        }
        for new in &self.leases {
            match before.leases.iter().find(|old| same_lease(old, new)) {
                None => events.push(lease(EventKind::Leased, new)),
                Some(old) if !same_ends(old, new) => events.push(lease(EventKind::LeaseMoved, new)),
                Some(_) => {}
            }
        }
        for new in without(&self.bound, &before.bound, Bound::is_same) {
            events.push(binding(EventKind::Bound, new));
        }
        events
    }
}

/// Items of one list that have no equal in another.
fn without<'a, T>(
    these: &'a [T],
    those: &'a [T],
    same: impl Fn(&T, &T) -> bool,
) -> impl Iterator<Item = &'a T> {
    these
        .iter()
        .filter(move |this| !those.iter().any(|that| same(this, that)))
}

fn same_place(one: &LeaseEnd, other: &LeaseEnd) -> bool {
    let place = |end: &LeaseEnd| (end.identity, end.ifindex, end.queue);
    one.identity.is_some() && place(one) == place(other)
}

fn same_virt(one: &Option<LeaseEnd>, other: &Option<LeaseEnd>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if same_place(one, other))
}

/// Whether two leases of two snapshots are the same: one of the ends is where it was, and the other
/// may have moved.
fn same_lease(one: &LeaseView, other: &LeaseView) -> bool {
    same_place(&one.phys, &other.phys) || same_place(&one.virt, &other.virt)
}

fn same_ends(one: &LeaseView, other: &LeaseView) -> bool {
    let virt = |lease: &LeaseView| (lease.virt.identity, lease.virt.ifindex, lease.virt.queue);
    same_place(&one.phys, &other.phys) && virt(one) == virt(other)
}

fn binding(what: EventKind, bound: &Bound) -> WatchEvent {
    WatchEvent {
        phys: Some(bound.phys.clone()),
        virt: bound.virt.clone(),
        dmabuf: Some(bound.dmabuf),
        ..WatchEvent::new(what)
    }
}

fn lease(what: EventKind, lease: &LeaseView) -> WatchEvent {
    WatchEvent {
        phys: Some(lease.phys.clone()),
        virt: Some(lease.virt.clone()),
        dmabuf: lease.dmabuf,
        ..WatchEvent::new(what)
    }
}

fn device(what: EventKind, device: &Device) -> WatchEvent {
    WatchEvent {
        device: Some(device.clone()),
        ..WatchEvent::new(what)
    }
}

#[cfg(test)]
mod tests {
    use netdev::QueueId;

    use super::*;

    fn end(inode: u64, device: &str, ifindex: u32, queue: u32) -> LeaseEnd {
        LeaseEnd {
            netns: Some(format!("ns{inode}")),
            device: Some(device.to_owned()),
            ifindex: Ifindex::new(ifindex),
            queue: QueueId::new(queue),
            identity: Some((4, inode)),
        }
    }

    fn leased(phys: LeaseEnd, virt: LeaseEnd) -> WatchedParts {
        WatchedParts {
            leases: vec![LeaseView {
                phys,
                virt,
                dmabuf: None,
            }],
            ..WatchedParts::default()
        }
    }

    fn whats(new: &WatchedParts, old: &WatchedParts) -> Vec<EventKind> {
        new.since(old).iter().map(|event| event.what).collect()
    }

    #[test]
    fn a_lease_begins_is_bound_and_ends() {
        let empty = WatchedParts::default();
        let lease = leased(end(1, "eth1", 3, 3), end(2, "nk0", 2, 1));
        let mut bound = lease.clone();
        bound.bound.push(Bound {
            phys: end(1, "eth1", 3, 3),
            virt: Some(end(2, "nk0", 2, 1)),
            dmabuf: DmabufId::new(7),
        });
        assert_eq!(whats(&lease, &empty), [EventKind::Leased]);
        assert_eq!(whats(&bound, &lease), [EventKind::Bound]);
        assert_eq!(whats(&lease, &bound), [EventKind::Unbound]);
        assert_eq!(whats(&empty, &lease), [EventKind::LeaseEnded]);
        // Both at once: the binding ends first.
        assert_eq!(
            whats(&empty, &bound),
            [EventKind::Unbound, EventKind::LeaseEnded]
        );
        assert_eq!(whats(&bound, &bound), []);
    }

    #[test]
    fn another_binding_of_the_same_queue_is_an_end_and_a_beginning() {
        let bound = |dmabuf| WatchedParts {
            bound: vec![Bound {
                phys: end(1, "eth1", 3, 3),
                virt: None,
                dmabuf: DmabufId::new(dmabuf),
            }],
            ..WatchedParts::default()
        };
        assert_eq!(
            whats(&bound(2), &bound(1)),
            [EventKind::Unbound, EventKind::Bound]
        );
    }

    #[test]
    fn a_move_ends_no_lease() {
        let here = leased(end(1, "eth1", 3, 3), end(2, "nk0", 2, 1));
        let nic_moved = leased(end(5, "eth1", 8, 3), end(2, "nk0", 2, 1));
        let guest_moved = leased(end(1, "eth1", 3, 3), end(6, "nk0", 4, 1));
        assert_eq!(whats(&nic_moved, &here), [EventKind::LeaseMoved]);
        assert_eq!(whats(&guest_moved, &here), [EventKind::LeaseMoved]);
        assert_eq!(
            whats(&guest_moved, &nic_moved),
            [EventKind::LeaseEnded, EventKind::Leased]
        );
    }

    #[test]
    fn a_namespace_that_is_called_otherwise_is_the_same() {
        let here = leased(end(1, "eth1", 3, 3), end(2, "nk0", 2, 1));
        let mut renamed = here.clone();
        renamed.leases[0].virt.netns = Some("pid:77".to_owned());
        assert_eq!(whats(&renamed, &here), []);
    }

    #[test]
    fn an_end_out_of_sight_keeps_its_former_value() {
        let here = leased(end(1, "eth1", 3, 3), end(2, "nk0", 2, 1));
        let mut unseen = here.clone();
        unseen.leases[0].virt = LeaseEnd {
            netns: None,
            device: None,
            identity: None,
            ..end(2, "nk0", 2, 1)
        };
        unseen.remember(&here);
        assert_eq!(unseen, here);
    }

    #[test]
    fn a_change_names_the_devices_at_both_ends() {
        let empty = WatchedParts::default();
        let lease = leased(end(1, "eth1", 3, 3), end(2, "nk0", 2, 1));
        let event = &lease.since(&empty)[0];
        assert!(event.names("eth1") && event.names("nk0") && !event.names("eth2"));
    }
}
