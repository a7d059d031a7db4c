//! Who is compared.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::QUEUE;
use crate::bed::NIC;
use crate::tool::ours;

/// A receiver.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Whether it finds the queue bound, as it does not bind it itself.
    pub(crate) bound: bool,
    /// Whether it writes a line a frag, which nobody wants to pay for.
    pub(crate) chatty: bool,
    /// It gets a transfer this many times smaller: a slow one would take most of the time.
    pub(crate) smaller: u64,
    /// Its program, beside the runner's.
    program: &'static str,
    /// Its command line: `{addr}`, `{port}`, `{nic}` and `{queue}` stand for these.
    line: &'static str,
}

/// The receiver that the others are compared with.
pub(crate) const BARE: &str = "bare loop";
/// Upstream's, validating.
pub(crate) const UPSTREAM: &str = "ncdevmem, upstream, validating";
/// Ours.
pub(crate) const OURS: &str = "devmem-tcp recv";
/// Ours, validating.
pub(crate) const VALIDATING: &str = "devmem-tcp recv, validating";
/// Plain copy.
pub(crate) const COPY: &str = "recv with copy";
/// What the kernel does when it discards.
pub(crate) const TRUNC: &str = "recv with MSG_TRUNC";

/// All of them, in the order of a round.
pub(crate) const ALL: &[Contender] = &[
    Contender {
        name: TRUNC,
        bound: true,
        chatty: false,
        smaller: 1,
        program: "bare",
        line: "trunc {addr} {port}",
    },
    Contender {
        name: BARE,
        bound: true,
        chatty: false,
        smaller: 1,
        program: "bare",
        line: "devmem {addr} {port}",
    },
    Contender {
        name: OURS,
        bound: false,
        chatty: false,
        smaller: 1,
        program: "devmem-tcp",
        line: "recv --json --no-config --dev {nic} --queue {queue} --listen {addr}:{port}",
    },
    Contender {
        name: VALIDATING,
        bound: false,
        chatty: false,
        smaller: 1,
        program: "devmem-tcp",
        line: "recv --json --no-config --dev {nic} --queue {queue} --listen {addr}:{port} --validate 7",
    },
    Contender {
        name: UPSTREAM,
        bound: false,
        chatty: true,
        smaller: 4,
        program: "ncdevmem-upstream",
        line: "-l -n -f {nic} -s {addr} -p {port} -t {queue} -q 1 -v 7",
    },
    Contender {
        name: COPY,
        bound: false,
        chatty: false,
        smaller: 1,
        program: "bare",
        line: "copy {addr} {port}",
    },
];

impl Contender {
    /// Its process, which listens there.
    pub(crate) fn command(&self, to: SocketAddr, calls: Option<&str>) -> Command {
        let program = ours(self.program);
        let mut command = match calls {
            Some(file) => {
                let mut command = Command::new("strace");
                command.args(["-f", "-c", "-o", file]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let line = self
            .line
            .replace("{addr}", &to.ip().to_string())
            .replace("{port}", &to.port().to_string())
            .replace("{nic}", NIC)
            .replace("{queue}", &QUEUE.to_string());
        command.args(line.split(' ')).stdin(Stdio::null());
        command
    }
}
