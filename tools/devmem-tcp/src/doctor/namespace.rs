//! Namespace of a device, and commands that run in it.

use std::path::Path;

use netdev::{NetNs, shell_word};

use crate::enter::enter;

/// A network namespace, and the command that enters it.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    pub(super) netns: NetNs,
    enter: String,
    argument: Option<String>,
}

impl Namespace {
    pub(super) fn new(netns: NetNs) -> Result<Self, netdev::Error> {
        // Telling the current namespace from others can fail, too.
        netns.is_same(&NetNs::current()?)?;
        let (enter, argument) = enter(&netns).unzip();
        Ok(Self {
            netns,
            enter: enter.unwrap_or_default(),
            argument,
        })
    }

    /// Command line that runs `command` in the namespace, to be pasted into a shell in the current
    /// one.
    pub(super) fn command(&self, command: &str) -> String {
        format!("{}{command}", self.enter)
    }

    /// Value of `--netns` that names the namespace; `None` for the current one.
    pub(super) fn argument(&self) -> Option<&str> {
        self.argument.as_deref()
    }

    /// Command line of this program with these arguments that runs in the namespace.
    pub(super) fn own_command(&self, arguments: &str) -> String {
        self.command(&format!("{} {arguments}", program()))
    }
}

/// Name or path by which this program was called.
pub(super) fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    if Path::new(&called).has_root() {
        shell_word(&called).into_owned()
    } else {
        "devmem-tcp".to_owned()
    }
}
