//! Tests of requests against the kernel's specification, and of answers against arbitrary bytes.

use netlink::{Attrs, Request, Writer};
use netlink_bindings::traits::NetlinkRequest;
use netlink_bindings::{rt_addr, rt_link, rt_neigh, rt_route};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    Address, AddressOptions, IfInfo, LinkInfo, NetkitMode, NetkitPair, NetkitPolicy, NetkitSingle,
    Pairing, Proxy, Route, RouteInfo, XdpMode, addr, by_name, check_name, ifla, proxy,
};
use crate::{Ifindex, MacAddr, NsId, Prefix};

/// Compares a request with that of the generated encoder of the operation, which leaves out the
/// padding at the end.
fn assert_same(ours: &Request, oracle: &impl NetlinkRequest) {
    let mut padded = oracle.payload().to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    assert_eq!(ours.body(), padded);
}

#[test]
fn a_netkit_single_is_made_as_specified() {
    let mut spec = rt_link::Request::new().op_newlink_do(&rt_link::Ifinfomsg::new());
    let push = spec
        .encode()
        .push_ifname(c"nk0")
        .push_num_rx_queues(3)
        .nested_linkinfo();
    push.nested_data_netkit()
        .push_mode(1)
        .push_pairing(1)
        .end_nested();
    let single = NetkitSingle {
        rx_queues: Some(3),
        ..NetkitSingle::new("nk0")
    };
    assert_same(&single.encode(), &spec);
}

#[test]
fn a_netkit_pair_is_made_as_specified() {
    let mut peer = rt_link::Ifinfomsg::new().as_slice().to_vec();
    rt_link::PushLinkAttrs::new(&mut peer)
        .push_ifname(c"nk1")
        .push_num_rx_queues(4)
        .end_nested();
    let mut spec = rt_link::Request::new().op_newlink_do(&rt_link::Ifinfomsg::new());
    let push = spec.encode().push_ifname(c"nk0").nested_linkinfo();
    let push = push
        .nested_data_netkit()
        .push_mode(0)
        .push_policy(0)
        .push_peer_policy(2);
    let push = push.push_scrub(1).push_peer_scrub(1).push_pairing(0);
    push.push_peer_info(&peer).end_nested();
    let pair = NetkitPair {
        mode: NetkitMode::L2,
        peer_policy: NetkitPolicy::Drop,
        rx_queues: Some(4),
        ..NetkitPair::new("nk0", "nk1")
    };
    assert_same(&pair.encode(), &spec);
}

#[test]
fn the_header_of_a_link_is_the_kernels() {
    let mut spec = rt_link::Ifinfomsg::new();
    (spec.ifi_index, spec.ifi_flags, spec.ifi_change) = (7, 1, 1);
    let ours = IfInfo {
        flags: 1,
        change: 1,
        ..IfInfo::of(Ifindex::new(7))
    };
    assert_eq!(ours.encode(), spec.as_slice());
}

#[test]
fn addresses_are_added_as_specified() {
    let cases = [
        ("10.0.0.1/24", libc::AF_INET, false),
        ("fd00::1/64", libc::AF_INET6, true),
    ];
    for (text, family, nodad) in cases {
        let prefix: Prefix = text.parse().unwrap();
        let mut header = rt_addr::Ifaddrmsg::new();
        header.ifa_family = u8::try_from(family).unwrap();
        header.ifa_prefixlen = prefix.len;
        header.ifa_index = 7;
        let mut spec = rt_addr::Request::new().op_newaddr_do(&header);
        let push = spec
            .encode()
            .push_local(prefix.addr)
            .push_address(prefix.addr);
        if nodad {
            push.push_flags(2).end_nested()
        } else {
            push.end_nested()
        };
        let options = AddressOptions { nodad };
        assert_same(
            &addr::add(Ifindex::new(7), prefix, options, String::new()),
            &spec,
        );
    }
}

#[test]
fn a_neighbour_is_added_as_specified() {
    let addr = "10.0.0.2".parse().unwrap();
    let mut header = rt_neigh::Ndmsg::new();
    header.ndm_family = u8::try_from(libc::AF_INET).unwrap();
    (header.ndm_ifindex, header.ndm_state) = (7, 0x80);
    let mut spec = rt_neigh::Request::new().op_newneigh_do(&header);
    let mac: MacAddr = "02:00:00:00:00:2a".parse().unwrap();
    spec.encode()
        .push_dst(addr)
        .push_lladdr(&mac.0)
        .end_nested();
    assert_same(
        &addr::neighbour(Ifindex::new(7), addr, mac, String::new()),
        &spec,
    );
}

#[test]
fn a_proxy_is_added_and_removed_as_specified() {
    let addr = "fd00::2".parse().unwrap();
    let mut header = rt_neigh::Ndmsg::new();
    header.ndm_family = u8::try_from(libc::AF_INET6).unwrap();
    (header.ndm_ifindex, header.ndm_flags) = (7, 0x08);
    let encode = |kind| proxy::proxy(kind, "", Ifindex::new(7), addr, String::new());
    let mut spec = rt_neigh::Request::new().op_newneigh_do(&header);
    spec.encode().push_dst(addr).end_nested();
    assert_same(&encode(libc::RTM_NEWNEIGH), &spec);
    let mut spec = rt_neigh::Request::new().op_delneigh_do(&header);
    spec.encode().push_dst(addr).end_nested();
    assert_same(&encode(libc::RTM_DELNEIGH), &spec);
    let told = Proxy::parse(encode(0).body(), Attrs::new(&[]));
    assert!(told.is_err(), "{told:?}");
    let request = encode(0);
    let (header, attrs) = request.body().split_at(12);
    let told = Proxy::parse(header, Attrs::new(attrs)).unwrap();
    assert_eq!((told.ifindex, told.addr), (Ifindex::new(7), addr));
}

#[test]
fn a_route_is_read() {
    let header = [10, 0, 0, 0, 254, 9, 0, 1, 0, 0, 0, 0];
    let mut attrs = Writer::new();
    let router = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    attrs.put(5, &router).u32(4, 7).u32(6, 1024).u32(15, 300);
    let route = RouteInfo::parse(&header, Attrs::new(attrs.bytes()));
    let route = route.unwrap().unwrap();
    assert_eq!(route.dst.to_string(), "::/0");
    assert_eq!(route.via, Some(router.into()));
    assert_eq!(
        (route.oif, route.priority),
        (Some(Ifindex::new(7)), Some(1024))
    );
    assert_eq!((route.table, route.protocol, route.kind), (300, 9, 1));
    let of_another_family = RouteInfo::parse(&[45; 12], Attrs::new(&[]));
    assert_eq!(of_another_family, Ok(None));
}

#[test]
fn routes_are_added_as_specified() {
    let mut header = rt_route::Rtmsg::new();
    header.rtm_family = u8::try_from(libc::AF_INET).unwrap();
    (header.rtm_dst_len, header.rtm_table, header.rtm_protocol) = (16, 254, 4);
    (header.rtm_scope, header.rtm_type) = (0, 1);
    let (dst, via) = (
        "10.9.0.0/16".parse::<Prefix>().unwrap(),
        "10.0.0.7".parse().unwrap(),
    );
    let mut spec = rt_route::Request::new().op_newroute_do(&header);
    spec.encode()
        .push_dst(dst.addr)
        .push_gateway(via)
        .push_oif(7)
        .end_nested();
    let route = Route {
        oif: Some(Ifindex::new(7)),
        ..Route::over(dst, via)
    };
    assert_same(&route.encode(libc::RTM_NEWROUTE, "route-add"), &spec);

    header.rtm_scope = 253;
    let mut spec = rt_route::Request::new().op_newroute_do(&header);
    spec.encode().push_dst(dst.addr).push_oif(7).end_nested();
    let route = Route::on_link(dst, Ifindex::new(7));
    assert_same(&route.encode(libc::RTM_NEWROUTE, "route-add"), &spec);
}

/// Encodes a netkit pair with the generated encoder.
fn netkit_link() -> Vec<u8> {
    let mut bytes = Vec::new();
    let push = rt_link::PushLinkAttrs::new(&mut bytes)
        .push_ifname(c"nk1")
        .push_mtu(1500);
    let push = push
        .push_link(3)
        .push_link_netnsid(0)
        .push_num_rx_queues(4)
        .push_num_tx_queues(1);
    let data = push
        .nested_linkinfo()
        .nested_data_netkit()
        .push_primary(0)
        .push_policy(0);
    data.push_mode(1)
        .push_headroom(32)
        .push_pairing(0)
        .end_nested();
    bytes
}

#[test]
fn a_netkit_is_read() {
    let header = IfInfo {
        flags: 1,
        ..IfInfo::of(Ifindex::new(2))
    }
    .encode();
    let bytes = netkit_link();
    let link = LinkInfo::parse(&header, Attrs::new(&bytes)).unwrap();
    assert_eq!(
        (link.ifindex, link.name.as_str(), link.mtu),
        (Ifindex::new(2), "nk1", 1500)
    );
    assert!(link.up && !link.running && link.is_virtual());
    assert_eq!(
        (link.link, link.link_netns_id),
        (Some(Ifindex::new(3)), Some(NsId::new(0)))
    );
    assert_eq!((link.rx_queues, link.kind.as_deref()), (4, Some("netkit")));
    let netkit = link.netkit.unwrap();
    assert_eq!(
        (netkit.mode, netkit.pairing, netkit.headroom),
        (NetkitMode::L3, Pairing::Pair, 32)
    );
    assert!(netkit.can_lease());
}

#[test]
fn a_nic_with_xdp_is_read() {
    let header = IfInfo::of(Ifindex::new(2)).encode();
    let mut attrs = Writer::new();
    attrs
        .str(3, "eth0")
        .put(1, &[2, 0, 0, 0, 0, 1])
        .str(56, "0000:01:00.0")
        .nest(43, |xdp| {
            xdp.u8(2, 1).u32(4, 99);
        });
    let link = LinkInfo::parse(&header, Attrs::new(attrs.bytes())).unwrap();
    assert!(link.is_physical());
    assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:01");
    let xdp = link.xdp.unwrap();
    assert_eq!((xdp.mode, xdp.prog_id), (XdpMode::Driver, Some(99)));
}

#[test]
fn an_address_with_a_peer_is_ours_not_the_peers() {
    let mut attrs = Writer::new();
    attrs
        .put(1, &[10, 0, 0, 2])
        .put(2, &[10, 0, 0, 1])
        .u32(8, 0x80 | 0x40);
    let header = [2, 32, 0x80, 0, 7, 0, 0, 0];
    let address = Address::parse(&header, Attrs::new(attrs.bytes())).unwrap();
    assert_eq!(address.prefix.to_string(), "10.0.0.1/32");
    assert!(address.is_tentative());
}

#[test]
fn names_that_no_link_has_are_refused() {
    for name in ["", ".", "..", "a/b", "a b", "a:b", "sixteencharacter"] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    for name in ["lo", "eth0", "fifteen-letters"] {
        assert!(check_name(name).is_ok(), "{name:?}");
    }
}

#[test]
fn text_forms_are_parsed_and_printed() {
    for text in ["10.0.0.1/24", "fd00::1/128", "0.0.0.0/0"] {
        assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
    }
    assert_eq!("10.0.0.1".parse::<Prefix>().unwrap().len, 32);
    for text in ["", "10.0.0.1/33", "10.0.0.1/", "fd00::/129", "10.0.0/8"] {
        assert!(text.parse::<Prefix>().is_err(), "{text:?}");
    }
    for text in [
        "",
        "1:2:3:4:5",
        "1:2:3:4:5:6:7",
        "+1:2:3:4:5:6",
        "123:2:3:4:5:6",
        "g:2:3:4:5:6",
    ] {
        assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
    }
}

#[test]
fn a_link_is_requested_by_any_of_its_names() {
    let name = "rail0-of-the-left-hand-switch";
    let mut spec = rt_link::Request::new().op_getlink_do(&rt_link::Ifinfomsg::new());
    spec.encode()
        .push_alt_ifname(c"rail0-of-the-left-hand-switch");
    assert_same(&by_name(name), &spec);
    let mut writer = Writer::new();
    writer.str(ifla::IFNAME, "eth1").u32(ifla::MASTER, 9);
    writer.nest(ifla::PROP_LIST, |names| {
        names
            .str(ifla::ALT_IFNAME, name)
            .str(ifla::ALT_IFNAME, "rail0");
    });
    let header = IfInfo::of(Ifindex::new(7)).encode();
    let link = LinkInfo::parse(&header, Attrs::new(writer.bytes())).unwrap();
    assert!(
        ["eth1", "rail0", name]
            .iter()
            .all(|name| link.is_called(name))
    );
    assert!(!link.is_called("rail"));
    assert_eq!(link.master, Some(Ifindex::new(9)));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(
        header in vec(any::<u8>(), 0..20),
        bytes in vec(any::<u8>(), 0..256),
    ) {
        let _ = LinkInfo::parse(&header, Attrs::new(&bytes));
        let _ = Address::parse(&header, Attrs::new(&bytes));
        let _ = Proxy::parse(&header, Attrs::new(&bytes));
        let _ = RouteInfo::parse(&header, Attrs::new(&bytes));
        let _ = super::nsid::parse(Attrs::new(&bytes));
    }

    /// With any one byte of a link changed, the parser returns an error or a link and does not
    /// panic.
    #[test]
    fn no_damage_makes_a_parser_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = netkit_link();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = LinkInfo::parse(&IfInfo::default().encode(), Attrs::new(&bytes));
    }
}
