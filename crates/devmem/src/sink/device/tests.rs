//! Tests of sinks on devices, with frags: `recvmsg` is simulated, and the devices are the CPU.

use payload::{BatchError, DeviceError, Host};
use proptest::prelude::*;

use super::*;
use crate::RecvBuffer;
use crate::cmsg::DmabufCmsg;
use crate::cmsg::Message::{self, Dmabuf, Linear};
use crate::pattern::{Mismatch, Pattern};
use crate::recycler::{Recycler, Thresholds};
use crate::segment::Received;
use crate::sink::{Sink, SinkError};
use crate::token::StreamTag;

const IDS: [DmabufId; 2] = [DmabufId::new(3), DmabufId::new(9)];
const REGION: usize = 4096;

/// A part of a stream: host memory or one of two dmabufs, and the bytes there.
#[derive(Debug, Clone)]
enum Piece {
    Inline(Vec<u8>),
    Frag { region: usize, bytes: Vec<u8> },
}

/// A stream in two dmabufs, with the control messages of each `recvmsg`.
struct Stream {
    regions: [Vec<u8>; 2],
    calls: Vec<(Vec<u8>, Vec<Message>)>,
    whole: Vec<u8>,
}

/// Lays a stream's pieces out in the dmabufs: frags from the end of their dmabuf on, so that none
/// lies at its offset in the stream.
fn lay_out(calls: &[Vec<Piece>]) -> Stream {
    let mut regions = [vec![0; REGION], vec![0; REGION]];
    let mut free = [REGION; 2];
    let (mut whole, mut token) = (Vec::new(), 0);
    let mut played = Vec::new();
    for call in calls {
        let (mut iov, mut messages) = (Vec::new(), Vec::new());
        for piece in call {
            match piece {
                Piece::Inline(bytes) => {
                    iov.extend(bytes);
                    messages.push(Linear(bytes.len() as u32));
                    whole.extend(bytes);
                }
                Piece::Frag { region, bytes } => {
                    free[*region] -= bytes.len();
                    let at = free[*region];
                    regions[*region][at..at + bytes.len()].copy_from_slice(bytes);
                    messages.push(frag(*region, at as u64, bytes.len() as u32, token));
                    token += 1;
                    whole.extend(bytes);
                }
            }
        }
        played.push((iov, messages));
    }
    Stream {
        regions,
        calls: played,
        whole,
    }
}

fn frag(region: usize, frag_offset: u64, frag_size: u32, frag_token: u32) -> Message {
    Dmabuf(DmabufCmsg {
        frag_offset,
        frag_size,
        frag_token,
        dmabuf_id: IDS[region].get(),
    })
}

/// CPU devices for two dmabufs, each with a destination region of `destination` bytes.
fn devices(regions: &[Vec<u8>; 2], destination: u64) -> Devices {
    let hosts = regions.iter().map(|region| {
        let host = Host::of_bytes(region.clone(), destination).unwrap();
        SharedDevice::new(host)
    });
    IDS.into_iter()
        .zip(hosts)
        .fold(Devices::new(), |devices, (id, host)| devices.with(id, host))
}

/// Hands all calls of `recvmsg` to `sink`, and checks that every frag that the sink saw has come
/// back, whatever the sink returned.
fn feed_sink<S: Sink>(calls: &[(Vec<u8>, Vec<Message>)], sink: &mut S) -> Result<(), SinkError> {
    let mut buffer = RecvBuffer::with_capacity(8192, 64);
    let mut at = 0;
    for (iov, messages) in calls {
        let len = |message: &Message| match message {
            Linear(len) => *len as usize,
            Dmabuf(frag) => frag.frag_size as usize,
            _ => 0,
        };
        let bytes: usize = messages.iter().map(len).sum();
        if bytes == 0 {
            continue;
        }
        let filled = buffer.fill(bytes, iov, messages);
        let totals = buffer.parse(filled).unwrap();
        let mut recycler = Recycler::new(Thresholds::default());
        recycler.issued(totals.frags, totals.frag_bytes);
        let mut received = Received::new(&buffer, totals, at, StreamTag(7), &mut recycler);
        let consumed = sink.consume(&mut received);
        drop(received);
        assert_eq!(u64::from(recycler.held()), recycler.stats().issued);
        consumed?;
        at += bytes as u64;
    }
    sink.finish()
}

fn calls() -> impl Strategy<Value = Vec<Vec<Piece>>> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..70);
    let piece = prop_oneof![
        1 => bytes().prop_map(Piece::Inline),
        3 => (0..2usize, bytes()).prop_map(|(region, bytes)| Piece::Frag { region, bytes }),
    ];
    prop::collection::vec(prop::collection::vec(piece, 0..12), 0..4)
}

proptest! {
    #[test]
    fn the_stream_is_taken_whole_and_in_order(calls in calls(), staging in 1..200u64) {
        let stream = lay_out(&calls);
        let devices = || devices(&stream.regions, staging);
        let mut checksum = Checksum::new(devices());
        feed_sink(&stream.calls, &mut checksum).unwrap();
        prop_assert_eq!(checksum.crc32(), crc32fast::hash(&stream.whole));
        prop_assert_eq!(checksum.bytes(), stream.whole.len() as u64);
        let mut write = Write::new(Vec::new(), devices());
        feed_sink(&stream.calls, &mut write).unwrap();
        prop_assert_eq!(write.into_inner(), stream.whole);
    }

    #[test]
    fn a_device_gathers_the_stream_into_its_region(
        mut calls in calls(),
        start in 0..50u64,
        short in any::<prop::sample::Index>(),
    ) {
        // Of one dmabuf: that is what a destination belongs to.
        for piece in calls.iter_mut().flatten() {
            if let Piece::Frag { region, .. } = piece {
                *region = 0;
            }
        }
        let stream = lay_out(&calls);
        let len = stream.whole.len();
        let gather = |capacity: u64| {
            let host = Host::of_bytes(stream.regions[0].clone(), 8192).unwrap();
            let device = SharedDevice::new(host);
            let mut sink = Gather::new(IDS[0], device.clone(), start, capacity);
            let done = feed_sink(&stream.calls, &mut sink);
            let filled = sink.filled();
            let mut region = vec![0; 8192];
            device.lock().read(0, &mut region).unwrap();
            (done, filled, region)
        };
        let (done, filled, region) = gather(len as u64);
        done.unwrap();
        prop_assert_eq!(filled, len as u64);
        let place = start as usize..start as usize + len;
        prop_assert_eq!(&region[place.clone()], &stream.whole);
        prop_assert!(region[..place.start].iter().chain(&region[place.end..]).all(|byte| *byte == 0));
        if len > 0 {
            let short = short.index(len) as u64;
            let (done, filled, region) = gather(short);
            prop_assert!(matches!(done, Err(SinkError::Full { .. })), "{done:?}");
            prop_assert!(filled <= short);
            let end = (start + filled) as usize;
            prop_assert_eq!(&region[start as usize..end], &stream.whole[..filled as usize]);
            prop_assert!(region[end..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn the_first_wrong_byte_is_found(
        mut calls in calls(),
        wrong in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let pattern = Pattern::new(7).unwrap();
        let len = |piece: &Piece| match piece {
            Piece::Inline(bytes) | Piece::Frag { bytes, .. } => bytes.len(),
        };
        let total: usize = calls.iter().flatten().map(len).sum();
        let wrong: Vec<usize> = wrong
            .iter()
            .filter(|_| total > 0)
            .map(|index| index.index(total))
            .collect();
        let mut at = 0;
        for piece in calls.iter_mut().flatten() {
            let (Piece::Inline(bytes) | Piece::Frag { bytes, .. }) = piece;
            pattern.fill(at, bytes);
            for place in &wrong {
                let inside = (*place as u64).checked_sub(at).map(|place| place as usize);
                if let Some(byte) = inside.and_then(|place| bytes.get_mut(place)) {
                    *byte = 0xee;
                }
            }
            at += bytes.len() as u64;
        }
        let stream = lay_out(&calls);
        let mut validate = Validate::new(pattern.clone(), devices(&stream.regions, 0));
        let done = feed_sink(&stream.calls, &mut validate);
        match wrong.iter().min() {
            None => {
                prop_assert!(done.is_ok(), "{done:?}");
                prop_assert_eq!(validate.validated(), total as u64);
            }
            Some(place) => {
                let place = *place as u64;
                let mismatch = Mismatch::new(place, pattern.byte(place), 0xee);
                prop_assert!(
                    matches!(done, Err(SinkError::Mismatch(found)) if found == mismatch),
                    "{done:?}"
                );
                prop_assert_eq!(validate.validated(), place);
            }
        }
    }
}

/// A frag outside of its dmabuf is refused with an error that names it, and all frags go back.
#[test]
fn impossible_frags_are_refused() {
    let regions = [vec![1; 64], vec![2; 64]];
    let calls = |second| vec![(Vec::new(), vec![frag(0, 0, 64, 0), second])];
    let outside = calls(frag(0, 60, 5, 1));
    let mut checksum = Checksum::new(devices(&regions, 0));
    let error = feed_sink(&outside, &mut checksum).unwrap_err();
    let SinkError::Device(DeviceError::Batch(error)) = error else {
        panic!("{error}");
    };
    assert!(matches!(error, BatchError::Source { piece: 1, .. }));
    let elsewhere = calls(frag(1, 0, 1, 1));
    let host = Host::of_bytes(regions[0].clone(), 128).unwrap();
    let mut gather = Gather::new(IDS[0], SharedDevice::new(host), 0, 128);
    let error = feed_sink(&elsewhere, &mut gather).unwrap_err();
    assert!(matches!(error, SinkError::ForeignDmabuf(id) if id == IDS[1]));
    let mut nowhere = Write::new(Vec::new(), devices(&regions, 0));
    let error = feed_sink(&elsewhere, &mut nowhere).unwrap_err();
    assert!(matches!(error, SinkError::Full { capacity: 0 }), "{error}");
}
