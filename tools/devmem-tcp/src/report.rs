//! Printing of results on stdout, and of messages on stderr.

use std::os::fd::AsFd;
use std::{fmt, io};

use anyhow::{Context, Result};
use common::stdio;
use serde::Serialize;

use crate::style::Style;

/// Prints text for people, with control characters escaped.
pub(crate) fn text(text: &str) -> Result<()> {
    stdio::stdout().print(text).context("stdout")
}

/// Prints text for programs, or the tool's own pages, unchanged.
pub(crate) fn raw(text: &str) -> Result<()> {
    stdio::stdout().print_raw(text).context("stdout")
}

/// Number of columns of stdout, where it is a terminal that says.
pub(crate) fn columns() -> Option<usize> {
    columns_of(io::stdout())
}

/// Number of columns of stderr, like [`columns`].
pub(crate) fn stderr_columns() -> Option<usize> {
    columns_of(io::stderr())
}

fn columns_of(stream: impl AsFd) -> Option<usize> {
    let (columns, _) = terminal_size::terminal_size_of(stream)?;
    (columns.0 > 0).then_some(columns.0.into())
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

/// Posts a line on stderr without waiting: a receiver must not be held up by a slow reader. Returns false if the
/// line was dropped.
pub(crate) fn tell(text: impl fmt::Display) -> bool {
    stdio::tell("devmem-tcp", text)
}

/// Posts a warning on stderr, like [`tell`].
pub(crate) fn warn(text: &str) -> bool {
    let warning = Style::stderr().warn("warning");
    stdio::stderr().post(&format!("devmem-tcp: {warning}: {text}\n"))
}
