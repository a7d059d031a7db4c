//! Receiving into device memory: payload, connections, sinks, telemetry, and how a receiver ends.

mod beside;
mod by_device;
mod collective;
mod counts;
mod cuda;
mod early;
mod engine;
mod hold;
mod peers;
mod pool;
mod receive;
mod removal;
mod service;
mod shortage;
mod signals;
mod sinks;
mod streams;
mod telemetry;
mod threads;
mod undone;
mod wrong_byte;
