//! Kinds of memory that the fake CUDA driver lacks are left out of the comparison, and reported.
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

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_kind_is_worked_in_where_there_is_no_other() {
    for (fault, missing, there) in [
        ("cuMemAlloc:1:2", "cuMemAlloc", "cuMemCreate"),
        ("cuMemCreate:1:2", "cuMemCreate", "cuMemAlloc"),
    ] {
        let text = text(gpu("FAKECUDA_FAIL", fault));
        let left_out = format!("LEFT OUT: memory of {missing}: {missing} of");
        assert!(text.contains(&left_out), "{text}");
        // Among what was compared, and among what was passed on.
        let of = |word: &str| text.matches(&format!("memory of {word}")).count();
        assert_eq!((of(missing), of(there)), (1, 1), "{text}");
    }
}

/// Makes the driver refuse to export dmabufs, also with error 999, which does not lose the GPU
/// there; the kernels must still be compared and measured.
#[test]
fn memory_that_is_not_exported_is_worked_in() {
    for code in [801, 999] {
        let fault = format!("cuMemGetHandleForAddressRange:1:{code}");
        let text = text(gpu("FAKECUDA_FAIL", &fault));
        let words = "NO DMABUF: memory of cuMemAlloc: cuMemGetHandleForAddressRange";
        assert!(text.contains(words), "{text}");
        for kind in ["cuMemAlloc", "cuMemCreate"] {
            let compared = format!(
                "1 random batches each of gather, crc32 and validate as by the processor, in memory of {kind}"
            );
            assert!(text.contains(&compared), "{text}");
        }
        // What was measured of passing it on is of the other alone.
        let (_, passed_on) = text.split_once("to pass it on").unwrap();
        assert!(passed_on.contains("cuMemCreate"), "{text}");
        assert!(!passed_on.contains("cuMemAlloc"), "{text}");
    }
}

#[test]
fn without_any_export_the_kernels_run() {
    let text = text(gpu("FAKECUDA_DMABUF", "0"));
    assert_eq!(text.matches("NO DMABUF: memory of").count(), 2, "{text}");
    assert!(text.contains("exports no dmabufs"), "{text}");
    assert!(text.contains("gather, % of a copy"), "{text}");
    assert!(!text.contains("to pass it on"), "{text}");
}

#[test]
fn without_memory_it_has_failed() {
    let output = gpu("FAKECUDA_FAIL", "cuDevicePrimaryCtxRetain:1:2");
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cuDevicePrimaryCtxRetain"), "{said}");
}
