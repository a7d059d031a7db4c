//! Results on stdout, the rest on stderr.

use std::fmt;

use anyhow::{Context, Result};
use common::stdio;
use serde::Serialize;

/// Text, as it is.
pub(crate) fn text(text: &str) -> Result<()> {
    stdio::stdout().print(text).context("stdout")
}

/// One JSON value on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).context("JSON")?;
    line.push('\n');
    text(&line)
}

/// A line on stderr.
pub(crate) fn say(text: impl fmt::Display) {
    stdio::say("devmem-tcp", text);
}

/// The same, from within a receiver, which no reader of it may hold up.
pub(crate) fn tell(text: impl fmt::Display) {
    stdio::tell("devmem-tcp", text);
}
