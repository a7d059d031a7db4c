//! Text for terminals, without control characters except the program's own colours.
//!
//! Names of devices, namespaces and processes come from outside and may hold control characters.
//! Text is built as if they did not, and every stream shows them escaped: see [`shown`].

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use anstyle::Style;
use unicode_width::UnicodeWidthChar;

/// Random mark around the program's own colours, which tells them from control characters in a name.
static OURS: LazyLock<String> = LazyLock::new(|| {
    let number = RandomState::new().hash_one(std::process::id());
    format!("\x1b{number};")
});

/// Colours a text, with marked sequences that [`shown`] turns into the terminal's.
pub fn paint(style: Style, text: &str) -> String {
    let mark = &*OURS;
    format!("{mark}{style}{mark}{text}{mark}{style:#}{mark}")
}

/// Escapes control characters and characters that change the direction of text, as Rust does
/// (`\u{1b}`). Line feeds and the program's own [colours](paint) stay.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some((sequence, after)) = split_colour(rest) {
            shown.push_str(sequence);
            rest = after;
            continue;
        }
        match c {
            c if c != '\n' && acts_on_a_terminal(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    shown
}

/// Escapes a name or a cell of a table like [`shown`], line feeds included.
pub fn on_one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// Number of columns of a text when it is shown, without the program's own colours.
pub fn width(text: &str) -> usize {
    let mut columns = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some((_, after)) = split_colour(rest) {
            rest = after;
            continue;
        }
        columns += columns_of(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    columns
}

/// Shortens a text to a number of columns. What is cut off leaves a `…`; colours end where they did.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut left = columns;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some((_, after)) = split_colour(rest) {
            cut.push_str(rest.strip_suffix(after).unwrap_or_default());
            rest = after;
            continue;
        }
        // One column is for the ellipsis.
        if columns_of(c) < left {
            cut.push(c);
            left -= columns_of(c);
        } else if left > 0 {
            cut.push('…');
            left = 0;
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    cut
}

/// Number of columns of a character when it is shown.
fn columns_of(c: char) -> usize {
    match acts_on_a_terminal(c) {
        true => c.escape_default().len(),
        false => c.width().unwrap_or(0),
    }
}

/// Splits a text that begins with a colour of the program into its sequence and the rest.
fn split_colour(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix(OURS.as_str())?.split_once(OURS.as_str())
}

/// Whether a terminal would act on a character instead of showing it.
fn acts_on_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use anstyle::{AnsiColor, Effects};

    use super::*;

    #[test]
    fn colours_of_a_name_are_none() {
        let name = "a\x1b[31mb\x1b]0;title\x07\r\u{9b}2J\u{202e}";
        assert_eq!(
            shown(name),
            r"a\u{1b}[31mb\u{1b}]0;title\u{7}\r\u{9b}2J\u{202e}"
        );
        let red = AnsiColor::Red.on_default();
        let ours = paint(red, "h\u{f6}her") + "\n";
        assert_eq!(shown(&ours), "\x1b[31mh\u{f6}her\x1b[0m\n");
        let name = paint(red | Effects::BOLD, "\x1b[1m");
        assert_eq!(shown(&name), "\x1b[1m\x1b[31m\\u{1b}[1m\x1b[0m");
        assert_eq!(shown(&paint(Style::new(), "plain")), "plain");
        assert_eq!(shown("\x1b[31;7m"), r"\u{1b}[31;7m");
    }

    #[test]
    fn a_width_is_that_of_the_shown_text() {
        for text in ["plain", "h\u{f6}her", "a\x1b[2Jb", "\t", "\x1b[", "\x1b[1"] {
            assert_eq!(width(text), shown(text).chars().count(), "{text:?}");
        }
        assert_eq!(width(&paint(Style::new().bold(), "ab")), 2);
    }

    #[test]
    fn a_wide_character_takes_two_columns_and_a_combining_one_none() {
        assert_eq!(width("\u{7db2}\u{8def}0"), 5);
        assert_eq!(width("e\u{301}th0"), 4);
        assert_eq!(width("a\u{200b}b"), 2);
    }

    #[test]
    fn what_is_cut_off_leaves_an_ellipsis() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 3), "ab…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(cut("\u{7db2}\u{8def}", 3), "\u{7db2}…");
        assert_eq!(cut("a\x1bb", 4), "a…");
        let bold = paint(Style::new().bold(), "abcdef") + "gh";
        assert_eq!(shown(&cut(&bold, 3)), "\x1b[1mab…\x1b[0m");
    }
}
