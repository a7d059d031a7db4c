//! Values of options that are found on this machine: devices, namespaces, memory.

use std::fs;
use std::path::Path;

use clap::Arg;
use netdev::Link;

use crate::args::NetNsArg;

/// Kind of an option's value, known by the name that the help shows for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Device,
    Netkit,
    NetNs,
    Memory,
    File,
    Directory,
    Other,
}

impl Kind {
    pub(super) fn of(arg: &Arg) -> Self {
        let names = arg.get_value_names().unwrap_or_default();
        match (
            arg.get_id().as_str(),
            names.first().map(|name| name.as_str()),
        ) {
            // A new device's name.
            ("host_end", _) => Self::Other,
            ("netkit", _) => Self::Netkit,
            ("device", _) | (_, Some("IF")) => Self::Device,
            (_, Some("NETNS")) => Self::NetNs,
            (_, Some("MEMORY")) => Self::Memory,
            (_, Some("FILE")) => Self::File,
            (_, Some("DIR")) => Self::Directory,
            _ => Self::Other,
        }
    }
}

/// Values to complete an argument with.
pub(super) enum Values {
    Files,
    Directories,
    /// Known values, and a description of each.
    Words(Vec<(String, String)>),
}

/// Finds the values of this argument of this subcommand, as far as they can be known.
pub(super) fn of(arg: &Arg, command: &str, netns: Option<&str>, word: &str) -> Values {
    let possible = arg.get_possible_values();
    let words = match Kind::of(arg) {
        Kind::File => return Values::Files,
        Kind::Directory => return Values::Directories,
        Kind::NetNs if word.contains('/') => return Values::Files,
        Kind::NetNs => namespace_names(Path::new("/run/netns")),
        Kind::Memory => kinds_of_memory(Path::new("/dev"), command != "send"),
        // A lease's NIC is here, whatever the namespace of the netkit.
        Kind::Device if command == "lease" => device_names(None, false),
        Kind::Device => device_names(netns, false),
        Kind::Netkit => device_names(netns, true),
        Kind::Other => possible
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| (value.get_name().to_owned(), super::help(value.get_help())))
            .collect(),
    };
    let words = words.into_iter();
    Values::Words(words.filter(|(word, _)| is_plain(word)).collect())
}

/// Whether a shell takes the word as it is: shells get candidates unquoted.
fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:@%+,/".contains(c);
    !word.is_empty() && word.chars().all(plain)
}

/// Names and descriptions of the devices of this namespace, or of a named one that may be entered.
fn device_names(netns: Option<&str>, netkits: bool) -> Vec<(String, String)> {
    let named = netns.map(|text| text.parse::<NetNsArg>());
    let link = match named {
        None => Link::open(),
        Some(Ok(named)) => named.open().and_then(|netns| Link::open_in(&netns)),
        Some(Err(_)) => return Vec::new(),
    };
    let links = link.and_then(|mut link| link.list()).unwrap_or_default();
    let links = links.into_iter().filter(|link| match netkits {
        true => link.kind.as_deref() == Some("netkit"),
        false => link.name != "lo",
    });
    let described = links.map(|link| (link.name, link.kind.unwrap_or_default()));
    described.collect()
}

/// Names of the namespaces that `ip netns` made.
fn namespace_names(folder: &Path) -> Vec<(String, String)> {
    let names = names(folder).into_iter();
    names.map(|name| (name, String::new())).collect()
}

/// Kinds of memory that this machine has, found in the folder `dev`, which is `/dev` but in tests.
fn kinds_of_memory(dev: &Path, gpu: bool) -> Vec<(String, String)> {
    let word = |word: &str, help: &str| (word.to_owned(), help.to_owned());
    let mut words = vec![word("udmabuf", "ordinary memory")];
    for heap in names(&dev.join("dma_heap")) {
        words.push((format!("heap:{heap}"), "a dma-heap".to_owned()));
    }
    for card in names(&dev.join("dri")) {
        if card.starts_with("card") {
            words.push((
                format!("drm:/dev/dri/{card}"),
                "a display device".to_owned(),
            ));
        }
    }
    if gpu {
        words.push(word("cuda", "an NVIDIA GPU"));
    }
    words.push(word(
        "fd:",
        "a dmabuf that was opened before, by its number",
    ));
    words.push(word("socket:", "a dmabuf that a helper passes"));
    words
}

/// Names of a folder's entries, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn words(found: Vec<(String, String)>) -> Vec<String> {
        found.into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn memory_is_what_there_is() {
        let dev = tempfile::tempdir().unwrap();
        let bare = ["udmabuf", "cuda", "fd:", "socket:"];
        assert_eq!(words(kinds_of_memory(dev.path(), true)), bare);
        for (folder, name) in [
            ("dma_heap", "system"),
            ("dma_heap", "default_cma_region"),
            ("dri", "card0"),
            ("dri", "renderD128"),
        ] {
            fs::create_dir_all(dev.path().join(folder)).unwrap();
            fs::write(dev.path().join(folder).join(name), "").unwrap();
        }
        let all = [
            "udmabuf",
            "heap:default_cma_region",
            "heap:system",
            "drm:/dev/dri/card0",
            "fd:",
            "socket:",
        ];
        assert_eq!(words(kinds_of_memory(dev.path(), false)), all);
    }

    #[test]
    fn namespaces_have_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sender", "box"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(words(namespace_names(folder.path())), ["box", "sender"]);
        assert!(namespace_names(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn words_of_a_shell_are_not_offered() {
        assert!(is_plain("heap:system") && is_plain("eth0.7") && is_plain("drm:/dev/dri/card0"));
        for word in ["", "a b", "$(id)", "a;b", "x\ty", "a'b", "*", "~a"] {
            assert!(!is_plain(word), "{word:?}");
        }
    }
}
