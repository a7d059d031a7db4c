use super::{Memory, Part, Sink, SinkError};
use crate::pattern::{Mismatch, Pattern, Validator};
use crate::segment::Received;

/// Sink that compares the stream with a [`Pattern`], in place.
#[derive(Debug, Clone)]
pub struct Validate {
    validator: Validator,
    wrong: Option<Mismatch>,
    memory: Memory,
}

impl Validate {
    /// Makes a sink that compares with `pattern`, with frags in `memory`.
    pub fn new(pattern: Pattern, memory: Memory) -> Self {
        Self {
            validator: Validator::new(pattern),
            wrong: None,
            memory,
        }
    }

    /// Number of bytes of the stream that were compared and right, up to the first wrong one.
    pub fn validated(&self) -> u64 {
        self.wrong
            .map_or(self.validator.offset(), |wrong| wrong.offset)
    }
}

impl Sink for Validate {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            validator,
            wrong,
            memory,
        } = self;
        let checked = memory.read_all(received, |part| {
            match part {
                Part::Inline(bytes) => validator.check(bytes)?,
                Part::Frag {
                    access,
                    offset,
                    len,
                } => validator.check_dmabuf(access, offset, len)?,
            }
            Ok(())
        });
        if let Err(SinkError::Mismatch(mismatch)) = &checked {
            wrong.get_or_insert(*mismatch);
        }
        checked
    }
}
