//! Processes of commands that cases run, and their output.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time limit for a command to end after a signal.
const END: Duration = Duration::from_secs(20);

/// Exit status and output of a command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Returns standard output, if the command succeeded; else an error.
    pub fn good(self, what: &str) -> Result<String> {
        ensure!(
            self.status.success(),
            "{what}: {}\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }

    /// Returns standard error, if the command ended with this exit status; else an error.
    pub fn refused(self, code: i32) -> Result<String> {
        ensure!(
            self.status.code() == Some(code),
            "expected exit status {code}, got {}\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self.stderr)
    }
}

/// Returns the path of a program that lies beside the runner.
pub fn ours(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default();
    path.set_file_name(name);
    path
}

/// Builds a command from a line split at blanks, in a network namespace if one is named.
pub fn command(netns: Option<&str>, program: &Path, line: &str) -> Command {
    let mut command = match netns {
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs a line such as `ip link set eth0 up` to its end; its failure is an error.
pub fn sh(line: &str) -> Result<String> {
    let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
    finish(command(None, Path::new(program), arguments))?.good(line)
}

/// Runs a command to its end, whatever its exit status.
pub fn finish(mut command: Command) -> Result<Finished> {
    let out = command
        .output()
        .with_context(|| format!("{:?}", command.get_program()))?;
    Ok(Finished {
        status: out.status,
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// A running command.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Starts a command, with its output captured.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{:?}", command.get_program()))?;
        let stdout = drain(child.stdout.take().context("stdout")?);
        let stderr = drain(child.stderr.take().context("stderr")?);
        Ok(Self {
            child,
            stdout,
            stderr,
        })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into().context("pid")?);
        kill(pid, signal).with_context(|| format!("sending {signal}"))
    }

    /// Ends a receiver by SIGTERM, and returns its standard error. Its exit status must be 1, as
    /// after a signal.
    pub fn stop(self) -> Result<String> {
        self.signal(Signal::SIGTERM)?;
        self.end_within(END)?.refused(1)
    }

    /// Kills the process and waits for its end.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.end_within(END).map(drop)
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the end of the process, at most `limit`; kills it after that.
    pub fn end_within(mut self, limit: Duration) -> Result<Finished> {
        let end = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                self.child.kill()?;
                self.child.wait()?;
                let said = (self.stdout.join(), self.stderr.join());
                bail!("no end after {} s; it said {said:?}", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait()?;
        let text = |reader: JoinHandle<String>| reader.join().ok().context("output reader");
        Ok(Finished {
            status,
            stdout: text(self.stdout)?,
            stderr: text(self.stderr)?,
        })
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        match from.read_to_end(&mut bytes) {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("reading the output: {error}"),
        }
    })
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

/// Waits until `holds` returns true; an error that names `what` after `limit`.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !holds()? {
        ensure!(
            Instant::now() < end,
            "{what}: not within {} s",
            limit.as_secs()
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Checks that each of these words is in the text.
pub fn says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "{word:?} is not in\n{text}");
    }
    Ok(())
}
