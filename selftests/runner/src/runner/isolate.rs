//! Runs each case in a process and a process group of its own.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe};

/// How a case's process ended.
#[derive(Debug)]
pub(super) enum Status {
    /// The process exited with this status.
    Exited(i32),
    /// This signal ended the process.
    Signalled(i32),
    /// The process did not end in time and was killed.
    TimedOut,
}

/// End of a case's process, and everything that it printed.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: Status,
    pub(super) output: String,
}

/// Runs one case of this program in a process group, which is killed when the case has ended.
pub(super) fn run_case(program: &Path, arguments: &[&str], deadline: Duration) -> Result<End> {
    let (reader, writer) = pipe().context("pipe")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("pipe")?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .context("starting the case")?;
    let output = thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(reader)
            .read_to_end(&mut bytes)
            .map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let status = wait(&mut child, deadline)?;
    let group = Pid::from_raw(child.id().try_into().context("the case's pid")?);
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(errno).context("killing what the case left running"),
    }
    if matches!(status, Status::TimedOut) {
        child.wait().context("waiting for the killed case")?;
    }
    let output = output
        .join()
        .ok()
        .context("the reader of the case's output")??;
    Ok(End { status, output })
}

/// Waits for a child process until the deadline.
fn wait(child: &mut Child, deadline: Duration) -> Result<Status> {
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().context("waiting for the case")? {
            return Ok(match (status.code(), status.signal()) {
                (Some(code), _) => Status::Exited(code),
                (None, signal) => Status::Signalled(signal.unwrap_or(0)),
            });
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(Status::TimedOut)
}
