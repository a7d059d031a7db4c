//! Results on stdout.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// Text, as it is.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("stdout")
}

/// One JSON value on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).context("JSON")?;
    line.push('\n');
    text(&line)
}
