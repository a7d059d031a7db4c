//! Memory that there is not is left out, and that is said, over the fake of the driver.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

// Not called: that it is a dependency has the library built.
use fakecuda as _;

fn gpu(variable: &str, value: &str) -> Output {
    let tests = std::env::current_exe().unwrap();
    Command::new(env!("CARGO_BIN_EXE_gpu"))
        .args(["--batches", "1", "--repeats", "1", "--region", "2"])
        .arg("--library")
        .arg(tests.with_file_name("libfakecuda.so"))
        .env(variable, value)
        .output()
        .unwrap()
}

#[test]
fn one_kind_is_worked_in_where_the_other_cannot_be_exported() {
    for (nth, missing, there) in [
        ("1", "cuMemAlloc", "cuMemCreate"),
        ("2", "cuMemCreate", "cuMemAlloc"),
    ] {
        let fault = format!("cuMemGetHandleForAddressRange:{nth}:801");
        let output = gpu("FAKECUDA_FAIL", &fault);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let left_out = format!("LEFT OUT: memory of {missing}: cuMemGetHandleForAddressRange");
        assert!(text.contains(&left_out), "{text}");
        // Among what was compared, and among what was passed on.
        let count = |word| text.matches(word).count();
        assert_eq!((count(missing), count(there)), (1, 2), "{text}");
    }
}

#[test]
fn with_neither_kind_it_has_failed() {
    let output = gpu("FAKECUDA_DMABUF", "0");
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("LEFT OUT: memory of cuMemAlloc"), "{said}");
    assert!(said.contains("in no way"), "{said}");
}
