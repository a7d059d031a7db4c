//! Tokens that come back from elsewhere: from another thread, or after the call that brought them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::segment::{StreamTag, Token};

/// Called when tokens lie in an inbox that was empty.
pub(crate) type Notify = Arc<dyn Fn() + Send + Sync>;

/// Gives frags of one stream back from wherever it is: another thread, a later call, after the end
/// of the connection. Cheap to clone.
///
/// The tokens reach the kernel with the stream's next flush. An [engine](crate::engine) is woken for
/// that; who runs a stream by himself may be told by
/// [`DevmemStream::on_return`](crate::DevmemStream::on_return).
#[derive(Debug, Clone)]
pub struct ReturnHandle(Arc<Inbox>);

impl ReturnHandle {
    /// Gives a frag back.
    ///
    /// # Panics
    /// If the token was issued by another stream.
    pub fn give_back(&self, token: Token) {
        self.give_back_all([token]);
    }

    /// Gives frags back, under one lock and with one wake-up.
    ///
    /// # Panics
    /// If a token was issued by another stream.
    pub fn give_back_all(&self, tokens: impl IntoIterator<Item = Token>) {
        self.0.put(tokens);
    }
}

/// Tokens between those who give them back and the stream that collects them.
pub(crate) struct Inbox {
    stream: StreamTag,
    tokens: Mutex<Vec<Token>>,
    /// Whether there are any, to be seen without the lock.
    any: AtomicBool,
    notify: Option<Notify>,
}

impl Inbox {
    fn put(&self, tokens: impl IntoIterator<Item = Token>) {
        let mut inbox = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inbox.len();
        for token in tokens {
            token.check(self.stream);
            inbox.push(token);
        }
        let first = before == 0 && !inbox.is_empty();
        if first {
            self.any.store(true, Ordering::Release);
        }
        drop(inbox);
        if let (true, Some(notify)) = (first, &self.notify) {
            notify();
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("any", &self.any).finish()
    }
}

/// The stream's side of its inbox, which is made when somebody first asks for a handle.
#[derive(Default)]
pub(crate) struct Returns {
    inbox: Option<Arc<Inbox>>,
    notify: Option<Notify>,
    /// The vector that the inbox gets for the one taken.
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
            })
        });
        ReturnHandle(Arc::clone(inbox))
    }

    /// Has something come back?
    #[inline]
    pub(crate) fn any(&self) -> bool {
        let inbox = self.inbox.as_ref();
        inbox.is_some_and(|inbox| inbox.any.load(Ordering::Relaxed))
    }

    /// Hands what has come back to `take`.
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
