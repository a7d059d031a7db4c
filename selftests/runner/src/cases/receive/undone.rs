//! A receiver of the `receiver` crate undoes its steps in the right order, whichever step it came to.

use anyhow::{Context, Result, ensure};
use devmem::sink::Discard;
use netdev::QueueId;
use receiver::{Builder, Error, Finished, Receiver};
use udmabuf::Udmabuf;

use framework::nic_state::{self, Observer};
use framework::println_line;
use framework::receiver::bound_queues;
use framework::testbed::{self, NIC, NIC_ADDRESS};

type Run = fn() -> Result<()>;

fn receiver_builder() -> Result<Builder<Udmabuf>> {
    let wanted = Receiver::on(NIC).queue(QueueId::new(testbed::QUEUES - 1));
    let wanted = wanted.listen(format!("{NIC_ADDRESS}:5000").parse()?);
    Ok(wanted.memory(Udmabuf::builder(4 << 20).build()?))
}

case!(dropped);
/// Drops or ends a receiver at each step: found, set up, with an engine, after receiving. The NIC
/// must each time be as before, with nothing bound.
fn dropped() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let found = receiver_builder()?.find()?.take_addresses()?;
    ensure!(!found.preview()?.is_empty(), "nothing would change");
    observer.same(&before)?;
    drop(found);
    let ways: [(&str, Run); 5] = [
        ("dropped when set up", only_set_up),
        ("dropped with an engine", only_add_engine),
        ("dropped after receiving", only_receive),
        ("undone", || Ok(receiver_builder()?.set_up()?.undo()?)),
        ("finished", finish_receiver),
    ];
    for (name, run) in ways {
        println_line(name);
        run().context(name)?;
        ensure!(bound_queues()? == 0, "{name}: a binding is left");
        observer.same(&before).context(name)?;
        nic_state::check_nothing_left().context(name)?;
    }
    Ok(())
}

fn only_set_up() -> Result<()> {
    let receiver = receiver_builder()?.set_up()?;
    ensure!(!receiver.changes().is_empty(), "nothing was changed");
    check_one_bound()
}

fn only_add_engine() -> Result<()> {
    let _ready = receiver_builder()?.set_up()?.with_sinks(|_| Ok(Discard))?;
    check_one_bound()
}

fn only_receive() -> Result<()> {
    let ready = receiver_builder()?.set_up()?.with_sinks(|_| Ok(Discard))?;
    ready.stop_handle().stop();
    let _received = ready.receive();
    check_one_bound()
}

fn finish_receiver() -> Result<()> {
    let ready = receiver_builder()?.set_up()?.with_sinks(|_| Ok(Discard))?;
    ready.stop_handle().stop();
    let Finished { report, restored } = ready.receive().finish();
    ensure!(report?.connections.is_empty(), "somebody came");
    Ok(restored?)
}

fn check_one_bound() -> Result<()> {
    ensure!(bound_queues()? == 1, "no binding, or more than one");
    Ok(())
}

case!(failed);
/// Makes a step fail after the NIC was changed: a wrong `rx-page-size`, then a queue without
/// memory. The NIC must be as before.
fn failed() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let error = receiver_builder()?.rx_page_size(3).set_up().map(drop);
    println_line(&format!("{error:?}"));
    ensure!(
        matches!(&error, Err(Error::Kernel(error)) if error.op() == "bind-rx"),
        "another error"
    );
    observer.same(&before)?;
    let queues = [testbed::QUEUES - 3, testbed::QUEUES - 2].map(QueueId::new);
    let memory = Udmabuf::builder(4 << 20).build()?;
    let error = receiver_builder()?
        .queues(queues)
        .memory(memory)
        .set_up()
        .map(drop);
    println_line(&format!("{error:?}"));
    ensure!(
        matches!(
            error,
            Err(Error::MemoryCount {
                given: 2,
                queues: 3,
                ..
            })
        ),
        "another error"
    );
    observer.same(&before)?;
    nic_state::check_nothing_left()
}
