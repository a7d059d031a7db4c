use super::{Sink, SinkError};
use crate::segment::Received;

/// Sink that reads no byte of the stream and gives every frag back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    fn consume(&mut self, _received: &mut Received<'_>) -> Result<(), SinkError> {
        Ok(())
    }
}
