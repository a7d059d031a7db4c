//! The JSON that `devmem-tcp recv`, `send`, `lease` and `unlease` print at their ends, as far as cases
//! read it.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Parses the JSON that a tool printed.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| format!("the JSON {text:?}"))
}

/// Summary that `devmem-tcp recv --json` prints at its end.
#[derive(Debug, Deserialize)]
pub struct Summary {
    pub bytes: u64,
    pub frags: u64,
    /// Number of payload bytes in the dmabuf.
    pub frag_bytes: u64,
    /// Number of payload bytes that the NIC left beside the headers, in packets whose rest is in
    /// the dmabuf.
    pub linear_bytes: u64,
    /// Number of payload bytes in packets that are wholly in host memory.
    pub unsteered_bytes: u64,
    pub tokens: Tokens,
    pub telemetry: Telemetry,
    pub memory: Memory,
    /// The period of the pattern that `--validate` asked for.
    pub validate_period: Option<u64>,
    validated_bytes: Option<u64>,
    pub ended: Ended,
    pub connections: Vec<Connection>,
    pub refused: Refused,
    pub warning: Option<String>,
    pub signal: Option<i32>,
    pub complete: bool,
}

#[derive(Debug, Deserialize)]
pub struct Tokens {
    pub issued: u64,
    pub returned: u64,
}

#[derive(Debug, Deserialize)]
pub struct Telemetry {
    pub frag_size: Histogram,
    pub frags_per_call: Histogram,
    pub held_at_flush: Histogram,
    pub hold_time_us: Histogram,
}

#[derive(Debug, Deserialize)]
pub struct Histogram {
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<u64>,
    pub max: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Memory {
    pub pools: Vec<Pool>,
    /// Number of times that the NIC had no buffer for a packet; `None` where the NIC can't be
    /// reached.
    pub alloc_fail: Option<u64>,
    pub warnings: u64,
}

#[derive(Debug, Deserialize)]
pub struct Pool {
    pub niovs: u64,
    pub peak_inflight: Option<u64>,
    pub peak_in_use: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Connection {
    pub peer: SocketAddr,
    pub bytes: u64,
    pub closed: bool,
    pub error: Option<String>,
    validated_bytes: Option<u64>,
    crc32: Option<u64>,
    pub crc32_bytes: Option<u64>,
}

/// Numbers of connections by how they ended.
#[derive(Debug, Deserialize)]
pub struct Ended {
    pub closed: u64,
    pub failed: u64,
    pub stopped: u64,
    /// Connections whose line was not printed.
    pub unprinted: u64,
}

/// Connections from other addresses than `--from`.
#[derive(Debug, Deserialize)]
pub struct Refused {
    pub count: u64,
    pub first: Vec<SocketAddr>,
}

/// Summary that `devmem-tcp send --json` prints.
#[derive(Debug, Deserialize)]
pub struct Sent {
    pub bytes: u64,
    dmabuf: Option<SentFromDmabuf>,
}

/// Counters of `devmem-tcp send --dmabuf`.
#[derive(Debug, Deserialize)]
pub struct SentFromDmabuf {
    pub sends: u64,
    pub completed: u64,
    pub copied: u64,
    pub max_in_flight: u64,
}

impl Sent {
    /// Returns the counters of sends from a dmabuf.
    pub fn dmabuf(&self) -> Result<&SentFromDmabuf> {
        self.dmabuf.as_ref().context("not sent from a dmabuf")
    }
}

/// Output of `devmem-tcp lease --json`.
#[derive(Debug, Deserialize)]
pub struct Leased {
    /// Ifindex of the netkit's guest end.
    pub ifindex: Option<u32>,
    /// Whether `lease` made the netkit.
    pub made: bool,
    pub host_end: Option<String>,
    pub leases: Vec<LeasedQueue>,
}

/// A leased queue, by its numbers at both ends.
#[derive(Debug, Deserialize)]
pub struct LeasedQueue {
    /// Number of the queue at the NIC.
    pub phys_queue: u32,
    /// Number of the queue at the netkit.
    pub queue: Option<u32>,
}

impl Leased {
    /// Numbers of the leased queues at the NIC.
    pub fn phys_queues(&self) -> Vec<u32> {
        self.leases.iter().map(|lease| lease.phys_queue).collect()
    }

    /// Numbers of the leased queues at the netkit.
    pub fn queues(&self) -> Vec<Option<u32>> {
        self.leases.iter().map(|lease| lease.queue).collect()
    }
}

/// Output of `devmem-tcp unlease --json`.
#[derive(Debug, Deserialize)]
pub struct Unleased {
    pub leases: Vec<LeasedQueue>,
    /// Sysctls and other switches that were restored.
    pub restored: Vec<String>,
    /// Sysctls and other switches that were not restored, with the reason.
    pub kept: Vec<String>,
}

impl Unleased {
    /// Numbers of the formerly leased queues at the NIC.
    pub fn phys_queues(&self) -> Vec<u32> {
        self.leases.iter().map(|lease| lease.phys_queue).collect()
    }
}

impl Summary {
    pub fn parse(text: &str) -> Result<Self> {
        parse(text)
    }

    /// Number of bytes that were compared with the pattern and right.
    pub fn validated(&self) -> Result<u64> {
        self.validated_bytes.context("it did not validate")
    }

    /// Finds the connection whose peer has this port.
    pub fn connection(&self, port: u16) -> Result<&Connection> {
        let mut all = self.connections.iter();
        let found = all.find(|connection| connection.peer.port() == port);
        found.with_context(|| format!("no peer {port}"))
    }

    /// Returns the first connection of the summary.
    pub fn first(&self) -> Result<&Connection> {
        self.connections.first().context("no connection")
    }

    /// Checks that every byte was compared with the pattern and right.
    pub fn all_validated(&self) -> Result<()> {
        ensure!(self.validate_period == Some(251), "the period");
        let (bytes, right) = (self.bytes, self.validated()?);
        ensure!(bytes == right, "{right} of {bytes} bytes were validated");
        Ok(())
    }

    /// Checks that every token that was issued was returned.
    pub fn tokens_came_back(&self) -> Result<()> {
        let Tokens { issued, returned } = self.tokens;
        ensure!(
            issued == returned,
            "{issued} tokens issued, {returned} returned"
        );
        Ok(())
    }

    /// Checks that every byte came through the dmabuf.
    pub fn all_in_dmabuf(&self) -> Result<()> {
        let (bytes, frag_bytes) = (self.bytes, self.frag_bytes);
        ensure!(
            bytes == frag_bytes,
            "{frag_bytes} of {bytes} bytes in the dmabuf"
        );
        ensure!(self.linear_bytes == 0, "linear bytes");
        ensure!(self.unsteered_bytes == 0, "unsteered bytes");
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Connection {
    /// Number of the connection's bytes that were compared with the pattern and right.
    pub fn validated(&self) -> Result<u64> {
        self.validated_bytes.context("it did not validate")
    }

    /// CRC-32 of the connection's bytes that the sink got.
    pub fn crc32(&self) -> Result<u64> {
        self.crc32.context("no checksum")
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    const HISTOGRAM: &str = r#"{"count":1,"min":1,"mean":1.0,"p50":1,"p90":1,"p99":1,"max":1}"#;

    fn summary(returned: u64, linear: u64, validated: u64) -> Summary {
        let text = format!(
            r#"{{"device":"eth1","bytes":10,"frags":2,"frag_bytes":10,"linear_bytes":{linear},
            "unsteered_bytes":0,"tokens":{{"issued":2,"returned":{returned},"per_dontneed":2.0}},
            "telemetry":{{"frag_size":{HISTOGRAM},"frags_per_call":{HISTOGRAM},
            "held_at_flush":{HISTOGRAM},"hold_time_us":{HISTOGRAM}}},
            "memory":{{"pools":[],"alloc_fail":null,"warnings":0}},"validate_period":251,
            "validated_bytes":{validated},
            "ended":{{"closed":1,"failed":0,"stopped":0,"unprinted":0}},
            "connections":[{{"peer":"[2001:db8::1]:6001","bytes":10,
            "closed":true,"error":null,"validated_bytes":{validated},"crc32":null,"crc32_bytes":null}}],
            "refused":{{"count":0,"first":[]}},"warning":null,"signal":null,"complete":true}}"#
        );
        Summary::parse(&text).unwrap()
    }

    #[test]
    fn a_connection_is_found_by_its_peers_port() {
        let summary = summary(2, 0, 10);
        assert_eq!(summary.connection(6001).unwrap().bytes, 10);
        assert!(summary.connection(6002).is_err());
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let good = summary(2, 0, 10);
        assert!(good.tokens_came_back().is_ok());
        assert!(good.all_in_dmabuf().is_ok());
        assert!(good.all_validated().is_ok());
        assert!(summary(1, 0, 10).tokens_came_back().is_err());
        assert!(summary(2, 1, 10).all_in_dmabuf().is_err());
        assert!(summary(2, 0, 9).all_validated().is_err());
    }
}
