//! `doctor` says that receiving works if and only if `recv` with the same options works, in many
//! states of the NIC.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netdev::ethtool::{Action, FlowRule, Location, RssChange};
use netdev::{Ethtool, QueueId};
use nix::sys::signal::Signal;

use framework::doctor::Report;
use framework::driver::Driver;
use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, bound_queues, restore};
use framework::sysctl;
use framework::testbed::{self, NIC, NIC_ADDRESS, NIC_ADDRESS6, QUEUES, SENDER_ADDRESS};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::devmem_tcp;
use framework::xdp;
use framework::{ifindex, println_line};

/// A state of the NIC, the options of `doctor` and `recv`, and whether receiving should work with
/// them.
struct State {
    driver: Driver,
    parameters: &'static str,
    prepare: fn() -> Result<Box<dyn std::any::Any>>,
    options: &'static str,
    works: bool,
}

/// The runtime directory, where the journals of NICs are.
const RUNTIME: &str = "/run/devmem-tcp";
const LISTEN: &str = "-l 192.0.2.2:5000";

fn state(options: &'static str, works: bool) -> State {
    State {
        driver: Driver::Swnic,
        parameters: "",
        prepare: leave_nic_alone,
        options,
        works,
    }
}

impl State {
    fn with_driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    fn with_parameters(mut self, parameters: &'static str) -> Self {
        self.parameters = parameters;
        self
    }

    fn after(mut self, prepare: fn() -> Result<Box<dyn std::any::Any>>) -> Self {
        self.prepare = prepare;
        self
    }

    /// Brings the NIC into the state and runs `doctor` and `recv`. Checks that both agree with the
    /// expectation, and that the NIC is unchanged afterwards.
    fn compare_with_recv(&self) -> Result<()> {
        testbed::clear()?;
        testbed::wire_as(self.driver, QUEUES, self.parameters)?;
        let _kept = (self.prepare)()?;
        // A NIC without rules has no list of them to compare.
        let lists = self.parameters != "lacks=ntuple" && self.parameters != "lacks=rss";
        let mut seen = match lists {
            true => {
                let mut observer = Observer::of(NIC)?;
                let before = observer.state()?;
                Some((observer, before))
            }
            false => None,
        };
        let line = format!("{NIC} {LISTEN} {}", self.options);
        let report = Report::of(&line)?;
        let bound = bound_queues()?;
        let receiver = Running::start(command(None, &devmem_tcp(), &format!("recv -f {line}")))?;
        let (works, said) = can_bind(receiver, bound)?;
        println_line(&format!(
            "{:?} {} {}: doctor {:?}, recv {works}; {} / {}",
            self.driver,
            self.parameters,
            self.options,
            report.code,
            report.complaints().trim(),
            said.trim_end(),
        ));
        ensure!(works == self.works, "recv: {works}");
        let code = i32::from(!works);
        ensure!(report.code == Some(code), "doctor: {:?}", report.code);
        match &mut seen {
            Some((observer, before)) => observer.same(before),
            None => Ok(()),
        }
    }
}

/// Whether a receiver binds one more queue than were bound before; ends the receiver. Also returns
/// its standard error.
fn can_bind(mut receiver: Running, bound: usize) -> Result<(bool, String)> {
    let mut works = false;
    until("bound, or at its end", Duration::from_secs(30), || {
        works = bound_queues()? > bound;
        Ok(works || receiver.has_ended()?)
    })?;
    if works {
        // It may be bound and not yet listen.
        std::thread::sleep(Duration::from_millis(300));
        works = !receiver.has_ended()?;
        receiver
            .signal(Signal::SIGTERM)
            .or_else(|error| match works {
                true => Err(error),
                false => Ok(()),
            })?;
    }
    Ok((works, receiver.end_within(STEP)?.stderr))
}

type GuardResult = Result<Box<dyn std::any::Any>>;

fn leave_nic_alone() -> GuardResult {
    Ok(Box::new(()))
}

fn run_shell(line: &str) -> GuardResult {
    sh(line)?;
    leave_nic_alone()
}

fn switch_ntuple_off() -> GuardResult {
    run_shell("ethtool -K eth1 ntuple off")
}

fn take_port() -> GuardResult {
    Ok(Box::new(TcpListener::bind((NIC_ADDRESS, 5000))?))
}

fn set_link_down() -> GuardResult {
    run_shell("ip link set eth1 down")
}

fn attach_xdp() -> GuardResult {
    Ok(Box::new(xdp::attach(ifindex(NIC)?.get())?))
}

fn insert_rule(port: u16, queue: u32, location: Location) -> Result<u32> {
    let to = format!("{NIC_ADDRESS}:{port}").parse()?;
    let mut rule = FlowRule::tcp_to(to, Action::Queue(QueueId::new(queue)));
    rule.location = location;
    Ok(Ethtool::open()?.insert_rule(ifindex(NIC)?, &rule)?)
}

fn insert_rule_for_same_packets() -> GuardResult {
    insert_rule(5000, 1, Location::Any)?;
    leave_nic_alone()
}

fn insert_same_rule() -> GuardResult {
    insert_rule(5000, 3, Location::Any)?;
    leave_nic_alone()
}

fn fill_rule_table() -> GuardResult {
    for place in 0..4 {
        insert_rule(7000 + place, 1, Location::Any)?;
    }
    leave_nic_alone()
}

fn fill_rule_table_but_one() -> GuardResult {
    for place in 0..3 {
        insert_rule(7000 + place, 1, Location::Any)?;
    }
    leave_nic_alone()
}

/// Creates an RSS context: the only one that the driver has.
fn create_context() -> GuardResult {
    Ethtool::open()?.create_rss_context(ifindex(NIC)?, &RssChange::default())?;
    leave_nic_alone()
}

/// Sets an RSS table that sends all other traffic to the queue asked for.
fn set_table_of_one_queue() -> GuardResult {
    run_shell("ethtool -X eth1 start 3 equal 1")
}

/// Reserves 16 MiB of hugepages until the guard is dropped.
fn reserve_huge_pages() -> GuardResult {
    Ok(Box::new(sysctl::set("vm.nr_hugepages", "8")?))
}

fn set_one_channel() -> GuardResult {
    run_shell("ethtool -L eth1 combined 1")
}

/// A running receiver that is ended when the guard is dropped.
struct RunningReceiver(Option<Running>);

impl Drop for RunningReceiver {
    fn drop(&mut self) {
        if let Some(other) = self.0.take() {
            let _ended = other.signal(Signal::SIGTERM);
            let _ended = other.end_within(STEP);
        }
    }
}

fn start_receiver(options: &str) -> GuardResult {
    let line = format!("recv -f {NIC} --size 4M {options}");
    let other = RunningReceiver(Some(Running::start(command(None, &devmem_tcp(), &line))?));
    until("a binding", STEP, || Ok(bound_queues()? > 0))?;
    Ok(Box::new(other))
}

fn start_receiver_on_the_queue() -> GuardResult {
    start_receiver("--queue 3 -l 192.0.2.2:6000")
}

fn start_receiver_on_another() -> GuardResult {
    start_receiver("--queue 2 -l 192.0.2.2:6000")
}

fn apply_other_flow() -> GuardResult {
    let line = format!("apply {NIC} --queue 3 --flow {NIC_ADDRESS}:6000");
    finish(command(None, &devmem_tcp(), &line))?.good("apply")?;
    Ok(Box::new(RestoreOnDrop))
}

struct RestoreOnDrop;

impl Drop for RestoreOnDrop {
    fn drop(&mut self) {
        let _restored = restore();
    }
}

/// Keeps the first of two queues out of RSS by `apply`: `recv` would have to take the last one,
/// too.
fn apply_first_of_two() -> GuardResult {
    sh(&format!("ethtool -L {NIC} combined 2"))?;
    let line = format!("apply {NIC} --queue 0");
    finish(command(None, &devmem_tcp(), &line))?.good("apply")?;
    Ok(Box::new(RestoreOnDrop))
}

/// GuardResult for a journal that was replaced by a directory, so that it can't be read; restores the
/// journal and the NIC.
struct ReplacedJournal(PathBuf);

impl ReplacedJournal {
    const ASIDE: &'static str = "/run/journal";
}

impl Drop for ReplacedJournal {
    fn drop(&mut self) {
        let _back = fs::remove_dir(&self.0).and_then(|()| fs::rename(Self::ASIDE, &self.0));
        let _restored = restore();
    }
}

fn put_folder_for_journal() -> GuardResult {
    let line = format!("apply {NIC} --queue 2");
    finish(command(None, &devmem_tcp(), &line))?.good("apply")?;
    let journal = nic_state::journal()?;
    fs::rename(&journal, ReplacedJournal::ASIDE)?;
    fs::create_dir(&journal)?;
    Ok(Box::new(ReplacedJournal(journal)))
}

/// GuardResult for a runtime directory in which others may write; removes the directory.
struct LooseDirectory;

impl Drop for LooseDirectory {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(RUNTIME);
    }
}

fn loosen_directory() -> GuardResult {
    fs::create_dir_all(RUNTIME)?;
    fs::set_permissions(RUNTIME, Permissions::from_mode(0o777))?;
    Ok(Box::new(LooseDirectory))
}

fn check_states(states: &[State]) -> Result<()> {
    let mut wrong = Vec::new();
    for state in states {
        if let Err(error) = state.compare_with_recv() {
            let what = format!("{:?} {} {}", state.driver, state.parameters, state.options);
            wrong.push(format!("{what}: {error:#}"));
        }
    }
    testbed::clear().context("clearing")?;
    match &wrong[..] {
        [] => Ok(()),
        wrong => bail!("{} disagree:\n{}", wrong.len(), wrong.join("\n")),
    }
}

case!(on_options);
/// Compares `doctor` with `recv` for different queues, addresses and ports.
fn on_options() -> Result<()> {
    let v6 = format!("-l [{NIC_ADDRESS6}]:5000 --from {SENDER_ADDRESS}");
    let v6: &'static str = Box::leak(v6.into_boxed_str());
    check_states(&[
        state("", true),
        state("--queue 3", true),
        state("--queue 2 --queue 3", true),
        state("--queue 99", false),
        state("--queue 3 --queue 99", false),
        state("--queue 3 --queue 3", false),
        state("--from 192.0.2.1", true),
        state("--from 2001:db8:2::1", false),
        state(v6, false),
        state("-l 192.0.2.77:5000", false),
        state("-l 192.0.2.2:5001", true),
        state("-l [::]:5001", true),
        state("", false).after(take_port),
        state("-l [::]:5000", false),
    ])
}

case!(on_memory);
/// Compares `doctor` with `recv` for different kinds and sizes of memory.
fn on_memory() -> Result<()> {
    check_states(&[
        state("--size 4M", true),
        state("--size 0", false),
        state("--size 100000G", false),
        state("--memory heap:system --size 4M", true),
        state("--memory heap:none", false),
        state("--memory drm:/dev/dri/card9", false),
        state("--memory fd:77", false),
        state("--memory fd:0", false),
        state("--memory socket:/run/none", false),
        state("--pages 4K --size 4M", true),
        state("--pages 2M --size 4M", false),
        state("--pages 2M --size 4M", true).after(reserve_huge_pages),
        state("--pages 2M --size 3M", false).after(reserve_huge_pages),
        state("--pages 2M --size 32M", false).after(reserve_huge_pages),
    ])
}

case!(on_others);
/// Compares `doctor` with `recv` where links, rules, receivers, settings or files are in the way.
fn on_others() -> Result<()> {
    check_states(&[
        state("--queue 3", false).after(set_link_down),
        state("--queue 3", false).after(attach_xdp),
        state("--queue 3", false).after(insert_rule_for_same_packets),
        state("--queue 3", true).after(insert_same_rule),
        state("--queue 3", false)
            .with_parameters("rules=4")
            .after(fill_rule_table),
        state("--queue 3", true)
            .with_parameters("rules=4")
            .after(fill_rule_table_but_one),
        state("--queue 3", false).after(start_receiver_on_the_queue),
        state("", true).after(start_receiver_on_the_queue),
        state("--queue 3", true).after(start_receiver_on_another),
        state("--queue 2 --queue 3", false).after(start_receiver_on_another),
        state("--queue 3", true).after(apply_other_flow),
        state("", false).after(set_one_channel),
        state("", false).after(apply_first_of_two),
        state("", false).after(put_folder_for_journal),
        state("", false).after(loosen_directory),
        state("--queue 3", true).after(set_table_of_one_queue),
        state("", false).with_parameters("lacks=queue-ops"),
        state("", false).with_parameters("lacks=split"),
        state("", false).with_parameters("lacks=ntuple"),
        state("", false).with_parameters("lacks=rss"),
        state("", true).with_parameters("lacks=ntuple-on"),
    ])
}

case!(on_drivers);
/// Compares `doctor` with `recv` for the behaviour of each driver.
fn on_drivers() -> Result<()> {
    let mut states = Vec::new();
    for driver in [
        Driver::Mlx5,
        Driver::Gve,
        Driver::Bnxt,
        Driver::Ice,
        Driver::Fbnic,
    ] {
        // It has no queue API.
        let binds = driver != Driver::Ice;
        let two = matches!(driver, Driver::Mlx5 | Driver::Bnxt | Driver::Fbnic);
        states.extend([
            state("--queue 3", binds).with_driver(driver),
            state("--queue 2 --queue 3", two).with_driver(driver),
            state("--queue 2 --queue 3 -l 192.0.2.2:5001", binds).with_driver(driver),
        ]);
        if driver != Driver::Fbnic {
            states.push(
                state("--queue 3", binds)
                    .with_driver(driver)
                    .after(switch_ntuple_off),
            );
        }
        // gve's rules are off at first.
        if driver != Driver::Gve {
            states.push(
                state("--queue 3", false)
                    .with_driver(driver)
                    .after(insert_rule_for_same_packets),
            );
            let full = state("--queue 3", false)
                .with_parameters("rules=4")
                .after(fill_rule_table);
            let left = state("--queue 3", binds)
                .with_parameters("rules=4")
                .after(fill_rule_table_but_one);
            states.extend([full.with_driver(driver), left.with_driver(driver)]);
        }
        // It may split, and say so; but it cannot be asked to.
        let asked = state("", false)
            .with_driver(driver)
            .with_parameters("lacks=split");
        states.push(asked);
    }
    let fbnic = state("--queue 2 --queue 3", false).with_driver(Driver::Fbnic);
    states.push(fbnic.after(create_context));
    check_states(&states)
}
