//! Flow rules steer to the queue all packets that the socket takes, and no others.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::FlowRule;
use netdev::link::AddressOptions;
use netdev::{Ethtool, Link, NetNs};

use framework::command_line::{Recv, Sender};
use framework::nic_state::{self, Observer};
use framework::receiver::restore;
use framework::summary::Summary;
use framework::testbed::{
    self, NIC, NIC_ADDRESS, NIC_ADDRESS6, PEER, SENDER, SENDER_ADDRESS, SENDER_ADDRESS6,
};
use framework::tool::says;
use framework::tool::{command, finish};
use framework::transfer::{devmem_tcp, summary};
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

fn rules() -> Result<Vec<FlowRule>> {
    Ok(Ethtool::open()?.rules(ifindex(NIC)?)?)
}

fn check_all_in_dmabuf(summary: &Summary, bytes: u64) -> Result<()> {
    ensure!(summary.bytes == bytes, "{summary}");
    summary.all_in_dmabuf()
}

case!(dual_stack);
/// Listens at `[::]`, which takes IPv4, too. Rules must steer both families; with `--from` only the
/// family of that address.
fn dual_stack() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let recv = Recv::on(NIC).listen("[::]:5000").refuse_unsteered();
    let receiver = recv.clone().connections(2).start_bound()?;
    ensure!(rules()?.len() == 2, "rules: {:?}", rules()?);
    for to in [NIC_ADDRESS, &format!("[{NIC_ADDRESS6}]")] {
        Sender::to(format!("{to}:5000")).bytes("2M").run()?;
    }
    check_all_in_dmabuf(&summary(receiver)?, 4 * MIB)?;
    observer.soon_same(&before)?;
    for (from, to) in [
        (SENDER_ADDRESS, NIC_ADDRESS),
        (SENDER_ADDRESS6, &format!("[{NIC_ADDRESS6}]") as &str),
    ] {
        let receiver = recv.clone().from(from).start_bound()?;
        ensure!(rules()?.len() == 1, "rules: {:?}", rules()?);
        Sender::to(format!("{to}:5000")).bytes("2M").run()?;
        check_all_in_dmabuf(&summary(receiver)?, 2 * MIB)?;
        observer.soon_same(&before)?;
    }
    Ok(())
}

case!(families_that_never_meet);
/// Listens at an address of one family with `--from` one of the other. `recv` must refuse and not
/// touch the NIC.
fn families_that_never_meet() -> Result<()> {
    testbed::wire()?;
    for (listen, from) in [
        (format!("{NIC_ADDRESS}:5000"), SENDER_ADDRESS6),
        (format!("[{NIC_ADDRESS6}]:5000"), SENDER_ADDRESS),
    ] {
        let line = format!("recv -f {NIC} -l {listen} --from {from}");
        let said = finish(tool(&line))?.refused(1)?;
        println_line(said.trim_end());
        says(&said, &[from, "one family"])?;
    }
    nic_state::check_untouched()
}

case!(port_zero);
/// Listens at port 0, whose rule would steer all TCP to the address, ssh included. `recv` must
/// refuse; `apply` must ask for the word `any`.
fn port_zero() -> Result<()> {
    testbed::wire()?;
    let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:0");
    says(&finish(tool(&line))?.refused(2)?, &["port 0", "ssh"])?;
    let line = format!("apply {NIC} --queue 3 --flow {NIC_ADDRESS}:0");
    let any = format!("{NIC_ADDRESS}:any");
    says(&finish(tool(&line))?.refused(2)?, &["ssh", &any])?;
    nic_state::check_untouched()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    finish(tool(&format!("apply {NIC} --queue 3 --flow {any}")))?.good("apply")?;
    let rules = rules()?;
    ensure!(
        rules.len() == 1 && rules.iter().all(|rule| rule.dst_port.is_none()),
        "{rules:?}"
    );
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(link_local);
/// Listens at link-local addresses, with a device and without, which then means the NIC. All must
/// be received.
fn link_local() -> Result<()> {
    testbed::wire()?;
    let options = AddressOptions { nodad: true };
    Link::open()?.add_address(ifindex(NIC)?, "fe80::2/64".parse()?, options)?;
    let mut theirs = Link::open_in(&NetNs::by_name(PEER)?)?;
    let sender = theirs.by_name(SENDER)?.ifindex;
    theirs.add_address(sender, "fe80::1/64".parse()?, options)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for at in [
        format!("[fe80::2%{NIC}]:5000"),
        "[fe80::2]:5000".to_owned(),
        format!("[fe80::2%{}]:5000", ifindex(NIC)?),
    ] {
        let receiver = Recv::on(NIC).listen(&at).refuse_unsteered().start_bound()?;
        Sender::to(format!("[fe80::2%{SENDER}]:5000"))
            .bytes("2M")
            .run()?;
        check_all_in_dmabuf(&summary(receiver)?, 2 * MIB).context(at)?;
        observer.soon_same(&before)?;
    }
    let line = format!("recv -f {NIC} -l [fe80::2%nothing]:5000");
    says(&finish(tool(&line))?.refused(1)?, &["nothing", "ENODEV"])
}

case!(one_context_for_all_addresses);
/// Steers 24 addresses to the same two queues. One RSS context must be made for all.
fn one_context_for_all_addresses() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let at: Vec<String> = (5000..5024)
        .map(|port| format!("--flow {NIC_ADDRESS}:{port}"))
        .collect();
    let twice = format!("--flow {NIC_ADDRESS}:5000");
    let line = format!("{NIC} --queue 2 --queue 3 {} {twice}", at.join(" "));
    let would = finish(tool(&format!("plan {line}")))?.good("plan")?;
    let lines = would.lines();
    let contexts = lines.filter(|line| line.contains("new rss context"));
    ensure!(contexts.count() == 1, "{would}");
    finish(tool(&format!("apply {line}")))?.good("apply")?;
    let all = Ethtool::open()?.rss_contexts(ifindex(NIC)?)?;
    let contexts = all.iter().filter(|rss| rss.context.is_some()).count();
    ensure!(contexts == 1, "{contexts} contexts");
    ensure!(rules()?.len() == at.len(), "{} rules", rules()?.len());
    restore()?.good("restore")?;
    observer.soon_same(&before)
}
