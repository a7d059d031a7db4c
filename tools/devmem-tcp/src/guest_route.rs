//! The traffic's way into a guest, by routes: NIC, this host's forwarding, the host end of a netkit
//! pair, its guest end, and back.
//!
//! No program is loaded and no global switch is touched: what the kernel asks is whether the device
//! that a packet *came in by* forwards. For IPv4 that is the device's own `forwarding`
//! (`ip_route_input_slow`: `IN_DEV_FORWARD`), for IPv6 its `force_forwarding` (`ip6_forward`), which
//! unlike the global switch leaves router advertisements and their routes alone. `rp_filter` finds
//! the host's route to the guest's address pointing back to where the packet came from.
//!
//! An address in a subnet of the NIC is looked for by ARP or neighbour solicitation, so the NIC
//! answers for it. For IPv4 that takes no more than a proxy entry (`arp_process`), for IPv6 also
//! `proxy_ndp` and `forwarding` of the NIC (`ndisc_recv_ns`).

mod forward_filter;
pub(crate) mod lease_journal;
pub(crate) mod plan;
pub(crate) mod sysctl;
