//! `devmem-tcp show --watch`: a line for each change, until Ctrl-C.
//!
//! Notifications say only that something has changed; the change is the difference of two
//! snapshots. So no change depends on a notification, and what came and went between two snapshots
//! is not reported.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::events::{EventKind, WatchEvent, WatchedParts};
use super::lease_end_text;
use super::namespace_watch::NamespaceWatches;
use crate::report;
use crate::snapshot::Snapshot;
use crate::style::Style;

/// Least time between two snapshots, for when many notifications come at once.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(100);

/// A line of `show --watch --json`.
#[derive(Serialize)]
struct JsonLine {
    time: String,
    #[serde(flatten)]
    event: WatchEvent,
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
        // The reader has gone.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        end => end,
    }
}

fn watch(device: Option<&str>, json: bool, signalled: &UnixStream) -> Result<()> {
    // Watch before the first snapshot, so that later changes are noticed.
    let mut watches = NamespaceWatches::open()?;
    let mut watched = take_snapshot()?;
    if !json {
        let noun = if watches.count() == 1 {
            "namespace"
        } else {
            "namespaces"
        };
        let text = format!("{} {noun}, until Ctrl-C", watches.count());
        report::text(&to_text(&utc_time(), EventKind::Watching, &text))?;
    } else {
        print(WatchEvent::new(EventKind::Watching), true)?;
    }
    while watches.wait(signalled)? {
        let began = Instant::now();
        let mut now = match take_snapshot() {
            Ok(now) => now,
            // Something disappeared while it was listed: the next snapshot will tell.
            Err(error) => {
                tracing::debug!("{error:#}");
                thread::sleep(SNAPSHOT_INTERVAL);
                take_snapshot()?
            }
        };
        now.remember(&watched);
        for event in now.since(&watched) {
            if device.is_none_or(|device| event.names(device)) {
                print(event, json)?;
            }
        }
        watched = now;
        thread::sleep(SNAPSHOT_INTERVAL.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// Takes a snapshot of all namespaces and keeps only the watched parts: a whole snapshot keeps
/// namespaces alive.
fn take_snapshot() -> Result<WatchedParts> {
    WatchedParts::of(&Snapshot::take()?)
}

fn print(event: WatchEvent, json: bool) -> Result<()> {
    let time = utc_time();
    if json {
        return report::json(&JsonLine { time, event });
    }
    report::text(&to_text(&time, event.what, &event_words(&event)))
}

/// Present time in UTC, with its date, as in RFC 3339: other zones need libc's tables.
fn utc_time() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Formats an event of `show --watch`: `12:00:00.000Z  leased       eth1 rx 3 -> box/nk0 rx 1`.
fn to_text(time: &str, what: EventKind, words: &str) -> String {
    let style = Style::stdout();
    let padded = format!("{:<11}", what.words());
    let what = match what {
        EventKind::Watching => style.dim(&padded),
        EventKind::Leased | EventKind::Bound | EventKind::DeviceCame => style.good(&padded),
        EventKind::LeaseMoved => style.warn(&padded),
        EventKind::LeaseEnded | EventKind::Unbound | EventKind::DeviceWent => style.bad(&padded),
    };
    let time_of_day = time.split_once('T').map_or(time, |(_, time)| time);
    format!("{}  {what}  {words}\n", style.dim(time_of_day))
}

fn event_words(event: &WatchEvent) -> String {
    if let Some(device) = &event.device {
        let name = match device.netns.as_str() {
            "" => device.device.clone(),
            netns => format!("{netns}/{}", device.device),
        };
        return format!("{name} ({}, ifindex {})", device.kind, device.ifindex);
    }
    let ends = [&event.phys, &event.virt].into_iter().flatten();
    let mut text = ends.map(lease_end_text).collect::<Vec<_>>().join(" -> ");
    if let Some(dmabuf) = event.dmabuf {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_has_milliseconds_and_a_zone() {
        let text = to_text("2024-12-31T23:59:59.999Z", EventKind::Bound, "eth1 rx 3");
        assert!(
            text.contains("23:59:59.999Z") && !text.contains("2024"),
            "{text}"
        );
        assert_eq!(utc_time().len(), "2024-12-31T23:59:59.999Z".len());
    }
}
