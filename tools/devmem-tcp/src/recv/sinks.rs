//! Where the payload goes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use ::memory::AnyMemory;
use anyhow::{Context, Result, bail};
use devmem::engine::Peer;
use devmem::pattern::Pattern;
use devmem::sink::{Checksum, Discard, Memory, Sink, SinkError, Validate, Write};
use devmem::{DmabufId, Received};
use dmabuf::{Dmabuf, Protection};
use netdev::Binding;

/// A sink of any kind; the connections' sinks leave the engine with its report.
pub(super) enum AnySink {
    Discard(Discard),
    Validate(Validate),
    Write(Write<Box<dyn io::Write + Send>>),
    Checksum(Checksum),
}

impl AnySink {
    /// The sum of what it took, where it makes one.
    pub(super) fn crc32(&self) -> Option<u32> {
        match self {
            AnySink::Checksum(checksum) => Some(checksum.crc32()),
            _ => None,
        }
    }
}

impl Sink for AnySink {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        match self {
            AnySink::Discard(sink) => sink.consume(received),
            AnySink::Validate(sink) => sink.consume(received),
            AnySink::Write(sink) => sink.consume(received),
            AnySink::Checksum(sink) => sink.consume(received),
        }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        match self {
            AnySink::Discard(sink) => sink.finish(),
            AnySink::Validate(sink) => sink.finish(),
            AnySink::Write(sink) => sink.finish(),
            AnySink::Checksum(sink) => sink.finish(),
        }
    }
}

#[derive(clap::Args)]
pub(super) struct SinkArgs {
    /// Check that the payload is the pattern of this period
    #[arg(long, value_name = "N")]
    pub(super) validate: Option<usize>,
    /// Write the payload to this file, or to standard output if it is -
    #[arg(long, short, value_name = "FILE", conflicts_with = "validate")]
    output: Option<String>,
    /// Sum up the payload of each connection: the CRC-32 of `cksum -a crc32b` and zlib
    #[arg(long, conflicts_with_all = ["validate", "output"])]
    checksum: bool,
}

impl SinkArgs {
    /// Whether the payload goes to standard output, which is then nobody else's.
    pub(super) fn to_stdout(&self) -> bool {
        self.output.as_deref() == Some("-")
    }

    /// Maps the bound dmabufs, if the sinks read them.
    pub(super) fn map<'a>(
        &self,
        bound: impl IntoIterator<Item = (&'a Binding, &'a AnyMemory)>,
    ) -> Result<Memory> {
        let mut memory = Memory::new();
        if !self.checksum && self.validate.is_none() && self.output.is_none() {
            return Ok(memory);
        }
        for (binding, dmabuf) in bound {
            let mapping = dmabuf.map(Protection::Read).context("mapping the dmabuf")?;
            memory = memory.with(DmabufId::new(binding.id().get()), Arc::new(mapping));
        }
        Ok(memory)
    }

    /// What makes a sink for each of so many connections.
    pub(super) fn maker(
        &self,
        connections: u32,
        memory: Memory,
    ) -> Result<impl FnMut(&Peer) -> Result<AnySink, SinkError> + use<>> {
        let pattern = self
            .validate
            .map(Pattern::new)
            .transpose()
            .context("--validate")?;
        let mut out: Option<Box<dyn io::Write + Send>> = match self.output.as_deref() {
            None => None,
            Some("-") => Some(Box::new(io::stdout())),
            Some(path) => Some(Box::new(
                File::create(path).with_context(|| path.to_owned())?,
            )),
        };
        if out.is_some() && connections != 1 {
            bail!("--output takes the payload of one connection, not of {connections}");
        }
        let checksum = self.checksum;
        Ok(move |_: &Peer| -> Result<AnySink, SinkError> {
            let memory = memory.clone();
            Ok(match (&pattern, out.take()) {
                (Some(pattern), _) => AnySink::Validate(Validate::new(pattern.clone(), memory)),
                (None, Some(out)) => AnySink::Write(Write::new(out, memory)),
                (None, None) if checksum => AnySink::Checksum(Checksum::new(memory)),
                (None, None) => AnySink::Discard(Discard),
            })
        })
    }
}
