//! Requests against the kernel's specification, flow rules against its structures.

use std::net::{IpAddr, SocketAddr};

use netlink::{Attrs, Family, Request};
use netlink_bindings::ethtool as oracle;
use netlink_bindings::traits::NetlinkRequest;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{
    Action, Channels, ChannelsChange, Features, Flow, FlowRule, HeaderSplit, IpMatch, Location,
    PortMatch, Rings, RingsChange, Rss, RssChange, about, cmd, equal_table, features, rss,
};
use crate::sys::{self, FlowSpec, RxNfc};
use crate::{Ifindex, ParseError, QueueId, RssContextId};

const ETH0: Ifindex = Ifindex::new(2);

fn family() -> Family {
    Family::fake("ethtool", 21, 1)
}

fn to(cmd: u8) -> Request {
    about(&family(), cmd, "op", ETH0, "eth0".to_owned())
}

/// What is sent is what the generated encoder of the same operation sends; that one leaves out the
/// padding at the very end.
fn assert_same(ours: &Request, oracle: &impl NetlinkRequest) {
    let mut padded = oracle.payload().to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    assert_eq!(ours.body(), padded);
}

#[test]
fn rings_are_read_and_changed_as_specified() {
    let mut spec = oracle::Request::new().op_rings_get_do();
    spec.encode().nested_header().push_dev_index(2).end_nested();
    assert_same(&to(cmd::RINGS_GET), &spec);

    let mut spec = oracle::Request::new().op_rings_set_do();
    let push = spec.encode().nested_header().push_dev_index(2).end_nested();
    let push = push.push_rx(512).push_tx(256).push_rx_buf_len(4096);
    push.push_tcp_data_split(2).push_hds_thresh(0).end_nested();
    let change = RingsChange {
        rx: Some(512),
        tx: Some(256),
        rx_buf_len: Some(4096),
        tcp_data_split: Some(HeaderSplit::Enabled),
        hds_thresh: Some(0),
    };
    let mut ours = to(cmd::RINGS_SET);
    change.write(&mut ours);
    assert_same(&ours, &spec);
}

#[test]
fn what_is_not_to_change_is_not_sent() {
    let mut ours = to(cmd::RINGS_SET);
    RingsChange::default().write(&mut ours);
    ChannelsChange::default().write(&mut ours);
    RssChange::default().write(&mut ours);
    assert_eq!(ours.body(), to(cmd::RINGS_SET).body());
}

#[test]
fn channels_are_changed_as_specified() {
    let mut spec = oracle::Request::new().op_channels_set_do();
    let push = spec.encode().nested_header().push_dev_index(2).end_nested();
    push.push_rx_count(1)
        .push_tx_count(2)
        .push_other_count(3)
        .push_combined_count(4)
        .end_nested();
    let mut ours = to(cmd::CHANNELS_SET);
    let change = ChannelsChange {
        rx: Some(1),
        tx: Some(2),
        other: Some(3),
        combined: Some(4),
    };
    change.write(&mut ours);
    assert_same(&ours, &spec);
}

#[test]
fn rss_is_changed_as_specified() {
    let table = equal_table(4, 3);
    let bytes: Vec<u8> = [0_u32, 1, 2, 0]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let context = RssContextId::new(5);

    let mut spec = oracle::Request::new().op_rss_set_do();
    let push = spec.encode().nested_header().push_dev_index(2).end_nested();
    let push = push
        .push_context(5)
        .push_hfunc(1)
        .push_indir(&bytes)
        .push_hkey(&[1; 40]);
    push.push_input_xfrm(0).end_nested();
    let change = RssChange {
        table: Some(table),
        hfunc: Some(1),
        key: Some(vec![1; 40]),
        input_xfrm: Some(0),
    };
    let about = |cmd| rss::about_context(&family(), cmd, "op", (ETH0, context), "eth0".to_owned());
    let mut ours = about(cmd::RSS_SET);
    change.write(&mut ours);
    assert_same(&ours, &spec);

    let mut spec = oracle::Request::new().op_rss_delete_act_do();
    spec.encode()
        .nested_header()
        .push_dev_index(2)
        .end_nested()
        .push_context(5)
        .end_nested();
    assert_same(&about(cmd::RSS_DELETE_ACT), &spec);

    let spec = oracle::Request::new().op_rss_create_act_do();
    assert_eq!(spec.payload()[0], cmd::RSS_CREATE_ACT);
}

#[test]
fn a_feature_is_set_as_specified() {
    for on in [false, true] {
        let mut spec = oracle::Request::new().op_features_set_do();
        let push = spec
            .encode()
            .nested_header()
            .push_dev_index(2)
            .push_flags(2)
            .end_nested();
        let bit = push
            .nested_wanted()
            .nested_bits()
            .nested_bit()
            .push_name(c"rx-gro-hw");
        let bit = if on { bit.push_value(()) } else { bit };
        bit.end_nested().end_nested().end_nested().end_nested();
        let ours = features::set(&family(), ETH0, "rx-gro-hw", on, "eth0".to_owned());
        assert_same(&ours, &spec);
    }
}

#[test]
fn features_are_read_by_name() {
    let mut bytes = Vec::new();
    let push = oracle::PushFeatures::new(&mut bytes)
        .nested_hw()
        .push_size(64)
        .nested_bits();
    let push = push
        .nested_bit()
        .push_index(1)
        .push_name(c"rx-gro")
        .push_value(())
        .end_nested();
    let push = push
        .nested_bit()
        .push_index(2)
        .push_name(c"rx-lro")
        .end_nested();
    let push = push
        .end_nested()
        .end_nested()
        .nested_active()
        .push_nomask(())
        .push_size(64);
    let push = push
        .nested_bits()
        .nested_bit()
        .push_index(1)
        .push_name(c"rx-gro")
        .end_nested();
    push.end_nested().end_nested().end_nested();
    let features = Features::parse(Attrs::new(&bytes)).unwrap();
    assert_eq!(features.hw.into_iter().collect::<Vec<_>>(), ["rx-gro"]);
    assert_eq!(features.active.into_iter().collect::<Vec<_>>(), ["rx-gro"]);
}

#[test]
fn rss_and_rings_are_read() {
    let mut bytes = Vec::new();
    let table: Vec<u8> = [1_u32, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let push = oracle::PushRss::new(&mut bytes)
        .nested_header()
        .push_dev_index(2)
        .end_nested();
    push.push_context(1)
        .push_indir(&table)
        .push_hfunc(1)
        .push_hkey(&[7; 40])
        .end_nested();
    let rss = Rss::parse(Attrs::new(&bytes)).unwrap();
    assert_eq!(rss.context, Some(RssContextId::new(1)));
    assert_eq!(rss.table, [QueueId::new(1), QueueId::new(0)]);
    assert_eq!(RssChange::back_to(&rss).key, Some(vec![7; 40]));

    let mut bytes = Vec::new();
    oracle::PushRss::new(&mut bytes)
        .push_indir(&table[..6])
        .end_nested();
    let error = Rss::parse(Attrs::new(&bytes)).unwrap_err();
    assert_eq!(
        error,
        ParseError::Size {
            kind: 4,
            want: 4,
            got: 2
        }
    );

    let mut bytes = Vec::new();
    let push = oracle::PushRings::new(&mut bytes)
        .push_rx_max(4096)
        .push_rx(512);
    push.push_tcp_data_split(1)
        .push_hds_thresh(256)
        .push_hds_thresh_max(1024)
        .end_nested();
    let rings = Rings::parse(Attrs::new(&bytes)).unwrap();
    assert_eq!((rings.rx, rings.rx_max), (Some(512), Some(4096)));
    assert_eq!(rings.tcp_data_split, Some(HeaderSplit::Disabled));
    assert_eq!(
        (rings.hds_thresh, rings.hds_thresh_max),
        (Some(256), Some(1024))
    );
}

#[test]
fn tables_are_spread_evenly() {
    let table: Vec<u32> = equal_table(8, 3).into_iter().map(QueueId::get).collect();
    assert_eq!(table, [0, 1, 2, 0, 1, 2, 0, 1]);
    assert_eq!(equal_table(8, 0), []);
}

#[test]
fn an_ipv4_rule_lies_where_the_kernel_looks() {
    let to: SocketAddr = "1.2.3.4:5000".parse().unwrap();
    let rule = FlowRule::tcp_to(to, Action::Queue(QueueId::new(15)));
    let nfc = rule.encode(sys::cmd::SRXCLSRLINS).unwrap();
    assert_eq!((nfc.cmd, nfc.fs.flow_type), (0x32, 1));
    assert_eq!((nfc.fs.ring_cookie, nfc.fs.location), (15, u32::MAX));
    // struct ethtool_tcpip4_spec: ip4src, ip4dst, psrc, pdst, tos.
    assert_eq!(
        nfc.fs.value[..12],
        [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0x13, 0x88]
    );
    assert_eq!(
        nfc.fs.mask[..12],
        [0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 255, 255]
    );
    assert!(
        nfc.fs.value[12..]
            .iter()
            .chain(&nfc.fs.mask[12..])
            .all(|&byte| byte == 0)
    );
}

#[test]
fn an_ipv6_rule_for_a_context_lies_where_the_kernel_looks() {
    let to: SocketAddr = "[fd00::1]:5000".parse().unwrap();
    let rule = FlowRule::tcp_to(to, Action::Context(RssContextId::new(3)));
    let nfc = rule.encode(sys::cmd::SRXCLSRLINS).unwrap();
    assert_eq!((nfc.fs.flow_type, nfc.fs.ring_cookie), (0x2000_0005, 0));
    assert_eq!(nfc.count_or_context, 3);
    // struct ethtool_tcpip6_spec: ip6src, ip6dst, psrc, pdst, tclass.
    assert_eq!((nfc.fs.value[16], nfc.fs.value[31]), (0xfd, 1));
    assert_eq!(nfc.fs.value[32..36], [0, 0, 0x13, 0x88]);
    assert_eq!(
        nfc.fs.mask[16..36],
        [&[255; 16][..], &[0, 0, 255, 255]].concat()
    );
}

#[test]
fn a_mapped_address_and_wildcards_are_understood() {
    let drop = |to: &str| FlowRule::tcp_to(to.parse().unwrap(), Action::Drop);
    assert_eq!(drop("[::ffff:1.2.3.4]:80"), drop("1.2.3.4:80"));
    let any = drop("0.0.0.0:0");
    assert_eq!((any.flow, any.dst, any.dst_port), (Flow::Tcp4, None, None));
    assert_eq!(
        any.encode(sys::cmd::SRXCLSRLINS).unwrap().fs.ring_cookie,
        u64::MAX
    );
}

#[test]
fn mixed_families_are_refused() {
    let mut rule = FlowRule::tcp_to("1.2.3.4:80".parse().unwrap(), Action::Drop);
    rule.src = Some(IpMatch::host("fd00::1".parse().unwrap()));
    assert!(rule.encode(sys::cmd::SRXCLSRLINS).is_err());
}

fn ip(v4: bool) -> impl Strategy<Value = IpMatch> {
    let mask = |mask: IpAddr| !mask.is_unspecified();
    (any::<u128>(), any::<u128>())
        .prop_map(move |(addr, bits)| match v4 {
            true => IpMatch {
                addr: ip4(addr),
                mask: ip4(bits),
            },
            false => IpMatch {
                addr: IpAddr::V6(addr.into()),
                mask: IpAddr::V6(bits.into()),
            },
        })
        .prop_filter("a mask without bits is no match", move |ip| mask(ip.mask))
}

fn ip4(bits: u128) -> IpAddr {
    let [a, b, c, d, ..] = bits.to_ne_bytes();
    IpAddr::from([a, b, c, d])
}

fn rule() -> impl Strategy<Value = FlowRule> {
    let flow = prop_oneof![
        Just(Flow::Tcp4),
        Just(Flow::Tcp6),
        Just(Flow::Udp4),
        Just(Flow::Udp6),
    ];
    let action = prop_oneof![
        any::<u32>().prop_map(|queue| Action::Queue(QueueId::new(queue))),
        any::<u32>().prop_map(|context| Action::Context(RssContextId::new(context))),
        Just(Action::Drop),
    ];
    let port = || (any::<u16>(), 1..=u16::MAX).prop_map(|(port, mask)| PortMatch { port, mask });
    flow.prop_flat_map(move |flow| {
        let v4 = matches!(flow, Flow::Tcp4 | Flow::Udp4);
        (
            (Just(flow), option::of(ip(v4)), option::of(ip(v4))),
            (
                option::of(port()),
                option::of(port()),
                action.clone(),
                any::<u32>(),
            ),
        )
    })
    .prop_map(
        |((flow, src, dst), (src_port, dst_port, action, location))| FlowRule {
            flow,
            src,
            dst,
            src_port,
            dst_port,
            action,
            location: Location::At(location),
        },
    )
}

proptest! {
    #[test]
    fn a_rule_reads_back_as_it_was_written(rule in rule()) {
        let nfc = rule.encode(sys::cmd::SRXCLSRLINS).unwrap();
        prop_assert_eq!(FlowRule::decode(&nfc), Ok(rule));
    }

    #[test]
    fn no_rule_of_the_kernel_makes_it_panic(
        flow_type in prop_oneof![any::<u32>(), 0_u32..20],
        value in any::<[u8; 32]>(),
        ring_cookie in any::<u64>(),
    ) {
        let mut nfc = RxNfc::new(sys::cmd::GRXCLSRULE);
        nfc.fs = FlowSpec { flow_type, ring_cookie, ..FlowSpec::EMPTY };
        nfc.fs.value[..32].copy_from_slice(&value);
        nfc.fs.mask[..32].copy_from_slice(&value);
        let _ = FlowRule::decode(&nfc);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..256)) {
        let attrs = Attrs::new(&bytes);
        let _ = Rings::parse(attrs.clone());
        let _ = Channels::parse(attrs.clone());
        let _ = Rss::parse(attrs.clone());
        let _ = Features::parse(attrs);
    }
}
