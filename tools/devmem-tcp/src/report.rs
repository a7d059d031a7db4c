//! Results on stdout, the rest on stderr.

use std::fmt;

use anyhow::{Context, Result};
use common::stdio;
use serde::Serialize;

/// Text for people: what a terminal would act on is shown as text.
pub(crate) fn text(text: &str) -> Result<()> {
    stdio::stdout().print(text).context("stdout")
}

/// What is for a program, or a page of our own: as it is.
pub(crate) fn raw(text: &str) -> Result<()> {
    stdio::stdout().print_raw(text).context("stdout")
}

/// One JSON value on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).context("JSON")?;
    line.push('\n');
    raw(&line)
}

/// A line on stderr.
pub(crate) fn say(text: impl fmt::Display) {
    stdio::say("devmem-tcp", text);
}

/// The same, from within a receiver, which no reader of it may hold up.
pub(crate) fn tell(text: impl fmt::Display) {
    stdio::tell("devmem-tcp", text);
}
