//! The guardian: a process that takes an owner's claim back when the owner is killed.
//!
//! It is the owner's own program, started anew under another name, in the NIC's network namespace.
//! It waits for the end of a pipe, which the kernel closes whatever ends the owner.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netdev::{Ifindex, NetNs};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use undo::with_sources;

use crate::end::end_claim;
use crate::journal::JournalFile;
use crate::nic::Nic;
use crate::presence::{Kind, Presence};
use crate::{Error, RunDir};

/// Name under which the program is started as a guardian (`argv[0]`).
const NAME: &str = "devmem-guardian";
/// Byte that the owner sends the guardian when nothing is left to undo. The end of the pipe without
/// this byte is the owner's end.
const DISMISSED: u8 = b'.';
/// Byte that the guardian sends its owner when it watches.
const WATCHING: u8 = b'!';
/// Time for which the guardian tries to undo a claim: a binding ends some time after its owner.
const UNDO_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether this program can be started as a guardian.
static CAN_BE_GUARDIAN: AtomicBool = AtomicBool::new(false);

/// Runs the guardian if this program was started as one, and returns its exit code, which `main` is
/// to return at once. Must be called first in `main`.
///
/// A program that does so has a guardian from [`crate::Plan::apply`] on, which is that program
/// started anew. One that does not has none: what it changed when it was killed waits for
/// [`crate::restore`].
pub fn guardian() -> Option<ExitCode> {
    let mut args = env::args_os();
    if args.next().as_deref() != Some(OsStr::new(NAME)) {
        CAN_BE_GUARDIAN.store(true, Ordering::Relaxed);
        return None;
    }
    let args: Vec<OsString> = args.collect();
    Some(match run_guardian(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    })
}

/// Handle of an owner to its guardian process, which waits for the owner's end.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    /// Starts a guardian process in the NIC's namespace; `None` where the program can't be one.
    pub(crate) fn start(
        netns: &NetNs,
        dir: &RunDir,
        (file, nic): (&str, Ifindex),
        claim: u64,
    ) -> Result<Option<Self>, Error> {
        if !CAN_BE_GUARDIAN.load(Ordering::Relaxed) {
            tracing::debug!("no guardian: nic::guardian() was not called");
            return Ok(None);
        }
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(NAME)
            .arg(dir.path())
            .arg(file)
            .arg(claim.to_string())
            .arg(nic.to_string())
            .current_dir("/")
            // Out of reach of the terminal's signals.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let child = netns.run(|| command.spawn())?;
        let mut guardian = Self(child.map_err(Error::Guardian)?);
        guardian.is_watching().map_err(Error::Guardian)?;
        Ok(Some(guardian))
    }

    /// Waits until the guardian says that it watches: a program that was started may still fail, or
    /// never get that far.
    fn is_watching(&mut self) -> io::Result<()> {
        let end = Instant::now() + UNDO_TIMEOUT;
        let mut heard = [0];
        let result = match self.0.stdout.take() {
            None => Err(io::ErrorKind::BrokenPipe.into()),
            Some(mut pipe) => match wait_until_readable(&pipe, end) {
                Ok(true) => pipe.read_exact(&mut heard),
                Ok(false) => Err(io::ErrorKind::TimedOut.into()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            let _ended = self.0.kill();
            let status = self.0.wait()?;
            return Err(io::Error::new(
                error.kind(),
                format!("it does not watch ({error}; {status})"),
            ));
        }
        Ok(())
    }

    /// Leaves the guardian running until this process ends: then there is something left to undo.
    pub(crate) fn stay(mut self) {
        // The pipe stays open as long as this process lives.
        if let Some(pipe) = self.0.stdin.take() {
            std::mem::forget(pipe);
        }
    }

    /// Ends the guardian: there is nothing left to undo.
    pub(crate) fn dismiss(mut self) {
        let told = self
            .0
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(&[DISMISSED]));
        let ended = self.0.wait();
        if let (Some(Err(error)), _) | (_, Err(error)) = (told, ended) {
            // It was killed before us.
            tracing::debug!("guardian: {error}");
        }
    }
}

/// Main function of the guardian: waits for the owner's end, and undoes its claim.
fn run_guardian(args: &[OsString]) -> Result<(), String> {
    let [dir, file, claim, nic] = args else {
        return Err("this is no program to be started by hand".to_owned());
    };
    let (Some(file), Some(Ok(claim))) = (file.to_str(), claim.to_str().map(str::parse)) else {
        return Err("no such claim".to_owned());
    };
    // The owner's matter: what is sent to all of a session or a control group ends the owner, which
    // puts the NIC back by itself.
    let ignored = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    ignored.thread_block().map_err(|errno| errno.to_string())?;
    // Else it goes by the name `exe`.
    if let Err(error) = fs::write("/proc/self/comm", NAME) {
        tracing::debug!("comm: {error}");
    }
    // As its owner does, for the time between the ends of both.
    let ifindex = nic.to_str().and_then(|nic| nic.parse().ok());
    let presence = ifindex.and_then(|nic: Ifindex| {
        let here = NetNs::current().map_err(Error::from);
        let said =
            here.and_then(|here| Presence::announce(&here, nic, Path::new(dir), Kind::Guardian));
        said.map_err(|error| tracing::debug!("{error}")).ok()
    });
    // From here on it can be relied upon. An owner that was killed meanwhile does not hear it.
    let mut stdout = io::stdout().lock();
    let _unheard = stdout.write_all(&[WATCHING]).and_then(|()| stdout.flush());
    let mut heard = Vec::new();
    // An error is the end of the pipe, too.
    let _end = io::stdin().lock().read_to_end(&mut heard);
    if heard.contains(&DISMISSED) {
        return Ok(());
    }
    // Held until all is done.
    let _presence = presence;
    let dir = RunDir::at(dir).map_err(|error| with_sources(&error))?;
    let mut end = Instant::now() + UNDO_TIMEOUT;
    loop {
        match try_to_undo(&dir, file, claim) {
            Ok(Some(done)) => {
                // Not under the lock: a terminal may be stopped.
                if let UndoOutcome::TakenBack(text) = done {
                    say(&text);
                }
                return Ok(());
            }
            // Its time begins when its owner has ended.
            Ok(None) => end = Instant::now() + UNDO_TIMEOUT,
            Err(error) if Instant::now() > end => return Err(with_sources(&error)),
            Err(_) => {}
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the pipe can be read, or has ended, before the time `end`.
fn wait_until_readable(pipe: &impl AsFd, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if Instant::now() < end => {}
            Err(Errno::EINTR) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Outcome of undoing a claim.
enum UndoOutcome {
    /// There was nothing to undo.
    Nothing,
    /// The claim was undone; with a text that says so.
    TakenBack(String),
}

/// Tries once to undo the owner's claim; `None` while the owner is still ending.
fn try_to_undo(dir: &RunDir, file: &str, id: u64) -> Result<Option<UndoOutcome>, Error> {
    let locked = dir.lock()?;
    let Some(mut open) = JournalFile::open(&locked, file)? else {
        return Ok(Some(UndoOutcome::Nothing));
    };
    let Some(claim) = open.journal.claim(id) else {
        return Ok(Some(UndoOutcome::Nothing));
    };
    if !claim.is_orphan() {
        return Ok(None);
    }
    let owner = claim.owner.clone();
    let device = open.journal.nic.name.clone();
    match Nic::find(&open.journal.nic)? {
        Some(mut nic) => {
            end_claim(&mut nic, &mut open, id)?;
            Ok(Some(match owner {
                Some(owner) => UndoOutcome::TakenBack(format!(
                    "{owner} was killed: what it changed on {device} is taken back"
                )),
                None => UndoOutcome::Nothing,
            }))
        }
        None => {
            open.forget(id);
            open.save()?;
            Ok(Some(UndoOutcome::Nothing))
        }
    }
}

fn say(text: &str) {
    // Nobody is left to hear of it if stderr is closed.
    let _closed = writeln!(io::stderr(), "{NAME}: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guardian_of_script(script: &str) -> Guardian {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Guardian(command.spawn().unwrap())
    }

    #[test]
    fn a_guardian_that_watches_says_so() {
        let mut guardian = guardian_of_script("printf '!'; read line");
        guardian.is_watching().unwrap();
        guardian.dismiss();
    }

    #[test]
    fn a_guardian_that_ended_is_an_error() {
        let mut guardian = guardian_of_script("exit 7");
        let error = guardian.is_watching().unwrap_err();
        assert!(error.to_string().contains("does not watch"), "{error}");
        assert!(error.to_string().contains('7'), "{error}");
    }
}
