//! Connections from the far end of the wire, and what they send: the pattern, or a flood.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use devmem::pattern::Pattern;
use netdev::NetNs;
use nix::sys::socket::{setsockopt, sockopt};

use crate::receiver::STEP;
use crate::testbed::PEER;
use crate::tool::until;

/// Connects from the far end of the wire, as soon as the address is listened at.
pub fn connect(to: SocketAddr) -> Result<TcpStream> {
    let peer = NetNs::by_name(PEER)?;
    let end = Instant::now() + STEP;
    // Long: a lost SYN is sent again after 1, 3 and 7 seconds, and a connection that is made must not be cut.
    let limit = STEP;
    peer.run(|| {
        loop {
            match TcpStream::connect_timeout(&to, limit) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > end => {
                    return Err(anyhow!("nobody listens at {to}: {error}"));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    })?
}

/// Returns bytes of the validation pattern, from its start, with the byte at `wrong` wrong if
/// given.
pub fn pattern(bytes: usize, wrong: Option<usize>) -> Result<Vec<u8>> {
    let mut out = vec![0; bytes];
    Pattern::new(251)?.fill(0, &mut out);
    if let Some(byte) = wrong.and_then(|at| out.get_mut(at)) {
        *byte ^= 0x40;
    }
    Ok(out)
}

/// A thread that sends from the far end of the wire until its peer is gone.
pub struct Flood {
    thread: Option<JoinHandle<()>>,
    sent: Arc<AtomicU64>,
    stream: TcpStream,
}

impl Flood {
    pub fn start(stream: TcpStream) -> Result<Self> {
        let sent = Arc::<AtomicU64>::default();
        // Abortive at its end: nothing of it lingers.
        let abort = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &abort)?;
        stream.set_write_timeout(Some(STEP))?;
        let (mut writer, count) = (stream.try_clone()?, Arc::clone(&sent));
        let chunk = vec![7; 32 << 10];
        let thread = thread::spawn(move || {
            while let Ok(written) = writer.write(&chunk) {
                count.fetch_add(written as u64, Ordering::Relaxed);
            }
        });
        Ok(Self {
            thread: Some(thread),
            sent,
            stream,
        })
    }

    /// Waits until the thread has sent `bytes` more bytes.
    pub fn wait_for(&self, bytes: u64) -> Result<()> {
        let goal = self.sent.load(Ordering::Relaxed) + bytes;
        until("payload", STEP, || {
            Ok(self.sent.load(Ordering::Relaxed) >= goal)
        })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // It may be over by itself.
        let _gone = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
