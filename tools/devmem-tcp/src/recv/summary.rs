//! Summary of what a receiver received, as text and as JSON.

mod text;

use anyhow::{Context, Error, Result, bail};
use common::sink::AnySink;
use common::stdio;
use common::text::shown;
use devmem::engine::{End, Report};
use netdev::QueueId;
use receiver::RxDevice;
use serde::Serialize;

use super::args::Args;
use super::beside;
use super::connections::Connections;
use super::cpu::Cpu;
use super::ended::{Connection, Counts, Sums};
use super::pool::State;
use super::spread::Spreads;
use crate::exit::{Disappeared, ExitReason};
use crate::remedy::Hint;
use crate::report;

const MIB: f64 = (1 << 20) as f64;

/// Summary of a receiver, printed at its end.
#[derive(Serialize)]
pub(super) struct Summary {
    device: String,
    queues: Vec<QueueId>,
    /// Number of payload bytes received: in frags, linear and unsteered.
    bytes: u64,
    /// Number of payload bytes received in frags, in the dmabuf.
    frag_bytes: u64,
    frags: u64,
    frags_per_mib: f64,
    /// Mean number of frags of a `recvmsg` call that returned any.
    frags_per_call: f64,
    /// Number of payload bytes of devmem packets that came in host memory, beside the dmabuf.
    linear_bytes: u64,
    /// Number of payload bytes in ordinary packets: of a queue without the dmabuf, or not split.
    unsteered_bytes: u64,
    tokens: Tokens,
    calls: Calls,
    /// Seconds from the first received byte to the last.
    seconds: f64,
    mib_per_second: f64,
    cpu: Cpu,
    calls_per_mib: f64,
    telemetry: Spreads,
    /// Use of the dmabufs, with the NIC's failed allocations and drops.
    memory: State,
    /// Period in bytes of the pattern that `--validate` compares the payload with.
    validate_period: Option<usize>,
    /// Number of payload bytes found equal to the pattern; `None` without `--validate`.
    validated_bytes: Option<u64>,
    /// Numbers of ended connections, by how they ended.
    ended: Counts,
    /// Ended connections; empty with `--connections unlimited`, where each is printed when it ends.
    connections: Vec<Connection>,
    /// Connections that were refused because they came from other addresses than `--from`.
    refused: Refused,
    /// Warning of a peer whose payload all came beside the dmabuf, or that sent nothing.
    warning: Option<String>,
    /// Number of the signal that ended the receiver.
    signal: Option<i32>,
    /// Whether as many peers as `--connections` asks for came and closed; if unlimited, whether a
    /// signal ended the receiver.
    complete: bool,
    /// Whether the number of connections was unlimited. Then failures of connections were printed
    /// before, and the end by a signal is a success.
    #[serde(skip)]
    served: bool,
    /// Number of tokens that were not returned, of connections that ended without an error and were
    /// printed when they ended.
    #[serde(skip)]
    unreturned: u64,
}

/// Measurements of a receiver's run that the engine's report does not have.
pub(super) struct Measured {
    pub(super) cpu: Cpu,
    /// Use of the dmabufs at the end of receiving.
    pub(super) memory: Option<State>,
    /// Number of the signal that ended the receiver.
    pub(super) signal: Option<i32>,
    /// Sums over ended connections; `None` unless `--connections unlimited`.
    pub(super) served: Option<Sums>,
}

/// Summary as printed in JSON, with what disappeared under the receiver.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    /// What disappeared and ended the receiver: NIC, device or namespace; `null` if nothing did.
    gone: Option<ExitReason>,
}

#[derive(Serialize)]
struct Tokens {
    issued: u64,
    returned: u64,
    per_dontneed: f64,
}

#[derive(Serialize)]
struct Calls {
    recvmsg: u64,
    dontneed: u64,
    epoll_wait: u64,
}

#[derive(Serialize)]
struct Refused {
    count: u64,
    first: Vec<String>,
}

impl Summary {
    pub(super) fn new(
        args: &Args,
        device: &RxDevice,
        report: Report<AnySink>,
        measured: Measured,
    ) -> Self {
        let stats = &report.stats;
        let stream = &stats.stream;
        let seconds = stats.elapsed().as_secs_f64();
        let mib = stream.bytes as f64 / MIB;
        let calls = stream.recvmsg_calls + stream.tokens.calls + stats.epoll_waits;
        let connections: Vec<_> = report.connections.iter().map(Connection::from).collect();
        let served = measured.served.unwrap_or_default();
        let (mut ended, mut validated) = (served.counts, served.validated);
        for connection in &connections {
            ended.add(connection);
            validated += connection.validated_bytes.unwrap_or(0);
        }
        let complete = match args.connections {
            Connections::Limited(number) => ended.closed >= number.into(),
            Connections::Unlimited => measured.signal.is_some(),
        };
        let per = |amount: f64, of: f64| if of > 0.0 { amount / of } else { 0.0 };
        Self {
            device: device.link.name.clone(),
            queues: device.queues.clone(),
            bytes: stream.bytes,
            frag_bytes: stream.frag_bytes,
            frags: stream.frags,
            frags_per_mib: per(stream.frags as f64, stream.frag_bytes as f64 / MIB),
            frags_per_call: report.telemetry.frags_per_call.mean().unwrap_or(0.0),
            linear_bytes: stream.linear_bytes,
            unsteered_bytes: stream.unsteered_bytes,
            tokens: Tokens {
                issued: stream.tokens.issued,
                returned: stream.tokens.freed,
                per_dontneed: per(stream.tokens.freed as f64, stream.tokens.calls as f64),
            },
            calls: Calls {
                recvmsg: stream.recvmsg_calls,
                dontneed: stream.tokens.calls,
                epoll_wait: stats.epoll_waits,
            },
            seconds,
            mib_per_second: per(mib, seconds),
            cpu: measured.cpu,
            calls_per_mib: per(calls as f64, mib),
            telemetry: (&report.telemetry).into(),
            memory: measured.memory.unwrap_or_default(),
            validate_period: args.sinks.validate,
            validated_bytes: args.sinks.validate.map(|_| validated),
            ended,
            connections,
            refused: Refused {
                count: report.strangers.count,
                first: report
                    .strangers
                    .first
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
            warning: beside::warning(&report, served.beside).or_else(|| empty(&report)),
            signal: measured.signal,
            complete,
            served: args.connections == Connections::Unlimited,
            unreturned: served.unreturned,
        }
    }

    /// Describes the bytes and tokens received until a NIC, device or namespace disappeared.
    pub(super) fn until_then(&self) -> String {
        let Tokens {
            issued, returned, ..
        } = self.tokens;
        let tokens = match (issued, returned) {
            _ if self.bytes == 0 => return "nothing had been received".to_owned(),
            (0, _) => "no token was issued".to_owned(),
            (issued, returned) if issued == returned => {
                format!("all {issued} tokens were returned")
            }
            _ => format!("{returned} of {issued} tokens were returned"),
        };
        format!("{} bytes were received until then, {tokens}", self.bytes)
    }

    /// Prints the summary on standard output, or on standard error if stdout carries the payload.
    pub(super) fn print(
        &self,
        gone: Option<ExitReason>,
        json: bool,
        stdout_taken: bool,
    ) -> Result<()> {
        let columns = match stdout_taken {
            true => report::stderr_columns(),
            false => report::columns(),
        };
        let text = if json {
            let summary = self;
            serde_json::to_string(&Printed { summary, gone })? + "\n"
        } else {
            self.to_text(columns)
        };
        let text = match json {
            true => text,
            false => shown(&text),
        };
        if !stdout_taken {
            return report::raw(&text);
        }
        match stdio::stderr().print_raw(&text) {
            // An unread summary in words is no failure; a program that asked for JSON needs it.
            Err(error) if json => Err(error).context("stderr"),
            _ => Ok(()),
        }
    }

    /// Returns an error unless all connections were received to their ends and all tokens returned.
    pub(super) fn verdict(&self) -> Result<()> {
        for connection in &self.connections {
            let Connection { peer, bytes, .. } = connection;
            if let Some(error) = &connection.error {
                let failed = self.connections.iter().filter(|peer| peer.error.is_some());
                let others = match failed.count() {
                    1 => String::new(),
                    all => format!("; {} more connections failed", all - 1),
                };
                let text = format!("recv from {peer}, after {bytes} bytes: {error}{others}");
                return Err(match connection.remedy {
                    remedy if connection.silent => Disappeared {
                        what: ExitReason::Silent,
                        text,
                        remedy: remedy.map(str::to_owned),
                    }
                    .into(),
                    Some(remedy) => Hint::new(text, remedy).into(),
                    None => Error::msg(text),
                });
            }
        }
        let Tokens {
            issued, returned, ..
        } = self.tokens;
        // A connection that failed may have kept some, and said so when it ended.
        let unreturned = match self.served {
            true => self.unreturned,
            false => issued.saturating_sub(returned),
        };
        if unreturned > 0 {
            bail!(
                "recv {}: {issued} tokens issued, {returned} returned",
                self.device
            );
        }
        match self.signal {
            Some(_) if self.served => Ok(()),
            Some(signal) => bail!("recv {}: ended by signal {signal}", self.device),
            None if self.complete => Ok(()),
            None => bail!("recv {}: stopped before its peers had closed", self.device),
        }
    }
}

/// Warning of a peer that closed without sending a byte, and took the place of another peer.
fn empty(report: &Report<AnySink>) -> Option<String> {
    let mut peers = report.connections.iter();
    let first = peers.find(|it| matches!(it.end, End::Closed) && it.stats.bytes == 0)?;
    Some(format!(
        "nothing came from {}, as from a port scan: --from ADDRESS accepts one address only",
        first.peer.address
    ))
}
