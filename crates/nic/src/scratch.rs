//! A runtime directory for one test, removed with it.

use undo::RunDir;

pub(crate) struct Scratch(pub(crate) RunDir, #[expect(dead_code)] tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(RunDir::at(dir.path()).unwrap(), dir)
    }
}
