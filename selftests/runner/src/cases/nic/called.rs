//! Devices named by alternative names, and devices stacked on a NIC.

use anyhow::{Context, Result, ensure};

use framework::command_line::{Recv, Sender};
use framework::nic_state::{self, Observer};
use framework::println_line;
use framework::receiver::start_bound;
use framework::testbed::{self, NIC, NIC_ADDRESS, PEER, SENDER};
use framework::tool::says;
use framework::tool::{command, finish, ours, sh};
use framework::transfer::{devmem_tcp, summary};

const LONG: &str = "rail0-of-the-left-hand-switch-in-row-17";

fn tool(line: &str) -> Result<String> {
    finish(command(None, &devmem_tcp(), line))?.good(line)
}

case!(alternative);
/// Names the NIC by a short and a long alternative name, wherever a command takes a device. Each
/// must work.
fn alternative() -> Result<()> {
    testbed::wire()?;
    sh(&format!(
        "ip link property add dev {NIC} altname rail0 altname {LONG}"
    ))?;
    sh(&format!(
        "ip netns exec {PEER} ip link property add dev {SENDER} altname {LONG}"
    ))?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for name in ["rail0", LONG] {
        says(&tool(&format!("show {name} --all"))?, &[NIC])?;
        tool(&format!("doctor {name}"))?;
        says(&tool(&format!("plan {name} --queue 3"))?, &["rss"])?;
        tool(&format!("apply {name} --queue 3 --flow {NIC_ADDRESS}:5000"))?;
        ensure!(observer.same(&before).is_err(), "nothing was applied");
        says(
            &tool(&format!("restore {name} --dry-run"))?,
            &[NIC, "apply"],
        )?;
        says(&tool(&format!("restore {name}"))?, &["as it was before"])?;
        observer.soon_same(&before)?;

        let receiver = Recv::on(name).listen(testbed::at(5000)).start_bound()?;
        Sender::to(testbed::at(5000))
            .bytes("1M")
            .device(LONG)
            .run()?;
        summary(receiver)?.all_in_dmabuf()?;
        observer.soon_same(&before)?;

        let line = format!("-f {name} -l -s {NIC_ADDRESS} -p 5000 -v 7 -t 3 -q 1");
        let receiver = start_bound(command(None, &ours("ncdevmem"), &line))?;
        receiver.stop()?;
        observer.soon_same(&before)?;

        let leased = tool(&format!("lease --phys {name} --queue 3 --netkit nk0"))?;
        says(&leased, &[NIC, "nk0"])?;
        tool("unlease nk0")?;
    }
    Ok(())
}

case!(stacked);
/// Names a VLAN, a team, and a VLAN on a team above the NIC. `recv` and `doctor` must refuse them,
/// and name the NIC below.
fn stacked() -> Result<()> {
    testbed::wire()?;
    let refused = |device: &str, kind: &str| -> Result<()> {
        let line = format!("recv -f {device} -l {NIC_ADDRESS}:5000");
        let end = finish(command(None, &devmem_tcp(), &line))?;
        let said = end.refused(1)?;
        println_line(said.trim_end());
        says(
            &said,
            &[device, kind, &format!("name the NIC itself: {NIC}")],
        )?;
        let end = finish(command(None, &devmem_tcp(), &format!("doctor {device}")))?;
        ensure!(end.status.code() == Some(1), "{}", end.status);
        says(&end.stdout, &["netkit.kind", kind, NIC])
    };
    for module in ["8021q", "team"] {
        sh(&format!("modprobe {module}"))?;
    }
    sh(&format!(
        "ip link add link {NIC} name nkvlan type vlan id 5"
    ))?;
    sh("ip link set nkvlan up")?;
    refused("nkvlan", "vlan")?;
    sh("ip link del nkvlan")?;
    sh(&format!("ip link set {NIC} down"))?;
    sh("ip link add nkteam type team")?;
    sh(&format!("ip link set {NIC} master nkteam"))?;
    sh("ip link set nkteam up")?;
    sh("ip link add link nkteam name nkvlan type vlan id 5")?;
    sh("ip link set nkvlan up")?;
    let found = refused("nkteam", "team").and_then(|()| refused("nkvlan", "vlan"));
    sh("ip link del nkvlan")?;
    sh("ip link del nkteam")?;
    found.context("a team")?;
    nic_state::check_untouched()
}
