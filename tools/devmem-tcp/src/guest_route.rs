//! Routes of a guest's traffic: NIC, this host's forwarding, the host end of a netkit pair, its
//! guest end, and back.
//!
//! No program is loaded and no global sysctl is changed: the kernel checks whether the device that
//! a packet *came in by* forwards. For IPv4 that is the device's own `forwarding`
//! (`ip_route_input_slow`: `IN_DEV_FORWARD`), for IPv6 its `force_forwarding` (`ip6_forward`),
//! which unlike the global sysctl does not affect router advertisements and their routes.
//! `rp_filter` accepts the packets, because the host's route to the guest's address leads back to
//! where they came from.
//!
//! Neighbours look for an address in a subnet of the NIC by ARP or neighbour solicitation, so the
//! NIC answers for it. For IPv4 that needs only a proxy entry (`arp_process`), for IPv6 also
//! `proxy_ndp` and `forwarding` of the NIC (`ndisc_recv_ns`).

pub(crate) mod firewall;
pub(crate) mod forward_filter;
pub(crate) mod lease_journal;
pub(crate) mod plan;
pub(crate) mod sysctl;
