//! Printing of results on stdout, and of messages on stderr.

use std::fmt;

use anyhow::{Context, Result};
use common::stdio;
use serde::Serialize;

/// Prints text for people, with control characters escaped.
pub(crate) fn text(text: &str) -> Result<()> {
    stdio::stdout().print(text).context("stdout")
}

/// Prints text for programs, or the tool's own pages, unchanged.
pub(crate) fn raw(text: &str) -> Result<()> {
    stdio::stdout().print_raw(text).context("stdout")
}

/// Prints a JSON value on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).context("JSON")?;
    line.push('\n');
    raw(&line)
}

/// Prints a line on stderr.
pub(crate) fn say(text: impl fmt::Display) {
    stdio::say("devmem-tcp", text);
}

/// Posts a line on stderr without waiting: a receiver must not be held up by a slow reader.
pub(crate) fn tell(text: impl fmt::Display) {
    stdio::tell("devmem-tcp", text);
}
