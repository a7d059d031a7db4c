//! The receiver.

use anyhow::{Context, Error, Result, bail, ensure};
use common::remedy::of_connection;
use common::signals::{Second, Signals};
use common::sink::{AnySink, Reader};
use common::{Hint, Output, stdio, with_sources};
use devmem::engine::{End, Peer, Report, StopHandle};
use devmem::pattern::Pattern;
use devmem::sink::{Discard, SinkError};
use receiver::{Builder, Finished, Ready, Receiver};
use udmabuf::Udmabuf;

use crate::args::Server;
use crate::nic_side::{is_ours, put_back, steer};
use crate::{Device, memory, queues, say, tell};

pub(crate) fn run(device: &Device, server: &Server) -> Result<()> {
    // Before the NIC is changed: output that can't be.
    let output = match server.validation {
        None => Some(Output::stdout()?),
        Some(_) => None,
    };
    let period = server.validation.map(|period| period.get() as usize);
    let pattern = period.map(Pattern::new).transpose().context("-v")?;
    let stop = StopHandle::new();
    let signals = Signals::catch(Second::Ends, &stop).context("signal handlers")?;
    // That the address is in use shows before the NIC is changed.
    let found = wanted(device, server)?
        .stopped_by(&stop)
        .find()?
        .take_addresses()?;
    let found = found.memory([memory::dmabuf(server.rx_page_size)?]);
    let ready = found
        .set_up()
        .and_then(|receiver| ready(receiver, pattern, output));
    let (received, restored) = match ready {
        Ok(ready) => {
            let address = server.address.on(device.ifindex);
            tell(&format!("binding to address {address}"));
            tell(&format!("Waiting or connection on {address}"));
            let Finished { report, restored } = ready.receive().finish();
            (report.map_err(Error::from), restored)
        }
        Err(error) => {
            let (error, restored) = error.into_parts();
            (Err(error.into()), restored)
        }
    };
    // First: who reads what is said from here on may take his time.
    signals.done();
    let outcome = received.and_then(|report| finish(device, server, &report, signals.received()));
    put_back(restored, outcome)?;
    say("ok");
    Ok(())
}

/// Builds the receiver that the command line asks for, without its memory.
fn wanted(device: &Device, server: &Server) -> Result<Builder<Udmabuf>> {
    let refuse_linear = server.fail_on_linear;
    let mut wanted = Receiver::on(&device.name)
        .queues(queues::for_server(device, server.queues)?)
        .listen(server.address.on(device.ifindex))
        .config(move |config| {
            config.refuse_unsteered = true;
            config.refuse_linear = refuse_linear;
        });
    if let Some(bytes) = server.rx_page_size {
        wanted = wanted.rx_page_size(bytes.get());
    }
    Ok(match is_ours(device, server)? {
        true => wanted.apply_with(steer(device, server)),
        false => wanted.leave_nic(),
    })
}

/// Creates the receiver's sinks, which validate the payload or write it to standard output.
fn ready(
    receiver: Receiver<Udmabuf>,
    pattern: Option<Pattern>,
    mut output: Option<Output>,
) -> Result<Ready<'static, Udmabuf, AnySink>, receiver::Error> {
    for (binding, _) in receiver.bindings() {
        tell(&format!("got dmabuf id={}", binding.id()));
    }
    let reader = match receiver.memory() {
        Ok(memory) => Reader::Cpu(memory),
        Err(error) => return Err(error.and(receiver.undo())),
    };
    receiver.with_sinks(move |peer: &Peer| -> Result<AnySink, SinkError> {
        tell(&format!("Got connection from {}", peer.address));
        Ok(match (&pattern, output.take()) {
            (Some(pattern), _) => reader.validate(pattern),
            (None, Some(output)) => reader.write(output),
            (None, None) => AnySink::Discard(Discard),
        })
    })
}

/// Prints upstream's closing words; returns an error if the run failed.
fn finish(
    device: &Device,
    server: &Server,
    report: &Report<AnySink>,
    signal: Option<i32>,
) -> Result<()> {
    let stream = &report.stats.stream;
    for connection in &report.connections {
        if let End::Failed(error) = &connection.end {
            let text = format!(
                "from {}, after {} bytes: {}",
                connection.peer.address,
                connection.stats.bytes,
                with_sources(error)
            );
            return Err(match of_connection(error) {
                Some(remedy) => Hint::new(text, remedy).into(),
                None => Error::msg(text),
            });
        }
    }
    if let Some(signal) = signal {
        bail!("ended by signal {signal}, after {} bytes", stream.bytes);
    }
    say("client exited");
    say(&format!("total_received={}", stream.bytes));
    say(&format!(
        "frags={} frag_bytes={} linear_bytes={} tokens_returned={}",
        stream.frags, stream.frag_bytes, stream.linear_bytes, stream.tokens.freed
    ));
    if stream.frags == 0 && stream.bytes > 0 {
        say(&format!(
            "warning: all {} bytes came beside the dmabuf, nothing into it: see tcp-data-split and \
             hds-thresh (ethtool -g {}); -L refuses them",
            stream.bytes,
            netdev::shell_word(&device.name)
        ));
    }
    ensure!(
        stream.tokens.outstanding() == 0,
        "{} tokens were not returned",
        stream.tokens.outstanding()
    );
    if server.validation.is_some() && stream.bytes > 0 {
        let sinks = report
            .connections
            .iter()
            .filter_map(|peer| peer.sink.as_ref());
        let validated: u64 = sinks.filter_map(AnySink::validated).sum();
        ensure!(
            validated == stream.bytes,
            "{validated} of {} bytes were validated",
            stream.bytes
        );
        // On stdout, where upstream's says it, once for each frag.
        stdio::stdout()
            .print("Validated buffer\n")
            .context("standard output")?;
    }
    Ok(())
}
