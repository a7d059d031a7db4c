//! Tests of requests against the kernel's specification, and of answers against arbitrary bytes.

use std::os::fd::{AsFd, AsRawFd};

use netlink::{Attrs, Family, Request, Writer};
use netlink_bindings::netdev as oracle;
use netlink_bindings::traits::NetlinkRequest;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    BindOptions, Dev, Event, Lease, Napi, PagePool, PagePoolStats, Qstats, Queue, bind, cmd,
    listing, page_pool, queue,
};
use crate::{DmabufId, Ifindex, NsId, PagePoolId, ParseError, QueueId, QueueType};

fn family() -> Family {
    Family::fake("netdev", 30, 1)
}

fn object() -> String {
    "nk0".to_owned()
}

/// Compares a request with that of the generated encoder of the operation.
fn assert_same(ours: &Request, oracle: &impl NetlinkRequest) {
    assert_eq!(ours.body(), oracle.payload());
}

const ETH0: Ifindex = Ifindex::new(2);
const NK0: Ifindex = Ifindex::new(7);

#[test]
fn lists_are_asked_for_as_specified() {
    let new = oracle::Request::new;
    let list = |cmd, key, of| listing(&family(), cmd, "list", key, of, object());

    assert_same(&list(cmd::DEV_GET, 1, None), &new().op_dev_get_dump());
    assert_same(&list(cmd::QUEUE_GET, 2, None), &new().op_queue_get_dump());
    assert_same(
        &list(cmd::PAGE_POOL_GET, 2, None),
        &new().op_page_pool_get_dump(),
    );

    let mut queues = new().op_queue_get_dump();
    queues.encode().push_ifindex(2);
    assert_same(&list(cmd::QUEUE_GET, 2, Some(ETH0)), &queues);

    let mut pools = new().op_page_pool_get_dump();
    pools.encode().push_ifindex(2);
    assert_same(&list(cmd::PAGE_POOL_GET, 2, Some(ETH0)), &pools);

    let mut napis = new().op_napi_get_dump();
    napis.encode().push_ifindex(2);
    assert_same(&list(cmd::NAPI_GET, 1, Some(ETH0)), &napis);

    let mut qstats = new().op_qstats_get_dump();
    qstats.encode().push_ifindex(2).push_scope(1);
    let mut ours = list(cmd::QSTATS_GET, 1, Some(ETH0));
    ours.attrs().uint(4, 1);
    assert_same(&ours, &qstats);
}

#[test]
fn a_queue_is_asked_for_as_specified() {
    let mut spec = oracle::Request::new().op_queue_get_do();
    spec.encode().push_ifindex(2).push_type(1).push_id(15);
    let id = QueueId::new(15);
    assert_same(
        &queue::queue_get(&family(), ETH0, QueueType::Tx, id, object()),
        &spec,
    );
}

#[test]
fn page_pools_are_asked_for_as_specified() {
    let mut spec = oracle::Request::new().op_page_pool_get_do();
    spec.encode().push_id(9);
    assert_same(&page_pool::get(&family(), PagePoolId::new(9)), &spec);

    let mut spec = oracle::Request::new().op_page_pool_stats_get_dump();
    spec.encode().nested_info().push_ifindex(2).end_nested();
    assert_same(&page_pool::stats(&family(), Some(ETH0), object()), &spec);
}

#[test]
fn a_lease_is_made_as_specified() {
    for netns_id in [None, Some(0), Some(3)] {
        let mut spec = oracle::Request::new().op_queue_create_do();
        let lease = spec
            .encode()
            .push_ifindex(7)
            .push_type(0)
            .nested_lease()
            .push_ifindex(2);
        let lease = lease.nested_queue().push_id(15).push_type(0).end_nested();
        match netns_id {
            Some(nsid) => lease.push_netns_id(nsid).end_nested(),
            None => lease.end_nested(),
        };
        let lease = Lease {
            of: ETH0,
            queue: QueueId::new(15),
            netns_id: netns_id.map(NsId::new),
        };
        let (virt, leased) = ((NK0, QueueType::Rx), (lease, QueueType::Rx));
        assert_same(
            &queue::queue_create(&family(), virt, leased, object()),
            &spec,
        );
    }
}

#[test]
fn a_lease_says_both_types() {
    let types = [QueueType::Rx, QueueType::Tx];
    for (kind, of_kind) in types.into_iter().flat_map(|a| types.map(|b| (a, b))) {
        let mut spec = oracle::Request::new().op_queue_create_do();
        let encode = spec.encode().push_ifindex(7).push_type(kind.raw());
        let lease = encode.nested_lease().push_ifindex(2).nested_queue();
        let queue = lease.push_id(15).push_type(of_kind.raw());
        queue.end_nested().end_nested();
        let lease = Lease {
            of: ETH0,
            queue: QueueId::new(15),
            netns_id: None,
        };
        let ours = queue::queue_create(&family(), (NK0, kind), (lease, of_kind), object());
        assert_same(&ours, &spec);
    }
}

#[test]
fn a_binding_is_made_as_specified() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = u32::try_from(file.as_raw_fd()).unwrap();
    let queues = [QueueId::new(1), QueueId::new(2)];
    for rx_page_size in [None, Some(65536)] {
        let mut spec = oracle::Request::new().op_bind_rx_do();
        let push = spec.encode().push_ifindex(7).push_fd(fd);
        let push = push.nested_queues().push_id(1).push_type(0).end_nested();
        let push = push.nested_queues().push_id(2).push_type(0).end_nested();
        match rx_page_size {
            Some(size) => push.push_rx_page_size(size).end_nested(),
            None => push.end_nested(),
        };
        let options = BindOptions { rx_page_size };
        let ours = bind::bind_rx(&family(), NK0, file.as_fd(), &queues, options, object());
        assert_same(&ours, &spec);
    }

    let mut spec = oracle::Request::new().op_bind_tx_do();
    spec.encode().push_ifindex(7).push_fd(fd);
    assert_same(
        &bind::bind_tx(&family(), NK0, file.as_fd(), object()),
        &spec,
    );
}

/// Encodes a leased queue with the generated encoder.
fn leased_queue() -> Vec<u8> {
    let mut bytes = Vec::new();
    let queue = oracle::PushQueue::new(&mut bytes)
        .push_id(15)
        .push_type(0)
        .push_ifindex(2);
    let queue = queue
        .push_napi_id(515)
        .nested_lease()
        .nested_queue()
        .push_id(1)
        .push_type(0);
    let queue = queue
        .end_nested()
        .push_ifindex(7)
        .push_netns_id(4)
        .end_nested();
    queue.push_dmabuf(3).end_nested();
    bytes
}

#[test]
fn a_queue_is_read_with_its_lease() {
    let queue = Queue::parse(Attrs::new(&leased_queue())).unwrap();
    assert_eq!(
        (queue.ifindex, queue.id, queue.kind),
        (ETH0, QueueId::new(15), QueueType::Rx)
    );
    assert_eq!(queue.dmabuf, Some(DmabufId::new(3)));
    let lease = queue.lease.unwrap();
    assert_eq!(
        (lease.ifindex, lease.queue, lease.netns_id),
        (NK0, QueueId::new(1), Some(NsId::new(4)))
    );
    assert_eq!(
        serde_json::to_value(lease).unwrap(),
        serde_json::json!({"ifindex": 7, "queue": 1, "type": "rx", "netns_id": 4})
    );
}

#[test]
fn a_queue_cut_anywhere_is_no_queue() {
    let bytes = leased_queue();
    let end_of_lease = bytes.len() - 8;
    for len in 0..bytes.len() {
        let cut = Queue::parse(Attrs::new(&bytes[..len]));
        // An answer that is cut between attributes is one without the last attributes.
        let whole = [8, 16, 24, 32, end_of_lease].contains(&len) && len >= 24;
        assert_eq!(cut.is_ok(), whole, "cut to {len} of {} bytes", bytes.len());
    }
}

#[test]
fn a_lease_cut_short_inside_of_its_nest_is_an_error() {
    let mut queue = Writer::new();
    queue.u32(1, 15).u32(3, 0).u32(2, 2);
    // The nest's length is right, but an attribute in it is cut off.
    queue.put(8, &[8, 0, 1, 0, 7, 0]);
    let error = Queue::parse(Attrs::new(queue.bytes())).unwrap_err();
    assert_eq!(
        error,
        ParseError::Length {
            kind: 1,
            len: 8,
            left: 6
        }
    );
}

#[test]
fn an_unknown_queue_type_is_an_error() {
    let mut queue = Writer::new();
    queue.u32(1, 0).u32(2, 2).u32(3, 9);
    let error = Queue::parse(Attrs::new(queue.bytes())).unwrap_err();
    assert_eq!(error, ParseError::Value { kind: 3, value: 9 });
}

#[test]
fn a_detached_pool_of_a_dmabuf_is_read() {
    let mut pool = Writer::new();
    pool.uint(1, 12)
        .uint(3, 515)
        .uint(4, 3)
        .uint(5, 1 << 40)
        .uint(6, 77)
        .u32(7, 5);
    let pool = PagePool::parse(Attrs::new(pool.bytes())).unwrap();
    assert_eq!((pool.id, pool.ifindex), (PagePoolId::new(12), None));
    assert_eq!((pool.inflight, pool.inflight_mem), (Some(3), Some(1 << 40)));
    assert_eq!(
        (pool.detach_time, pool.dmabuf),
        (Some(77), Some(DmabufId::new(5)))
    );
}

#[test]
fn counters_are_read_and_named() {
    let mut stats = Writer::new();
    stats
        .u32(1, 2)
        .u32(2, 0)
        .u32(3, 15)
        .uint(8, 1)
        .uint(12, u64::MAX)
        .uint(13, 0)
        .uint(34, 9);
    let stats = Qstats::parse(Attrs::new(stats.bytes())).unwrap();
    assert_eq!(stats.queue.map(|queue| queue.id), Some(QueueId::new(15)));
    let named: Vec<_> = stats.counters.iter().collect();
    let wanted = [
        ("rx_packets", 1),
        ("rx_alloc_fail", u64::MAX),
        ("rx_hw_drops", 0),
        ("tx_wake", 9),
    ];
    assert_eq!(named, wanted);

    let mut bytes = Vec::new();
    let stats = oracle::PushPagePoolStats::new(&mut bytes)
        .nested_info()
        .push_id(4)
        .push_ifindex(2);
    stats
        .end_nested()
        .push_alloc_fast(1)
        .push_recycle_released_refcnt(2)
        .end_nested();
    let stats = PagePoolStats::parse(Attrs::new(&bytes)).unwrap();
    assert_eq!((stats.id, stats.ifindex), (PagePoolId::new(4), Some(ETH0)));
    let named: Vec<_> = stats.counters.iter().collect();
    assert_eq!(named, [("alloc_fast", 1), ("recycle_released_refcnt", 2)]);
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..256), cmd in any::<u8>()) {
        let attrs = Attrs::new(&bytes);
        let _ = Dev::parse(attrs.clone());
        let _ = Queue::parse(attrs.clone());
        let _ = PagePool::parse(attrs.clone());
        let _ = PagePoolStats::parse(attrs.clone());
        let _ = Qstats::parse(attrs.clone());
        let _ = Napi::parse(attrs.clone());
        let _ = Event::parse(cmd, attrs);
    }

    /// Well-formed attributes of unexpected types and lengths don't make a parser panic.
    #[test]
    fn no_attributes_make_a_parser_panic(
        list in vec((0_u16..40, vec(any::<u8>(), 0..24)), 0..12),
    ) {
        let mut writer = Writer::new();
        for (kind, payload) in &list {
            writer.put(*kind, payload);
        }
        let attrs = Attrs::new(writer.bytes());
        let _ = Dev::parse(attrs.clone());
        let _ = Queue::parse(attrs.clone());
        let _ = PagePool::parse(attrs.clone());
        let _ = PagePoolStats::parse(attrs.clone());
        let _ = Qstats::parse(attrs.clone());
        let _ = Napi::parse(attrs);
    }
}
