//! Shell completions, typed into the shells: each subcommand and option, and values of each kind.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use netdev::link::NetkitSingle;
use netdev::{Link, NetNs};

use framework::println_line;
use framework::testbed::{self, BOX, GUEST, NIC};
use framework::tool::{command, finish};
use framework::transfer::devmem_tcp;

/// A command line as typed before the tab key, and the line that completion must make of it,
/// without trailing blanks.
struct Completion {
    line: String,
    becomes: String,
}

/// Lines whose completion is a value: device, namespace, kind of memory, file, directory or word.
const VALUES: &[(&str, &str)] = &[
    ("recv --dev et", "recv --dev eth1"),
    ("recv --dev=et", "recv --dev=eth1"),
    ("doctor e", "doctor eth1"),
    ("recv --netns box -f n", "recv --netns box -f nk0"),
    ("unlease --netns=box n", "unlease --netns=box nk0"),
    ("recv --netns b", "recv --netns box"),
    ("lease --netns=b", "lease --netns=box"),
    ("recv --memory u", "recv --memory udmabuf"),
    ("recv --memory heap:s", "recv --memory heap:system"),
    ("doctor --memory=heap:s", "doctor --memory=heap:system"),
    ("recv --memory heap", "recv --memory heap:system"),
    ("recv --memory so", "recv --memory socket:"),
    ("recv --pages 2", "recv --pages 2M"),
    ("completions f", "completions fish"),
    ("recv --output /etc/fst", "recv --output /etc/fstab"),
    ("recv --output=/etc/fst", "recv --output=/etc/fstab"),
    ("man /usr/sha", "man /usr/share/"),
];

/// Prepares the testbed, and returns all lines to complete: subcommands, options and values.
fn lines_to_complete() -> Result<Vec<Completion>> {
    testbed::wire()?;
    testbed::container()?;
    Link::open_in(&NetNs::by_name(BOX)?)?.create_netkit_single(&NetkitSingle::new(GUEST))?;
    ensure!(NIC == "eth1" && BOX == "box" && GUEST == "nk0");
    fs::metadata("/dev/dma_heap/system").context("the kernel's heap of that name")?;

    let mut lines = Vec::new();
    let names = subcommands()?;
    for name in &names {
        lines.push(Completion {
            line: name[..name.len() - 1].to_owned(),
            becomes: name.clone(),
        });
        let options = options(name)?;
        ensure!(!options.is_empty(), "{name}: no option found");
        for option in &options {
            let begun = &option[..option.len() - 1];
            // Not alone: --queues where there is --queue, --dev where there is --deadline.
            let mut others = options.iter().filter(|it| it.starts_with(begun));
            let alone = others.all(|it| it.starts_with(option.as_str()));
            let typed = if alone { begun } else { option };
            lines.push(Completion {
                line: format!("{name} {typed}"),
                becomes: format!("{name} {option}"),
            });
        }
    }
    ensure!(
        names.len() >= 12 && lines.len() >= 100,
        "found {}",
        lines.len()
    );
    lines.extend(VALUES.iter().map(|&(line, becomes)| Completion {
        line: line.to_owned(),
        becomes: becomes.to_owned(),
    }));
    Ok(lines)
}

fn help(line: &str) -> Result<String> {
    finish(command(None, &devmem_tcp(), line))?.good(line)
}

/// Returns the names of the subcommands, out of the tool's help.
fn subcommands() -> Result<Vec<String>> {
    let help = help("--help")?;
    let (_, after) = help.split_once("\nCommands:\n").context("no commands")?;
    let lines = after.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

/// Returns the long options of a subcommand, out of its help.
fn options(name: &str) -> Result<Vec<String>> {
    // It has subcommands instead.
    if name == "help" {
        return Ok(vec!["recv".to_owned()]);
    }
    let help = help(&format!("{name} --help"))?;
    let lines = help.lines().map(str::trim_start);
    let lines = lines.filter(|line| line.starts_with('-'));
    // The option, and its aliases at the line's end.
    let options = lines.flat_map(|line| {
        let aliases = line.split_once("[alias").map_or("", |(_, aliases)| aliases);
        let long = |text: &'_ str| text.find("--").map(|at| text[at..].to_owned());
        let name = |text: String| {
            let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            text[..end.unwrap_or(text.len())].to_owned()
        };
        [long(line), long(aliases)].into_iter().flatten().map(name)
    });
    Ok(options.collect())
}

/// Returns the PATH with the tool's directory in front.
fn path_with_tool() -> Result<String> {
    let tool = devmem_tcp();
    let folder = tool.parent().context("the tool's folder")?;
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH")?))
}

/// Types each line and a tab on a terminal, has the shell print the line instead of running it, and
/// compares it with the one expected.
fn type_in(shell: &str, line: &str, home: &str) -> Result<()> {
    let lines = lines_to_complete()?;
    let mut keys = String::new();
    for Completion { line, .. } in &lines {
        // To the beginning of the line (^A) and to its end (^E).
        keys += &format!("devmem-tcp {line}\t\x01echo \"<\x05>\"\n");
    }
    keys += "exit\n";
    let file = format!("{home}/keys");
    fs::write(&file, keys)?;
    // No echo: what is typed ahead would mix with what is printed.
    let line = format!("stty -echo cols 500; exec {line}");
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("PATH", path_with_tool()?)
        .env("ZDOTDIR", home)
        .stdin(File::open(&file)?);
    let said = finish(terminal)?.stdout;
    let printed = said.lines().filter_map(|line| {
        let line = line.trim_end_matches('\r');
        let (_, line) = line.rsplit_once("<devmem-tcp ")?;
        Some(line.strip_suffix('>')?.trim_end())
    });
    let printed: Vec<_> = printed.collect();
    ensure!(
        printed.len() == lines.len(),
        "{shell}: {} of {} lines came:\n{said}",
        printed.len(),
        lines.len()
    );
    let mut wrong = 0;
    for (Completion { line, becomes }, printed) in lines.iter().zip(&printed) {
        // zsh takes a folder's slash back once other keys follow.
        if becomes.trim_end_matches('/') != printed.trim_end_matches('/') {
            wrong += 1;
            println_line(&format!(
                "{shell}: {line:?} became {printed:?}, not {becomes:?}\n"
            ));
        }
    }
    ensure!(wrong == 0, "{shell}: {wrong} of {} lines", lines.len());
    Ok(())
}

/// Creates a directory with a shell's start-up file, and returns its path.
fn make_home(name: &str, settings: &str) -> Result<String> {
    let home = format!("/tmp/completions-{name}");
    fs::create_dir_all(&home)?;
    fs::write(format!("{home}/.{name}rc"), settings)?;
    Ok(home)
}

case!(bash);
fn bash() -> Result<()> {
    let home = make_home(
        "bash",
        "bind 'set enable-bracketed-paste off'\nbind 'set bell-style none'\n\
         eval \"$(devmem-tcp completions bash)\"\n",
    )?;
    let line = format!("bash --noprofile --rcfile {home}/.bashrc -i");
    type_in("bash", &line, &home)
}

case!(zsh);
fn zsh() -> Result<()> {
    let home = make_home(
        "zsh",
        "unset zle_bracketed_paste\nunsetopt prompt_sp auto_menu beep\nautoload -Uz compinit\n\
         compinit -u -D\neval \"$(devmem-tcp completions zsh)\"\n",
    )?;
    type_in("zsh", "zsh -d -i", &home)
}

case!(fish);
/// Asks fish for the completions of each line (`complete --do-complete`). The expected one must be
/// among them.
fn fish() -> Result<()> {
    let lines = lines_to_complete()?;
    let file = "/tmp/completions-fish";
    let typed = lines.iter().map(|it| format!("devmem-tcp {}\n", it.line));
    fs::write(file, typed.collect::<String>())?;
    let script = "devmem-tcp completions fish | source; \
                  while read -l line; echo (complete -C $line | string split -f 1 \\t); end";
    let mut run = command(None, Path::new("fish"), "--no-config -c");
    run.arg(script)
        .env("PATH", path_with_tool()?)
        .stdin(File::open(file)?);
    let said = finish(run)?.good("fish")?;
    ensure!(said.lines().count() == lines.len(), "{said}");
    let mut wrong = 0;
    for (Completion { line, becomes }, said) in lines.iter().zip(said.lines()) {
        let word = becomes.split(' ').next_back();
        if !said.split(' ').any(|listed| Some(listed) == word) {
            wrong += 1;
            println_line(&format!(
                "fish: {line:?} may become {said:?}, not {becomes:?}\n"
            ));
        }
    }
    ensure!(wrong == 0, "fish: {wrong} of {} lines", lines.len());
    Ok(())
}
