//! Colours, for people only: on a terminal, unless `NO_COLOR` or a dumb one says otherwise.

use std::env;
use std::io::{self, IsTerminal};

use common::text;

/// Whether and how a stream's text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// For what goes to standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            on: io::stdout().is_terminal() && wanted(),
        }
    }

    /// For what goes to standard error.
    pub(crate) fn stderr() -> Self {
        Self {
            on: io::stderr().is_terminal() && wanted(),
        }
    }

    /// Whether text is coloured at all.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// What is as it should be, or has come.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What may be in the way.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What is wrong, or has gone.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// The head of a table, the name of a thing.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters less: a time, a remedy.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// An SGR sequence around the text (ECMA-48, 8.3.117).
    fn paint(self, sgr: &str, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("{}{text}{}", text::colour(sgr), text::colour("0"))
        } else {
            text.to_owned()
        }
    }
}

/// Neither `NO_COLOR` (no-color.org: set, and not empty) nor a terminal that can't.
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
