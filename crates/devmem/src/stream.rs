//! A connected TCP socket that receives device memory.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use crate::buffer::{ProtocolError, Record, RecvBuffer, RecvLimit, Totals};
use crate::listen::drop_urgent_by_default;
use crate::recycler::{Kept, RecycleError, Recycler, Thresholds};
use crate::returns::ReturnHandle;
use crate::segment::{Received, frags_of, give_back_all};
use crate::stats::StreamStats;
use crate::sys::{self, Filled, Wait};
use crate::telemetry::{Clock, Telemetry};
use crate::token::{StreamTag, Token};

/// `ETOOSMALL` of `include/linux/errno.h`, which no user header has.
const ETOOSMALL: i32 = 525;

/// Why a receive call failed or returned nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The socket is nonblocking and has nothing to read.
    #[error("nothing to receive now")]
    WouldBlock,
    /// `EFAULT`: the kernel could not hand out the packet at the head of the queue. The packet
    /// stays there, so that trying again can't help.
    #[error("recvmsg: the packet at the head of the queue can't be received")]
    Unreadable(#[source] io::Error),
    /// Errno 525, `ETOOSMALL` (`put_cmsg_notrunc`): not even one control message fits the control
    /// buffer. Trying again with the same buffer would spin for ever.
    #[error("recvmsg: the control buffer has no room for one frag (errno 525, ETOOSMALL)")]
    ControlTooSmall,
    /// The kernel's answer to `recvmsg` is inconsistent. The tokens found were given back.
    #[error("recvmsg")]
    Protocol(#[from] ProtocolError),
    /// Tokens could not be given back to the kernel.
    #[error(transparent)]
    Recycle(#[from] RecycleError),
    /// Another error of the socket: a connection reset, a time-out.
    #[error("recvmsg")]
    Io(#[source] io::Error),
}

impl From<io::Error> for RecvError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EFAULT) => RecvError::Unreadable(error),
            Some(ETOOSMALL) => RecvError::ControlTooSmall,
            _ if error.kind() == io::ErrorKind::WouldBlock => RecvError::WouldBlock,
            _ => RecvError::Io(error),
        }
    }
}

/// A connected TCP socket (of `std`, `mio` or `socket2`) whose payload may lie in a dmabuf.
///
/// A socket of TCP without a filter gets that of [`drop_urgent`](crate::listen::drop_urgent); one that was accepted
/// from a listener without it has received unfiltered until then.
///
/// Tokens given back are collected and reach the kernel when the [`Thresholds`] say so, at the
/// next [`recv`](Self::recv), or when that is about to sleep on a blocking socket; or by [`flush`](Self::flush), [`close`](Self::close) or drop.
#[derive(Debug)]
pub struct DevmemStream<S: AsFd> {
    socket: S,
    recycler: Recycler,
    tag: StreamTag,
    stats: StreamStats,
    telemetry: Box<Telemetry>,
    clock: Clock,
}

impl<S: AsFd> DevmemStream<S> {
    /// Makes a stream of a connected socket, with the default thresholds.
    pub fn new(socket: S) -> Self {
        Self::with_thresholds(socket, Thresholds::default())
    }

    /// Makes a stream of a connected socket, with the given thresholds for giving tokens back.
    pub fn with_thresholds(socket: S, thresholds: Thresholds) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        drop_urgent_by_default(&socket);
        Self {
            socket,
            recycler: Recycler::new(thresholds),
            tag: StreamTag(NEXT.fetch_add(1, Ordering::Relaxed)),
            stats: StreamStats::default(),
            telemetry: Box::default(),
            clock: Clock::default(),
        }
    }

    /// Receives as much of what the socket has as `buffer` has room for: one
    /// `recvmsg(MSG_SOCK_DEVMEM)`, after a flush if one is due. Before a blocking socket sleeps all
    /// tokens are flushed, and frags that a [`ReturnHandle`] gives back during the sleep go to the
    /// kernel at once. An interrupted call is repeated.
    ///
    /// On a non-blocking socket [`RecvError::WouldBlock`] leaves tokens held: who waits for
    /// readiness then calls [`flush`](Self::flush), at once or within a bounded time.
    ///
    /// The end of the stream is a [`Received`] of no bytes ([`Received::is_end`]).
    ///
    /// # Errors
    /// [`RecvError`]; nothing of the stream is lost by [`RecvError::WouldBlock`] and
    /// [`RecvError::Recycle`].
    pub fn recv<'a>(&'a mut self, buffer: &'a mut RecvBuffer) -> Result<Received<'a>, RecvError> {
        self.recv_at_most(buffer, RecvLimit::NONE)
    }

    /// Receives like [`recv`](Self::recv), but no more than `limit`, for a sink that may keep only
    /// so much. The rest comes with later calls.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_at_most<'a>(
        &'a mut self,
        buffer: &'a mut RecvBuffer,
        limit: RecvLimit,
    ) -> Result<Received<'a>, RecvError> {
        self.recycler.collect();
        self.flush_if_due()?;
        let filled = self.recvmsg(buffer, limit)?;
        let start = self.stats.bytes;
        let parsed = buffer.parse(filled);
        let (_, records, _) = buffer.parsed();
        match parsed {
            Ok(totals) => {
                self.recycler.issued(totals.frags, totals.frag_bytes);
                self.count(&totals, records);
                Ok(Received::new(
                    buffer,
                    totals,
                    start,
                    self.tag,
                    &mut self.recycler,
                ))
            }
            Err(error) => {
                let (frags, bytes) = frags_of(records);
                self.recycler.issued(frags, bytes);
                give_back_all(records, self.tag, &mut self.recycler);
                Err(error.into())
            }
        }
    }

    /// Calls `recvmsg` until it returns data. A blocking socket sleeps only when no token is held
    /// back: the NIC might have nothing left to receive into.
    fn recvmsg(&mut self, buffer: &mut RecvBuffer, limit: RecvLimit) -> Result<Filled, RecvError> {
        // Whoever keeps frags may give them back while this sleeps.
        let shared = self.recycler.returns.is_used();
        let mut wait = match self.recycler.held() {
            0 if !shared => Wait::AsSet,
            _ => Wait::Never,
        };
        loop {
            let (iov, control) = buffer.parts_mut(limit);
            self.stats.recvmsg_calls += 1;
            match sys::recvmsg(self.socket.as_fd(), iov, control, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait == Wait::Never => {
                    if SockRef::from(&self.socket).nonblocking()? {
                        return Err(RecvError::WouldBlock);
                    }
                    self.flush()?;
                    if shared {
                        self.sleep()?;
                    } else {
                        wait = Wait::AsSet;
                    }
                }
                done => return Ok(done?),
            }
        }
    }

    /// Sleeps until the socket is readable, or until its time limit (`SO_RCVTIMEO`). Frags that
    /// come back meanwhile go to the kernel at once: the NIC may lack their niovs to receive more.
    fn sleep(&mut self) -> Result<(), RecvError> {
        let limit = SockRef::from(&self.socket).read_timeout()?;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if let Some(bell) = self.recycler.returns.bell()? {
                let timeout = match deadline {
                    Some(deadline) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return Err(RecvError::WouldBlock);
                        }
                        // Rounded up, and bounded: what is left is looked at again.
                        let millis = left.as_millis().saturating_add(1).min(60_000);
                        PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
                    }
                    None => PollTimeout::NONE,
                };
                let mut fds = [
                    PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                    PollFd::new(bell, PollFlags::POLLIN),
                ];
                match poll(&mut fds, timeout) {
                    Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
            }
            self.flush()?;
        }
    }

    fn count(&mut self, totals: &Totals, records: &[Record]) {
        self.telemetry.received(records, totals);
        self.stats.bytes += totals.bytes as u64;
        self.stats.frag_bytes += totals.frag_bytes;
        self.stats.frags += totals.frags as u64;
        self.stats.linear_bytes += totals.linear_bytes;
        self.stats.unsteered_bytes += totals.unsteered_bytes as u64;
        self.stats.unknown_cmsgs += totals.unknown_cmsgs as u64;
    }

    /// Makes each `recvmsg` report how many bytes it left in the socket (`TCP_INQ`), so that
    /// [`Received::is_drained`] can tell without another call.
    ///
    /// # Errors
    /// Those of `setsockopt`.
    pub fn report_queued(&self) -> io::Result<()> {
        sys::set_tcp_inq(self.socket.as_fd())
    }

    /// Makes the socket count as readable only when `bytes` bytes wait (`SO_RCVLOWAT`), its window
    /// is nearly closed, or its peer has closed. The kernel takes at most half of the receive
    /// buffer. Fewer bytes can be received all the same, but no event reports them.
    ///
    /// # Errors
    /// Those of `setsockopt`.
    pub fn set_low_water(&self, bytes: usize) -> io::Result<()> {
        sys::set_low_water(self.socket.as_fd(), bytes)
    }

    /// Clamps the receive window to two thirds of what the kernel offers (`TCP_WINDOW_CLAMP`),
    /// unless the clamp is still `spared`, the result of an earlier call; returns the clamp in
    /// bytes. Call it when the first bytes have come, and again from time to time: the kernel
    /// computes the clamp again when longer segments come, and as the receive buffer grows.
    ///
    /// The kernel reckons how many bytes of the stream fit the receive buffer from one packet
    /// (`tcp_measure_rcv_mss`), which is often a long one, put together by GRO: 17 segments with one
    /// head. When the flows of many connections alternate, segments come singly, each with a head of
    /// its own, and the sender fills a window that the receive buffer does not take. What is too much is dropped
    /// (`tcp_prune_queue`), and the connection waits for a time-out.
    ///
    /// # Errors
    /// Those of `getsockopt` and `setsockopt`.
    pub fn spare_window(&self, spared: Option<u32>) -> io::Result<u32> {
        let clamp = sys::window_clamp(self.socket.as_fd())?;
        if spared == Some(clamp) {
            return Ok(clamp);
        }
        let rest = clamp - clamp / 3;
        sys::set_window_clamp(self.socket.as_fd(), rest)?;
        Ok(rest)
    }

    /// Gives back a frag that outlived its [`Received`].
    ///
    /// # Panics
    /// If the token was issued by another stream.
    pub fn give_back(&mut self, token: Token) {
        token.check(self.tag);
        self.recycler.push(token);
    }

    /// Handle that gives frags back from any thread.
    pub fn return_handle(&mut self) -> ReturnHandle {
        self.recycler.returns.handle(self.tag)
    }

    /// Sets a callback for frags that come back through a [`ReturnHandle`] while none were waiting,
    /// on the thread that gives them back. Set it before the first handle is made; the next
    /// [`flush`](Self::flush) or [`recv`](Self::recv) collects the frags.
    pub fn on_return(&mut self, notify: impl Fn() + Send + Sync + 'static) {
        self.recycler.returns.on_return(Arc::new(notify));
    }

    /// Collects the frags that came back through a [`ReturnHandle`], for the next flush.
    pub fn collect_returned(&mut self) {
        self.recycler.collect();
    }

    /// Number of frags that were received and not given back, and of their bytes.
    pub fn kept(&self) -> Kept {
        self.recycler.kept()
    }

    /// Number of bytes of the stream received so far.
    pub fn bytes(&self) -> u64 {
        self.stats.bytes
    }

    /// Number of frags that were given back and wait for the next flush.
    pub fn held(&self) -> u32 {
        self.recycler.held()
    }

    /// Flushes the tokens if the [`Thresholds`] are reached.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn flush_if_due(&mut self) -> Result<(), RecycleError> {
        if self.recycler.is_due() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Gives all tokens that were given back to the kernel now: `SO_DEVMEM_DONTNEED`, in calls of
    /// at most [`MAX_RANGES`](crate::MAX_RANGES) ranges and [`MAX_FRAGS`](crate::MAX_FRAGS) frags.
    ///
    /// # Errors
    /// [`RecycleError::Refused`]: what was not accepted is still held.
    /// [`RecycleError::Unequal`]: what is missing stays outstanding.
    pub fn flush(&mut self) -> Result<(), RecycleError> {
        self.recycler.collect();
        let held = self.recycler.held();
        if held > 0 {
            self.telemetry.flushed(held, self.clock.lap());
        }
        self.recycler.flush(&mut self.socket.as_fd())
    }

    /// Counters of the stream.
    pub fn stats(&self) -> StreamStats {
        StreamStats {
            tokens: *self.recycler.stats(),
            ..self.stats
        }
    }

    /// Histograms of how the stream was received so far.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Sets the present time, so that [`Telemetry::hold_time`] can be measured without reading a
    /// clock: call it with a time that was read anyway, before a turn of [`recv`](Self::recv) and
    /// before a [`flush`](Self::flush).
    pub fn clock(&mut self, now: Instant) {
        self.clock.set(now, self.recycler.held() > 0);
    }

    /// The socket that the stream receives from.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket that the stream receives from, to register it for readiness.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// NAPI instance, and so rx queue, that the connection's packets come through
    /// (`SO_INCOMING_NAPI_ID`); `None` before the first packet.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn incoming_napi_id(&self) -> io::Result<Option<u32>> {
        sys::incoming_napi_id(self.socket.as_fd()).map(|id| (id != 0).then_some(id))
    }

    /// Bytes of memory that the receive queue takes, in order or not (`SO_MEMINFO`,
    /// `SK_MEMINFO_RMEM_ALLOC`). Most of the memory is niovs of packets that were not read yet,
    /// each whole, with some host memory for each packet.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn receive_memory(&self) -> io::Result<u64> {
        sys::receive_memory(self.socket.as_fd()).map(u64::from)
    }

    /// Flushes all tokens and closes the socket.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); the socket is closed all the same, and the kernel frees with it
    /// what was outstanding, once the peer has acknowledged the end.
    pub fn close(mut self) -> Result<StreamStats, RecycleError> {
        self.flush()?;
        Ok(self.stats())
    }

    /// Flushes all tokens and closes the socket abortively (`SO_LINGER` of 0 s): the peer gets a
    /// reset, and the kernel frees at once what was never read, rather than when TCP gives up on a
    /// silent peer.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); the socket is closed all the same.
    pub fn abort(self) -> Result<StreamStats, RecycleError> {
        if let Err(error) = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "SO_LINGER");
        }
        self.close()
    }
}

impl<S: AsFd> Drop for DevmemStream<S> {
    fn drop(&mut self) {
        self.recycler.collect();
        if self.recycler.held() == 0 {
            return;
        }
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "tokens of a closed socket");
        }
    }
}

#[cfg(test)]
mod tests {
    /// A blocking socket sleeps in `poll` when a [`ReturnHandle`] exists, and keeps its time limit.
    #[test]
    fn a_blocking_socket_with_a_return_handle_keeps_its_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut buffer = RecvBuffer::with_capacity(16, 1);
        let mut stream = DevmemStream::new(socket);
        let _handle = stream.return_handle();
        let limit = Duration::from_millis(50);
        stream.socket().set_read_timeout(Some(limit)).unwrap();
        let began = Instant::now();
        assert!(matches!(
            stream.recv(&mut buffer),
            Err(RecvError::WouldBlock)
        ));
        assert!(began.elapsed() >= limit);
        stream.socket().set_read_timeout(None).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(limit);
            SockRef::from(&peer).send(b"hello").unwrap();
        });
        let limit = RecvLimit { frags: 1, bytes: 3 };
        let received = stream.recv_at_most(&mut buffer, limit).unwrap();
        assert_eq!(received.bytes(), 3);
        drop(received);
        assert_eq!(stream.recv(&mut buffer).unwrap().bytes(), 2);
        late.join().unwrap();
        assert!(stream.recv(&mut buffer).unwrap().is_end());
    }

    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn errors_that_a_retry_cannot_cure_have_variants_of_their_own() {
        let error = |errno| RecvError::from(io::Error::from_raw_os_error(errno));
        assert!(matches!(error(libc::EAGAIN), RecvError::WouldBlock));
        assert!(matches!(error(libc::EFAULT), RecvError::Unreadable(_)));
        assert!(matches!(error(525), RecvError::ControlTooSmall));
        assert!(error(525).to_string().contains("ETOOSMALL"));
        assert!(matches!(error(libc::ECONNRESET), RecvError::Io(_)));
    }

    #[test]
    fn any_type_of_tcp_socket_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut buffer = RecvBuffer::with_capacity(16, 1);
        let mut stream = DevmemStream::new(socket2::Socket::from(socket));
        stream.socket().set_nonblocking(true).unwrap();
        stream.report_queued().unwrap();
        assert!(matches!(
            stream.recv(&mut buffer),
            Err(RecvError::WouldBlock)
        ));
        assert_eq!(
            SockRef::from(&peer)
                .send(b"a long way to the dmabuf")
                .unwrap(),
            24
        );
        stream.socket_mut().set_nonblocking(false).unwrap();
        let received = stream.recv(&mut buffer).unwrap();
        assert_eq!((received.bytes(), received.is_drained()), (16, false));
        drop(received);
        let received = stream.recv(&mut buffer).unwrap();
        assert_eq!((received.stream_offset(), received.unsteered()), (16, 8));
        assert!(received.is_drained());
        drop(peer);
        drop(received);
        assert!(stream.recv(&mut buffer).unwrap().is_end());
        let stats = stream.close().unwrap();
        assert_eq!((stats.bytes, stats.recvmsg_calls), (24, 4));
    }
}
