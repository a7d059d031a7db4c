//! Where a device is, and how a command is run there.

use std::path::Path;

use netdev::NetNs;

/// A network namespace and the words that enter it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) netns: NetNs,
    enter: String,
    argument: Option<String>,
}

impl Place {
    pub(super) fn new(netns: NetNs) -> Result<Self, netdev::Error> {
        let (enter, argument) = if netns.is_same(&NetNs::current()?)? {
            (String::new(), None)
        } else {
            let (enter, argument) = words(&netns);
            (enter, Some(argument))
        };
        Ok(Self {
            netns,
            enter,
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

/// What enters a namespace other than the present one, and what `--netns` takes for it.
fn words(netns: &NetNs) -> (String, String) {
    let label = netns.label();
    let named = NetNs::by_name(label).and_then(|named| named.is_same(netns));
    if matches!(named, Ok(true)) {
        return (format!("ip netns exec {label} "), label.to_owned());
    }
    let digits: String = label.chars().filter(char::is_ascii_digit).collect();
    let path = if label.contains('/') {
        label.to_owned()
    } else {
        format!("/proc/{digits}/ns/net")
    };
    (format!("nsenter --net={path} "), path)
}

/// How this program was called: by its name, or by its path.
pub(super) fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !called.is_empty() && called.chars().all(plain) && Path::new(&called).has_root() {
        called
    } else {
        "devmem-tcp".to_owned()
    }
}
