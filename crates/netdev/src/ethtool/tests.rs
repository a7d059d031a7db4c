//! Tests of requests against the kernel's specification, and of answers against arbitrary bytes.

use netlink::{Attrs, Family, Request};
use netlink_bindings::ethtool as oracle;
use netlink_bindings::traits::NetlinkRequest;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    Channels, ChannelsChange, Features, HeaderSplit, Rings, RingsChange, Rss, RssChange, about,
    cmd, equal_table, features, rss,
};
use crate::{Ifindex, ParseError, QueueId, RssContextId};

const ETH0: Ifindex = Ifindex::new(2);

fn family() -> Family {
    Family::fake("ethtool", 21, 1)
}

fn to(cmd: u8) -> Request {
    about(&family(), cmd, "op", ETH0, "eth0".to_owned())
}

/// Compares a request with that of the generated encoder, except for the command: the generator
/// numbers requests and replies as one list, the kernel each by itself. The generated encoder also
/// leaves out the padding at the end.
fn assert_same(ours: &Request, oracle: &impl NetlinkRequest) {
    let mut padded = oracle.payload().to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    assert_eq!(ours.body()[1..], padded[1..]);
}

#[test]
fn command_numbers_are_those_of_the_kernels_requests() {
    // The names of ethtool_netlink_generated.h, from ETHTOOL_MSG_USER_NONE on.
    let kernel = "NONE STRSET_GET LINKINFO_GET LINKINFO_SET LINKMODES_GET LINKMODES_SET \
         LINKSTATE_GET DEBUG_GET DEBUG_SET WOL_GET WOL_SET FEATURES_GET FEATURES_SET PRIVFLAGS_GET \
         PRIVFLAGS_SET RINGS_GET RINGS_SET CHANNELS_GET CHANNELS_SET COALESCE_GET COALESCE_SET \
         PAUSE_GET PAUSE_SET EEE_GET EEE_SET TSINFO_GET CABLE_TEST_ACT CABLE_TEST_TDR_ACT \
         TUNNEL_INFO_GET FEC_GET FEC_SET MODULE_EEPROM_GET STATS_GET PHC_VCLOCKS_GET MODULE_GET \
         MODULE_SET PSE_GET PSE_SET RSS_GET PLCA_GET_CFG PLCA_SET_CFG PLCA_GET_STATUS MM_GET MM_SET \
         MODULE_FW_FLASH_ACT PHY_GET TSCONFIG_GET TSCONFIG_SET RSS_SET RSS_CREATE_ACT RSS_DELETE_ACT";
    let kernel: Vec<_> = kernel.split_whitespace().collect();
    let ours = [
        ("FEATURES_GET", cmd::FEATURES_GET),
        ("FEATURES_SET", cmd::FEATURES_SET),
        ("RINGS_GET", cmd::RINGS_GET),
        ("RINGS_SET", cmd::RINGS_SET),
        ("CHANNELS_GET", cmd::CHANNELS_GET),
        ("CHANNELS_SET", cmd::CHANNELS_SET),
        ("RSS_GET", cmd::RSS_GET),
        ("RSS_SET", cmd::RSS_SET),
        ("RSS_CREATE_ACT", cmd::RSS_CREATE_ACT),
        ("RSS_DELETE_ACT", cmd::RSS_DELETE_ACT),
    ];
    for (name, number) in ours {
        assert_eq!(kernel[usize::from(number)], name);
    }
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
fn unchanged_settings_are_not_sent() {
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
fn equal_tables_spread_evenly() {
    let table: Vec<u32> = equal_table(8, 3).into_iter().map(QueueId::get).collect();
    assert_eq!(table, [0, 1, 2, 0, 1, 2, 0, 1]);
    assert_eq!(equal_table(8, 0), []);
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..256)) {
        let attrs = Attrs::new(&bytes);
        let _ = Rings::parse(attrs.clone());
        let _ = Channels::parse(attrs.clone());
        let _ = Rss::parse(attrs.clone());
        let _ = Features::parse(attrs);
    }
}
