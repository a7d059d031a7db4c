//! Tests of the event loop over loopback: ordinary data, which takes every path but that of frags.

mod delivery;
mod ends;
mod peers;
mod stop;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::listen::{SocketOptions, listen};
use crate::pattern::Pattern;
use crate::sink::{Discard, Memory, Validate, Write};
use crate::stream::RecvError;
use crate::{Received, Segment};

fn engine<S: Sink>(
    config: Config,
    open: impl FnMut(&Peer) -> Result<S, SinkError>,
) -> Engine<S, impl FnMut(&Peer) -> Result<S, SinkError>> {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = listen(any, &SocketOptions::default()).unwrap();
    Engine::new(listener, config, open).unwrap()
}

fn peers(count: u32) -> Config {
    Config {
        until: Until::Peers(count),
        ..Config::default()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    let mut payload = vec![0; len];
    Pattern::default().fill(0, &mut payload);
    payload
}

/// Sends `payload` to an address from a thread of its own, and closes.
fn send_from_thread(to: SocketAddr, payload: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut socket = TcpStream::connect(to).unwrap();
        // A receiver that refuses may reset the connection meanwhile.
        let _refused = socket.write_all(&payload);
    })
}

fn validate(_peer: &Peer) -> Result<Validate, SinkError> {
    Ok(Validate::new(Pattern::default(), Memory::new()))
}

/// Returns what `run` returns, or panics after `limit`, so that a test that would hang fails
/// instead.
fn run_within<T: Send + 'static>(limit: Duration, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _gone = done.send(run());
    });
    ended.recv_timeout(limit).expect("it did not end in time")
}
