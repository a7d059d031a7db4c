//! Checks of other memory: heaps, DRM devices, GPUs, memory of other processes.
//!
//! Missing memory is reported and prevents nothing; only the requested memory must exist.

use common::remedy::{of_cuda, of_len, of_memory, of_passed};
use std::path::Path;

use ::memory::drm::{self, Dumb};
use ::memory::heap::{self, Heap};
use ::memory::{AnyMemory, Choice, check_len, passed};
use cuda::{DeviceInfo, Driver};

use super::check::{Area, Check, Finding};
use super::machine::Machine;
use crate::args::Size;

const BOTH: &[Area] = &[Area::Rx, Area::Tx];

pub(super) const CHECKS: &[Check<Machine>] = &[
    Check {
        id: "memory.chosen",
        areas: BOTH,
        what: "the memory that --memory names is available",
        run: check_chosen_memory,
    },
    Check {
        id: "memory.heaps",
        areas: BOTH,
        what: "heaps in /dev/dma_heap, for --memory heap:NAME",
        run: list_heaps,
    },
    Check {
        id: "memory.drm",
        areas: BOTH,
        what: "DRM devices that make dumb buffers, for --memory drm:/dev/dri/cardN",
        run: list_drm_devices,
    },
    Check {
        id: "memory.cuda",
        areas: BOTH,
        what: "NVIDIA GPUs whose driver exports dmabufs, for --memory cuda:N",
        run: list_gpus,
    },
];

/// Checks the requested memory: makes a page of it and drops it. Memory that is passed is examined
/// if that does not use it up.
fn check_chosen_memory(machine: &Machine) -> Option<Finding> {
    let choice = &machine.wanted.memory;
    if let (false, Err(error)) = (choice.is_passed(), check_len(machine.wanted.size)) {
        let remedy = of_len(&error);
        return Some(failure(Finding::fail(format!("{choice}: {error}")), remedy));
    }
    let len = match choice {
        // Reported by the checks of udmabuf.
        Choice::Udmabuf => return None,
        Choice::Socket(socket) => {
            return Some(match passed::offered(socket) {
                Ok(()) => Finding::ok(format!(
                    "{choice}: the socket exists; it was not connected to, because a helper would pass memory in vain"
                )),
                Err(error) => {
                    let remedy = of_passed(&error);
                    failure(Finding::fail(error_text(error)), remedy)
                }
            });
        }
        Choice::Fd(_) => machine.wanted.given.then_some(machine.wanted.size),
        _ => Some(udmabuf::HugePage::None.bytes()),
    };
    Some(match AnyMemory::make(choice, len, machine.wanted.pages) {
        Ok(_) if choice.is_passed() => Finding::ok(format!("{choice}: a dmabuf, large enough")),
        Ok(_) => Finding::ok(format!(
            "{choice}: a page was made into a dmabuf and dropped"
        )),
        Err(error) => {
            let remedy = of_memory(&error);
            failure(Finding::fail(error_text(error)), remedy)
        }
    })
}

fn failure(finding: Finding, remedy: Option<String>) -> Finding {
    match remedy {
        Some(remedy) => finding.remedy(remedy),
        None => finding,
    }
}

/// Formats an error and its sources in one line.
fn error_text(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn list_heaps(_: &Machine) -> Option<Finding> {
    let page = udmabuf::HugePage::None.bytes();
    let one = |name: heap::Name| match Heap::allocate(&name, page) {
        Ok(_) => name.to_string(),
        Err(error) => format!("{name} has no memory to give ({})", error_text(error)),
    };
    Some(list_finding(heap::names().into_iter().map(one)))
}

fn list_drm_devices(_: &Machine) -> Option<Finding> {
    let one = |node: &Path| {
        let page = udmabuf::HugePage::None.bytes();
        let name = node.display();
        match (drm::driver(node), Dumb::create(node, page)) {
            (Ok(driver), Ok(_)) => format!("{name} ({driver})"),
            (_, Err(error)) => error_text(error),
            (Err(error), _) => error_text(error),
        }
    };
    let nodes = drm::primary_nodes();
    Some(list_finding(nodes.iter().map(|node| one(node))))
}

fn list_gpus(_: &Machine) -> Option<Finding> {
    let asked = Driver::load().and_then(|driver| {
        let devices = driver.devices()?;
        Ok((driver.version()?, devices))
    });
    let (version, devices) = match asked {
        Ok(asked) => asked,
        Err(error) => return Some(Finding::ok(format!("none: {}", error_text(error)))),
    };
    let found = match &devices[..] {
        [] => format!("none, though there is a driver, of CUDA {version}"),
        devices => {
            let devices: Vec<String> = devices.iter().map(gpu).collect();
            format!("a driver of CUDA {version}; {}", devices.join("; "))
        }
    };
    let Some(mute) = devices.iter().find(|device| !device.dmabuf) else {
        return Some(Finding::ok(found));
    };
    let error = cuda::Error::NoExport {
        ordinal: mute.ordinal,
        name: mute.name.clone(),
    };
    let remedy = of_cuda(&error).map(str::to_owned);
    Some(failure(Finding::warn(found), remedy))
}

fn gpu(device: &DeviceInfo) -> String {
    let DeviceInfo {
        ordinal, name, pci, ..
    } = device;
    let memory = Size(device.memory >> 20 << 20);
    let exports = match device.dmabuf {
        true => "",
        false => ", exports no dmabufs",
    };
    format!("{ordinal}: {name} at {pci}, {memory}{exports}")
}

/// Finding that lists the items, or says that there are none.
fn list_finding(items: impl Iterator<Item = String>) -> Finding {
    let items: Vec<String> = items.collect();
    Finding::ok(match &items[..] {
        [] => "none".to_owned(),
        items => items.join("; "),
    })
}
