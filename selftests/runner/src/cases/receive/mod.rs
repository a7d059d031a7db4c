//! Receiving into device memory: payload, connections, sinks, telemetry, and how a receiver ends.

pub(super) mod beside;
pub(super) mod by_device;
pub(super) mod collective;
pub(super) mod counts;
pub(super) mod cuda;
pub(super) mod early;
pub(super) mod engine;
pub(super) mod hold;
pub(super) mod peers;
pub(super) mod pool;
pub(super) mod receive;
pub(super) mod removal;
pub(super) mod shortage;
pub(super) mod signals;
pub(super) mod sinks;
pub(super) mod streams;
pub(super) mod telemetry;
pub(super) mod threads;
pub(super) mod undone;
pub(super) mod wrong_byte;
