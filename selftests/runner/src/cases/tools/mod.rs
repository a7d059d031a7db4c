//! The tools as their users see them: options, texts, JSON, sending, `ncdevmem`, the examples.

pub(super) mod examples;
pub(super) mod feel;
pub(super) mod json;
pub(super) mod names;
pub(super) mod ncdevmem;
pub(super) mod ncdevmem_client;
pub(super) mod ncdevmem_probe;
pub(super) mod options;
pub(super) mod remedies;
pub(super) mod send;
pub(super) mod send_errors;
pub(super) mod tool_errors;
pub(super) mod watch;
