//! Sinks for a receiver's payload: discard, validate, checksum, or write to a file or stdout.

use std::sync::Arc;

use ::memory::AnyMemory;
use anyhow::{Context, Result};
use clap::error::ErrorKind;
use common::Output;
use common::sink::{AnySink, Reader};
use devmem::DmabufId;
use devmem::engine::Peer;
use devmem::pattern::Pattern;
use devmem::sink::device::{Devices, SharedDevice};
use devmem::sink::{Discard, Memory, SinkError};
use dmabuf::{Dmabuf, Protection};
use netdev::queues::Binding;
use receiver::Receiver;

use super::connections::Connections;
use crate::args::period;

/// Receiver that is set up and ready to receive, with this tool's memory and sink types.
pub(super) type Ready<'a> = receiver::Ready<'a, AnyMemory, AnySink>;

/// Size in bytes of the buffer in which a device gathers the payload of a `recvmsg` for `--output`.
const STAGING: u64 = 1 << 20;

#[derive(clap::Args)]
pub(super) struct SinkArgs {
    /// Check that the payload is the pattern of this period
    #[arg(long, value_name = "N", value_parser = period)]
    pub(super) validate: Option<usize>,
    /// Write the payload to this file, or to standard output if it is -
    #[arg(long, short, value_name = "FILE", conflicts_with = "validate")]
    output: Option<String>,
    /// Sum up the payload of each connection: the CRC-32 of `cksum -a crc32b` and zlib
    #[arg(long, conflicts_with_all = ["validate", "output"])]
    checksum: bool,
    /// Leave it to the memory's device to read payload, where the CPU could, too
    #[arg(long, hide = true)]
    by_device: bool,
}

impl SinkArgs {
    /// Exits with a usage error if `--output` is given for more than one connection.
    pub(super) fn check(&self, connections: Connections) {
        if self.output.is_some() && connections != Connections::Limited(1) {
            let text =
                format!("--output takes the payload of one connection, not of {connections}\n");
            clap::Error::raw(ErrorKind::ArgumentConflict, text).exit();
        }
    }

    /// Opens the file or standard output that `--output` names.
    pub(super) fn open(&self) -> Result<Sinks<'_>> {
        let to_stdout = self.output.as_deref() == Some("-");
        let out = match self.output.as_deref() {
            Some("-") => Some(Output::stdout()?),
            Some(path) => Some(Output::create(path)?),
            None => None,
        };
        Ok(Sinks {
            args: self,
            out,
            to_stdout,
        })
    }

    /// Makes the reader that sinks read payload with: mapped dmabufs, or the memory's own device
    /// where the CPU can't map them. Maps nothing if no sink reads payload.
    fn reader<'a>(
        &self,
        bound: impl IntoIterator<Item = (&'a Binding, &'a AnyMemory)>,
    ) -> Result<Reader> {
        let (mut memory, mut devices) = (Memory::new(), Devices::new());
        let mut by_device = self.by_device;
        let unread = !self.checksum && self.validate.is_none() && self.output.is_none();
        for (binding, dmabuf) in bound.into_iter().filter(|_| !unread) {
            let id = DmabufId::new(binding.id().get());
            if self.by_device || !dmabuf.on_host() {
                let staging = self.output.as_ref().map_or(0, |_| STAGING);
                let device = dmabuf.device(staging).context("a device for the payload")?;
                devices = devices.with(id, SharedDevice::new(device));
                by_device = true;
            } else {
                let mapping = dmabuf.map(Protection::Read).context("mapping the dmabuf")?;
                memory = memory.with(id, Arc::new(mapping));
            }
        }
        // All dmabufs are of one kind.
        Ok(match by_device {
            true => Reader::Devices(devices),
            false => Reader::Cpu(memory),
        })
    }
}

/// Factory of the sinks that the options ask for, with the opened `--output`.
pub(super) struct Sinks<'a> {
    args: &'a SinkArgs,
    out: Option<Output>,
    /// Whether the payload is written to standard output, which then carries nothing else.
    pub(super) to_stdout: bool,
}

impl Sinks<'_> {
    /// Returns a closure that makes a connection's sink. The first sink writes to `--output`.
    pub(super) fn maker(
        self,
        receiver: &Receiver<AnyMemory>,
    ) -> Result<impl FnMut(&Peer) -> Result<AnySink, SinkError> + use<>> {
        let Self { args, mut out, .. } = self;
        let reader = args.reader(receiver.bindings())?;
        let pattern = args
            .validate
            .map(Pattern::new)
            .transpose()
            .context("--validate")?;
        let checksum = args.checksum;
        Ok(move |_: &Peer| -> Result<AnySink, SinkError> {
            Ok(match (&pattern, out.take()) {
                (Some(pattern), _) => reader.validate(pattern),
                (None, Some(out)) => reader.write(out),
                (None, None) if checksum => reader.checksum(),
                (None, None) => AnySink::Discard(Discard),
            })
        })
    }
}
