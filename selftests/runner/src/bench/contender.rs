//! Who is compared.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::sweep::Point;
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
    /// Its command line: `{addr}`, `{port}`, `{dev}` and `{queue}` stand for these.
    line: &'static str,
}

/// The receiver that the others are compared with.
pub(crate) const BARE: Contender = Contender {
    name: "bare loop",
    bound: true,
    chatty: false,
    smaller: 1,
    program: "bare",
    line: "devmem {addr} {port}",
};
/// Upstream's, validating.
pub(crate) const UPSTREAM: Contender = Contender {
    name: "ncdevmem, upstream, validating",
    bound: false,
    chatty: true,
    smaller: 4,
    program: "ncdevmem-upstream",
    line: "-l -n -f {dev} -s {addr} -p {port} -t {queue} -q 1 -v 7",
};
/// Ours.
pub(crate) const OURS: Contender = Contender {
    name: "devmem-tcp recv",
    bound: false,
    chatty: false,
    smaller: 1,
    program: "devmem-tcp",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port}",
};
/// Ours, validating.
pub(crate) const VALIDATING: Contender = Contender {
    name: "devmem-tcp recv, validating",
    line: "recv --json --no-config --dev {dev} --listen {addr}:{port} --validate 7",
    ..OURS
};
/// Plain copy.
pub(crate) const COPY: Contender = Contender {
    name: "recv with copy",
    bound: false,
    line: "copy {addr} {port}",
    ..BARE
};
/// What the kernel does when it discards.
pub(crate) const TRUNC: Contender = Contender {
    name: "recv with MSG_TRUNC",
    line: "trunc {addr} {port}",
    ..BARE
};

/// All of them, in the order of a round.
pub(crate) const ALL: [Contender; 6] = [TRUNC, BARE, OURS, VALIDATING, UPSTREAM, COPY];

/// Where a receiver listens, and on what.
pub(crate) struct Place {
    pub(crate) device: &'static str,
    pub(crate) netns: Option<&'static str>,
    /// Those of the device.
    pub(crate) queues: Vec<u32>,
    pub(crate) listen: SocketAddr,
}

impl Contender {
    /// Its process, which listens there.
    pub(crate) fn command(&self, place: &Place, point: &Point, calls: Option<&str>) -> Command {
        let program = ours(self.program);
        let mut command = match calls {
            Some(file) => {
                let mut command = Command::new("strace");
                command.args(["-f", "-c", "-o", file]).arg(program);
                command
            }
            None => Command::new(program),
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
        command.args(line.split_whitespace()).stdin(Stdio::null());
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
        line += &format!(" --pages 2M --rx-page-size {kib}K");
    }
    line
}
