//! Tokens that are given back outside of a receive call: from another thread, or after the call
//! that received them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::token::{StreamTag, Token};

/// Callback for tokens that come to an empty inbox.
pub(crate) type Notify = Arc<dyn Fn() + Send + Sync>;

/// Handle that gives frags of one stream back from anywhere: another thread, a later call, after
/// the end of the connection. Cheap to clone.
///
/// The tokens reach the kernel with the stream's next flush. An [engine](crate::engine) is woken for
/// that, as is a blocking [`recv`](crate::DevmemStream::recv); who waits for a stream by other means may be told by
/// [`DevmemStream::on_return`](crate::DevmemStream::on_return).
#[derive(Debug, Clone)]
pub struct ReturnHandle(Arc<Inbox>);

impl ReturnHandle {
    /// Gives a frag back to the stream that received it.
    ///
    /// # Panics
    /// If the token was issued by another stream.
    pub fn give_back(&self, token: Token) {
        self.give_back_all([token]);
    }

    /// Gives frags back to the stream that received them, under one lock and with one wake-up. The
    /// iterator is not to block: the stream waits for it.
    ///
    /// # Panics
    /// If a token was issued by another stream.
    pub fn give_back_all(&self, tokens: impl IntoIterator<Item = Token>) {
        self.0.put(tokens);
    }
}

/// Tokens that were given back through handles and that the stream has not collected.
pub(crate) struct Inbox {
    stream: StreamTag,
    tokens: Mutex<Vec<Token>>,
    /// Whether the inbox has tokens, readable without the lock.
    any: AtomicBool,
    notify: Option<Notify>,
    /// Eventfd that wakes a blocking stream; made when a stream first sleeps while frags are kept.
    bell: OnceLock<EventFd>,
}

impl Inbox {
    fn put(&self, tokens: impl IntoIterator<Item = Token>) {
        let mut putting = PutGuard {
            inbox: self,
            tokens: Some(self.tokens.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        let ours = |token: &Token| token.check(self.stream);
        if let Some(inbox) = &mut putting.tokens {
            inbox.extend(tokens.into_iter().inspect(ours));
        }
    }
}

/// Guard of the inbox while tokens are added: its drop notifies the stream, also if the iterator
/// panics or a token is another stream's.
struct PutGuard<'a> {
    inbox: &'a Inbox,
    tokens: Option<MutexGuard<'a, Vec<Token>>>,
}

impl Drop for PutGuard<'_> {
    fn drop(&mut self) {
        let Some(tokens) = self.tokens.take() else {
            return;
        };
        let first = !tokens.is_empty() && !self.inbox.any.swap(true, Ordering::Release);
        drop(tokens);
        if !first {
            return;
        }
        if let Some(notify) = &self.inbox.notify {
            notify();
        }
        // Pairs with the fence of `Returns::bell`: either the bell is seen here, or the tokens there.
        fence(Ordering::SeqCst);
        if let Some(bell) = self.inbox.bell.get() {
            // A full counter, the only error, wakes as well.
            let _full = bell.write(1);
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("any", &self.any).finish()
    }
}

/// The stream's side of its inbox, which is made when a [`ReturnHandle`] is first requested.
#[derive(Default)]
pub(crate) struct Returns {
    inbox: Option<Arc<Inbox>>,
    notify: Option<Notify>,
    /// Empty vector to exchange for the inbox's vector of tokens.
    spare: Vec<Token>,
}

impl Returns {
    pub(crate) fn on_return(&mut self, notify: Notify) {
        self.notify = Some(notify);
    }

    pub(crate) fn handle(&mut self, stream: StreamTag) -> ReturnHandle {
        let inbox = self.inbox.get_or_insert_with(|| {
            Arc::new(Inbox {
                stream,
                tokens: Mutex::default(),
                any: AtomicBool::new(false),
                notify: self.notify.clone(),
                bell: OnceLock::new(),
            })
        });
        ReturnHandle(Arc::clone(inbox))
    }

    /// Whether tokens wait in the inbox.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        let inbox = self.inbox.as_ref();
        inbox.is_some_and(|inbox| inbox.any.load(Ordering::Relaxed))
    }

    /// Eventfd that becomes readable when a frag comes back, for a stream to sleep on; `None` if no
    /// handle exists, or if a frag has come back already.
    pub(crate) fn bell(&self) -> io::Result<Option<BorrowedFd<'_>>> {
        let Some(inbox) = &self.inbox else {
            return Ok(None);
        };
        let bell = match inbox.bell.get() {
            Some(bell) => bell,
            None => {
                let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
                let new = EventFd::from_value_and_flags(0, flags)?;
                inbox.bell.get_or_init(|| new)
            }
        };
        // The bell has not rung, or is outdated: the inbox is looked at next.
        let _empty = bell.read();
        fence(Ordering::SeqCst);
        Ok((!inbox.any.load(Ordering::Acquire)).then(|| bell.as_fd()))
    }

    /// Whether frags may come back through a [`ReturnHandle`].
    pub(crate) fn is_used(&self) -> bool {
        self.inbox.is_some()
    }

    /// Passes each token in the inbox to `take`, and empties the inbox.
    pub(crate) fn collect(&mut self, take: impl FnMut(Token)) {
        let Some(inbox) = &self.inbox else { return };
        if !inbox.any.swap(false, Ordering::Acquire) {
            return;
        }
        let mut tokens = inbox.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *tokens, &mut self.spare);
        drop(tokens);
        self.spare.drain(..).for_each(take);
    }
}

impl fmt::Debug for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Returns").field(&self.inbox).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::cmsg::DmabufCmsg;

    const OURS: StreamTag = StreamTag(1);

    fn token(id: u32, stream: StreamTag) -> Token {
        let frag = DmabufCmsg {
            frag_offset: 0,
            frag_size: 1,
            frag_token: id,
            dmabuf_id: 1,
        };
        Token::new(&frag, stream)
    }

    /// A token that is given back while a stream is about to sleep is seen at once or rings the
    /// bell, in any interleaving.
    #[test]
    fn a_returned_token_is_seen_or_wakes_the_stream() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut returns = Returns::default();
        let handle = returns.handle(OURS);
        assert!(returns.is_used());
        for id in 0..2000 {
            let handle = handle.clone();
            let other = std::thread::spawn(move || handle.give_back(token(id, OURS)));
            while !returns.any() {
                let Some(bell) = returns.bell().unwrap() else {
                    break;
                };
                let mut fds = [PollFd::new(bell, PollFlags::POLLIN)];
                let rang = poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
                assert_eq!(rang, 1, "asleep with token {id} there");
            }
            let mut ids = Vec::new();
            returns.collect(|token| ids.push(token.into_parts().0));
            assert_eq!(ids, [id]);
            other.join().unwrap();
        }
    }

    #[test]
    fn tokens_before_a_panic_come_back_and_notify() {
        let told = Arc::new(AtomicU32::new(0));
        let mut returns = Returns::default();
        let counter = Arc::clone(&told);
        returns.on_return(Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let handle = returns.handle(OURS);
        let collected = |returns: &mut Returns| {
            let mut ids = Vec::new();
            returns.collect(|token| ids.push(token.into_parts().0));
            (ids, told.load(Ordering::Relaxed))
        };
        let tokens = [token(1, OURS), token(2, StreamTag(2)), token(3, OURS)];
        let put = AssertUnwindSafe(|| handle.give_back_all(tokens));
        assert!(catch_unwind(put).is_err());
        assert_eq!(collected(&mut returns), (vec![1], 1));
        handle.give_back(token(4, OURS));
        handle.give_back(token(5, OURS));
        assert_eq!(collected(&mut returns), (vec![4, 5], 2));
        assert_eq!(collected(&mut returns), (vec![], 2));
    }
}
