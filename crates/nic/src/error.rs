//! Errors of setting a NIC up.

use std::io;

use netdev::{QueueId, queue_list};

use crate::{Owner, RunDirError};

/// Error of setting a NIC up, or of restoring it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel or the driver refused a change of the NIC.
    #[error(transparent)]
    Refused(#[from] netdev::Error),
    /// The driver keeps its number of channels, perhaps because of the RSS table that is set:
    /// before Linux 7.3 a driver whose table's length follows the channels refuses while there is
    /// one (`mlx5e_ethtool_set_channels`).
    #[error("{error}; an RSS table is set, and some drivers keep their channels then")]
    TableIsSet {
        /// Name of the NIC.
        device: String,
        /// Error by which the driver refused the channels.
        error: netdev::Error,
        /// Whether a receiver, or a claim of `apply`, needs that RSS table.
        needed: bool,
    },
    /// The driver accepted a setting, but did not keep it.
    #[error("{device}: the driver accepts {setting} and does not keep it: it is {kept}")]
    NotKept {
        /// Name of the NIC.
        device: String,
        /// Setting and the value that was requested.
        setting: String,
        /// Value that the driver kept.
        kept: String,
    },
    /// No queue would be left that is not reserved.
    #[error("rss-set {device}: no queue is left for the other traffic")]
    NoOtherQueue {
        /// Name of the NIC.
        device: String,
    },
    /// The kernel created an RSS context and returned no number for it.
    #[error("rss-create-act {device}: the answer has no context")]
    NoContext {
        /// Name of the NIC.
        device: String,
    },
    /// The NIC does not have the rx queue.
    #[error("{device} has rx queues 0-{}: there is no {queue}", count.saturating_sub(1))]
    NoSuchQueue {
        /// Name of the NIC.
        device: String,
        /// Number of the queue that was named.
        queue: QueueId,
        /// Number of queues that the NIC has, or is to have.
        count: u32,
    },
    /// The driver has no RSS context, and there are fewer flows than queues: one flow cannot be
    /// spread over several queues.
    #[error(
        "{device}: the driver has no RSS context for queues {}, and there are fewer flows than queues",
        queue_list(queues)
    )]
    NoContexts {
        /// Name of the NIC.
        device: String,
        /// Queues that the flows are to go to.
        queues: Vec<QueueId>,
    },
    /// An existing flow rule matches the same packets and leads them elsewhere.
    #[error(
        "{device}: rule {place}{} has these packets already: {rule}",
        of(owner)
    )]
    FlowTaken {
        /// Name of the NIC.
        device: String,
        /// Location of the existing rule.
        place: u32,
        /// Text of the existing rule.
        rule: String,
        /// Owner of the existing rule, if known; `Some(None)` for a rule that `apply` made.
        owner: Option<Option<Box<Owner>>>,
    },
    /// Another receiver has the queue.
    #[error("{device} queue {queue} belongs to {owner}")]
    QueueTaken {
        /// Name of the NIC.
        device: String,
        /// Number of the queue.
        queue: QueueId,
        /// Owner of the queue.
        owner: Owner,
    },
    /// A queue that RSS was to use again is still bound to device memory.
    #[error(
        "{device} queue {queue} is still bound to {to}: rss stays without it until that binding ends"
    )]
    StillBound {
        /// Name of the NIC.
        device: String,
        /// Number of the bound queue.
        queue: QueueId,
        /// Memory that the queue is bound to, in words.
        to: String,
    },
    /// The NIC was removed, or is in a namespace that can't be seen.
    #[error("{device} is gone from its namespace: there is nothing to put back")]
    Gone {
        /// Name of the NIC.
        device: String,
    },
    /// The NIC was not found, and may be in a namespace that can't be searched.
    #[error(
        "{device} is in no namespace that can be seen from here, and may be in another: what was changed \
         on it stays noted{}",
        why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
    )]
    Hidden {
        /// Name of the NIC.
        device: String,
        /// Error that kept the NIC from being found, where it is known.
        why: Option<netdev::Error>,
    },
    /// The NIC's journal may be of this boot or of another: the id of the boot is a container's
    /// own, here or where the journal was begun.
    #[error(
        "{device}: what is noted of it may be of another boot: a file is mounted over \
         /proc/sys/kernel/random/boot_id, here or where it was noted"
    )]
    UnknownBoot {
        /// Name of the NIC.
        device: String,
    },
    /// Some changes could not be undone, so the NIC is not restored.
    #[error("{device} is not as it was: {}", failures.join("; "))]
    NotRestored {
        /// Name of the NIC.
        device: String,
        /// Texts of the errors, with the kernel's words.
        failures: Vec<String>,
    },
    /// The journal could not be read or written; nothing was changed without it.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Another process, with another runtime directory, has set the NIC up: neither process can
    /// read the other's journal.
    #[error(
        "{device} is set up by {}, whose journal is in another runtime directory",
        pid.map_or("a process".to_owned(), |pid| format!("process {pid}"))
    )]
    OtherRunDir {
        /// Name of the NIC.
        device: String,
        /// Id of the other process, where it can be seen.
        pid: Option<u32>,
    },
    /// The sockets that show which process has set a NIC up could not be made or read.
    #[error("sockets of other receivers")]
    Presence(#[source] io::Error),
    /// The guardian process could not be started; nothing was changed.
    #[error("starting the guardian")]
    Guardian(#[source] io::Error),
}

/// Text that names a rule's owner, to be put behind the rule's location.
fn of(owner: &Option<Option<Box<Owner>>>) -> String {
    match owner {
        Some(Some(owner)) => format!(" of {owner}"),
        Some(None) => " of devmem-tcp apply".to_owned(),
        None => String::new(),
    }
}
