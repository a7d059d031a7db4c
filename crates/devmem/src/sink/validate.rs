use super::{Memory, Part, Sink, SinkError};
use crate::pattern::{Pattern, Validator};
use crate::segment::Received;

/// Compares the stream with a [`Pattern`], in place.
#[derive(Debug, Clone)]
pub struct Validate {
    validator: Validator,
    memory: Memory,
}

impl Validate {
    /// Checks for `pattern`, with frags in `memory`.
    pub fn new(pattern: Pattern, memory: Memory) -> Self {
        Self {
            validator: Validator::new(pattern),
            memory,
        }
    }

    /// Bytes of the stream that were right so far.
    pub fn validated(&self) -> u64 {
        self.validator.offset()
    }
}

impl Sink for Validate {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self { validator, memory } = self;
        memory.read_all(received, |part| {
            match part {
                Part::Inline(bytes) => validator.check(bytes)?,
                Part::Frag {
                    access,
                    offset,
                    len,
                } => validator.check_dmabuf(access, offset, len)?,
            }
            Ok(())
        })
    }
}
