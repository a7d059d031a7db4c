//! Errors of setting a NIC up.

use std::io;

use netdev::{QueueId, queue_list};

use crate::{Owner, RunDirError};

/// A NIC that could not be set up, or not be put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel or the driver refused.
    #[error(transparent)]
    Refused(#[from] netdev::Error),
    /// The driver keeps its channels, perhaps for the RSS table that is set: before Linux 7.3 one whose
    /// table's length follows the channels refuses while there is one (`mlx5e_ethtool_set_channels`).
    #[error("{error}; an RSS table is set, and some drivers keep their channels then")]
    TableIsSet {
        /// The NIC.
        device: String,
        /// The refusal.
        error: netdev::Error,
        /// Whether a receiver, or what was applied, needs that table.
        needed: bool,
    },
    /// The driver took a setting, but did not keep it.
    #[error("{device}: the driver accepts {setting} and does not keep it: it is {kept}")]
    NotKept {
        /// The NIC.
        device: String,
        /// Setting and value asked for.
        setting: String,
        /// Value that the driver kept.
        kept: String,
    },
    /// All queues would be reserved.
    #[error("rss-set {device}: no queue is left for the other traffic")]
    NoOtherQueue {
        /// The NIC.
        device: String,
    },
    /// A new RSS context came without its number.
    #[error("rss-create-act {device}: the answer has no context")]
    NoContext {
        /// The NIC.
        device: String,
    },
    /// A queue that the NIC does not have.
    #[error("{device} has rx queues 0-{}: there is no {queue}", count.saturating_sub(1))]
    NoSuchQueue {
        /// The NIC.
        device: String,
        /// Queue that was named.
        queue: QueueId,
        /// Number of queues that it has, or is to have.
        count: u32,
    },
    /// One flow cannot be spread over several queues.
    #[error(
        "{device}: the driver has no RSS context for queues {}, and there are fewer flows than queues",
        queue_list(queues)
    )]
    NoContexts {
        /// The NIC.
        device: String,
        /// The queues that the flows are to go to.
        queues: Vec<QueueId>,
    },
    /// A rule has the same packets and leads them elsewhere.
    #[error(
        "{device}: rule {place}{} has these packets already: {rule}",
        of(owner)
    )]
    FlowTaken {
        /// The NIC.
        device: String,
        /// Place of that rule.
        place: u32,
        /// The rule, in words.
        rule: String,
        /// Owner of the rule, if known; `Some(None)` for a rule of `apply`.
        owner: Option<Option<Box<Owner>>>,
    },
    /// Another receiver has the queue.
    #[error("{device} queue {queue} belongs to {owner}")]
    QueueTaken {
        /// The NIC.
        device: String,
        /// Queue that both want.
        queue: QueueId,
        /// Owner of the queue.
        owner: Owner,
    },
    /// A queue that was to get traffic of RSS again is still bound to device memory.
    #[error(
        "{device} queue {queue} is still bound to {to}: rss stays without it until that binding ends"
    )]
    StillBound {
        /// The NIC.
        device: String,
        /// The bound queue.
        queue: QueueId,
        /// What it is bound to.
        to: String,
    },
    /// The NIC was removed, or is in a namespace that cannot be seen.
    #[error("{device} is gone from its namespace: there is nothing to put back")]
    Gone {
        /// The NIC.
        device: String,
    },
    /// The NIC was not found, and may be in a namespace that can't be searched.
    #[error(
        "{device} is in no namespace that can be seen from here, and may be in another: what was changed \
         on it stays noted{}",
        why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
    )]
    Hidden {
        /// The NIC.
        device: String,
        /// What kept the NIC from being found, where that is known.
        why: Option<netdev::Error>,
    },
    /// What is noted about the NIC may be of this boot or of another: the id of the boot is a container's own, here
    /// or where the journal was begun.
    #[error(
        "{device}: what is noted of it may be of another boot: a file is mounted over \
         /proc/sys/kernel/random/boot_id, here or where it was noted"
    )]
    UnknownBoot {
        /// The NIC.
        device: String,
    },
    /// Some steps could not be taken back; the NIC is not as it was.
    #[error("{device} is not as it was: {}", failures.join("; "))]
    NotRestored {
        /// The NIC.
        device: String,
        /// What went wrong, each with the kernel's words.
        failures: Vec<String>,
    },
    /// The journal could not be read or written; nothing was changed without it.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Another process, with another runtime directory, has set the NIC up: neither can read the other's journal.
    #[error(
        "{device} is set up by {}, whose journal is in another runtime directory",
        pid.map_or("a process".to_owned(), |pid| format!("process {pid}"))
    )]
    OtherRunDir {
        /// The NIC.
        device: String,
        /// That process, where its id can be seen.
        pid: Option<u32>,
    },
    /// The sockets that show who has set a NIC up could not be made or read.
    #[error("sockets of other receivers")]
    Presence(#[source] io::Error),
    /// The guardian could not be started; nothing was changed.
    #[error("starting the guardian")]
    Guardian(#[source] io::Error),
}

/// Text of a rule's owner, to follow its place.
fn of(owner: &Option<Option<Box<Owner>>>) -> String {
    match owner {
        Some(Some(owner)) => format!(" of {owner}"),
        Some(None) => " of devmem-tcp apply".to_owned(),
        None => String::new(),
    }
}
