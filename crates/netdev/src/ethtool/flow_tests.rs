//! Tests of flow rules against the kernel's structures.

use std::net::{IpAddr, SocketAddr};

use proptest::option;
use proptest::prelude::*;

use super::{Action, Flow, FlowRule, IpMatch, Location, PortMatch, TosMatch};
use crate::sys::{self, FlowSpec, RxNfc};
use crate::{QueueId, RssContextId};

#[test]
fn an_ipv4_rule_has_the_kernels_layout() {
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
fn an_ipv6_rule_for_a_context_has_the_kernels_layout() {
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

/// The flow rules for a listening address match the packets that its socket takes, and no others.
#[test]
fn flow_rules_match_what_the_socket_accepts() {
    let flows = |at: &str, from: Option<&str>| -> Vec<(Flow, bool, bool)> {
        let from = from.map(|from| from.parse().unwrap());
        let rules = FlowRule::tcp_to_listener(at.parse().unwrap(), from, Action::Drop);
        let flows = rules.iter();
        flows
            .map(|rule| (rule.flow, rule.src.is_some(), rule.dst.is_some()))
            .collect()
    };
    let (v4, v6) = (Flow::Tcp4, Flow::Tcp6);
    assert_eq!(flows("1.2.3.4:5", None), [(v4, false, true)]);
    assert_eq!(flows("0.0.0.0:5", None), [(v4, false, false)]);
    assert_eq!(flows("[fd00::1]:5", None), [(v6, false, true)]);
    assert_eq!(
        flows("[::]:5", None),
        [(v6, false, false), (v4, false, false)]
    );
    assert_eq!(flows("[::ffff:1.2.3.4]:5", None), [(v4, false, true)]);
    assert_eq!(flows("[::ffff:0.0.0.0]:5", None), [(v4, false, false)]);
    assert_eq!(flows("[::]:5", Some("1.2.3.4")), [(v4, true, false)]);
    assert_eq!(flows("[::]:5", Some("::ffff:1.2.3.4")), [(v4, true, false)]);
    assert_eq!(flows("[::]:5", Some("fd00::1")), [(v6, true, false)]);
    assert_eq!(flows("1.2.3.4:5", Some("fd00::1")), []);
    assert_eq!(flows("[fd00::1]:5", Some("1.2.3.4")), []);
}

/// Flow rules with parts that this crate doesn't know are refused: otherwise they could be taken
/// for rules of this project, and deleted.
#[test]
fn rules_with_unknown_parts_are_refused() {
    let to: SocketAddr = "1.2.3.4:5000".parse().unwrap();
    let rule = FlowRule::tcp_to(to, Action::Context(RssContextId::new(1)));
    let mut nfc = rule.encode(sys::cmd::SRXCLSRLINS).unwrap();
    // struct ethtool_tcpip4_spec: tos.
    (nfc.fs.value[12], nfc.fs.mask[12]) = (0x28, 0xfc);
    let there = FlowRule::decode(&nfc).unwrap();
    let tos = Some(TosMatch {
        tos: 0x28,
        mask: 0xfc,
    });
    assert_eq!((there.tos, rule.tos), (tos, None));
    // Queue numbers in the context's table are relative to this one (`cap_rss_rxnfc_adds`).
    nfc.fs.ring_cookie = 2;
    assert!(FlowRule::decode(&nfc).is_err());
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
    let tos = || (any::<u8>(), 1..=u8::MAX).prop_map(|(tos, mask)| TosMatch { tos, mask });
    let port = || (any::<u16>(), 1..=u16::MAX).prop_map(|(port, mask)| PortMatch { port, mask });
    flow.prop_flat_map(move |flow| {
        let v4 = matches!(flow, Flow::Tcp4 | Flow::Udp4);
        (
            (Just(flow), option::of(ip(v4)), option::of(ip(v4))),
            (
                option::of(port()),
                option::of(port()),
                option::of(tos()),
                action.clone(),
                any::<u32>(),
            ),
        )
    })
    .prop_map(
        |((flow, src, dst), (src_port, dst_port, tos, action, location))| FlowRule {
            flow,
            src,
            dst,
            src_port,
            dst_port,
            tos,
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
    fn no_rule_of_the_kernel_makes_the_decoder_panic(
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
}
