//! The receivers that are compared.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::MIB;
use super::sweep::Point;
use framework::tool::ours;

/// What a receiver does with the payload: tables keep receivers of one role together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing.
    Discards,
    /// Compares every byte with what it should be.
    Validates,
    /// Copies it to memory of its own.
    Copies,
}

/// The bytes that a receiver expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Bytes that repeat after 7: `-v 7` of `ncdevmem`.
    Seven,
    /// Letters from a to z, which `iou-zcrx` compares with.
    Letters,
}

/// A receiver.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// Whether it finds the queue bound, as it does not bind it itself.
    pub(crate) bound: bool,
    /// Whether what it prints goes to /dev/null: it is a line a frag, or the payload.
    pub(crate) chatty: bool,
    /// It gets a transfer this many times smaller: a slow one would take most of the time.
    pub(crate) smaller: u64,
    /// The most bytes that it can receive.
    pub(crate) most: Option<u64>,
    /// Whether only its set-up and tear-down are measured.
    pub(crate) setup_only: bool,
    pub(crate) payload: Payload,
    /// Its program, beside the runner's.
    program: &'static str,
    /// Its command line: `{addr}`, `{port}`, `{dev}` and `{queue}` stand for these.
    line: &'static str,
}

/// `recvmsg` and `SO_DEVMEM_DONTNEED`, no more.
pub(crate) const BARE: Contender = Contender {
    name: "bare loop",
    role: Role::Discards,
    bound: true,
    chatty: false,
    smaller: 1,
    most: None,
    setup_only: false,
    payload: Payload::Seven,
    program: "bare",
    line: "devmem {addr} {port}",
};
/// The bare loop with `SO_RCVLOWAT`: woken for 2 MiB at a time.
pub(crate) const LOWAT: Contender = Contender {
    name: "bare loop, SO_RCVLOWAT",
    line: "lowat {addr} {port}",
    ..BARE
};
/// Plain copy.
pub(crate) const COPY: Contender = Contender {
    name: "recv with copy",
    role: Role::Copies,
    bound: false,
    line: "copy {addr} {port}",
    ..BARE
};
/// Plain receive where the kernel discards the payload.
pub(crate) const TRUNC: Contender = Contender {
    name: "recv with MSG_TRUNC",
    bound: false,
    line: "trunc {addr} {port}",
    ..BARE
};
/// Upstream's receiver as it is: it prints a line for each frag.
pub(crate) const UPSTREAM: Contender = Contender {
    name: "ncdevmem, validating",
    role: Role::Validates,
    bound: false,
    chatty: true,
    smaller: 16,
    program: "ncdevmem-upstream",
    line: "-l -n -f {dev} -s {addr} -p {port} -t {queue} -q 1 -v 7",
    ..BARE
};
/// Upstream's receiver with these prints compiled away.
pub(crate) const QUIET: Contender = Contender {
    name: "ncdevmem, quiet, validating",
    program: "ncdevmem-quiet",
    ..UPSTREAM
};
/// The quiet one without validation: it writes the payload to standard output.
pub(crate) const QUIET_PRINTING: Contender = Contender {
    name: "ncdevmem, quiet",
    role: Role::Discards,
    setup_only: true,
    line: "-l -n -f {dev} -s {addr} -p {port} -t {queue} -q 1",
    ..QUIET
};
/// The kernel's test of zero-copy receive with io_uring. It compares with a buffer of 2 MiB, reads
/// past its end if more comes, and gives up after 5 s.
pub(crate) const IOU_ZCRX: Contender = Contender {
    name: "iou-zcrx, validating",
    role: Role::Validates,
    bound: false,
    most: Some(2 * MIB),
    payload: Payload::Letters,
    program: "iou-zcrx",
    line: "-s -p {port} -i {dev} -q {queue}",
    ..BARE
};
/// This toolkit's receiver, discarding.
pub(crate) const OURS: Contender = Contender {
    name: "devmem-tcp recv",
    bound: false,
    program: "devmem-tcp",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 4K",
    ..BARE
};
/// This toolkit's receiver, validating.
pub(crate) const VALIDATING: Contender = Contender {
    name: "devmem-tcp recv, validating",
    role: Role::Validates,
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 4K --validate 7",
    ..OURS
};
/// This toolkit's receiver on huge pages.
pub(crate) const HUGE: Contender = Contender {
    name: "devmem-tcp recv, 2 MiB pages",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 2M",
    ..OURS
};
/// This toolkit's receiver on huge pages, validating.
pub(crate) const HUGE_VALIDATING: Contender = Contender {
    name: "devmem-tcp recv, 2 MiB pages, validating",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 2M --validate 7",
    ..VALIDATING
};

/// All of them: the first round's order.
pub(crate) const ALL: [Contender; 12] = [
    TRUNC,
    BARE,
    LOWAT,
    OURS,
    HUGE,
    VALIDATING,
    HUGE_VALIDATING,
    UPSTREAM,
    QUIET,
    QUIET_PRINTING,
    IOU_ZCRX,
    COPY,
];

/// Where a receiver listens, and on what.
pub(crate) struct Place {
    pub(crate) device: &'static str,
    pub(crate) netns: Option<&'static str>,
    /// Those of the device.
    pub(crate) queues: Vec<u32>,
    pub(crate) listen: SocketAddr,
}

impl Contender {
    /// Bytes of its transfer, where a whole one has so many.
    pub(crate) fn bytes(&self, whole: u64) -> u64 {
        (whole / self.smaller).min(self.most.unwrap_or(u64::MAX))
    }

    /// The command of its process. With `waits`, the process reads a line from standard input before
    /// it becomes the receiver, so that counters can be attached.
    pub(crate) fn command(&self, place: &Place, point: &Point, waits: bool) -> Command {
        let program = ours(self.program);
        let mut command = match waits {
            true => {
                let mut command = Command::new("sh");
                let line = r#"read -r _ && exec "$@" </dev/null"#;
                command.args(["-c", line, "sh"]).arg(program);
                command.stdin(Stdio::piped());
                command
            }
            false => {
                let mut command = Command::new(program);
                command.stdin(Stdio::null());
                command
            }
        };
        let queue = place.queues.first().copied().unwrap_or_default();
        let mut line = self
            .line
            .replace("{addr}", &place.listen.ip().to_string())
            .replace("{port}", &place.listen.port().to_string())
            .replace("{dev}", place.device)
            .replace("{queue}", &queue.to_string());
        if self.program == OURS.program {
            line += &our_options(place, point);
        }
        command.args(line.split_whitespace());
        command
    }
}

/// What our receiver is told of a point.
fn our_options(place: &Place, point: &Point) -> String {
    let mut line = format!(
        " --connections {} --size {}M",
        point.connections, point.pool
    );
    for queue in &place.queues {
        line += &format!(" --queue {queue}");
    }
    if let Some(netns) = place.netns {
        line += &format!(" --netns {netns}");
    }
    if let Some(kib) = point.rx_page {
        // An option given twice is refused: this one is for the receiver on huge pages.
        line += &format!(" --rx-page-size {kib}K");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_no_longer_than_a_receiver_can_take() {
        assert_eq!(OURS.bytes(64 * MIB), 64 * MIB);
        assert_eq!(UPSTREAM.bytes(64 * MIB), 4 * MIB);
        assert_eq!(IOU_ZCRX.bytes(64 * MIB), 2 * MIB);
        assert_eq!(IOU_ZCRX.bytes(MIB), MIB);
    }

    #[test]
    fn names_tell_receivers_apart() {
        for (at, one) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != one.name));
        }
    }
}
