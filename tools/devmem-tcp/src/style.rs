//! Colours, only on a terminal, unless `NO_COLOR` is set or the terminal is dumb.

use std::env;
use std::io::{self, IsTerminal};

use common::text;

/// Style of a stream's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// Style for standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            on: io::stdout().is_terminal() && wanted(),
        }
    }

    /// Style for standard error.
    pub(crate) fn stderr() -> Self {
        Self {
            on: io::stderr().is_terminal() && wanted(),
        }
    }

    /// Whether text is coloured at all.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// Style for what is right, or has come.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Style for warnings.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Style for what is wrong, or has gone.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Style for the head of a table, or a name.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Style for what matters less: a time, a remedy.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Puts an SGR sequence around the text (ECMA-48, 8.3.117).
    fn paint(self, sgr: &str, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("{}{text}{}", text::colour(sgr), text::colour("0"))
        } else {
            text.to_owned()
        }
    }
}

/// Whether colours are wanted: without `NO_COLOR` (no-color.org: set, and not empty), and on a
/// terminal that can show them.
fn wanted() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paints_only_when_on() {
        assert_eq!(Style { on: false }.bad("gone"), "gone");
        let gone = Style { on: true }.bad("gone");
        assert_eq!(text::shown(&gone), "\x1b[31mgone\x1b[0m");
        assert_eq!(Style { on: true }.good(""), "");
    }

    #[test]
    fn a_colour_takes_no_room() {
        assert_eq!(text::width(&Style { on: true }.bold("höher")), 5);
    }
}
