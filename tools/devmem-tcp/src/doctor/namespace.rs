//! Where a device is, and how a command is run there.

use std::path::Path;

use netdev::{NetNs, shell_word};

use crate::enter::enter;

/// A network namespace and the words that enter it.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    pub(super) netns: NetNs,
    enter: String,
    argument: Option<String>,
}

impl Namespace {
    pub(super) fn new(netns: NetNs) -> Result<Self, netdev::Error> {
        // The present one is told from others by an error, too.
        netns.is_same(&NetNs::current()?)?;
        let (enter, argument) = enter(&netns).unzip();
        Ok(Self {
            netns,
            enter: enter.unwrap_or_default(),
            argument,
        })
    }

    /// The command, to be pasted from here.
    pub(super) fn command(&self, command: &str) -> String {
        format!("{}{command}", self.enter)
    }

    /// What `--netns` takes for it; `None` for the present one.
    pub(super) fn argument(&self) -> Option<&str> {
        self.argument.as_deref()
    }

    /// A command line of this very program.
    pub(super) fn ours(&self, arguments: &str) -> String {
        self.command(&format!("{} {arguments}", program()))
    }
}

/// How this program was called: by its name, or by its path.
pub(super) fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    if Path::new(&called).has_root() {
        shell_word(&called).into_owned()
    } else {
        "devmem-tcp".to_owned()
    }
}
