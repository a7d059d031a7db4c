//! Random rounds: a driver, settings of its NIC, a receiver, and a way to end it; after `restore`
//! the NIC is as before, to the byte.
//!
//! Each round has a seed, which is printed: `SEED=7 ROUNDS=1 selftests/vm/test nic_chance` is that
//! round again, `ROUNDS=200 selftests/vm/test --deadline 2000 nic_chance` is many.

use std::env;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, Flow, FlowRule, HeaderSplit, RssChange};
use netdev::{Ethtool, Ifindex, QueueId};
use nix::sys::signal::Signal;

use framework::driver::Driver;
use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, bound_queues, restore};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

/// Number of rounds that fit in a case's time limit.
const ROUNDS: u64 = 8;

/// All drivers. No queue of ice can be bound: its receivers end with an error.
const DRIVERS: [Driver; 6] = [
    Driver::Swnic,
    Driver::Mlx5,
    Driver::Gve,
    Driver::Bnxt,
    Driver::Ice,
    Driver::Fbnic,
];

/// The splitmix64 random number generator: the same seed gives the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a random number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).unwrap_or(0)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

/// Signal by which a receiver ends, and whether its guardian is killed, too.
#[derive(Debug, Clone, Copy)]
enum ReceiverEnd {
    Sigterm,
    Sigint,
    Sigabrt,
    Sigkill,
    SigkillOfBoth,
}

fn env_number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

case!(rounds);
fn rounds() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let first = env_number("SEED").unwrap_or(now);
    for seed in (first..).take(env_number("ROUNDS").unwrap_or(ROUNDS) as usize) {
        run_round(seed).with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

fn run_round(seed: u64) -> Result<()> {
    let mut chance = Random(seed);
    let driver = DRIVERS[chance.below(DRIVERS.len() as u32) as usize];
    driver.imitate();
    testbed::clear()?;
    nic_state::clear()?;
    let queues = 4 + chance.below(5);
    testbed::wire_with(queues, "")?;
    let channels = 4 + chance.below(queues - 3);
    testbed::set_nic_channels(channels)??;
    let made = change_settings(&mut chance, driver, channels)?;

    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let died = run_receiver(&mut chance, driver, channels)?;
    println_line(&format!("seed {seed}: {driver:?}, {made}; {died}"));

    // A guardian may be at it, and some receivers were never told to leave anything.
    until("an end of guardians", STEP, || {
        Ok(nic_state::guardians()?.is_empty())
    })?;
    let said = restore()?;
    ensure!(said.status.success(), "restore: {}", said.stderr);
    observer.same(&before)?;
    nic_state::check_nothing_left()
}

/// Makes random settings of the NIC as another program would, and describes them.
fn change_settings(chance: &mut Random, driver: Driver, channels: u32) -> Result<String> {
    let (mut ethtool, nic) = (Ethtool::open()?, ifindex(NIC)?);
    let mut made = format!("{channels} channels");
    let split = match chance.below(3) {
        0 => HeaderSplit::Disabled,
        1 => HeaderSplit::Auto,
        _ => HeaderSplit::Enabled,
    };
    if chance.one_in(2) {
        let (rx, tx) = (512 + chance.below(513), 128 + chance.below(129));
        testbed::set_rings(rx, tx, split, chance.below(200))?;
        made += &format!(", rings {rx}, split {split}");
    }
    if chance.one_in(2) {
        set_random_table(chance, &mut ethtool, nic, channels)?;
        made += ", a table";
    }
    if driver.contexts() > 1 && chance.one_in(3) {
        create_random_context(chance, &mut ethtool, nic, channels)?;
        made += ", a context and its rule";
    }
    let rules = chance.below(6);
    for port in 0..rules {
        insert_random_rule(chance, driver, 7000 + port as u16, channels)?;
    }
    Ok(format!("{made}, {rules} rules"))
}

/// Sets an RSS table that repeats a random pattern.
fn set_random_table(
    chance: &mut Random,
    ethtool: &mut Ethtool,
    nic: Ifindex,
    channels: u32,
) -> Result<()> {
    let len = ethtool.rss(nic)?.table.len();
    let change = RssChange {
        table: Some(random_table(chance, len, channels)),
        ..RssChange::default()
    };
    Ok(ethtool.set_rss(nic, None, &change)?)
}

fn random_table(chance: &mut Random, len: usize, channels: u32) -> Vec<QueueId> {
    let pattern: Vec<QueueId> = (0..1 << chance.below(4))
        .map(|_| QueueId::new(chance.below(channels)))
        .collect();
    pattern.into_iter().cycle().take(len).collect()
}

/// Creates an RSS context with a random table, and a rule that leads to it.
fn create_random_context(
    chance: &mut Random,
    ethtool: &mut Ethtool,
    nic: Ifindex,
    channels: u32,
) -> Result<()> {
    let change = RssChange {
        table: Some(random_table(chance, 64, channels)),
        ..RssChange::default()
    };
    let context = ethtool.create_rss_context(nic, &change)?.context;
    let to = format!("{NIC_ADDRESS}:6999").parse()?;
    let action = Action::Context(context.context("a context without a number")?);
    testbed::insert_rule(&FlowRule::tcp_to(to, action)).map(drop)
}

/// Inserts a random rule for this port, with an action that the driver takes.
fn insert_random_rule(chance: &mut Random, driver: Driver, port: u16, channels: u32) -> Result<()> {
    let to = format!("{NIC_ADDRESS}:{port}").parse()?;
    let queue = QueueId::new(chance.below(channels));
    let mut rule = FlowRule::tcp_to(to, Action::Queue(queue));
    if chance.one_in(3) {
        rule.flow = Flow::Udp4;
    }
    if chance.one_in(4) && driver != Driver::Gve {
        rule.action = Action::Drop;
    }
    testbed::insert_rule(&rule).map(drop)
}

/// Starts a receiver and ends it at a random moment in a random way, and describes that.
fn run_receiver(chance: &mut Random, driver: Driver, channels: u32) -> Result<String> {
    let mut line = format!("recv -f {NIC} --size 4M -l {NIC_ADDRESS}:5000");
    let last = channels - 1;
    line += &format!(" --queue {last}");
    if chance.one_in(3) {
        line += &format!(" --queue {}", last - 1);
        if driver.contexts() == 0 {
            line += &format!(" -l {NIC_ADDRESS}:5001");
        }
    }
    let death = match chance.below(5) {
        0 => ReceiverEnd::Sigterm,
        1 => ReceiverEnd::Sigint,
        2 => ReceiverEnd::Sigabrt,
        3 => ReceiverEnd::Sigkill,
        _ => ReceiverEnd::SigkillOfBoth,
    };
    let slow = chance.below(3) * 10;
    testbed::parameter("slow_ms", slow)?;
    let mut running = Running::start(command(None, &devmem_tcp(), &line))?;
    let when = match chance.one_in(3) {
        true => {
            until("a binding, or its end", STEP, || {
                Ok(bound_queues()? > 0 || running.has_ended()?)
            })?;
            "bound".to_owned()
        }
        false => {
            let millis = u64::from(chance.below(800));
            thread::sleep(Duration::from_millis(millis));
            format!("after {millis} ms")
        }
    };
    let signal = match death {
        ReceiverEnd::Sigterm => Signal::SIGTERM,
        ReceiverEnd::Sigint => Signal::SIGINT,
        ReceiverEnd::Sigabrt => Signal::SIGABRT,
        ReceiverEnd::Sigkill | ReceiverEnd::SigkillOfBoth => Signal::SIGKILL,
    };
    // It may have ended, or have no guardian yet.
    if matches!(death, ReceiverEnd::SigkillOfBoth) {
        for guardian in nic_state::guardians()? {
            let _gone = framework::tool::signal(guardian, Signal::SIGKILL);
        }
    }
    let _ended = running.signal(signal);
    running.end_within(STEP)?;
    testbed::parameter("slow_ms", 0)?;
    Ok(format!("{death:?} {when}, {slow} ms a setting"))
}
