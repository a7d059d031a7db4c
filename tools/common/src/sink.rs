//! Payload sinks of any kind.

use devmem::Received;
use devmem::pattern::Pattern;
use devmem::sink::device::{self, Devices};
use devmem::sink::{Checksum, Discard, Memory, Sink, SinkError, Validate, Write};

use crate::Output;

/// A sink of any kind; the connections' sinks leave the engine with its report.
pub enum AnySink {
    /// Looks at nothing.
    Discard(Discard),
    /// Compares the stream with a pattern.
    Validate(Validate),
    /// Writes the stream out.
    Write(Write<Output>),
    /// Sums the stream up.
    Checksum(Checksum),
    /// The same, by the memory's device.
    DeviceValidate(device::Validate),
    /// The same, by the memory's device.
    DeviceWrite(device::Write<Output>),
    /// The same, by the memory's device.
    DeviceChecksum(device::Checksum),
}

impl AnySink {
    /// The CRC-32 of what the sink took, and of how many bytes that is, where it makes one.
    pub fn crc32(&self) -> Option<(u32, u64)> {
        match self {
            AnySink::Checksum(checksum) => Some((checksum.crc32(), checksum.bytes())),
            AnySink::DeviceChecksum(checksum) => Some((checksum.crc32(), checksum.bytes())),
            _ => None,
        }
    }

    /// Bytes of the stream that were compared and right, up to the first wrong one; none where the
    /// sink compares none.
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

    /// Closes the output; an error of `close` fails the connection.
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

/// Who reads the payload.
#[derive(Clone)]
pub enum Reader {
    /// The CPU, by mappings.
    Cpu(Memory),
    /// The devices whose memory it is.
    Devices(Devices),
}

impl Reader {
    /// A sink that compares the stream with `pattern`.
    pub fn validate(&self, pattern: &Pattern) -> AnySink {
        let pattern = pattern.clone();
        match self.clone() {
            Self::Cpu(memory) => AnySink::Validate(Validate::new(pattern, memory)),
            Self::Devices(devices) => {
                AnySink::DeviceValidate(device::Validate::new(pattern, devices))
            }
        }
    }

    /// A sink that writes the stream to `out`.
    pub fn write(&self, out: Output) -> AnySink {
        match self.clone() {
            Self::Cpu(memory) => AnySink::Write(Write::new(out, memory)),
            Self::Devices(devices) => AnySink::DeviceWrite(device::Write::new(out, devices)),
        }
    }

    /// A sink that sums the stream up.
    pub fn checksum(&self) -> AnySink {
        match self.clone() {
            Self::Cpu(memory) => AnySink::Checksum(Checksum::new(memory)),
            Self::Devices(devices) => AnySink::DeviceChecksum(device::Checksum::new(devices)),
        }
    }
}
