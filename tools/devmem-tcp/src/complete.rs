//! `devmem-tcp complete`: what a shell's completions ask while a command line is typed.
//!
//! The scripts of `completions` know no options: they pass the words so far, and the tool answers
//! from the definition of its command line, so that both can't differ. `clap_complete` is not used:
//! its script for bash finds no subcommand of a tool whose name has a hyphen (4.6), and completes no
//! values; its engine that does is unstable.

mod values;

use clap::{Arg, ArgAction, Command};

use crate::report;
use values::{Kind, Values};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The words after the tool's name, up to the cursor; the last is the one to complete
    #[arg(
        value_name = "WORD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,
}

/// Candidate for the word that a shell completes.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    word: String,
    /// Description of the candidate, on one line; may be empty.
    help: String,
}

/// Answer to a shell that completes a word.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Candidates(Vec<Candidate>),
    /// The shell completes names of files.
    Files,
    /// The shell completes names of directories.
    Directories,
}

/// Prints the candidates for the last word: on each line a candidate, a tab, and its description;
/// or `:files`, or `:directories`.
pub(crate) fn run(args: &Args, mut cli: Command) -> anyhow::Result<()> {
    // Gives the subcommands the global options, and each option its number of values.
    cli.build();
    let text = match answer(&cli, &args.words) {
        Answer::Files => ":files\n".to_owned(),
        Answer::Directories => ":directories\n".to_owned(),
        Answer::Candidates(candidates) => candidates
            .iter()
            .map(|Candidate { word, help }| format!("{word}\t{help}\n"))
            .collect(),
    };
    report::raw(&text)
}

fn answer(cli: &Command, words: &[String]) -> Answer {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let line = Line::parse(cli, before);
    if let Some(option) = line.option {
        return line.values(option, last, "");
    }
    if !line.escaped && last.starts_with('-') {
        if let Some((name, value)) = last.split_once('=') {
            return match find_long_option(line.command, name) {
                Some(option) => line.values(option, value, &format!("{name}=")),
                None => Answer::Candidates(Vec::new()),
            };
        }
        return Answer::Candidates(line.options(last));
    }
    let positional = line
        .command
        .get_positionals()
        .nth(line.positionals)
        .map(|positional| line.values(positional, last, ""));
    let mut candidates = match positional {
        Some(Answer::Candidates(candidates)) => candidates,
        Some(answer) => return answer,
        None => Vec::new(),
    };
    if line.positionals == 0 {
        candidates.extend(subcommands(line.command, last));
    }
    if candidates.is_empty() && last.is_empty() && !line.escaped {
        candidates = line.options(last);
    }
    Answer::Candidates(candidates)
}

/// The words before the one to complete, parsed as a command line.
struct Line<'a> {
    command: &'a Command,
    /// Option whose value is the next word.
    option: Option<&'a Arg>,
    /// Number of positional arguments of `command` so far.
    positionals: usize,
    /// Whether there was a `--`: no options follow.
    escaped: bool,
    /// Options that were given so far.
    given: Vec<&'a Arg>,
    /// Value of the option that names a namespace.
    netns: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(cli: &'a Command, words: &'a [String]) -> Self {
        let mut line = Self {
            command: cli,
            option: None,
            positionals: 0,
            escaped: false,
            given: Vec::new(),
            netns: None,
        };
        for word in words {
            line.take(word);
        }
        line
    }

    fn take(&mut self, word: &'a str) {
        if let Some(option) = self.option.take() {
            self.remember(option, word);
        } else if self.escaped {
            self.positionals += 1;
        } else if word == "--" {
            self.escaped = true;
        } else if word.starts_with("--") {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let Some(option) = find_long_option(self.command, name) else {
                return;
            };
            self.given.push(option);
            match value {
                Some(value) => self.remember(option, value),
                None if may_take_next_word(option) => self.option = Some(option),
                None => {}
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            self.take_short_options(letters);
        } else if let Some(subcommand) = self.subcommand(word) {
            self.command = subcommand;
        } else {
            self.positionals += 1;
        }
    }

    /// Parses a word of short options, as `-vfeth1`.
    fn take_short_options(&mut self, letters: &'a str) {
        for (at, letter) in letters.char_indices() {
            let options = self.command.get_arguments();
            let option = { options }.find(|option| option.get_short() == Some(letter));
            let Some(option) = option else { return };
            self.given.push(option);
            if may_take_next_word(option) {
                match &letters[at + letter.len_utf8()..] {
                    "" => self.option = Some(option),
                    value => self.remember(option, value),
                }
                return;
            }
        }
    }

    fn subcommand(&self, word: &str) -> Option<&'a Command> {
        match self.positionals {
            0 => self.command.find_subcommand(word),
            _ => None,
        }
    }

    fn remember(&mut self, option: &Arg, value: &'a str) {
        if Kind::of(option) == Kind::NetNs {
            self.netns = Some(value);
        }
    }

    /// Finds the options that begin with this word and may still be given.
    fn options(&self, word: &str) -> Vec<Candidate> {
        let repeatable = |option: &Arg| matches!(option.get_action(), ArgAction::Append);
        let mut candidates = Vec::new();
        for option in self.command.get_arguments() {
            let given = self.given.iter().any(|it| it.get_id() == option.get_id());
            if option.is_hide_set() || given && !repeatable(option) {
                continue;
            }
            let names = option.get_long_and_visible_aliases().unwrap_or_default();
            let mut words: Vec<_> = names.iter().map(|name| format!("--{name}")).collect();
            if word == "-" {
                words.extend(option.get_short().map(|letter| format!("-{letter}")));
            }
            let words = words.into_iter().filter(|it| it.starts_with(word));
            candidates.extend(words.map(|word| {
                let help = help(option.get_help());
                Candidate { word, help }
            }));
        }
        candidates
    }

    /// Finds the values of an argument that begin with this word, behind a prefix that is part of
    /// the same word.
    fn values(&self, arg: &Arg, word: &str, prefix: &str) -> Answer {
        let candidate = |(value, help): (String, String)| Candidate {
            word: format!("{prefix}{value}"),
            help,
        };
        match values::of(arg, self.command.get_name(), self.netns, word) {
            Values::Files => Answer::Files,
            Values::Directories => Answer::Directories,
            Values::Words(values) => {
                let values = values.into_iter();
                let values = values.filter(|(value, _)| value.starts_with(word));
                Answer::Candidates(values.map(candidate).collect())
            }
        }
    }
}

fn find_long_option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.strip_prefix("--")?;
    command.get_arguments().find(|option| {
        let names = option.get_long_and_visible_aliases();
        names.unwrap_or_default().contains(&name)
    })
}

/// Whether the next word may be the option's value.
fn may_take_next_word(option: &Arg) -> bool {
    let values = option.get_num_args().is_some_and(|n| n.takes_values());
    values && !option.is_require_equals_set()
}

fn subcommands(command: &Command, word: &str) -> Vec<Candidate> {
    let subcommands = command.get_subcommands();
    subcommands
        .filter(|it| !it.is_hide_set() && it.get_name().starts_with(word))
        .map(|it| Candidate {
            word: it.get_name().to_owned(),
            help: help(it.get_about()),
        })
        .collect()
}

/// Description of an option or command on one line.
fn help(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    fn cli() -> Command {
        let mut cli = Cli::command();
        cli.build();
        cli
    }

    fn complete(line: &[&str]) -> Answer {
        let words: Vec<_> = line.iter().map(|&word| word.to_owned()).collect();
        answer(&cli(), &words)
    }

    fn words(line: &[&str]) -> Vec<String> {
        match complete(line) {
            Answer::Candidates(candidates) => candidates.into_iter().map(|it| it.word).collect(),
            answer => panic!("{line:?}: {answer:?}"),
        }
    }

    #[test]
    fn each_subcommand_completes() {
        let all = words(&[""]);
        assert!(!all.contains(&"complete".to_owned()), "{all:?}");
        for command in cli().get_subcommands().filter(|it| !it.is_hide_set()) {
            let name = command.get_name();
            assert!(all.contains(&name.to_owned()), "{name}: {all:?}");
            assert!(words(&[&name[..2]]).contains(&name.to_owned()), "{name}");
        }
        assert_eq!(words(&["unl"]), ["unlease"]);
        assert_eq!(words(&["-v", "rec"]), ["recv"]);
        assert_eq!(words(&["help", "rec"]), ["recv"]);
        assert!(words(&["nothing"]).is_empty());
    }

    #[test]
    fn each_option_of_each_subcommand_completes() {
        for command in cli().get_subcommands().filter(|it| it.get_name() != "help") {
            let name = command.get_name();
            let all = words(&[name, "--"]);
            for option in command.get_arguments().filter(|it| !it.is_hide_set()) {
                for long in option.get_long_and_visible_aliases().unwrap_or_default() {
                    let long = format!("--{long}");
                    assert!(all.contains(&long), "{name}: {all:?}");
                    let begun = &long[..long.len() - 1];
                    assert!(words(&[name, begun]).contains(&long), "{name} {begun}");
                }
            }
        }
    }

    #[test]
    fn options_are_offered_once_unless_they_may_be_repeated() {
        assert!(words(&["recv", "--dev", "eth1", "--de"]).is_empty());
        assert!(words(&["recv", "-f", "eth1", "--de"]).is_empty());
        assert!(words(&["recv", "-feth1", "--de"]).is_empty());
        assert_eq!(words(&["recv", "--queue", "1", "--que"]), ["--queue"]);
        assert!(words(&["recv", "-"]).contains(&"-f".to_owned()));
        assert!(words(&["recv", "--"]).contains(&"--dev".to_owned()));
        assert!(words(&["recv", "--", "--de"]).is_empty());
        assert!(words(&["recv", ""]).contains(&"--dev".to_owned()));
    }

    #[test]
    fn values_complete_after_a_space_or_an_equals_sign() {
        assert_eq!(words(&["recv", "--pages", "2"]), ["2M"]);
        assert_eq!(words(&["recv", "--pages=2"]), ["--pages=2M"]);
        assert_eq!(words(&["completions", "z"]), ["zsh"]);
        assert_eq!(words(&["recv", "--memory", "cu"]), ["cuda"]);
        assert!(words(&["recv", "--nonsense=2"]).is_empty());
        // A value that is a subcommand's name.
        assert_eq!(words(&["recv", "--dev", "send", "--thr"]).len(), 1);
    }

    #[test]
    fn the_shell_completes_files() {
        assert_eq!(complete(&["recv", "--output", "x"]), Answer::Files);
        assert_eq!(complete(&["recv", "-o", ""]), Answer::Files);
        assert_eq!(complete(&["recv", "--output=x"]), Answer::Files);
        assert_eq!(complete(&["send", "--input", ""]), Answer::Files);
        assert_eq!(complete(&["man", ""]), Answer::Directories);
    }

    /// Every option whose value is a device, a namespace or memory has a kind of values to
    /// complete.
    #[test]
    fn values_have_kinds() {
        let kinds = |name: &str, kind: Kind| {
            let cli = cli();
            let command = cli.find_subcommand(name).unwrap();
            let args = command.get_arguments();
            let args = args.filter(|arg| Kind::of(arg) == kind);
            args.map(|arg| arg.get_id().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(kinds("recv", Kind::Device), ["dev"]);
        assert_eq!(kinds("send", Kind::Device), ["dev"]);
        assert_eq!(kinds("lease", Kind::Device), ["phys"]);
        assert_eq!(kinds("lease", Kind::Netkit), ["netkit"]);
        assert_eq!(kinds("unlease", Kind::Netkit), ["netkit"]);
        for name in ["show", "doctor", "plan", "apply", "restore"] {
            assert_eq!(kinds(name, Kind::Device), ["device"], "{name}");
        }
        for name in [
            "recv", "send", "lease", "unlease", "doctor", "plan", "apply", "restore",
        ] {
            assert_eq!(kinds(name, Kind::NetNs), ["netns"], "{name}");
        }
        for name in ["recv", "send", "doctor"] {
            assert_eq!(kinds(name, Kind::Memory), ["memory"], "{name}");
        }
    }
}
