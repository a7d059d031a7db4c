//! Colours, where a stream shows them: on a terminal that is not dumb, unless `NO_COLOR` is set; or
//! anywhere if `CLICOLOR_FORCE` is.

use std::io;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::AnsiColor;
use common::text;

/// Style of the text on a standard stream: coloured or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// No colours, whatever the streams are.
    #[cfg(test)]
    pub(crate) const OFF: Self = Self { on: false };
    /// Colours, whatever the streams are.
    #[cfg(test)]
    pub(crate) const ON: Self = Self { on: true };

    /// Style for standard output.
    pub(crate) fn stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// Style for standard error.
    pub(crate) fn stderr() -> Self {
        Self::of(&io::stderr())
    }

    fn of(stream: &impl RawStream) -> Self {
        Self {
            on: AutoStream::choice(stream) != ColorChoice::Never,
        }
    }

    /// Whether text is coloured at all.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// Colours text about what is right, or has come.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// Colours a warning.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// Colours text about what is wrong, or has gone.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    /// Prints text bold: the head of a table, or a name.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(anstyle::Style::new().bold(), text)
    }

    /// Dims text that matters less: a time, a remedy.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(anstyle::Style::new().dimmed(), text)
    }

    fn paint(self, style: anstyle::Style, text: &str) -> String {
        match self.on && !text.is_empty() {
            true => text::paint(style, text),
            false => text.to_owned(),
        }
    }
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
