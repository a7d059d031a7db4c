//! `devmem-tcp`: lease NIC queues, receive TCP payload into device memory.

#![forbid(unsafe_code)]
// The macros panic when the stream is closed: see `common::stdio`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod address;
mod args;
mod below;
mod complete;
mod doctor;
mod elsewhere;
mod ending_lease;
mod enter;
mod exit;
mod generated;
#[cfg(test)]
mod golden;
mod guest_route;
mod holder;
mod lease;
mod log;
mod plan;
mod privilege;
mod recv;
mod remedy;
mod report;
mod restore;
mod room;
mod send;
mod show;
mod snapshot;
mod style;
mod table;
mod unlease;
mod wrap;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use style::Style;

#[derive(Parser)]
#[command(
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("DEVMEM_TCP_COMMIT"), ")"),
    about = "TCP payload straight into device memory, over leased NIC queues",
    after_help = exit::CODES
)]
struct Cli {
    /// Print each netlink request and its answer on stderr
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lease rx queues of a physical NIC into a netkit device
    Lease(lease::Args),
    /// End leases: delete their netkit, put back what was set up for it
    Unlease(unlease::Args),
    /// List queues, leases (both sides), bindings and page pools
    Show(show::Args),
    /// Check whether receiving, sending and leasing would work, and say what to do where not
    Doctor(doctor::Args),
    /// Receive TCP payload into a dmabuf
    Recv(recv::Args),
    /// Send TCP payload, plainly or from a dmabuf
    Send(send::Args),
    /// Say what `apply` would change on a NIC
    Plan(plan::Args),
    /// Set a NIC up for a receiver that can't do it itself, until `restore`
    Apply(plan::ApplyArgs),
    /// Put back what killed receivers, or `apply`, left changed on the NICs
    Restore(restore::Args),
    /// Print the completions for bash, zsh or fish, which the shell reads
    Completions(generated::CompletionsArgs),
    /// Print the words that may complete the last of these words
    #[command(hide = true)]
    Complete(complete::Args),
    /// Print the man page, or write one for each subcommand
    Man(generated::ManArgs),
}

/// Time that a reader has to take the last warnings.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(code) = nic::guardian() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => error.exit(),
        // Errors of clap's own printing of help and version are not visible.
        Err(help) => {
            let text = help.render();
            let text = match Style::stdout().is_on() {
                true => text.ansi().to_string(),
                false => text.to_string(),
            };
            return match report::raw(&text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(&error);
                    ExitCode::FAILURE
                }
            };
        }
    };
    log::init(cli.verbose);
    // From here on the log is posted and waits for no reader: its lock is held while it is written.
    common::stdio::stderr().post("");
    let goes_on = matches!(
        cli.command,
        Command::Recv(_) | Command::Send(_) | Command::Show(_)
    );
    let result = match cli.command {
        Command::Lease(args) => lease::run(&args),
        Command::Unlease(args) => unlease::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Doctor(args) => match doctor::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Recv(args) => recv::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Apply(args) => plan::apply(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Completions(args) => generated::completions(&args),
        Command::Complete(args) => complete::run(&args, Cli::command()),
        Command::Man(args) => generated::man(&args, Cli::command()),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            exit::code(&error)
        }
    };
    // Wait a moment for posted text to be written; for commands that don't go on, wait for all of
    // it.
    if !goes_on {
        let _unread = common::stdio::stderr().print("");
    }
    common::stdio::stdout().settle(LAST_WORDS);
    common::stdio::stderr().settle(LAST_WORDS);
    code
}

/// Prints an error on one line, and its remedy, where it is known, on a second.
fn complain(error: &anyhow::Error) {
    let first = exit::first(error);
    let known = exit::find_disappeared(first).and_then(|found| found.remedy.clone());
    let remedy = known.or_else(|| remedy::remedy(first));
    let remedy = remedy.map_or(String::new(), |remedy| format!("\n  {remedy}"));
    report::say(format_args!("{error:#}{remedy}"));
}
