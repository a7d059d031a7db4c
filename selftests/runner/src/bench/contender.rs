//! The receivers that the benchmark compares, and their command lines.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::MIB;
use super::sweep::Point;
use framework::tool::ours;

/// What a receiver does with the payload. Tables group receivers by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Discards the payload.
    Discards,
    /// Compares every byte with the expected payload.
    Validates,
    /// Copies the payload to memory of its own.
    Copies,
}

/// The payload that a receiver expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Bytes that repeat after 7, as `ncdevmem -v 7` expects.
    Seven,
    /// Letters from a to z, as `iou-zcrx` expects.
    Letters,
}

/// A receiver program that the benchmark compares with others.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// Whether the benchmark binds the queue first, because the receiver does not.
    pub(crate) bound: bool,
    /// Whether the receiver's output goes to /dev/null, because it is a line per frag, or the
    /// payload.
    pub(crate) chatty: bool,
    /// Divisor of the transfer's length: a slow receiver gets less, because it would take most of
    /// the time.
    pub(crate) smaller: u64,
    /// The most bytes that the receiver can take in one transfer; `None` if any number.
    pub(crate) most: Option<u64>,
    /// Whether only the receiver's set-up and tear-down are measured.
    pub(crate) setup_only: bool,
    pub(crate) payload: Payload,
    /// File name of the receiver's program, which lies beside the runner.
    program: &'static str,
    /// The receiver's command line, with placeholders `{addr}`, `{port}`, `{dev}` and `{queue}`.
    line: &'static str,
}

/// A bare loop of `recvmsg` and `SO_DEVMEM_DONTNEED`, the least that a receiver can do.
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
/// A bare loop like [`BARE`] with `SO_RCVLOWAT`: woken for 2 MiB at a time.
pub(crate) const LOWAT: Contender = Contender {
    name: "bare loop, SO_RCVLOWAT",
    line: "lowat {addr} {port}",
    ..BARE
};
/// Receiver of ordinary TCP: `recv` copies the payload.
pub(crate) const COPY: Contender = Contender {
    name: "recv with copy",
    role: Role::Copies,
    bound: false,
    line: "copy {addr} {port}",
    ..BARE
};
/// Receiver of ordinary TCP with `MSG_TRUNC`: the kernel discards the payload.
pub(crate) const TRUNC: Contender = Contender {
    name: "recv with MSG_TRUNC",
    bound: false,
    line: "trunc {addr} {port}",
    ..BARE
};
/// The kernel's `ncdevmem` as it is: it prints a line for each frag.
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
/// The kernel's `ncdevmem` with its prints for each frag compiled out.
pub(crate) const QUIET: Contender = Contender {
    name: "ncdevmem, quiet, validating",
    program: "ncdevmem-quiet",
    ..UPSTREAM
};
/// The kernel's `ncdevmem` without prints for each frag and without validation: it writes the
/// payload to standard output.
pub(crate) const QUIET_PRINTING: Contender = Contender {
    name: "ncdevmem, quiet",
    role: Role::Discards,
    setup_only: true,
    line: "-l -n -f {dev} -s {addr} -p {port} -t {queue} -q 1",
    ..QUIET
};
/// The kernel's test of zero-copy receive with io_uring (`iou-zcrx`). It compares with a buffer of
/// 2 MiB, reads past its end if more comes, and gives up after 5 s.
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
/// `devmem-tcp recv` with 4 KiB pages, discarding the payload.
pub(crate) const OURS: Contender = Contender {
    name: "devmem-tcp recv",
    bound: false,
    program: "devmem-tcp",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 4K",
    ..BARE
};
/// `devmem-tcp recv` with 4 KiB pages, validating the payload.
pub(crate) const VALIDATING: Contender = Contender {
    name: "devmem-tcp recv, validating",
    role: Role::Validates,
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 4K --validate 7",
    ..OURS
};
/// `devmem-tcp recv` with 2 MiB pages, discarding the payload.
pub(crate) const HUGE: Contender = Contender {
    name: "devmem-tcp recv, 2 MiB pages",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 2M",
    ..OURS
};
/// `devmem-tcp recv` with 2 MiB pages, validating the payload.
pub(crate) const HUGE_VALIDATING: Contender = Contender {
    name: "devmem-tcp recv, 2 MiB pages, validating",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --pages 2M --validate 7",
    ..VALIDATING
};

/// All receivers that the benchmark compares, in the order of the first round.
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

/// Where a receiver listens, and on which queues of which device.
pub(crate) struct Place {
    pub(crate) device: &'static str,
    pub(crate) netns: Option<&'static str>,
    /// Numbers of the device's queues to receive on.
    pub(crate) queues: Vec<u32>,
    pub(crate) listen: SocketAddr,
}

impl Contender {
    /// Returns the length in bytes of this receiver's transfer, where a full transfer has `whole`
    /// bytes.
    pub(crate) fn bytes(&self, whole: u64) -> u64 {
        (whole / self.smaller).min(self.most.unwrap_or(u64::MAX))
    }

    /// Returns the command that starts the receiver. With `waits`, the process reads a line from
    /// standard input before it becomes the receiver, so that counters can be attached.
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
            line += &recv_options(place, point);
        }
        command.args(line.split_whitespace());
        command
    }
}

/// Returns the options of `devmem-tcp recv` for the conditions of a transfer.
fn recv_options(place: &Place, point: &Point) -> String {
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
