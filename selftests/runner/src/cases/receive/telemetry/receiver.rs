//! A receiver whose output is read while it runs, its peers, and ways to stall it.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devmem::listen::{SocketOptions, connect as connect_from};
use netdev::NetNs;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use framework::memory;
use framework::receiver::start_bound;
use framework::testbed::{NIC, NIC_ADDRESS, PEER, SENDER_ADDRESS};
use framework::tool::{Finished, Running, until};
use framework::transfer::devmem_tcp;

/// Time limit for each step of a receiver.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A receiver whose output can be read while it runs.
pub(crate) struct LiveReceiver {
    pub(crate) running: Running,
    out: PathBuf,
    err: PathBuf,
}

impl LiveReceiver {
    pub(crate) fn start(line: &str) -> Result<Self> {
        Self::within("exec", &format!("-f {NIC} {line}"))
    }

    /// Starts a receiver by way of another command, and waits until it is bound and listens.
    pub(crate) fn within(way: &str, line: &str) -> Result<Self> {
        let (out, err) = ("/tmp/telemetry.out", "/tmp/telemetry.err");
        let tool = devmem_tcp();
        let line = memory::recv_line(line)?;
        let line = format!("{way} {} recv {line} >{out} 2>{err}", tool.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]);
        let running = start_bound(shell)?;
        let started = Self {
            running,
            out: out.into(),
            err: err.into(),
        };
        until("a listener", SOON, || {
            Ok(started.said()?.contains("listening"))
        })?;
        Ok(started)
    }

    pub(crate) fn said(&self) -> Result<String> {
        fs::read_to_string(&self.err).context("stderr")
    }

    /// Returns the complete lines that the receiver has written to standard output so far.
    pub(crate) fn lines(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.out).context("stdout")?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(str::to_owned).collect())
    }

    /// Waits for a new `--live` line for which `holds` returns true.
    pub(crate) fn line(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let before = self.lines()?.len();
        let mut found = None;
        until(what, SOON, || {
            let lines = self.lines()?;
            for line in lines.iter().skip(before) {
                let line: Value = serde_json::from_str(line)?;
                if holds(&line) {
                    found = Some(line);
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .with_context(|| format!("{:?}", self.lines()))?;
        found.context("no line")
    }

    /// Waits for the receiver's end, and returns its exit status and output.
    pub(crate) fn end(self) -> Result<Finished> {
        let mut end = self.running.end_within(SOON)?;
        end.stdout = fs::read_to_string(&self.out)?;
        end.stderr = fs::read_to_string(&self.err)?;
        Ok(end)
    }
}

/// Connects from the far end of the wire and sends `bytes` bytes.
pub(crate) fn connect(port: u16, bytes: usize) -> Result<TcpStream> {
    connect_to(NIC_ADDRESS, port, bytes)
}

pub(crate) fn connect_to(address: &str, port: u16, bytes: usize) -> Result<TcpStream> {
    // Ports that differ in many bits: the NIC's hash spreads them over its queues, whatever its key.
    static NUMBER: AtomicU16 = AtomicU16::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let from = 20_000 + number.wrapping_mul(977) % 20_000;
    let options = SocketOptions {
        source: Some(SocketAddr::new(SENDER_ADDRESS.parse()?, from)),
        ..SocketOptions::default()
    };
    let to = SocketAddr::new(address.parse()?, port);
    let peer = NetNs::by_name(PEER)?;
    let connected = peer.run(|| connect_from(to, &options, Duration::from_secs(10)))?;
    let mut stream = connected?;
    stream.set_nodelay(true)?;
    stream.write_all(&vec![7; bytes])?;
    Ok(stream)
}

/// Makes the kernel free received packets at once instead of later on the CPU that received them
/// (`skb_attempt_defer_free`), because each unfreed packet holds a niov.
pub(crate) struct FreedAtOnce(String);

impl FreedAtOnce {
    const LIMIT: &str = "/proc/sys/net/core/skb_defer_max";

    pub(crate) fn set() -> Result<Self> {
        let before = fs::read_to_string(Self::LIMIT).context(Self::LIMIT)?;
        fs::write(Self::LIMIT, "0").context(Self::LIMIT)?;
        Ok(Self(before))
    }
}

impl Drop for FreedAtOnce {
    fn drop(&mut self) {
        let _as_it_is = fs::write(Self::LIMIT, &self.0);
    }
}

/// A thread that is stopped by ptrace, while the other threads of its process go on.
pub(crate) struct StoppedThread(Pid);

impl StoppedThread {
    pub(crate) fn stop(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(pid.try_into().context("pid")?);
        ptrace::attach(pid).context("ptrace")?;
        let stopped = waitpid(pid, None)?;
        ensure!(
            matches!(stopped, WaitStatus::Stopped(_, Signal::SIGSTOP)),
            "{stopped:?}"
        );
        Ok(Self(pid))
    }

    pub(crate) fn resume(self) -> Result<()> {
        Ok(ptrace::detach(self.0, None)?)
    }
}
