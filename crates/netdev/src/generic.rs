//! What the handles of generic netlink families share: a socket and the family's number.

use netlink::{Attrs, Family, NetNs, Request, Result, Socket, Vocabulary};

use crate::Ifindex;
use crate::parse::Parsed;
use crate::sys;

/// A socket that speaks one family.
#[derive(Debug)]
pub(crate) struct Generic {
    pub(crate) socket: Socket,
    pub(crate) family: Family,
}

impl Generic {
    pub(crate) fn open(name: &'static str, words: Vocabulary) -> Result<Self> {
        Self::over(Socket::generic()?, name, words)
    }

    pub(crate) fn open_in(name: &'static str, words: Vocabulary, ns: &NetNs) -> Result<Self> {
        Self::over(Socket::generic_in(ns)?, name, words)
    }

    fn over(mut socket: Socket, name: &'static str, words: Vocabulary) -> Result<Self> {
        let family = socket.family(name)?;
        socket.set_vocabulary(words);
        Ok(Self { socket, family })
    }

    /// What errors call a device: its name, or its number where there is none.
    pub(crate) fn device(&self, ifindex: Ifindex) -> String {
        sys::device_name(&self.socket, ifindex)
    }

    pub(crate) fn ask<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(Attrs<'_>) -> Parsed<T>,
    ) -> Result<T> {
        let answer = self.socket.ask(request)?;
        let parsed = answer.generic().and_then(|(_, attrs)| parse(attrs));
        parsed.map_err(|e| request.malformed(e))
    }

    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(Attrs<'_>) -> Parsed<T>,
    ) -> Result<Vec<T>> {
        let answers = self.socket.dump(request)?;
        let parsed = answers.iter().map(|answer| parse(answer.generic()?.1));
        parsed
            .collect::<Parsed<_>>()
            .map_err(|e| request.malformed(e))
    }
}
