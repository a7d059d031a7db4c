//! Remedies for the errors of the crates, in one line each.
//!
//! The crates return data; what a person can do about an error depends on the tools at hand.

mod cuda;
mod devmem;
mod memory;
mod netdev;
mod nic;
#[cfg(test)]
mod tests;
mod udmabuf;

pub use cuda::of_cuda;
pub use devmem::{of_connection, of_engine, of_send, of_socket};
pub use memory::{of_len, of_memory, of_passed};
pub use netdev::{of_kernel, quoted_within};
pub use nic::of_nic;
pub use udmabuf::of_udmabuf;

use std::error::Error;

use crate::Hint;

/// Returns a one-line remedy for one cause of an error; `None` if none is known. Commands begin
/// with `within`, which enters the namespace of the device or socket and ends with a space; empty
/// for the current one. `of_kernel` is the tool's own function for refusals of the kernel.
pub fn of_cause(
    cause: &(dyn Error + 'static),
    within: &str,
    of_kernel: impl Fn(&::netdev::Error, &str) -> Option<String>,
) -> Option<String> {
    use ::devmem::{engine::EngineError, listen::SocketError, send::PumpError};
    if let Some(hint) = cause.downcast_ref::<Hint>() {
        return Some(hint.remedy().to_owned());
    }
    if let Some(error) = cause.downcast_ref() {
        return of_memory(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return of_udmabuf(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return of_cuda(error).map(str::to_owned);
    }
    if let Some(error) = cause.downcast_ref::<SocketError>() {
        return of_socket(error, within);
    }
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return of_engine(error).map(str::to_owned);
    }
    if let Some(PumpError::Send(error)) = cause.downcast_ref() {
        return of_send(error);
    }
    match cause.downcast_ref::<::nic::Error>() {
        Some(::nic::Error::Refused(error)) => of_kernel(error, within),
        Some(error) => of_nic(error, within),
        None => of_kernel(cause.downcast_ref()?, within),
    }
}
