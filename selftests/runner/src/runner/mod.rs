//! The runner: a process for each case, the kernel's log, and KTAP.

pub(crate) mod isolate;
pub(crate) mod kmsg;
pub(crate) mod ktap;
#[macro_use]
pub(crate) mod registry;
pub(crate) mod selection;
