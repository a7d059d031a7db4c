//! The framework of the selftests: the testbed, the tools' processes, the state of a NIC, and other
//! helpers.

#![deny(unsafe_code)]
// No API: the names and the texts of errors say it, and its readers have the source.
#![allow(missing_docs, clippy::missing_errors_doc)]
#![allow(rustdoc::private_intra_doc_links)]

pub mod command_line;
pub mod console;
pub mod doctor;
pub mod driver;
pub mod far_end;
pub mod footprint;
pub mod leases;
pub mod machine;
pub mod memory;
pub mod nic_state;
pub mod peers;
pub mod probe_receiver;
pub mod receiver;
pub mod rounds;
pub mod summary;
pub mod sysctl;
pub mod testbed;
pub mod tool;
pub mod transfer;
pub mod xdp;

use anyhow::{Result, bail, ensure};
use netdev::link::NetkitSingle;
use netdev::{Ifindex, Link};

/// Error that skips the case, with the reason why the case can't hold here.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Returns the ifindex of a device in this namespace.
pub fn ifindex(name: &str) -> Result<Ifindex> {
    Ok(Link::open()?.by_name(name)?.ifindex)
}

/// Makes a single netkit with room for this many rx queues: its own and leased ones.
pub fn netkit(name: &str, rx_queues: u32) -> Result<Ifindex> {
    let mut single = NetkitSingle::new(name);
    single.rx_queues = Some(rx_queues);
    Ok(Link::open()?.create_netkit_single(&single)?)
}

/// Checks that the kernel refused with this errno and, if one is given, this text.
pub fn refused<T>(result: netdev::Result<T>, errno: i32, text: Option<&str>) -> Result<()> {
    let Err(error) = result else {
        bail!("not refused, expected errno {errno} {text:?}")
    };
    println_line(&format!("{error}"));
    ensure!(
        error.raw_os_error() == Some(errno),
        "expected errno {errno}, got: {error}"
    );
    if let Some(text) = text {
        let said = error
            .message()
            .is_some_and(|message| message.contains(text));
        ensure!(said, "expected {text:?}, got: {error}");
    }
    Ok(())
}

/// Prints a diagnostic line of the case.
#[allow(clippy::print_stdout)] // the runner reads it and prints it behind `#`
pub fn println_line(text: &str) {
    println!("{text}");
}
