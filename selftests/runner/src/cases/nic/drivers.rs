//! The software NIC behaves as each driver of `selftests/swnic/DRIVERS.md` does.

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{
    Action, ChannelsChange, FlowRule, HeaderSplit, IpMatch, Location, RingsChange, RssChange,
};
use netdev::queues::BindOptions;
use netdev::{Ethtool, Ifindex, Link, Netdev, QueueId};
use nix::errno::Errno;
use udmabuf::Udmabuf;

use framework::command_line::Recv;
use framework::doctor::Report;
use framework::driver::Driver;
use framework::nic_state::Observer;
use framework::testbed::{self, NIC, NIC_ADDRESS, QUEUES};
use framework::tool::{command, finish};
use framework::transfer::{devmem_tcp, validated};
use framework::{ifindex, println_line};

const ALL: [Driver; 5] = [
    Driver::Mlx5,
    Driver::Gve,
    Driver::Bnxt,
    Driver::Ice,
    Driver::Fbnic,
];

/// Result of a step: a number, or the errno of its refusal.
type Outcome = std::result::Result<u32, Errno>;

/// Loads a NIC that behaves as this driver, and switches ntuple rules on.
fn load_nic(driver: Driver, queues: u32) -> Result<(Ethtool, Ifindex)> {
    testbed::clear()?;
    testbed::wire_as(driver, queues, "")?;
    let mut ethtool = Ethtool::open()?;
    let nic = ifindex(NIC)?;
    if matches!(driver, Driver::Mlx5 | Driver::Gve) {
        ethtool.set_feature(nic, "rx-ntuple-filter", true)?;
    }
    Ok((ethtool, nic))
}

fn outcome<T>(result: netdev::Result<T>, value: impl Fn(T) -> u32) -> Outcome {
    let errno = |error: netdev::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    result.map(value).map_err(errno)
}

fn rule_at(port: u16, location: Location) -> Result<FlowRule> {
    let to = format!("192.0.2.2:{port}").parse()?;
    let mut rule = FlowRule::tcp_to(to, Action::Queue(QueueId::new(1)));
    rule.location = location;
    Ok(rule)
}

/// `RX_CLS_LOC_ANY`, passed to the driver as it is. [`Location::Any`] would find a free location
/// without the driver's help.
const ANY: Location = Location::At(u32::MAX);

/// Runs the same steps with each driver, and compares the outcomes with those expected.
fn compare_drivers(
    expected: [(Driver, &[Outcome]); ALL.len()],
    steps: fn(&mut Ethtool, Ifindex) -> Result<Vec<Outcome>>,
) -> Result<()> {
    for (driver, expected) in expected {
        let (mut ethtool, nic) = load_nic(driver, QUEUES)?;
        let found = steps(&mut ethtool, nic).with_context(|| format!("{driver:?}"))?;
        println_line(&format!("{driver:?}: {found:?}"));
        ensure!(found == expected, "{driver:?}: expected {expected:?}");
    }
    Ok(())
}

case!(rule_places);
/// Inserts rules without a location, at a free one, at an occupied one and beyond the table. Each
/// driver must answer as the real one does.
fn rule_places() -> Result<()> {
    let full = Err(Errno::ENOSPC);
    let bad = Err(Errno::EINVAL);
    compare_drivers(
        [
            (Driver::Mlx5, &[full, Ok(5), Ok(5), Ok(1), full, Ok(1024)]),
            (Driver::Gve, &[bad, Ok(5), bad, Ok(1), bad, Ok(64)]),
            (Driver::Bnxt, &[Ok(0), bad, bad, Ok(1), bad, Ok(5120)]),
            (Driver::Ice, &[full, Ok(5), Ok(5), Ok(1), full, Ok(512)]),
            (Driver::Fbnic, &[Ok(47), bad, bad, Ok(1), bad, Ok(48)]),
        ],
        |ethtool, nic| {
            let mut insert = |port, location| -> Result<Outcome> {
                let inserted = ethtool.insert_rule(nic, &rule_at(port, location)?);
                Ok(outcome(inserted, |place| place))
            };
            let mut found = vec![
                insert(5000, ANY)?,
                insert(5001, Location::At(5))?,
                insert(5002, Location::At(5))?,
            ];
            let beyond = insert(5003, Location::At(10_000))?;
            let table = ethtool.rule_table(nic)?;
            found.extend([Ok(table.count), beyond, Ok(table.size.unwrap_or(0))]);
            ensure!(found[0].is_ok() == table.chooses, "{table:?}");
            Ok(found)
        },
    )
}

case!(rules_that_are_refused);
/// Inserts a duplicate rule, a partial mask, other fields than the first rule's, many addresses,
/// and a rule that drops. Each driver must answer as the real one does.
fn rules_that_are_refused() -> Result<()> {
    let bad = Err(Errno::EINVAL);
    let exists = Err(Errno::EEXIST);
    let not = Err(Errno::EOPNOTSUPP);
    compare_drivers(
        [
            (Driver::Mlx5, &[exists, Ok(0), Ok(0), Ok(0), Ok(0)]),
            (Driver::Gve, &[bad, Ok(0), Ok(0), Ok(0), not]),
            (Driver::Bnxt, &[exists, Ok(0), Ok(0), Ok(0), Ok(0)]),
            (Driver::Ice, &[bad, not, bad, Ok(0), Ok(0)]),
            (
                Driver::Fbnic,
                &[Ok(0), Ok(0), Ok(0), Err(Errno::ENOSPC), Ok(0)],
            ),
        ],
        |ethtool, nic| {
            let chooses = ethtool.rule_table(nic)?.chooses;
            let mut next = 0;
            let mut insert = |mut rule: FlowRule| -> Outcome {
                next += 1;
                rule.location = match chooses {
                    true => Location::Any,
                    false => Location::At(next),
                };
                outcome(ethtool.insert_rule(nic, &rule), |_| 0)
            };
            let first = rule_at(5000, Location::Any)?;
            ensure!(insert(first.clone()) == Ok(0), "the first rule");
            let mut found = vec![insert(first.clone())];

            let mut partly = first.clone();
            partly.dst = Some(IpMatch {
                addr: "192.0.2.0".parse()?,
                mask: "255.255.255.0".parse()?,
            });
            found.push(insert(partly));

            let mut fewer = first.clone();
            fewer.dst = None;
            found.push(insert(fewer));

            let mut last = Ok(0);
            for host in 10..20 {
                let mut other = first.clone();
                other.dst = Some(IpMatch::host(format!("192.0.2.{host}").parse()?));
                last = insert(other);
            }
            found.push(last);

            let mut drop = rule_at(5001, Location::Any)?;
            drop.action = Action::Drop;
            found.push(insert(drop));
            Ok(found)
        },
    )
}

case!(tables_and_contexts);
/// Compares each driver's RSS with the real one: length of table and key, number of contexts,
/// length of the table with more channels, and whether a table that was set may shrink again.
fn tables_and_contexts() -> Result<()> {
    const MANY: u32 = 70;
    for (driver, entries, key, contexts, with_many) in [
        (Driver::Mlx5, 256, 40, 15, 512),
        (Driver::Gve, 128, 40, 0, 128),
        (Driver::Bnxt, 64, 40, 32, 128),
        (Driver::Ice, 2048, 52, 0, 2048),
        (Driver::Fbnic, 256, 40, 1, 256),
    ] {
        let (mut ethtool, nic) = load_nic(driver, MANY)?;
        testbed::set_channels(&mut ethtool, nic, QUEUES)?;
        let rss = ethtool.rss(nic)?;
        let found = (rss.table.len(), rss.key.len());
        ensure!(found == (entries, key), "{driver:?}: {found:?}");

        let mut made = Vec::new();
        while let Ok(rss) = ethtool.create_rss_context(nic, &RssChange::default()) {
            made.push(rss.context.context("its number")?);
        }
        ensure!(
            made.len() == contexts,
            "{driver:?}: {} contexts",
            made.len()
        );

        // Before 7.3 no context's table becomes longer.
        let longer = testbed::set_channels(&mut ethtool, nic, MANY);
        let can = testbed::kernel()? >= (7, 3) || entries == with_many;
        ensure!(longer.is_ok() == can, "{driver:?}: {longer:?}");
        for context in made {
            ethtool.delete_rss_context(nic, context)?;
        }
        testbed::set_channels(&mut ethtool, nic, MANY)?;
        let found = ethtool.rss(nic)?.table.len();
        ensure!(found == with_many, "{driver:?}: {found} entries");

        // A table that says something else in its second half cannot be folded.
        let mut table: Vec<_> = (0..with_many)
            .map(|i| QueueId::new(u32::from(i == 0)))
            .collect();
        if let Some(last) = table.last_mut() {
            *last = QueueId::new(2);
        }
        let change = RssChange {
            table: Some(table.clone()),
            ..RssChange::default()
        };
        ethtool.set_rss(nic, None, &change)?;
        let fewer = testbed::set_channels(&mut ethtool, nic, QUEUES);
        println_line(&format!("{driver:?}: {fewer:?}"));
        ensure!(fewer.is_ok() == (entries == with_many), "{driver:?}");
        ensure!(ethtool.rss(nic)?.table == table, "{driver:?}: the table");
    }
    Ok(())
}

case!(channels);
/// Sets different numbers of combined, rx and tx channels. Each driver must answer as the real one
/// does.
fn channels() -> Result<()> {
    let bad = Err(Errno::EINVAL);
    compare_drivers(
        [
            (Driver::Mlx5, &[Ok(4), bad, bad, bad, Ok(3)]),
            (Driver::Gve, &[Ok(0), bad, bad, Ok(0), bad]),
            (Driver::Bnxt, &[Ok(4), bad, bad, Ok(0), Ok(3)]),
            (Driver::Ice, &[Ok(4), Ok(1), bad, bad, Ok(3)]),
            (Driver::Fbnic, &[Ok(4), Ok(1), bad, Ok(0), Ok(3)]),
        ],
        |ethtool, nic| {
            let combined = |ethtool: &mut Ethtool| -> Result<u32> {
                Ok(ethtool.channels(nic)?.combined.unwrap_or(0))
            };
            let mut found = vec![Ok(combined(ethtool)?)];
            for (both, rx, tx) in [(1, 2, 0), (1, 1, 1), (0, 2, 3), (3, 0, 0)] {
                let change = ChannelsChange {
                    combined: Some(both),
                    rx: Some(rx),
                    tx: Some(tx),
                    ..ChannelsChange::default()
                };
                let set = outcome(ethtool.set_channels(nic, &change), |()| 0);
                if set.is_ok() {
                    let channels = ethtool.channels(nic)?;
                    ensure!(channels.rx_queues() == both + rx, "{channels:?}");
                    found.push(Ok(combined(ethtool)?));
                } else {
                    found.push(set);
                }
            }
            Ok(found)
        },
    )
}

case!(rings);
/// Reads header split and its threshold, switches split on, off and to auto, and sets a ring of 600
/// entries. Each driver must answer as the real one does.
fn rings() -> Result<()> {
    const ON: SplitOutcome = Ok(Some(HeaderSplit::Enabled));
    const OFF: SplitOutcome = Ok(Some(HeaderSplit::Disabled));
    const BAD: Outcome = Err(Errno::EINVAL);
    const REFUSED: SplitOutcome = Err(Errno::EINVAL);
    for (driver, told, threshold, ring) in [
        // Its header split needs HW-GRO.
        (
            Driver::Mlx5,
            [Ok(None), REFUSED, OFF, Ok(None)],
            Some((0, 0)),
            Ok(1024),
        ),
        // Auto leaves what was set.
        (Driver::Gve, [OFF, ON, OFF, OFF], None, BAD),
        // HW-GRO is on, and splits.
        (
            Driver::Bnxt,
            [ON, ON, REFUSED, ON],
            Some((640, 1023)),
            Ok(600),
        ),
        (Driver::Ice, [OFF, ON, OFF, OFF], None, Ok(608)),
        (
            Driver::Fbnic,
            [ON, ON, REFUSED, ON],
            Some((1536, 3584)),
            Ok(1024),
        ),
    ] {
        let (mut ethtool, nic) = load_nic(driver, QUEUES)?;
        let first = ethtool.rings(nic)?;
        let mut found = vec![Ok(first.tcp_data_split)];
        for split in [
            HeaderSplit::Enabled,
            HeaderSplit::Disabled,
            HeaderSplit::Auto,
        ] {
            let change = RingsChange {
                tcp_data_split: Some(split),
                ..RingsChange::default()
            };
            found.push(match outcome(ethtool.set_rings(nic, &change), |()| 0) {
                Ok(_) => Ok(ethtool.rings(nic)?.tcp_data_split),
                Err(errno) => Err(errno),
            });
        }
        println_line(&format!("{driver:?}: {found:?}"));
        ensure!(found == told, "{driver:?}: expected {told:?}");

        let thresholds = first.hds_thresh.zip(first.hds_thresh_max);
        ensure!(thresholds == threshold, "{driver:?}: {thresholds:?}");

        let change = RingsChange {
            rx: Some(600),
            ..RingsChange::default()
        };
        let set = outcome(ethtool.set_rings(nic, &change), |()| 0);
        let rx = ethtool.rings(nic)?.rx.unwrap_or(0);
        ensure!(set.map(|_| rx) == ring, "{driver:?}: {set:?}, {rx} entries");
    }
    Ok(())
}

case!(queues_that_restart);
/// Binds the first queue, the second one, and a queue of a device that is down. Each driver must
/// answer as the real one does.
fn queues_that_restart() -> Result<()> {
    let none = Err(Errno::EOPNOTSUPP);
    compare_drivers(
        [
            (Driver::Mlx5, &[Ok(0), Ok(0), Err(Errno::ENODEV)]),
            (
                Driver::Gve,
                &[Err(Errno::ERANGE), Ok(0), Err(Errno::EAGAIN)],
            ),
            (Driver::Bnxt, &[Ok(0), Ok(0), Err(Errno::ENETDOWN)]),
            (Driver::Ice, &[none, none, none]),
            (Driver::Fbnic, &[Ok(0), Ok(0), Ok(0)]),
        ],
        |ethtool, nic| {
            // mlx5 splits no headers without; the others' bindings do not mind, if they have it.
            let _none = ethtool.set_feature(nic, "rx-gro-hw", true);
            let threshold = ethtool.rings(nic)?.hds_thresh;
            let split = RingsChange {
                tcp_data_split: Some(HeaderSplit::Enabled),
                hds_thresh: threshold.map(|_| 0),
                ..RingsChange::default()
            };
            ethtool.set_rings(nic, &split)?;
            let memory = Udmabuf::builder(1 << 20).build()?;
            let bind = |queue: u32| -> Result<Outcome> {
                let queue = [QueueId::new(queue)];
                let bound = Netdev::open()?.bind_rx(nic, &memory, &queue, BindOptions::default());
                Ok(outcome(bound, |_| 0))
            };
            let up = [bind(0)?, bind(1)?];
            Link::open()?.set_down(nic)?;
            Ok(vec![up[0], up[1], bind(1)?])
        },
    )
}

case!(receives_and_restores);
/// Receives with each driver that can, on one queue and on two. The NIC must then be as before.
fn receives_and_restores() -> Result<()> {
    for driver in ALL.into_iter().filter(|driver| *driver != Driver::Ice) {
        testbed::clear()?;
        testbed::wire_as(driver, QUEUES, "")?;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        for (queues, port) in [(3..4, 5000), (2..4, 5001)] {
            let mut receiver = queues.clone().fold(Recv::on(NIC), Recv::queue);
            // Without contexts, a rule goes to one queue: two queues take two.
            if queues.len() > 1 && driver.contexts() == 0 {
                receiver = receiver.listen(testbed::at(port + 1));
            }
            validated(receiver, testbed::at(port), 1 << 20)
                .and_then(|summary| summary.all_in_dmabuf())
                .and_then(|()| observer.soon_same(&before))
                .with_context(|| format!("{driver:?}, {queues:?}"))?;
        }
    }
    Ok(())
}

case!(that_cannot_receive);
/// Uses a driver without queue management. `doctor` must say so, `recv` must be refused, and the
/// NIC be unchanged.
fn that_cannot_receive() -> Result<()> {
    testbed::wire_as(Driver::Ice, QUEUES, "")?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let report = Report::of(NIC)?;
    ensure!(report.code == Some(1), "{:?}", report.code);
    ensure!(
        report.status("driver.queue-api") == "fail",
        "{}",
        report.json
    );
    let line = format!("recv -f {NIC} --size 4M -l {NIC_ADDRESS}:5000");
    let said = finish(command(None, &devmem_tcp(), &line))?.refused(1)?;
    println_line(&said);
    ensure!(said.contains(NIC), "{said}");
    observer.soon_same(&before)
}

/// Header split as the driver reports it after a setting, or the errno of the setting.
type SplitOutcome = std::result::Result<Option<HeaderSplit>, Errno>;
