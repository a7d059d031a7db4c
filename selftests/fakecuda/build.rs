//! Compiles the GPU's kernels for the CPU.

use std::env;
use std::path::Path;
use std::process::Command;

const KERNELS: &str = "../../crates/cuda/src/kernels/payload.cu";

fn run(command: &mut Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{command:?}: {status:?}"
    );
}

fn main() {
    println!("cargo::rerun-if-changed=src/kernels.c");
    println!("cargo::rerun-if-changed={KERNELS}");
    let Some(out) = env::var_os("OUT_DIR") else {
        return;
    };
    let out = Path::new(&out);
    let object = out.join("kernels.o");
    let library = out.join("libkernels.a");
    run(Command::new("cc")
        .args(["-std=gnu11", "-O2", "-fPIC", "-Wall", "-Werror"])
        .args(["-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"])
        // A GPU refuses an access that is not aligned; so does this, by a trap.
        .args(["-fsanitize=alignment,shift"])
        .args(["-fsanitize-undefined-trap-on-error"])
        .args(["-fno-strict-aliasing", "-c", "src/kernels.c", "-o"])
        .arg(&object));
    // Never one of an earlier build besides.
    let _ = std::fs::remove_file(&library);
    run(Command::new("ar").arg("crs").arg(&library).arg(&object));
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=kernels");
}
