//! The cases, one function each, in one directory ("room") per subject.
//!
//! A case is called after its file and its function, and registers itself: `case!(function);`.

#![allow(clippy::module_inception)] // a case is called after its file

mod doctor;
mod lease;
mod memory;
mod nic;
mod receive;
mod tools;
