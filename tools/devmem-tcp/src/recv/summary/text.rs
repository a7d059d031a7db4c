//! The summary in words.

use super::{Calls, Connection, Counts, Refused, Summary};
use crate::recv::live::plural;
use crate::recv::spread::{Spread, Spreads};

/// Peers that the summary names.
const NAMED: usize = 4;

impl Summary {
    /// Some lines: the first about all of it, then one about each part.
    pub(super) fn to_text(&self) -> String {
        let Self {
            bytes,
            frag_bytes,
            frags,
            frags_per_mib,
            linear_bytes,
            unsteered_bytes,
            ..
        } = self;
        let validated = self.validated();
        let mean = frag_bytes.checked_div(*frags).unwrap_or(0);
        let Calls {
            recvmsg,
            dontneed,
            epoll_wait,
        } = self.calls;
        format!(
            "received {bytes} bytes from {} in {:.2} s ({:.1} MiB/s){validated}\n  \
             dmabuf     {frag_bytes} bytes in {frags} frags ({mean} bytes a frag, {frags_per_mib:.0} frags a MiB)\n  \
             linear     {linear_bytes} bytes\n  \
             unsteered  {unsteered_bytes} bytes\n  \
             tokens     {} issued, {} returned\n  \
             calls      {recvmsg} recvmsg, {dontneed} dontneed, {epoll_wait} epoll_wait: \
             {:.2} a MiB\n{}{}{}{}{}",
            self.peers(),
            self.seconds,
            self.mib_per_second,
            self.tokens.issued,
            self.tokens.returned,
            self.calls_per_mib,
            self.telemetry(),
            self.memory(),
            self.checksums(),
            self.refused(),
            self.warning(),
        )
    }

    fn refused(&self) -> String {
        let Refused { count, first } = &self.refused;
        match count {
            0 => String::new(),
            _ => {
                let more = count.saturating_sub(first.len() as u64);
                let more = match more {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!(
                    "  refused    {count} from elsewhere: {}{more}\n",
                    first.join(", ")
                )
            }
        }
    }

    /// What was found to be right: a claim of all bytes only where all were compared and nothing
    /// failed.
    fn validated(&self) -> String {
        let (Some(period), Some(validated)) = (self.validate_period, self.validated_bytes) else {
            return String::new();
        };
        let all = validated == self.bytes;
        match all && self.ended.failed == 0 {
            _ if self.bytes == 0 => String::new(),
            true => format!(", every byte validated (period {period})"),
            false => format!(
                ", {validated} of {} bytes validated (period {period})",
                self.bytes
            ),
        }
    }

    /// Connections that were printed when they ended, by how they ended.
    fn served(&self) -> String {
        let Counts {
            failed,
            stopped,
            unprinted,
            ..
        } = self.ended;
        let mut text = plural(self.ended.all(), "connection");
        for (number, what) in [
            (failed, "failed"),
            (stopped, "open still"),
            (unprinted, "not printed"),
        ] {
            if number > 0 {
                text += &format!(", {number} {what}");
            }
        }
        text
    }

    /// The first few, and how many more.
    fn peers(&self) -> String {
        let peers = self.connections.iter().map(|peer| peer.peer.as_str());
        let named = peers.take(NAMED).collect::<Vec<_>>().join(", ");
        match self.connections.len() {
            0 if self.served => self.served(),
            0 => "nobody".to_owned(),
            all if all > NAMED => format!("{named} and {} more", all - NAMED),
            _ => named,
        }
    }

    fn telemetry(&self) -> String {
        let Spreads {
            frag_size,
            frags_per_call,
            held_at_flush,
            hold_time_us,
        } = &self.telemetry;
        let mut text = String::new();
        let mut line = |name: &str, spread: &Spread, unit: &str| {
            if let Some(spread) = spread.to_text() {
                text += &format!("  {name:<10} {spread}{unit}\n");
            }
        };
        line("frag size", frag_size, " bytes");
        let per_call = format!(" ({:.1} on average)", self.frags_per_call);
        line("a recvmsg", frags_per_call, &format!(" frags{per_call}"));
        let per_call = format!(" ({:.1} a dontneed)", self.tokens.per_dontneed);
        line("a flush", held_at_flush, &format!(" tokens{per_call}"));
        line("held for", hold_time_us, " µs");
        text
    }

    fn checksums(&self) -> String {
        let sum = |connection: &Connection| {
            let Connection { peer, bytes, .. } = connection;
            let (crc32, of) = (connection.crc32?, connection.crc32_bytes?);
            Some(match of == *bytes && connection.closed {
                true => {
                    format!("  crc32      {crc32:08x} of {bytes} bytes from {peer}\n")
                }
                false => format!(
                    "  crc32      {crc32:08x} of the first {of} of {bytes} bytes from {peer}: not its \
                     whole stream\n"
                ),
            })
        };
        self.connections.iter().filter_map(sum).collect()
    }

    fn warning(&self) -> String {
        let warning = self.warning.as_ref();
        warning.map_or(String::new(), |text| format!("  warning    {text}\n"))
    }

    fn memory(&self) -> String {
        let mut text = String::new();
        for pool in &self.memory.pools {
            if let (Some(in_use), niovs) = (pool.peak_in_use, pool.niovs) {
                text += &format!("  memory     {in_use} of {niovs} niovs taken");
                if let Some(inflight) = pool.peak_inflight {
                    text += &format!(" ({inflight} with the pool's own)");
                }
                text += ", the most seen at a look; there are 1 to 5 a second\n";
            }
        }
        if let Some(failed) = self.memory.alloc_fail {
            let drops = match self.memory.hw_drops {
                Some(drops) => format!(", {drops} packets dropped"),
                None => String::new(),
            };
            text += &format!("  nic        {failed} failed allocations{drops}\n");
        }
        text
    }
}
