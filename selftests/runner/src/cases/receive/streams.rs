//! Standard output and error of a receiver whose readers are slow, gone, or wait for a few bytes, or
//! that are closed or full.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::pipe;

use crate::cases::tools::json::check_documented;
use crate::cases::tools::ncdevmem::until_listening;
use framework::command_line::Sender;
use framework::far_end::{connect, pattern};
use framework::println_line;
use framework::receiver::bound_queues;
use framework::summary::Summary;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Finished, Running, command, ours, until};
use framework::transfer::{devmem_tcp, nic_settings};

pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Returns the command of a receiver, `devmem-tcp` or `ncdevmem`, that listens at the NIC's address
/// and writes to standard output.
pub(crate) fn receiver(program: &str, port: u16) -> Command {
    match program {
        "ncdevmem" => {
            let line = format!("-l -f {NIC} -s {NIC_ADDRESS} -p {port}");
            command(None, &ours("ncdevmem"), &line)
        }
        _ => {
            let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:{port} -o -");
            command(None, &devmem_tcp(), &line)
        }
    }
}

/// Starts a command with the given standard output, and waits until it listens.
pub(crate) fn listening_into(
    mut command: Command,
    stdout: impl Into<Stdio>,
) -> Result<StartedProcess> {
    let err = "/tmp/streams.err";
    let child = command
        .stdout(stdout)
        .stderr(File::create(err).context(err)?)
        .spawn()?;
    // Closes the pipe's end that it has.
    drop(command);
    until_listening()?;
    Ok(StartedProcess { child, err })
}

/// A running process whose standard output the case reads.
pub(crate) struct StartedProcess {
    child: std::process::Child,
    err: &'static str,
}

impl StartedProcess {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        framework::tool::signal(self.child.id().try_into()?, signal)
    }

    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the end, and returns the exit status and standard error.
    pub(crate) fn end(mut self) -> Result<Finished> {
        if let Err(error) = until("an end", SOON, || self.ended()) {
            self.child.kill()?;
            self.child.wait()?;
            return Err(error.context(fs::read_to_string(self.err)?));
        }
        let stderr = fs::read_to_string(self.err)?;
        println_line(stderr.trim_end());
        Ok(Finished {
            status: self.child.wait()?,
            stdout: String::new(),
            stderr,
        })
    }
}

fn connect_to_nic(port: u16) -> Result<TcpStream> {
    connect(format!("{NIC_ADDRESS}:{port}").parse()?)
}

/// Reads exactly `bytes` bytes; an error if they don't come in time.
fn read_exactly(from: &mut File, bytes: usize) -> Result<Vec<u8>> {
    let mut got = Vec::new();
    let end = Instant::now() + SOON;
    while got.len() < bytes {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let there = poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], left)?;
        ensure!(there > 0, "{} of {bytes} bytes were there", got.len());
        let mut part = vec![0; bytes - got.len()];
        let len = from.read(&mut part)?;
        ensure!(len > 0, "the end after {} of {bytes} bytes", got.len());
        got.extend_from_slice(&part[..len]);
    }
    Ok(got)
}

case!(request_over_a_pipe);
/// Sends a request of 10 bytes without a newline and waits. The receiver must write the bytes to
/// its output at once.
fn request_over_a_pipe() -> Result<()> {
    testbed::wire()?;
    for (port, program) in [(5000, "devmem-tcp"), (5001, "ncdevmem")] {
        let (reader, writer) = pipe()?;
        let receiver = listening_into(receiver(program, port), writer)?;
        let mut peer = connect_to_nic(port)?;
        let mut reader = File::from(reader);
        for request in [b"0123456789", b"line\nafter"] {
            peer.write_all(request)?;
            let got = read_exactly(&mut reader, request.len()).context(program)?;
            ensure!(got == request, "{program}: {got:?}");
        }
        drop(peer);
        receiver.end()?.good(program)?;
    }
    Ok(())
}

case!(output_that_would_not_block);
/// Makes the output a non-blocking pipe that is read late. Every byte must get there.
fn output_that_would_not_block() -> Result<()> {
    const LEN: usize = 3_000_001;
    testbed::wire()?;
    for (port, program) in [(5000, "devmem-tcp"), (5001, "ncdevmem")] {
        let (reader, writer) = pipe()?;
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let receiver = listening_into(receiver(program, port), writer)?;
        let payload = pattern(LEN, None)?;
        let sending = payload.clone();
        let mut peer = connect_to_nic(port)?;
        let sender = thread::spawn(move || peer.write_all(&sending));
        thread::sleep(Duration::from_secs(1));
        let got = read_exactly(&mut File::from(reader), LEN).context(program)?;
        ensure!(got == payload, "{program}: other bytes");
        sender.join().ok().context("the sender")??;
        receiver.end()?.good(program)?;
    }
    Ok(())
}

case!(output_that_cannot_be_written);
/// Makes the output closed, full or read-only. The receiver must fail with the kernel's words; a
/// closed one must be refused before the NIC is changed.
fn output_that_cannot_be_written() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let mut port = 5000;
    for program in ["devmem-tcp", "ncdevmem"] {
        let closed = receiver(program, port);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" >&-", "sh"]);
        shell.arg(closed.get_program()).args(closed.get_args());
        let end = Running::start(shell)?.end_within(SOON).context(program)?;
        let said = end.refused(1)?;
        println_line(said.trim_end());
        for words in ["standard output", "Bad file descriptor"] {
            ensure!(said.contains(words), "{words:?} is not in {said}");
        }
        ensure!(
            nic_settings(NIC)? == before,
            "{program}: the NIC was changed"
        );
        let full = File::create("/dev/full")?;
        let not_for_writing = File::open("/dev/null")?;
        for (file, words) in [
            (full, "No space left on device"),
            (not_for_writing, "Bad file descriptor"),
        ] {
            port += 1;
            let receiver = listening_into(receiver(program, port), file)?;
            // Whether the sender sees it depends on the moment.
            let _sent = Sender::to(testbed::at(port)).bytes("1M").run();
            let said = receiver.end()?.refused(1)?;
            ensure!(said.contains(words), "{words:?} is not in {said}");
            ensure!(nic_settings(NIC)? == before, "{program}: not as it was");
        }
        port += 1;
    }
    Ok(())
}

case!(summary_that_cannot_be_printed);
/// Prints the summary to `/dev/full`. The error must be reported, but not hide a wrong byte in the
/// payload or its remedy.
fn summary_that_cannot_be_printed() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    for (port, wrong) in [(5000, None), (5001, Some(54_321))] {
        let line = format!("recv --json -f {NIC} -l {NIC_ADDRESS}:{port} --validate 251");
        let receiver = command(None, &devmem_tcp(), &line);
        let receiver = listening_into(receiver, File::create("/dev/full")?)?;
        // The receiver may end before it has all.
        let _sent = connect_to_nic(port)?.write_all(&pattern(100_000, wrong)?);
        let said = receiver.end()?.refused(1)?;
        ensure!(said.contains("stdout: No space left"), "{said}");
        if wrong.is_some() {
            ensure!(said.contains("byte 54321"), "the verdict is hidden: {said}");
            ensure!(said.contains("same period"), "its remedy is hidden: {said}");
        }
        ensure!(nic_settings(NIC)? == before, "the NIC is not as it was");
    }
    Ok(())
}

case!(nobody_reads_stderr);
/// Closes the reader of standard error. The receiver must receive everything and end well.
fn nobody_reads_stderr() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    for (port, program) in [(5000, "devmem-tcp"), (5001, "ncdevmem")] {
        let (reader, writer) = pipe()?;
        drop(reader);
        let mut command = receiver(program, port);
        let output = "/tmp/streams.out";
        let mut child = command
            .stdout(File::create(output)?)
            .stderr(writer)
            .spawn()?;
        drop(command);
        until_listening()?;
        Sender::to(testbed::at(port)).bytes("1M").run()?;
        let status = child.wait()?;
        ensure!(status.success(), "{program}: {status}");
        let len = fs::metadata(output)?.len();
        ensure!(len == 1 << 20, "{program}: {len} bytes of payload");
        ensure!(nic_settings(NIC)? == before, "{program}: not as it was");
    }
    Ok(())
}

/// Fills a pipe through a second open file, because the first would share `O_NONBLOCK`.
pub(crate) fn fill_pipe(pipe: &OwnedFd) -> Result<()> {
    let again = File::options()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))?;
    while (&again).write(b".").is_ok() {}
    Ok(())
}

case!(stderr_that_is_full);
/// Fills standard error. The receiver must nevertheless receive everything and restore the NIC
/// before it waits for a reader.
fn stderr_that_is_full() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    for (port, program) in [(5000, "devmem-tcp"), (5001, "ncdevmem")] {
        let (reader, writer) = small_pipe()?;
        let full = writer.try_clone()?;
        // What upstream's words say before the NIC is touched may wait.
        let from_the_start = program == "devmem-tcp";
        if from_the_start {
            fill_pipe(&full)?;
        }
        let output = "/tmp/streams.out";
        let mut command = receiver(program, port);
        command.stdout(File::create(output)?).stderr(writer);
        let mut child = command.spawn()?;
        drop(command);
        until_listening()?;
        if !from_the_start {
            fill_pipe(&full)?;
        }
        drop(full);
        Sender::to(testbed::at(port)).bytes("1M").run()?;
        until("the NIC as it was", SOON, || {
            Ok(bound_queues()? == 0 && nic_settings(NIC)? == before)
        })
        .context(program)?;
        let mut said = String::new();
        File::from(reader).read_to_string(&mut said)?;
        let status = child.wait()?;
        println_line(said.replace("..", "").trim_end());
        ensure!(status.success(), "{program}: {status}");
        let words = ["listening on", "Got connection from"];
        ensure!(words.iter().any(|words| said.contains(words)), "{said}");
        let len = fs::metadata(output)?.len();
        ensure!(len == 1 << 20, "{program}: {len} bytes of payload");
    }
    Ok(())
}

/// Creates a pipe of one page, too small for one second of `--live --json`.
pub(crate) fn small_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(4096))?;
    Ok((reader, writer))
}

case!(live_that_nobody_reads);
/// Leaves the output of `--live` unread. The receiver must restore the NIC at a signal; what is
/// read later must be whole lines with the summary last.
fn live_that_nobody_reads() -> Result<()> {
    const PEERS: usize = 16;
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let (reader, writer) = small_pipe()?;
    let line = format!(
        "recv --live --json -f {NIC} -l {NIC_ADDRESS}:5000 --connections {}",
        PEERS + 1
    );
    let mut receiver = listening_into(command(None, &devmem_tcp(), &line), writer)?;
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = connect_to_nic(5000)?;
        peer.write_all(&[7; 1000])?;
        peers.push(peer);
    }
    // Some seconds' lines, of more than a page each.
    thread::sleep(Duration::from_secs(4));
    receiver.signal(Signal::SIGTERM)?;
    until("the NIC as it was", SOON, || {
        Ok(bound_queues()? == 0 && nic_settings(NIC)? == before)
    })?;
    // Only its summary is still to be printed.
    ensure!(!receiver.ended()?, "the summary was printed nowhere");
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    let said = receiver.end()?.refused(1)?;
    ensure!(said.contains("signal 15"), "{said}");
    let (live, summary) = text.trim_end().rsplit_once('\n').context("lines")?;
    // The first may be from before all peers were there.
    ensure!(live.lines().any(|line| line.len() > 4096), "short lines");
    check_documented("recv --live", live)?;
    check_documented("recv", summary)?;
    let summary = Summary::parse(summary)?;
    ensure!(summary.bytes == PEERS as u64 * 1000, "bytes");
    ensure!(summary.signal == Some(15), "{summary}");
    summary.tokens_came_back()
}

case!(ncdevmem_has_the_kernels_words);
/// Resets a connection of `ncdevmem`. The error must have the kernel's words.
fn ncdevmem_has_the_kernels_words() -> Result<()> {
    testbed::wire()?;
    let receiver = listening_into(receiver("ncdevmem", 5000), Stdio::null())?;
    let mut peer = connect_to_nic(5000)?;
    peer.write_all(&[7; 100_000])?;
    thread::sleep(Duration::from_secs(1));
    let abort = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&peer, nix::sys::socket::sockopt::Linger, &abort)?;
    drop(peer);
    let said = receiver.end()?.refused(1)?;
    ensure!(said.contains("after 100000 bytes"), "{said}");
    ensure!(said.contains("Connection reset by peer"), "{said}");
    Ok(())
}
