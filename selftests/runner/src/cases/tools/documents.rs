//! The documents' console blocks: which case runs them, and what does not run in the VM.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use framework::console::{Document, Shown};
use framework::testbed::PEER;

/// A document by its path in the repository.
macro_rules! document {
    ($path:literal) => {
        Document {
            path: $path,
            text: include_str!(concat!("../../../../../", $path)),
        }
    };
}

/// All documents that have console blocks.
pub(super) const DOCUMENTS: &[Document] = &[
    document!("README.md"),
    document!("docs/gpu.md"),
    document!("docs/memory.md"),
    document!("docs/ncdevmem.md"),
    document!("docs/operators.md"),
    document!("selftests/lease-conformance.md"),
    document!("selftests/swnic/README.md"),
];

/// Document, heading, and the case that runs the console blocks below that heading.
pub(super) const RUN: &[(&str, &str, &str)] = &[
    ("README.md", "On your NIC", "readme.on_your_nic"),
    (
        "docs/operators.md",
        "What a change does to other traffic",
        "docs.service",
    ),
    (
        "docs/operators.md",
        "The settings of a NIC",
        "docs_undone.nic",
    ),
    ("docs/operators.md", "A lease", "docs_undone.lease"),
    (
        "docs/ncdevmem.md",
        "Where our ncdevmem and upstream's differ",
        "docs.ncdevmem_at_a_glance",
    ),
    ("docs/memory.md", "socket:PATH", "docs.memory_from_a_helper"),
    ("docs/memory.md", "What is here", "docs.memory_that_is_here"),
    ("docs/gpu.md", "Two machines and a GPU", "docs.gpu"),
    (
        "docs/gpu.md",
        "Distance between GPU and NIC",
        "docs.gpu_distance",
    ),
    (
        "selftests/swnic/README.md",
        "swnic: a software NIC for devmem TCP",
        "docs.module_is_loaded",
    ),
];

/// Document, how a command begins, and why it does not run in the VM.
pub(super) const LEFT_OUT: &[(&str, &str, &str)] = &[
    (
        "README.md",
        "make ",
        "builds here and boots the VM; the targets are looked up in the Makefile",
    ),
    (
        "docs/gpu.md",
        "cargo build ",
        "the VM has no cargo; `make test-ready` builds it so",
    ),
    (
        "docs/gpu.md",
        "make gpu-kit",
        "needs cargo; the target is looked up in the Makefile",
    ),
    (
        "docs/gpu.md",
        "make gpu",
        "needs cargo and a GPU; the target is looked up in the Makefile",
    ),
    (
        "docs/gpu.md",
        "scp ",
        "to another machine, and with what `make gpu-kit` packs",
    ),
    (
        "docs/gpu.md",
        "gpu-kit/run",
        "on another machine, which has a GPU",
    ),
    ("docs/gpu.md", "nvidia-smi ", "is part of NVIDIA's driver"),
    ("docs/gpu.md", "lspci ", "is not in the VM's root"),
    (
        "docs/gpu.md",
        "cat /sys/bus/pci/devices/0000:06:00.0/current_link_",
        "no device of the VM is on a PCI Express link",
    ),
    (
        "selftests/lease-conformance.md",
        "make test-vm ",
        "boots the VM",
    ),
    (
        "selftests/swnic/README.md",
        "make KDIR=",
        "needs the module's source; `make module` does it so",
    ),
];

/// Why the command does not run in the VM.
pub(super) fn left_out(document: &str, command: &Shown) -> Option<&'static str> {
    let entry = LEFT_OUT
        .iter()
        .find(|(path, start, _)| *path == document && command.line.starts_with(start));
    entry.map(|(_, _, why)| *why)
}

/// The case that runs the blocks below the command's heading.
pub(super) fn runs(document: &str, command: &Shown) -> Option<&'static str> {
    let entry = RUN
        .iter()
        .find(|(path, heading, _)| *path == document && *heading == command.heading);
    entry.map(|(_, _, case)| *case)
}

/// The commands that this case runs, in the document's order.
pub(super) fn commands(case: &str) -> Result<Vec<Shown>> {
    let mut commands = Vec::new();
    for document in DOCUMENTS {
        let all = document.commands().into_iter();
        commands.extend(all.filter(|command| {
            runs(document.path, command) == Some(case) && left_out(document.path, command).is_none()
        }));
    }
    ensure!(!commands.is_empty(), "no document has commands for {case}");
    Ok(commands)
}

/// The text of a document, a blank between words.
pub(super) fn words(path: &str) -> Result<String> {
    let document = DOCUMENTS.iter().find(|document| document.path == path);
    let text = document.context("no such document")?.text;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The sender's namespace by the name that `make vm` gives it, as the documents have it.
#[derive(Debug)]
pub(super) struct SenderName;

impl SenderName {
    const PATH: &str = "/run/netns/sender";

    pub(super) fn new() -> Result<Self> {
        std::os::unix::fs::symlink(Path::new("/run/netns").join(PEER), Self::PATH)?;
        Ok(Self)
    }
}

impl Drop for SenderName {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(Self::PATH);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::DOCUMENTS;

    /// The Markdown files below a folder that have console blocks.
    fn with_console_blocks(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                with_console_blocks(&path, found);
            }
            let console = |text: &str| text.contains("```console") || text.contains("```sh");
            if name.ends_with(".md") && console(&fs::read_to_string(&path).unwrap()) {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_document_with_a_console_block_is_known() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let mut found = Vec::new();
        with_console_blocks(root, &mut found);
        let known = |path: &String| DOCUMENTS.iter().any(|known| path.ends_with(known.path));
        let unknown: Vec<_> = found.iter().filter(|path| !known(path)).collect();
        assert!(unknown.is_empty(), "not in DOCUMENTS: {unknown:?}");
        assert_eq!(found.len(), DOCUMENTS.len(), "{found:?}");
    }
}
