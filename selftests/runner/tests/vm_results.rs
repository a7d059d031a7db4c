//! `selftests/vm/run --results DIR` replaces nothing that it did not make.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A temporary directory for one test, removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_of_somebody_elses_stays() {
    let name = format!("devmem-tcp-{}-results", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let precious = scratch.0.join("home/thesis.txt");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "ten years of work").unwrap();
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/../vm/run");
    for results in [scratch.0.join("home"), precious.clone()] {
        let output = Command::new(run)
            .args(["--results".as_ref(), results.as_os_str()])
            .args(["--timeout", "1", "--", "true"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("name another"), "{said}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "ten years of work");
    }
}
