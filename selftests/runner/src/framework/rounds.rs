//! Rounds: a receiver is started and ended again and again on one NIC, which each round must leave as it
//! was, to the byte.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, HeaderSplit, RssChange};
use netdev::{Ethtool, QueueId};
use nix::sys::signal::Signal;

use crate::driver::Driver;
use crate::far_end::{Flood, connect};
use crate::ifindex;
use crate::nic_state::{self, Observer, State};
use crate::receiver::{STEP, bound_queues};
use crate::testbed::{self, NIC, NIC_ADDRESS};
use crate::tool::{Finished, Running, command, until};
use crate::transfer::devmem_tcp;

/// Number of rounds of a case.
pub const ROUNDS: u32 = 20;

/// Milliseconds that a slow driver takes for each setting.
const SLOW_SETTING_MS: u64 = 20;

/// One round of a case: a receiver's start and end on a NIC that must be left as it was.
pub struct Round {
    /// Number of the round, from 0.
    pub number: u32,
    /// Reads the state of the NIC.
    pub observer: Observer,
    /// State of the NIC at the start of the round.
    pub before: State,
}

/// Runs half of the rounds on a NIC at its defaults, and half on one with an operator's settings.
pub fn run_rounds(round: impl FnMut(&mut Round) -> Result<()>) -> Result<()> {
    run_rounds_at(0, round)
}

/// Runs rounds with a driver that takes some time for each setting, as real ones do.
pub fn run_slow_rounds(round: impl FnMut(&mut Round) -> Result<()>) -> Result<()> {
    run_rounds_at(SLOW_SETTING_MS, round)
}

fn run_rounds_at(slow: u64, mut round: impl FnMut(&mut Round) -> Result<()>) -> Result<()> {
    testbed::wire()?;
    testbed::parameter("slow_ms", slow)?;
    for number in 0..ROUNDS {
        if number == ROUNDS / 2 {
            check_table_is_default()?;
            make_foreign_settings()?;
        }
        if number >= ROUNDS / 2 {
            set_foreign_rings(number)?;
        }
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        let mut this = Round {
            number,
            observer,
            before,
        };
        round(&mut this)
            .and_then(|()| this.observer.soon_same(&this.before))
            .with_context(|| format!("round {number}"))?;
    }
    Ok(())
}

/// Checks that an RSS table that no program has set counts as default (`netif_is_rxfh_configured`):
/// it may follow the number of channels, which a table that was set forbids
/// (`ethtool_check_max_channel`).
fn check_table_is_default() -> Result<()> {
    for count in [testbed::QUEUES / 2, testbed::QUEUES] {
        testbed::set_nic_channels(count)?.context("the RSS table counts as set")?;
    }
    Ok(())
}

/// Makes settings on the NIC as another program or an operator may: an RSS table and key that use
/// the receivers' queue, an RSS context, and rules to both.
pub fn make_foreign_settings() -> Result<()> {
    let (mut ethtool, nic) = (Ethtool::open()?, ifindex(NIC)?);
    let was = ethtool.rss(nic)?;
    let table = [3, 1, 0, 3, 2, 0, 3, 1].map(QueueId::new).into_iter();
    let change = RssChange {
        table: Some(table.cycle().take(was.table.len()).collect()),
        key: Some((0..was.key.len()).map(|i| (i * 37 + 5) as u8).collect()),
        ..RssChange::default()
    };
    ethtool.set_rss(nic, None, &change)?;
    let change = RssChange {
        table: Some([1, 2].map(QueueId::new).to_vec()),
        ..RssChange::default()
    };
    let mut rules = vec![(7002, Action::Queue(QueueId::new(1)))];
    // The only context, where there is one, is the receivers'.
    if Driver::imitated().contexts() > 1 {
        let context = ethtool.create_rss_context(nic, &change)?.context;
        rules.push((7001, Action::Context(context.context("no number")?)));
    }
    for (port, action) in rules {
        let to = SocketAddr::new(NIC_ADDRESS.parse()?, port);
        testbed::insert_rule(&FlowRule::tcp_to(to, action))?;
    }
    Ok(())
}

/// Sets odd ring sizes, with header split alternately off, at the driver's choice, and on above a
/// threshold.
fn set_foreign_rings(turn: u32) -> Result<()> {
    let (split, threshold) = match turn % 3 {
        0 => (HeaderSplit::Disabled, 200),
        1 => (HeaderSplit::Auto, 0),
        _ => (HeaderSplit::Enabled, 64),
    };
    testbed::set_rings(1000 - turn, 100 + turn, split, threshold)
}

/// A running receiver of a round, and its address.
pub struct RoundReceiver {
    pub running: Running,
    /// The address that the receiver listens at.
    pub address: SocketAddr,
}

impl Round {
    /// Returns the first address of this round's receiver: each round has a port of its own.
    pub fn address(&self) -> Result<SocketAddr> {
        let port = 5000 + u16::try_from(self.number)?;
        Ok(SocketAddr::new(NIC_ADDRESS.parse()?, port))
    }

    /// Starts this round's `devmem-tcp recv`; each third round uses two queues, which need an RSS
    /// context.
    pub fn recv(&self, line: &str) -> Result<RoundReceiver> {
        self.start(self.recv_line(command(None, &devmem_tcp(), ""), line)?)
    }

    /// Adds the command line of this round's `devmem-tcp recv` to a command.
    pub fn recv_line(&self, mut command: Command, line: &str) -> Result<Command> {
        command.args(["recv", "--json", "--size", "4M"]);
        command.args(line.split_whitespace());
        command.args(["-f", NIC]);
        for address in self.addresses()? {
            command.args(["--listen", &address.to_string()]);
        }
        for queue in self.queues() {
            command.args(["--queue", &queue.to_string()]);
        }
        Ok(command)
    }

    /// Returns the addresses of this round's receiver: two where two queues are used without RSS
    /// contexts, because a flow then goes to one queue.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let first = self.address()?;
        let second = SocketAddr::new(first.ip(), first.port() + 1000);
        Ok(
            match self.queues().len() > 1 && Driver::imitated().contexts() == 0 {
                true => vec![first, second],
                false => vec![first],
            },
        )
    }

    /// Returns the queues of this round's receiver.
    pub fn queues(&self) -> Vec<QueueId> {
        let from = if self.number % 3 == 2 { 2 } else { 1 };
        let all = testbed::QUEUES - from..testbed::QUEUES;
        all.map(QueueId::new).collect()
    }

    /// Starts another kind of receiver, which must listen at this round's address.
    pub fn start(&self, command: Command) -> Result<RoundReceiver> {
        Ok(RoundReceiver {
            running: Running::start(command)?,
            address: self.address()?,
        })
    }

    /// Waits until all queues of the round are bound.
    pub fn until_bound(&self) -> Result<()> {
        let want = self.queues().len();
        until("a binding", STEP, || Ok(bound_queues()? == want))
    }

    /// Waits until the receiver is at this round's point: bound, connected, or receiving for some
    /// time. Returns the sender, if there is one.
    pub fn bring_under_way(&self, receiver: &RoundReceiver) -> Result<Option<Flood>> {
        self.until_bound()?;
        if self.number % 4 == 0 {
            return Ok(None);
        }
        let flood = Flood::start(connect(receiver.address)?)?;
        if self.number % 4 > 1 {
            flood.wait_for(u64::from(self.number) * 100_000)?;
        }
        Ok(Some(flood))
    }

    /// Waits until the receiver is at this round's point of its set-up: some time after its start,
    /// with its journal written, or with rings, RSS or rules changed.
    pub fn wait_for_set_up_point(&mut self) -> Result<()> {
        let number = u64::from(self.number);
        let change = match number % 5 {
            0 => {
                thread::sleep(Duration::from_millis(number * 20));
                return Ok(());
            }
            1 => None,
            2 => Some(nic_state::RINGS),
            3 => Some(nic_state::RSS),
            _ => Some(nic_state::RULES),
        };
        until("a change", STEP, || {
            Ok(match change {
                None => !nic_state::journals()?.is_empty(),
                Some(part) => self.before.differs(&self.observer.state()?).contains(&part),
            } || bound_queues()? > 0)
        })?;
        thread::sleep(Duration::from_millis(SLOW_SETTING_MS / 2 * (number % 4)));
        Ok(())
    }
}

impl RoundReceiver {
    /// Sends the receiver a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.signal(signal)
    }

    /// Waits for the receiver's end, and returns its exit status and output.
    pub fn end(self) -> Result<Finished> {
        self.running.end_within(STEP)
    }

    /// Checks that the receiver was killed by this signal.
    pub fn check_killed_by(self, signal: Signal) -> Result<()> {
        let end = self.end()?;
        ensure!(
            was_killed_by(end.status, signal),
            "not by {signal}: {end:?}"
        );
        Ok(())
    }
}

fn was_killed_by(status: ExitStatus, signal: Signal) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(signal as i32)
}
