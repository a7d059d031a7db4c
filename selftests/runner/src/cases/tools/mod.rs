//! The tools as their users see them: options, texts, JSON, sending, `ncdevmem`, the examples.

mod completions;
mod docs;
mod docs_undone;
mod documents;
mod examples;
mod feel;
pub(super) mod json;
mod mistakes;
mod names;
pub(super) mod ncdevmem;
mod ncdevmem_client;
mod ncdevmem_probe;
mod options;
mod readme;
pub(super) mod remedies;
mod send;
mod send_errors;
pub(super) mod tool_errors;
mod watch;
