//! Tests of standard streams that are closed, full, non-blocking or unread.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe, write};

fn tool(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devmem-tcp"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for line in ["completions bash", "recv --help", "--version"] {
        let full = File::create("/dev/full").unwrap();
        let said = complaint(&tool(line).stdout(full).output().unwrap());
        assert!(said.contains("stdout: No space left on device"), "{said}");
        let not_for_writing = File::open("/dev/null").unwrap();
        let said = complaint(&tool(line).stdout(not_for_writing).output().unwrap());
        assert!(said.contains("stdout: Bad file descriptor"), "{said}");
        assert!(tool(line).output().unwrap().status.success());
    }
}

/// A closed standard output is an error, although the standard library opens `/dev/null` in its
/// place.
#[test]
fn closed_output_is_an_error() {
    let mut shell = Command::new("sh");
    let tool = env!("CARGO_BIN_EXE_devmem-tcp");
    shell.args(["-c", &format!("exec {tool} completions bash >&-")]);
    let said = complaint(&shell.output().unwrap());
    assert!(said.contains("stdout: Bad file descriptor"), "{said}");
}

#[test]
fn output_that_would_not_block_is_waited_for() {
    let expected = tool("completions bash").output().unwrap().stdout;
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    // Full before the tool starts.
    let filled = write(&writer, &[b'.'; 4096]).unwrap();
    let mut run = tool("completions bash");
    let mut run = {
        run.stdout(writer).stderr(Stdio::piped());
        let started = run.spawn().unwrap();
        // Closes this process's end of the pipe.
        run.stdout(Stdio::null());
        started
    };
    thread::sleep(Duration::from_millis(300));
    let mut got = Vec::new();
    File::from(reader).read_to_end(&mut got).unwrap();
    let mut said = String::new();
    run.stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(run.wait().unwrap().success(), "{said}");
    let got = got.split_off(filled);
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
}

/// An error or a log line does not cause a panic when standard error is closed.
#[test]
fn a_closed_stderr_is_no_panic() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut run = tool("-v recv -f nosuchdevice -l 127.0.0.1:1");
    let status = run.stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
}
