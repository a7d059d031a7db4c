//! `devmem-tcp completions` and `devmem-tcp man`: shell completions and man pages, made from the
//! command line's definition.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;

use crate::report;

#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to print completions for
    shell: Shell,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Write all pages into this folder, one for each subcommand; otherwise the first is printed
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Prints the completions for a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    report::raw(match args.shell {
        Shell::Bash => include_str!("complete/devmem-tcp.bash"),
        Shell::Zsh => include_str!("complete/devmem-tcp.zsh"),
        Shell::Fish => include_str!("complete/devmem-tcp.fish"),
    })
}

/// Prints the man page of `devmem-tcp`, or writes the pages of all subcommands.
pub(crate) fn man(args: &ManArgs, cli: Command) -> Result<()> {
    let Some(folder) = &args.folder else {
        let (_, page) = page(&cli)?;
        return report::raw(&page);
    };
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, page) in pages(cli)? {
        let path = folder.join(name);
        fs::write(&path, page).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// All man pages and the names of their files: `devmem-tcp.1`, `devmem-tcp-recv.1`.
fn pages(mut cli: Command) -> Result<Vec<(String, String)>> {
    // Gives each subcommand its full name and the global options.
    cli.build();
    let commands = cli
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let commands = commands.filter(|command| command.get_name() != "help");
    [&cli].into_iter().chain(commands).map(page).collect()
}

fn page(command: &Command) -> Result<(String, String)> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let name = name.to_owned();
    let mut page = Vec::new();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("1");
    render(&man, command, &mut page).context("man page")?;
    Ok((
        format!("{name}.1"),
        String::from_utf8_lossy(&page).into_owned(),
    ))
}

/// Writes a man page: the definition of the command line, then the sections EXAMPLES, EXIT STATUS
/// and FILES.
fn render(man: &Man, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    if command.get_after_help().is_some() || command.get_after_long_help().is_some() {
        man.render_extra_section(page)?;
    }
    page.extend_from_slice(own_sections(command.get_name()).as_bytes());
    if command.get_version().is_some() {
        man.render_version_section(page)?;
    }
    Ok(())
}

/// Sections EXAMPLES, EXIT STATUS and FILES of a command's man page, in roff.
fn own_sections(command: &str) -> &'static str {
    match command {
        "recv" => include_str!("man/recv.roff"),
        "send" => include_str!("man/send.roff"),
        "lease" => include_str!("man/lease.roff"),
        "doctor" => include_str!("man/doctor.roff"),
        "restore" => include_str!("man/restore.roff"),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_subcommand_has_a_page_that_names_its_options() {
        let pages = pages(Cli::command()).unwrap();
        let recv = pages
            .iter()
            .find(|(name, _)| name == "devmem-tcp-recv.1")
            .unwrap();
        for option in ["refuse", "validate", "verbose"] {
            assert!(recv.1.contains(option), "{option}");
        }
        assert!(pages.iter().any(|(name, _)| name == "devmem-tcp.1"));
        for command in Cli::command().get_subcommands() {
            if command.is_hide_set() {
                continue;
            }
            let name = format!("devmem-tcp-{}.1", command.get_name());
            assert!(pages.iter().any(|(page, _)| *page == name), "{name}");
        }
    }

    /// The examples in the man pages are command lines that the tool accepts.
    #[test]
    fn pages_have_examples_codes_and_files() {
        let pages = pages(Cli::command()).unwrap();
        for name in ["recv", "send", "lease", "doctor", "restore"] {
            let file = format!("devmem-tcp-{name}.1");
            let (_, page) = pages.iter().find(|(page, _)| *page == file).unwrap();
            let heads = ["OPTIONS", "EXAMPLES", "EXIT STATUS", "FILES"];
            let at = heads.map(|head| page.find(&format!("\n.SH {head}\n")).unwrap_or(0));
            assert!(at[0] > 0 && at.is_sorted(), "{name}: {at:?}");
            assert!(
                !page.contains(".SH EXTRA"),
                "{name}: a section without text"
            );
            let text = own_sections(name).replace("\\-", "-");
            let lines = text.lines();
            let examples: Vec<_> = lines
                .filter_map(|line| line.strip_prefix("devmem-tcp "))
                .collect();
            assert!(examples.len() >= 2, "{name}");
            for line in examples {
                let words = ["devmem-tcp"].into_iter().chain(line.split_whitespace());
                let parsed = Cli::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                assert!(line.starts_with(name), "{line} in the page of {name}");
            }
        }
    }

    #[test]
    fn each_subcommand_with_json_is_documented() {
        let documented = include_str!("../../../docs/json.md");
        for command in Cli::command().get_subcommands() {
            let json = command.get_arguments().any(|arg| arg.get_id() == "json");
            let section = format!("\n## {}\n", command.get_name());
            assert_eq!(
                documented.contains(&section),
                json,
                "{}",
                command.get_name()
            );
        }
    }
}
