//! Socket of a generic netlink family, shared by the families of this crate.

use netlink::{Attrs, Family, FindMessageSpec, NetNs, Request, Result, Socket};

use crate::Ifindex;
use crate::parse::Parsed;
use crate::sys;

/// A generic netlink socket, and the family that its requests belong to.
#[derive(Debug)]
pub(crate) struct FamilySocket {
    pub(crate) socket: Socket,
    pub(crate) family: Family,
}

impl FamilySocket {
    pub(crate) fn open(name: &'static str, message_spec: FindMessageSpec) -> Result<Self> {
        Self::over(Socket::generic()?, name, message_spec)
    }

    pub(crate) fn open_in(
        name: &'static str,
        message_spec: FindMessageSpec,
        ns: &NetNs,
    ) -> Result<Self> {
        Self::over(Socket::generic_in(ns)?, name, message_spec)
    }

    fn over(mut socket: Socket, name: &'static str, message_spec: FindMessageSpec) -> Result<Self> {
        let family = socket.family(name)?;
        socket.set_message_specs(message_spec);
        Ok(Self { socket, family })
    }

    /// Name of a device for errors: its name, or its number if it has none.
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
