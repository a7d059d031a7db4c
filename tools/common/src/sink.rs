//! Payload sinks, selected at run time.

use devmem::Received;
use devmem::pattern::Pattern;
use devmem::sink::device::{self, Devices};
use devmem::sink::{Checksum, Discard, Memory, Sink, SinkError, Validate, Write};

use crate::Output;

/// A sink of any kind. The engine returns it with the report of its connection.
pub enum AnySink {
    /// Discards the stream.
    Discard(Discard),
    /// Compares the stream with a pattern, on the CPU.
    Validate(Validate),
    /// Writes the stream out, by the CPU.
    Write(Write<Output>),
    /// Computes the checksum of the stream, on the CPU.
    Checksum(Checksum),
    /// Compares the stream with a pattern, on the memory's device.
    DeviceValidate(device::Validate),
    /// Writes the stream out, gathered by the memory's device.
    DeviceWrite(device::Write<Output>),
    /// Computes the checksum of the stream, on the memory's device.
    DeviceChecksum(device::Checksum),
}

impl AnySink {
    /// CRC-32 of the stream and the number of bytes that it covers, where the sink computes one.
    pub fn crc32(&self) -> Option<(u32, u64)> {
        match self {
            AnySink::Checksum(checksum) => Some((checksum.crc32(), checksum.bytes())),
            AnySink::DeviceChecksum(checksum) => Some((checksum.crc32(), checksum.bytes())),
            _ => None,
        }
    }

    /// Number of bytes that were compared and right, up to the first wrong one; `None` where the
    /// sink does not compare.
    pub fn validated(&self) -> Option<u64> {
        match self {
            AnySink::Validate(validate) => Some(validate.validated()),
            AnySink::DeviceValidate(validate) => Some(validate.validated()),
            _ => None,
        }
    }

    fn inner(&mut self) -> &mut dyn Sink {
        match self {
            AnySink::Discard(sink) => sink,
            AnySink::Validate(sink) => sink,
            AnySink::Write(sink) => sink,
            AnySink::Checksum(sink) => sink,
            AnySink::DeviceValidate(sink) => sink,
            AnySink::DeviceWrite(sink) => sink,
            AnySink::DeviceChecksum(sink) => sink,
        }
    }
}

impl Sink for AnySink {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        self.inner().consume(received)
    }

    /// Closes the output. An error of `close` fails the connection.
    fn finish(&mut self) -> Result<(), SinkError> {
        self.inner().finish()?;
        let output = match self {
            AnySink::Write(write) => write.get_mut(),
            AnySink::DeviceWrite(write) => write.get_mut(),
            _ => return Ok(()),
        };
        output.close().map_err(SinkError::Write)
    }

    fn abandon(&mut self) {
        self.inner().abandon();
    }
}

/// What reads the payload in the memory: the CPU, or the memory's device.
#[derive(Clone)]
pub enum Reader {
    /// The CPU reads through mappings of the memory.
    Cpu(Memory),
    /// The devices that own the memory read it.
    Devices(Devices),
}

impl Reader {
    /// Creates a sink that compares the stream with `pattern`.
    pub fn validate(&self, pattern: &Pattern) -> AnySink {
        let pattern = pattern.clone();
        match self.clone() {
            Self::Cpu(memory) => AnySink::Validate(Validate::new(pattern, memory)),
            Self::Devices(devices) => {
                AnySink::DeviceValidate(device::Validate::new(pattern, devices))
            }
        }
    }

    /// Creates a sink that writes the stream to `out`.
    pub fn write(&self, out: Output) -> AnySink {
        match self.clone() {
            Self::Cpu(memory) => AnySink::Write(Write::new(out, memory)),
            Self::Devices(devices) => AnySink::DeviceWrite(device::Write::new(out, devices)),
        }
    }

    /// Creates a sink that computes the checksum of the stream.
    pub fn checksum(&self) -> AnySink {
        match self.clone() {
            Self::Cpu(memory) => AnySink::Checksum(Checksum::new(memory)),
            Self::Devices(devices) => AnySink::DeviceChecksum(device::Checksum::new(devices)),
        }
    }
}
