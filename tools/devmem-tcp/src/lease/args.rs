//! Options of `devmem-tcp lease`.

use std::str::FromStr;

use netdev::{Prefix, QueueId};

use crate::args::NetNsArg;

// Not `#[group(...)]`, which is the group of all arguments.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["queues", "ranges", "count"]))]
pub(crate) struct Args {
    /// The physical NIC whose queues are leased out
    #[arg(long, value_name = "IF")]
    pub(super) phys: String,
    /// Rx queue of the NIC; may be given again for more queues
    #[arg(long = "queue", value_name = "N")]
    pub(super) queues: Vec<QueueId>,
    /// Several rx queues of the NIC: 3-7,9
    #[arg(id = "ranges", long = "queues", value_name = "LIST")]
    pub(super) ranges: Option<QueueList>,
    /// Lease the last N unused rx queues
    #[arg(long, value_name = "N", conflicts_with_all = ["queues", "ranges"],
          value_parser = clap::value_parser!(u32).range(1..=1023))]
    pub(super) count: Option<u32>,
    /// The netkit device that gets the queues: used if it exists, otherwise made
    #[arg(long, value_name = "IF")]
    pub(super) netkit: String,
    /// The namespace of the netkit device: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    pub(super) netns: Option<NetNsArg>,
    /// Kind of a new netkit: a pair, whose other end stays here, or a single device
    #[arg(long, value_enum, default_value_t = NetkitKind::Pair)]
    pub(super) kind: NetkitKind,
    /// Name of the end of a pair that stays here [default: the netkit's name and an h]
    #[arg(long, value_name = "IF")]
    pub(super) host_end: Option<String>,
    /// Rx queues of a new device, its own included [default: one more than are leased]
    #[arg(long, value_name = "N")]
    pub(super) rx_queues: Option<u32>,
    /// An address for the guest; routes and forwarding are set up so that the NIC's traffic for it
    /// gets there. May be given again
    #[arg(long = "address", value_name = "ADDR[/LEN]")]
    pub(super) addresses: Vec<Prefix>,
    /// Destination of the guest's route through the netkit; may be given again [default: anywhere]
    #[arg(long = "route", value_name = "NET/LEN", requires = "addresses")]
    pub(super) routes: Vec<Prefix>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum NetkitKind {
    Pair,
    Single,
}

/// Greatest number of queues in one range of `--queues`: as many as a netkit may have
/// (`NETKIT_NUM_RX_QUEUES_MAX`).
const MOST: u32 = 1024;

/// List of queue numbers and ranges: `3-7,9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueList(pub(super) Vec<QueueId>);

impl FromStr for QueueList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| -> Result<u32, String> {
            text.parse()
                .map_err(|_| format!("{text:?} is not the number of a queue"))
        };
        let mut queues = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last - first >= MOST {
                return Err(format!("{part:?} is not a range of queues"));
            }
            queues.extend((first..=last).map(QueueId::new));
        }
        Ok(Self(queues))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = |text: &str| -> Result<Vec<u32>, String> {
            let QueueList(queues) = text.parse()?;
            Ok(queues.into_iter().map(QueueId::get).collect())
        };
        assert_eq!(list("3"), Ok(vec![3]));
        assert_eq!(list("3-5,1"), Ok(vec![3, 4, 5, 1]));
        for text in ["", "3-", "-3", "5-3", "a", "1,,2", "0-4294967295"] {
            assert!(list(text).is_err(), "{text:?}");
        }
    }
}
