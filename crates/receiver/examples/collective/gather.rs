//! The gathering thread, beside the receiving one: it moves tensors to where they belong, gives the
//! frags back, and uses each complete tensor.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use devmem::sink::{Sink, SinkError};
use devmem::{Frag, Received, ReturnHandle, Segment, Token};
use payload::{Batch, Device};

use crate::frame::{HEADER, Header};
use crate::ring::Ring;

/// Segments that one `recvmsg` returned, on their way to the gathering thread.
pub(crate) struct Arrival {
    connection: usize,
    pieces: Vec<Piece>,
    way_back: ReturnHandle,
}

/// A segment of a stream, without the bytes at its beginning that were gathered.
enum Piece {
    Bytes(Vec<u8>),
    Frag(Frag),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Frag(frag) => frag.len.into(),
        }
    }

    fn cut(&mut self, taken: u64) {
        match self {
            Piece::Bytes(bytes) => drop(bytes.drain(..taken as usize)),
            Piece::Frag(frag) => {
                frag.offset += taken;
                frag.len -= taken as u32;
            }
        }
    }
}

/// State that the receiving and the gathering thread share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Number of calls of `recvmsg` that returned segments.
    received: AtomicU64,
}

/// Sink that keeps all frags and hands them to the gathering thread. The engine stops reading a
/// connection that keeps too many ([`Config::keep`](devmem::engine::Config::keep)), such as one
/// that is ahead of the others and whose tensors have no slot yet.
pub(crate) struct HandOver {
    pub(crate) connection: usize,
    pub(crate) to: Sender<Arrival>,
    pub(crate) shared: Arc<Shared>,
    /// Set by the gathering thread when the connection is refused: no further byte of it is used.
    pub(crate) refused: Arc<OnceLock<String>>,
}

impl Sink for HandOver {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        if let Some(why) = self.refused.get() {
            return Err(SinkError::Other(why.as_str().into()));
        }
        self.shared.received.fetch_add(1, Ordering::Relaxed);
        let way_back = received.return_handle();
        let pieces = received.map(|segment| match segment {
            Segment::Inline(bytes) => Piece::Bytes(bytes.to_vec()),
            Segment::Frag(frag) => Piece::Frag(frag),
        });
        let arrival = Arrival {
            connection: self.connection,
            pieces: pieces.collect(),
            way_back,
        };
        let sent = self.to.send(arrival);
        sent.map_err(|_| SinkError::Other("the gathering thread has ended".into()))
    }
}

/// State of a connection in the gathering thread.
struct Connection {
    /// Segments that were received and not gathered yet, because their slot is not free.
    waiting: VecDeque<Piece>,
    at: At,
    /// Tokens of frags that are given back when the present batch is gathered.
    read: Vec<Token>,
    way_back: Option<ReturnHandle>,
    refused: Arc<OnceLock<String>>,
}

/// What the next bytes of a connection are: a header, or a part of a tensor.
enum At {
    Header { bytes: [u8; HEADER], filled: usize },
    Part { tensor: u32, offset: u64, left: u64 },
}

impl At {
    const BEGIN: At = At::Header {
        bytes: [0; HEADER],
        filled: 0,
    };
}

/// Counters of the gathering thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) batches: u64,
    pub(crate) pieces: u64,
    /// Number of bytes in the gathered pieces.
    pub(crate) bytes: u64,
    /// Number of calls of `recvmsg` that returned segments.
    pub(crate) received: u64,
    /// Number of calls of `recvmsg` that returned segments while the gathering thread was at work.
    pub(crate) meanwhile: u64,
    pub(crate) given_back: u64,
}

/// Gathers tensors from all connections on a device, and passes them on.
pub(crate) struct Gatherer<U> {
    device: Box<dyn Device>,
    ring: Ring,
    /// Offset in the destination region that headers are copied to, to be read: behind the slots.
    scratch: u64,
    connections: Vec<Connection>,
    batch: Batch,
    shared: Arc<Shared>,
    counts: Counts,
    /// Callback that takes each complete tensor: the device, the tensor's number, and the offset of
    /// its first byte.
    using: U,
}

impl<U: FnMut(&mut dyn Device, u32, u64) -> Result<()>> Gatherer<U> {
    /// Makes a gatherer on a device whose destination region is all slots and [`HEADER`] bytes.
    pub(crate) fn new(device: Box<dyn Device>, ring: Ring, shared: Arc<Shared>, using: U) -> Self {
        Self {
            scratch: device.destination_len() - HEADER as u64,
            device,
            ring,
            connections: Vec::new(),
            batch: Batch::with_capacity(4096),
            shared,
            counts: Counts::default(),
            using,
        }
    }

    /// Adds the next connection; `refused` is set when the connection is refused.
    pub(crate) fn add(&mut self, refused: Arc<OnceLock<String>>) {
        self.connections.push(Connection {
            waiting: VecDeque::new(),
            at: At::BEGIN,
            read: Vec::new(),
            way_back: None,
            refused,
        });
    }

    /// Gathers until all connections have ended; returns the counters and descriptions of what is
    /// wrong.
    pub(crate) fn run(mut self, arrivals: &Receiver<Arrival>) -> Result<(Counts, Vec<String>)> {
        while let Ok(first) = arrivals.recv() {
            // And whatever came while the last batch was gathered.
            for arrival in std::iter::once(first).chain(arrivals.try_iter()) {
                let connection = &mut self.connections[arrival.connection];
                connection.way_back = Some(arrival.way_back);
                connection.waiting.extend(arrival.pieces);
            }
            let before = self.shared.received.load(Ordering::Relaxed);
            while self.step()? {}
            self.counts.received = self.shared.received.load(Ordering::Relaxed);
            self.counts.meanwhile += self.counts.received - before;
        }
        let wrong = self.problems();
        Ok((self.counts, wrong))
    }

    /// Gathers all segments whose slot is free, and passes complete tensors on. Returns whether a
    /// slot became free, so that there may be more to gather.
    fn step(&mut self) -> Result<bool> {
        self.batch.clear();
        for connection in 0..self.connections.len() {
            self.advance(connection)?;
        }
        if !self.batch.is_empty() {
            self.device.gather(&self.batch)?;
            self.counts.batches += 1;
            self.counts.pieces += self.batch.len() as u64;
            self.counts.bytes += self.batch.bytes();
        }
        // Read: the NIC may write there again.
        for connection in &mut self.connections {
            if let Some(way_back) = &connection.way_back {
                self.counts.given_back += connection.read.len() as u64;
                way_back.give_back_all(connection.read.drain(..));
            }
        }
        let mut freed = false;
        while let Some(tensor) = self.ring.complete_tensor() {
            let place = self.ring.region_offset(tensor).unwrap_or_default();
            (self.using)(self.device.as_mut(), tensor, place)?;
            self.ring.used(tensor);
            freed = true;
        }
        Ok(freed)
    }

    /// Reads the headers of a connection's waiting segments, and adds their payload to the batch,
    /// as far as slots are free.
    fn advance(&mut self, number: usize) -> Result<()> {
        let Self {
            device,
            ring,
            scratch,
            connections,
            batch,
            ..
        } = self;
        let connection = &mut connections[number];
        while let Some(piece) = connection.waiting.front_mut() {
            let taken = match &mut connection.at {
                _ if connection.refused.get().is_some() => piece.len(),
                At::Header { bytes, filled } => {
                    let taken = piece.len().min((HEADER - *filled) as u64);
                    let room = &mut bytes[*filled..*filled + taken as usize];
                    copy_to_host(device.as_mut(), piece, *scratch, room)?;
                    *filled += room.len();
                    taken
                }
                At::Part {
                    tensor,
                    offset,
                    left,
                } => {
                    // Its slot may hold an earlier tensor still.
                    let Some(place) = ring.region_offset(*tensor) else {
                        break;
                    };
                    let taken = piece.len().min(*left);
                    match piece {
                        Piece::Bytes(bytes) => {
                            device.write(place + *offset, &bytes[..taken as usize])?;
                        }
                        Piece::Frag(frag) => batch.push(frag.offset, taken as u32, place + *offset),
                    }
                    ring.mark_received(*tensor, taken);
                    (*offset, *left) = (*offset + taken, *left - taken);
                    taken
                }
            };
            piece.cut(taken);
            if piece.len() == 0 {
                if let Some(Piece::Frag(frag)) = connection.waiting.pop_front() {
                    connection.read.push(frag.token);
                }
            }
            connection.next_state(ring);
        }
        Ok(())
    }

    /// Describes, at the end, what is missing of tensors and connections.
    fn problems(&self) -> Vec<String> {
        let of_peers = self
            .connections
            .iter()
            .enumerate()
            .filter_map(|(number, connection)| {
                let why = match (&connection.at, connection.refused.get()) {
                    (_, Some(refused)) => refused.clone(),
                    (At::Header { filled: 0, .. }, None) => return None,
                    (At::Header { .. }, None) => "it ended within a header".to_owned(),
                    (At::Part { tensor, left, .. }, None) => {
                        format!("it ended {left} bytes before the end of a part of tensor {tensor}")
                    }
                };
                Some(format!("connection {number}: {why}"))
            });
        let of_tensors = self.ring.incomplete_tensors();
        let of_tensors =
            of_tensors.map(|(tensor, there)| format!("tensor {tensor}: {there} bytes came"));
        of_peers.chain(of_tensors).collect()
    }
}

impl Connection {
    /// Moves a connection's state on: from a complete header to its part, from a complete part to
    /// the next header.
    fn next_state(&mut self, ring: &mut Ring) {
        self.at = match &self.at {
            At::Part { left: 0, .. } => At::BEGIN,
            At::Header { bytes, filled } if *filled == HEADER => {
                match parse_announced_header(bytes, ring) {
                    Ok(header) => At::Part {
                        tensor: header.tensor,
                        offset: header.offset,
                        left: header.len,
                    },
                    Err(why) => {
                        // Set once: what comes after is thrown away.
                        self.refused.get_or_init(|| why);
                        At::BEGIN
                    }
                }
            }
            _ => return,
        };
    }
}

/// Parses a header and checks it against what was announced before.
fn parse_announced_header(bytes: &[u8; HEADER], ring: &mut Ring) -> Result<Header, String> {
    let header = Header::parse(bytes).ok_or_else(|| format!("not a header: {bytes:02x?}"))?;
    let expected = ring.expect(&header);
    expected.map_err(|refused| format!("{header:?}: {}", refused.description()))?;
    Ok(header)
}

/// Copies the beginning of a segment to host memory: by the device, which can read the dmabuf.
fn copy_to_host(
    device: &mut dyn Device,
    piece: &Piece,
    scratch: u64,
    out: &mut [u8],
) -> Result<()> {
    match piece {
        Piece::Bytes(bytes) => out.copy_from_slice(&bytes[..out.len()]),
        Piece::Frag(frag) => {
            let mut batch = Batch::with_capacity(1);
            batch.push(frag.offset, out.len() as u32, scratch);
            device.gather(&batch)?;
            device.read(scratch, out)?;
        }
    }
    Ok(())
}
