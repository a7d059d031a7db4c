//! Errors with remedies, and their text.

use std::error::Error;
use std::fmt;

/// An error with the text of its own remedy.
#[derive(Debug)]
pub struct Hint {
    text: String,
    remedy: String,
}

impl Hint {
    /// Creates an error from its text and its remedy.
    pub fn new(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            remedy: remedy.into(),
        }
    }

    /// Remedy of the error.
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
