//! Errors in words.

use std::error::Error;
use std::fmt;

/// An error's text and those of its sources, with colons between, as `{:#}` of `anyhow` has it.
pub fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// An error that knows its own remedy.
#[derive(Debug)]
pub struct Hint {
    text: String,
    remedy: String,
}

impl Hint {
    /// What failed, and what to do about it.
    pub fn new(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            remedy: remedy.into(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Hint {}
