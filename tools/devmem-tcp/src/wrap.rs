//! Lines of text that are no wider than a terminal.

use common::text::width;

/// Breaks phrases into lines of at most `columns` columns; every line but the first is indented. A
/// phrase that is wider stays whole.
pub(crate) fn flow<'a>(
    phrases: impl IntoIterator<Item = &'a str>,
    columns: usize,
    indent: usize,
) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut used = 0;
    for phrase in phrases {
        let wide = width(phrase);
        match lines.last_mut() {
            Some(line) if used + 1 + wide <= columns => {
                line.push(' ');
                line.push_str(phrase);
                used += 1 + wide;
            }
            Some(_) => {
                lines.push(" ".repeat(indent) + phrase);
                used = indent + wide;
            }
            None => {
                lines.push(phrase.to_owned());
                used = wide;
            }
        }
    }
    lines
}

/// Breaks a text into lines at its blanks, like [`flow`].
pub(crate) fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    flow(text.split(' '), columns, indent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_long_as_they_may_be() {
        assert_eq!(wrap("one two three", 7, 2), ["one two", "  three"]);
        assert_eq!(wrap("one two three", 6, 1), ["one", " two", " three"]);
        assert_eq!(wrap("one two three", 80, 2), ["one two three"]);
        assert_eq!(wrap("", 80, 2), [""]);
    }

    #[test]
    fn a_long_word_stays_whole() {
        assert_eq!(
            wrap("a /a/long/path here", 6, 2),
            ["a", "  /a/long/path", "  here"]
        );
    }

    #[test]
    fn a_phrase_is_not_broken() {
        assert_eq!(flow(["a b,", "c d"], 5, 1), ["a b,", " c d"]);
    }
}
