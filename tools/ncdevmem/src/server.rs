//! The receiver.

use std::sync::Arc;

use anyhow::{Context, Error, Result, bail, ensure};
use common::signals::{Second, Signals};
use common::sink::{AnySink, Reader};
use common::{Hint, Output, stdio, with_sources};
use devmem::DmabufId;
use devmem::engine::{Config, End, Engine, Peer, Report, Until, page_size};
use devmem::listen::{Bound, SocketOptions, bind, recv_buffer_for};
use devmem::pattern::Pattern;
use devmem::sink::{Discard, Memory, SinkError};
use dmabuf::{Dmabuf, Protection};
use netdev::{BindOptions, Netdev, QueueId};
use nic::Applied;
use udmabuf::Udmabuf;

use crate::args::Server;
use crate::nic_side::{configure, put_back};
use crate::{Device, memory, queues, say, tell};

pub(crate) fn run(device: &Device, server: &Server) -> Result<()> {
    // Before the NIC is changed: output that can't be.
    let output = match server.validation {
        None => Some(Output::stdout()?),
        Some(_) => None,
    };
    let signals = Signals::catch(Second::Ends).context("signal handlers")?;
    let queues = queues::for_server(device, server.queues)?;
    // That the address is in use shows before the NIC is changed.
    let socket = bind(server.address.on(device.ifindex), &SocketOptions::default())?;
    let memory = memory::dmabuf(server.rx_page_size)?;
    let applied = configure(device, server, &queues)?;
    let received = receive(device, server, &queues, &memory, socket, output, &signals);
    // First: who reads what is said from here on may take his time.
    let restored = applied.map_or(Ok(()), Applied::restore);
    signals.done();
    let outcome = received.and_then(|report| finish(device, server, &report, signals.received()));
    put_back(restored, outcome)?;
    say("ok");
    Ok(())
}

fn receive(
    device: &Device,
    server: &Server,
    queues: &[QueueId],
    memory: &Udmabuf,
    socket: Bound,
    output: Option<Output>,
    signals: &Signals,
) -> Result<Report<AnySink>> {
    let options = BindOptions {
        rx_page_size: server.rx_page_size.map(Into::into),
    };
    let binding = Netdev::open()?.bind_rx(device.ifindex, memory, queues, options)?;
    tell(&format!("got dmabuf id={}", binding.id()));

    let address = server.address.on(device.ifindex);
    tell(&format!("binding to address {address}"));
    let options = SocketOptions {
        recv_buffer: recv_buffer_for(memory.len(), 1),
        ..SocketOptions::default()
    };
    let listener = socket.listen(&options)?;
    let pool = memory.len();
    let niov = server
        .rx_page_size
        .map_or_else(page_size, |bytes| bytes.get().into());
    let mapping = Arc::new(memory.map(Protection::Read).context("mapping the dmabuf")?);
    let memory = Memory::new().with(DmabufId::new(binding.id().get()), mapping);
    let config = Config {
        until: Until::Peers(1),
        refuse_unsteered: true,
        refuse_linear: server.fail_on_linear,
        ..Config::for_pool_in(pool, niov, 1)
    };
    let engine = Engine::new(listener, config, sink(server, memory, output)?)?;
    tell(&format!("Waiting or connection on {address}"));
    signals.stop_engine(engine.stop_handle());
    Ok(engine.run()?)
}

/// Where the payload goes: into validation, or to standard output.
fn sink(
    server: &Server,
    memory: Memory,
    mut output: Option<Output>,
) -> Result<impl FnMut(&Peer) -> Result<AnySink, SinkError> + use<>> {
    let period = server.validation.map(|period| period.get() as usize);
    let pattern = period.map(Pattern::new).transpose().context("-v")?;
    let reader = Reader::Cpu(memory);
    Ok(move |peer: &Peer| -> Result<AnySink, SinkError> {
        tell(&format!("Got connection from {}", peer.address));
        Ok(match (&pattern, output.take()) {
            (Some(pattern), _) => reader.validate(pattern),
            (None, Some(output)) => reader.write(output),
            (None, None) => AnySink::Discard(Discard),
        })
    })
}

/// Upstream's closing words, and whether it went well.
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
            return Err(match error.remedy() {
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
