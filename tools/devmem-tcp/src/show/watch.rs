//! `devmem-tcp show --watch`: a line for each change, until Ctrl-C.
//!
//! Notifications say that something has changed; what it was is read off the difference between two
//! looks. So nothing depends on a notification's arriving, and what came and went between two looks
//! is not told.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::change::{Change, Scene, What};
use super::clock::Moment;
use super::ears::Ears;
use super::end;
use crate::report;
use crate::snapshot::Snapshot;
use crate::style::Style;

/// At least so much between two looks, where notifications come in droves.
const PAUSE: Duration = Duration::from_millis(100);

/// A line of JSON.
#[derive(Serialize)]
struct Line {
    time: Moment,
    #[serde(flatten)]
    change: Change,
}

pub(super) fn run(device: Option<&str>, json: bool) -> Result<()> {
    let (signalled, signal) = UnixStream::pair().context("socketpair")?;
    // A second signal ends the process, which may be stuck in a write to a full pipe.
    let again = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&again))
            .and_then(|_| flag::register(number, Arc::clone(&again)))
            .context("signal handlers")?;
        pipe::register(number, signal.try_clone().context("dup")?).context("signal handlers")?;
    }
    match watch(device, json, &signalled) {
        // Who reads has had enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        end => end,
    }
}

fn watch(device: Option<&str>, json: bool, signalled: &UnixStream) -> Result<()> {
    // The ears first: what changes after the first look is heard.
    let mut ears = Ears::open()?;
    let mut scene = look()?;
    if !json {
        let noun = if ears.count() == 1 {
            "namespace"
        } else {
            "namespaces"
        };
        let text = format!("{} {noun}, until Ctrl-C", ears.count());
        report::text(&to_text(Moment::now(), What::Watching, &text))?;
    } else {
        print(Change::new(What::Watching), true)?;
    }
    while ears.wait(signalled)? {
        let began = Instant::now();
        let mut now = match look() {
            Ok(now) => now,
            // Something went in the midst of it: the next look will say what.
            Err(error) => {
                tracing::debug!("{error:#}");
                thread::sleep(PAUSE);
                look()?
            }
        };
        now.remember(&scene);
        for change in now.since(&scene) {
            if device.is_none_or(|device| change.names(device)) {
                print(change, json)?;
            }
        }
        scene = now;
        thread::sleep(PAUSE.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// One look. The snapshot is not kept: it keeps namespaces alive.
fn look() -> Result<Scene> {
    Scene::of(&Snapshot::take()?)
}

fn print(change: Change, json: bool) -> Result<()> {
    let time = Moment::now();
    if json {
        return report::json(&Line { time, change });
    }
    report::text(&to_text(time, change.what, &words(&change)))
}

/// `12:00:00.000Z  leased       eth1 rx 3 -> box/nk0 rx 1`.
fn to_text(time: Moment, what: What, words: &str) -> String {
    let style = Style::stdout();
    let padded = format!("{:<11}", what.words());
    let what = match what {
        What::Watching => style.dim(&padded),
        What::Leased | What::Bound | What::DeviceCame => style.good(&padded),
        What::LeaseMoved => style.warn(&padded),
        What::LeaseEnded | What::Unbound | What::DeviceWent => style.bad(&padded),
    };
    format!("{}  {what}  {words}\n", style.dim(&time.to_string()))
}

fn words(change: &Change) -> String {
    if let Some(device) = &change.device {
        let name = match device.netns.as_str() {
            "" => device.device.clone(),
            netns => format!("{netns}/{}", device.device),
        };
        return format!("{name} ({}, ifindex {})", device.kind, device.ifindex);
    }
    let ends = [&change.phys, &change.virt].into_iter().flatten();
    let mut text = ends.map(end).collect::<Vec<_>>().join(" -> ");
    if let Some(dmabuf) = change.dmabuf {
        text += &format!(", dmabuf {dmabuf}");
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
