//! Quoting of words for commands that are shown to be pasted into a shell.
//!
//! Names of devices, namespaces and files come from outside: a device may be called `$(reboot)`.
//! The tools build each remedy with these functions, so that each name is exactly one word.

use std::borrow::Cow;

/// Quotes a text as one word of a POSIX shell, if necessary.
///
/// Quotes protect from the shell, but not from a terminal, which acts on control characters
/// anywhere. A word with control characters is written with `printf`.
///
/// ```
/// assert_eq!(netdev::shell_word("eth0"), "eth0");
/// assert_eq!(netdev::shell_word("$(reboot)"), "'$(reboot)'");
/// assert_eq!(netdev::shell_word("a\x1bb"), r#""$(printf 'a\033b')""#);
/// ```
pub fn shell_word(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts_on_a_terminal) {
        if let Ok(quoted) = shlex::try_quote(text) {
            return quoted;
        }
    }
    let spelled: String = text
        .bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("\\{other:03o}"),
        })
        .collect();
    // The shell removes line feeds at the end of a command substitution.
    let kept = spelled.trim_end_matches("\\012");
    let feeds = (spelled.len() - kept.len()) / "\\012".len();
    let feeds = match feeds {
        0 => String::new(),
        _ => format!("'{}'", "\n".repeat(feeds)),
    };
    Cow::Owned(format!("\"$(printf '{kept}')\"{feeds}"))
}

/// Joins words to one command line, each quoted if necessary.
///
/// ```
/// let command = netdev::shell_command(["ip", "link", "set", "dev", "a;b", "up"]);
/// assert_eq!(command, "ip link set dev 'a;b' up");
/// ```
pub fn shell_command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<Cow<'_, str>> = words.into_iter().map(shell_word).collect();
    words.join(" ")
}

/// Whether a terminal acts on a character instead of showing it: control characters of both sets,
/// and characters that change the direction or the lines of text.
fn acts_on_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Names with a meaning for a shell or a terminal.
    const NAMES: &[&str] = &[
        "",
        "eth0",
        "eth0.5",
        "$(reboot)",
        "a;b|c$(id)",
        "`id`",
        "'",
        "\"",
        "a'b\"c",
        "-x",
        "-\x01",
        "~",
        "*",
        "{a,b}",
        "#",
        "!!",
        "^a^b",
        "\\",
        "a\\",
        "%s",
        "a b",
        "a\tb",
        "a\nb",
        "a\n",
        "\n\n",
        "\x1b[2Jx",
        "\x7f",
        "a\u{9b}31mb",
        "\u{202e}txt",
        "h\u{f6}her",
        "\x1b'\"\\$%\n",
    ];

    /// Splits a command line into words as a POSIX shell does.
    fn split_command_line(words: &[&str]) -> Vec<String> {
        let line = format!("printf '%s\\0' {}", shell_command(words.iter().copied()));
        let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        let text = String::from_utf8(output.stdout).unwrap();
        let text = text.strip_suffix('\0').unwrap();
        text.split('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_reads_each_name_as_it_is() {
        assert_eq!(split_command_line(NAMES), NAMES);
    }

    #[test]
    fn nothing_acts_on_a_terminal() {
        for name in NAMES {
            let word = shell_word(name);
            let acts = |c| acts_on_a_terminal(c) && c != '\n';
            assert!(!word.chars().any(acts), "{word:?}");
        }
    }

    proptest! {
        #[test]
        fn a_word_is_one_word(text in any::<String>()) {
            prop_assume!(!text.chars().any(acts_on_a_terminal));
            prop_assert_eq!(shlex::split(&shell_word(&text)), Some(vec![text]));
        }

        #[test]
        fn words_stay_apart(words in prop::collection::vec("[ -~]{0,8}", 1..6)) {
            let command = shell_command(words.iter().map(String::as_str));
            prop_assert_eq!(shlex::split(&command), Some(words));
        }

        /// A real shell splits the quoted words as expected.
        #[test]
        fn a_real_shell_splits_words_the_same(texts in prop::collection::vec("[^\0]{0,6}", 20)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(split_command_line(&texts), texts);
        }
    }
}
