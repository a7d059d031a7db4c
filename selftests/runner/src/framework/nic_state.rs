//! The state of a NIC as the kernel's raw answers, and the journals and guardians on the machine.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netdev::ethtool::{FlowRule, Location, RuleTable};
use netdev::{Ethtool, Ifindex, Link, NetNs};
use netlink::{Family, Request, Socket};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tool::{self, until};

/// Numbers of the ethtool netlink commands: `ETHTOOL_MSG_*_GET`.
mod cmd {
    pub(super) const FEATURES: u8 = 11;
    pub(super) const RINGS: u8 = 15;
    pub(super) const CHANNELS: u8 = 17;
    pub(super) const RSS: u8 = 38;
}

/// Attribute of each ethtool message that holds the header, in which attribute 1 is the ifindex.
const HEADER: u16 = 1;
const DEV_INDEX: u16 = 1;

/// The runtime directory, where the journals are.
const RUNTIME: &str = "/run/devmem-tcp";

/// Name of a guardian process.
const GUARDIAN: &str = "devmem-guardian";

/// Time that guardians and journals may take to go by themselves.
const GRACE: Duration = Duration::from_secs(30);

/// Name of a part of a [`State`]: ring sizes and header split.
pub const RINGS: &str = "rings";
/// Name of a part of a [`State`]: the number of channels.
pub const CHANNELS: &str = "channels";
/// Name of a part of a [`State`]: table, key and other settings of RSS and its contexts.
pub const RSS: &str = "RSS";
/// Name of a part of a [`State`]: the flow rules.
pub const RULES: &str = "rules";

/// Reads the state of one NIC repeatedly, through the same sockets.
#[derive(Debug)]
pub struct Observer {
    socket: Socket,
    family: Family,
    ethtool: Ethtool,
    nic: Ifindex,
}

/// State of a NIC: the kernel's raw answers, and the flow rules.
///
/// The answer about RSS holds table, key, hash function, input transformation and hash fields of
/// the device and of each context (`rss_fill_reply`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    raw: Vec<(&'static str, Vec<Vec<u8>>)>,
    table: RuleTable,
    rules: Vec<FlowRule>,
    in_words: String,
}

impl Observer {
    /// Opens sockets to observe a device in this namespace.
    pub fn of(name: &str) -> Result<Self> {
        Self::in_namespace(&NetNs::current()?, name)
    }

    /// Opens sockets to observe a device in another namespace.
    pub fn in_namespace(netns: &NetNs, name: &str) -> Result<Self> {
        let mut socket = Socket::generic_in(netns)?;
        let family = socket.family("ethtool")?;
        Ok(Self {
            socket,
            family,
            ethtool: Ethtool::open_in(netns)?,
            nic: Link::open_in(netns)?.by_name(name)?.ifindex,
        })
    }

    /// Reads the NIC's whole state.
    pub fn state(&mut self) -> Result<State> {
        let raw = vec![
            (RINGS, self.ask(cmd::RINGS, "rings-get")?),
            (CHANNELS, self.ask(cmd::CHANNELS, "channels-get")?),
            ("features", self.ask(cmd::FEATURES, "features-get")?),
            (RSS, self.dump(cmd::RSS, "rss-get")?),
        ];
        Ok(State {
            raw,
            table: self.ethtool.rule_table(self.nic)?,
            rules: self.ethtool.rules(self.nic)?,
            in_words: self.in_words()?,
        })
    }

    fn ask(&mut self, cmd: u8, op: &'static str) -> Result<Vec<Vec<u8>>> {
        let request = self.request(cmd, op);
        Ok(vec![self.socket.ask(&request)?.payload().to_vec()])
    }

    fn dump(&mut self, cmd: u8, op: &'static str) -> Result<Vec<Vec<u8>>> {
        let request = self.request(cmd, op);
        let messages = self.socket.dump(&request)?;
        Ok(messages.iter().map(|m| m.payload().to_vec()).collect())
    }

    fn request(&self, cmd: u8, op: &'static str) -> Request {
        let mut request = self.family.request(cmd, op, "the NIC");
        let nic = self.nic.get();
        request.attrs().nest(HEADER, |nest| {
            nest.u32(DEV_INDEX, nic);
        });
        request
    }

    /// Formats the NIC's state as text, to show where two states differ.
    fn in_words(&mut self) -> Result<String> {
        let mut words = String::new();
        writeln!(words, "{:?}", self.ethtool.rings(self.nic)?)?;
        writeln!(words, "{:?}", self.ethtool.channels(self.nic)?)?;
        for rss in self.ethtool.rss_contexts(self.nic)? {
            let table: Vec<u32> = rss.table.iter().map(|queue| queue.get()).collect();
            let context = rss.context;
            writeln!(words, "rss {context:?} {table:?} key {:02x?}", rss.key)?;
        }
        for rule in self.ethtool.rules(self.nic)? {
            writeln!(words, "{rule:?}")?;
        }
        Ok(words)
    }

    /// Checks that the NIC's state equals `before`.
    pub fn same(&mut self, before: &State) -> Result<()> {
        before.check_equal(&self.state()?)
    }

    /// Waits until the NIC's state equals `before`, no guardian is alive, and no journal is left.
    ///
    /// # Errors
    /// What is different, or left, after [`GRACE`].
    pub fn soon_same(&mut self, before: &State) -> Result<()> {
        let soon = until("what a set-up leaves", GRACE, || {
            Ok(self.same(before).is_ok() && check_nothing_left().is_ok())
        });
        if soon.is_err() {
            self.same(before)?;
            check_nothing_left()?;
        }
        soon
    }
}

impl State {
    /// Checks that two states are equal; the error says in what they differ.
    fn check_equal(&self, now: &Self) -> Result<()> {
        let different = self.differs(now);
        ensure!(
            different.is_empty(),
            "not as before: {different:?}\nbefore:\n{}now:\n{}",
            self.in_words,
            now.in_words
        );
        Ok(())
    }

    /// Checks that two states are equal as text: for a NIC whose ifindex has changed, which the raw
    /// answers contain.
    pub fn same_in_words(&self, now: &Self) -> Result<()> {
        ensure!(
            (&self.in_words, &self.table, &self.rules) == (&now.in_words, &now.table, &now.rules),
            "not as before:\n{}now:\n{}",
            self.in_words,
            now.in_words
        );
        Ok(())
    }

    /// Checks that two states are equal apart from the locations of flow rules.
    pub fn like(&self, wanted: &Self) -> Result<()> {
        wanted
            .without_locations()
            .check_equal(&self.without_locations())
    }

    /// Returns the state with the locations of flow rules removed.
    fn without_locations(&self) -> Self {
        let mut state = self.clone();
        for rule in &mut state.rules {
            rule.location = Location::Any;
        }
        state.rules.sort_by_cached_key(|rule| format!("{rule:?}"));
        state
    }

    /// Returns the names of the parts in which two states differ.
    pub fn differs(&self, other: &Self) -> Vec<&'static str> {
        let raw = self.raw.iter().zip(&other.raw);
        let raw = raw.filter(|(a, b)| a != b).map(|((what, _), _)| *what);
        let same = self.table == other.table && self.rules == other.rules;
        let rules = (!same).then_some(RULES);
        raw.chain(rules).collect()
    }
}

/// Checks that no NIC was changed since the case began, not even for a moment: every change first
/// opens the runtime directory, which stays until the case has ended.
pub fn check_untouched() -> Result<()> {
    ensure!(
        !Path::new(RUNTIME).exists(),
        "{RUNTIME} is there: a NIC was set up, or was about to be"
    );
    Ok(())
}

/// Checks that no guardian is alive and no journal is left.
pub fn check_nothing_left() -> Result<()> {
    let guardians = guardians()?;
    ensure!(guardians.is_empty(), "guardians {guardians:?} are left");
    let files = journals()?;
    ensure!(files.is_empty(), "{files:?} are left in {RUNTIME}");
    Ok(())
}

/// Returns the process ids of living guardians.
pub fn guardians() -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends meanwhile, and a zombie, have none.
        let line = fs::read(Path::new("/proc").join(&name).join("cmdline"));
        if line.is_ok_and(|line| line.starts_with(GUARDIAN.as_bytes())) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Returns the process id of the only guardian.
pub fn guardian() -> Result<i32> {
    match guardians()?[..] {
        [pid] => Ok(pid),
        ref other => bail!("guardians: {other:?}"),
    }
}

/// Returns the paths of the NICs' journals.
pub fn journals() -> Result<Vec<std::path::PathBuf>> {
    let mut files = runtime_files()?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with("lease-")
    });
    Ok(files)
}

/// Returns the paths of the files in the runtime directory, except locks.
pub fn runtime_files() -> Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(RUNTIME) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(RUNTIME)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with("lock") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Returns the path of the only NIC's journal.
pub fn journal() -> Result<std::path::PathBuf> {
    match &journals()?[..] {
        [one] => Ok(one.clone()),
        other => bail!("written down: {other:?}"),
    }
}

/// Kills all guardians and removes the runtime directory.
pub fn clear() -> Result<()> {
    for pid in guardians()? {
        // It may end meanwhile.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    match fs::remove_dir_all(RUNTIME) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context(RUNTIME),
        _ => Ok(()),
    }
}

/// Kills the only guardian.
pub fn kill_guardian() -> Result<()> {
    tool::signal(guardian()?, Signal::SIGKILL)
}
