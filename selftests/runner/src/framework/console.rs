//! Console blocks of documents: commands behind a prompt, each with what it prints below. They run in a
//! shell, and what they print is compared with what the document shows.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::println_line;
use crate::tool::finish;
use crate::transfer::devmem_tcp;

/// What separates the outputs of a script's commands.
const MARK: char = '\u{1e}';

/// A document of the repository.
#[derive(Debug, Clone, Copy)]
pub struct Document {
    /// Its path in the repository.
    pub path: &'static str,
    pub text: &'static str,
}

/// A command of a console block.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The heading above it, without its number signs.
    pub heading: &'static str,
    /// `#`, `$`, or one of these behind the name of a machine.
    pub prompt: &'static str,
    /// What stands behind the prompt; lines that continue it are joined.
    pub line: String,
    /// The lines below it, up to the next prompt; empty where the document shows none.
    pub output: Vec<&'static str>,
}

impl Document {
    /// The commands of all console blocks.
    pub fn commands(&self) -> Vec<Shown> {
        let mut commands: Vec<Shown> = Vec::new();
        let (mut heading, mut fence, mut continued) = ("", None, false);
        for line in self.text.lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                fence = fence.is_none().then_some(language);
                continue;
            }
            match (fence, prompt(line)) {
                (None, _) if line.starts_with('#') => {
                    heading = line.trim_start_matches('#').trim();
                }
                (Some("console"), _) if continued => {
                    if let Some(last) = commands.last_mut() {
                        last.line = format!("{} {}", last.line, line.trim());
                    }
                }
                (Some("console"), Some((prompt, line))) => commands.push(Shown {
                    heading,
                    prompt,
                    line: line.to_owned(),
                    output: Vec::new(),
                }),
                (Some("console"), None) => {
                    if let Some(last) = commands.last_mut() {
                        last.output.push(line);
                    }
                }
                _ => {}
            }
            continued = false;
            if let Some(last) = commands.last_mut().filter(|_| fence == Some("console")) {
                if let Some(first) = last.line.strip_suffix('\\') {
                    (last.line, continued) = (first.trim_end().to_owned(), true);
                }
            }
        }
        commands
    }
}

/// The prompt that a line begins with, and the rest.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (prompt, rest) = line.split_once(' ')?;
    let machine = prompt.strip_suffix(['#', '$'])?;
    let named = machine.bytes().all(|byte| byte.is_ascii_lowercase());
    named.then_some((prompt, rest))
}

impl Shown {
    /// A command that the document does not have, between two that it has.
    pub fn between(line: impl Into<String>) -> Self {
        Self {
            heading: "",
            prompt: "#",
            line: line.into(),
            output: Vec::new(),
        }
    }

    /// The command without its comment.
    pub fn code(&self) -> &str {
        let code = self.line.split_once(" # ").map(|(code, _)| code);
        code.unwrap_or(&self.line).trim_end()
    }

    /// The same with one text in another's place, which must be there.
    pub fn with(mut self, placeholder: &str, filled: impl std::fmt::Display) -> Result<Self> {
        let code = self.code();
        ensure!(
            code.contains(placeholder),
            "no {placeholder:?} in {code:?} any more"
        );
        self.line = code.replace(placeholder, &filled.to_string());
        Ok(self)
    }

    /// The same in the background.
    pub fn in_background(mut self) -> Self {
        self.line = format!("{} &", self.code());
        self
    }

    /// Holds if this is what the document shows: words, and lines. `...` stands for any lines.
    fn compare(&self, printed: &str, varying: &[&str]) -> Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = self.output.iter().map(|line| norm(line, varying)).collect();
        let got: Vec<String> = printed.lines().map(|line| norm(line, varying)).collect();
        ensure!(
            matches(&shown, &got),
            "{}\nshows:\n{}\nbut prints:\n{}",
            self.line,
            shown.join("\n"),
            got.join("\n")
        );
        Ok(())
    }
}

/// The line with one blank between words, and with `#` for what varies.
fn norm(line: &str, varying: &[&str]) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let line = words.join(" ");
    varying
        .iter()
        .fold(line, |line, pattern| match varies(&line, pattern) {
            Some((start, end)) => format!("{}{pattern}{}", &line[..start], &line[end..]),
            None => line,
        })
}

/// Where the pattern is in the line. A `#` in it stands for a word, or a part of one, that begins with
/// a digit.
fn varies(line: &str, pattern: &str) -> Option<(usize, usize)> {
    let (first, rest) = pattern.split_once('#')?;
    line.match_indices(first).find_map(|(start, _)| {
        let mut at = start + first.len();
        for part in rest.split('#') {
            let word = line[at..].split(' ').next()?;
            word.bytes().next().filter(u8::is_ascii_digit)?;
            let ends = word.char_indices().map(|(i, c)| at + i + c.len_utf8());
            let end = ends.rev().find(|end| line[*end..].starts_with(part))?;
            at = end + part.len();
        }
        Some((start, at))
    })
}

fn matches(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "..." => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| first == line && matches(rest, others)),
    }
}

/// A shell in a folder of its own, which goes when it is dropped.
#[derive(Debug)]
pub struct Shell {
    folder: PathBuf,
    programs: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    varying: &'static [&'static str],
}

impl Shell {
    /// A shell that finds our programs.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/tmp/console.{}.{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            programs: devmem_tcp().parent().context("no folder")?.to_owned(),
            variables: Vec::new(),
            varying: &[],
        })
    }

    /// Finds the programs of this folder first.
    pub fn programs(mut self, folder: PathBuf) -> Self {
        self.programs = folder;
        self
    }

    /// Sets an environment variable.
    pub fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// What varies in outputs: texts with `#` for each number.
    pub fn varying(mut self, varying: &'static [&'static str]) -> Self {
        self.varying = varying;
        self
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the commands, up to the first that fails, in the background too; what each printed, which must
    /// be what the document shows. What those in the background printed is the output of `wait`. A command in
    /// the background that was not waited for is ended.
    pub fn run(&self, commands: &[Shown]) -> Result<Vec<String>> {
        let mut path = self.programs.as_os_str().to_owned();
        path.push(":");
        path.push(devmem_tcp().parent().unwrap_or(Path::new("/")));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &script(commands)])
            .env("PATH", path)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        let end = finish(shell)?;
        println_line(end.stdout.replace(MARK, "").trim_end());
        let output = end.good("the commands")?;
        let mut outputs = Vec::new();
        for (command, output) in commands.iter().zip(output.split(MARK).skip(1)) {
            let (_, printed) = output.split_once('\n').unwrap_or((output, ""));
            command.compare(printed, self.varying)?;
            outputs.push(printed.to_owned());
        }
        ensure!(outputs.len() == commands.len(), "not all commands ran");
        Ok(outputs)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// A script of these commands, with a line that names it before the output of each.
fn script(commands: &[Shown]) -> String {
    let mut script = "set -eu\nexec 2>&1\njobs=() outputs=()\n\
        trap 's=$?; kill \"${jobs[@]}\" 2>/dev/null || true\n\
        [ $s = 0 ] || cat \"${outputs[@]}\" /dev/null' EXIT\n"
        .to_owned();
    for (number, command) in commands.iter().enumerate() {
        let line = match command.code().rsplit_once('&') {
            _ if command.code() == "wait" => "for job in \"${jobs[@]}\"; do wait \"$job\"; done\n\
                jobs=(); cat \"${outputs[@]}\"; outputs=()"
                .to_owned(),
            // A redirection may stand before a command, and is overridden by one that stands in it.
            Some((job, then)) => format!(
                ">output.{number} 2>&1 {job} & jobs+=($!) outputs+=(output.{number}); {then}"
            ),
            None => command.code().to_owned(),
        };
        let name = command.line.replace('\'', "'\\''");
        let _infallible = writeln!(script, "printf '{MARK}# %s\\n' '{name}'\n{line}");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::{Document, matches, norm};

    const TEXT: &str = "# Title\n\n```console\n$ make it    # a comment\nmade\n```\n## Part\n```rust\n# no heading\n```\n\
        ```console\nrecv# recv --one \\\n          --two\nsend$ send\nsent 5 in 3 s\n...\n```\n";

    #[test]
    fn commands_have_headings_prompts_and_output() {
        let document = Document {
            path: "x.md",
            text: TEXT,
        };
        let commands = document.commands();
        let words: Vec<_> = commands
            .iter()
            .map(|shown| (shown.heading, shown.prompt, shown.code(), &shown.output[..]))
            .collect();
        assert_eq!(
            words,
            [
                ("Title", "$", "make it", &["made"][..]),
                ("Part", "recv#", "recv --one --two", &[]),
                ("Part", "send$", "send", &["sent 5 in 3 s", "..."]),
            ]
        );
    }

    #[test]
    fn what_varies_is_left_out_of_the_comparison() {
        let varying = ["in # s", "dmabuf #: # sends", "Linux #"];
        assert_eq!(norm("sent 5  in 3.73 s", &varying), "sent 5 in # s");
        assert_eq!(
            norm("from dmabuf 4: 99 sends", &varying),
            "from dmabuf #: # sends"
        );
        assert_eq!(norm("ok  Linux 7.3.4+deb13", &varying), "ok Linux #");
        assert_eq!(norm("in box is", &varying), "in box is");
        assert_eq!(norm("sent 5 in three s", &varying), "sent 5 in three s");
    }

    #[test]
    fn dots_stand_for_any_lines() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let all = lines("a b c d");
        assert!(matches(&lines("a b c d"), &all));
        assert!(matches(&lines("a ... d"), &all));
        assert!(matches(&lines("... b ... c ..."), &all));
        assert!(!matches(&lines("a b c"), &all));
        assert!(!matches(&lines("... c b ..."), &all));
    }
}
