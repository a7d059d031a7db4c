//! State of the fake CUDA driver, and what each driver function does first.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::queue::{DEFAULT_STREAM, Event, Stream};

pub(crate) const INVALID_VALUE: c_int = 1;
pub(crate) const OUT_OF_MEMORY: c_int = 2;
pub(crate) const NOT_INITIALIZED: c_int = 3;
pub(crate) const INVALID_DEVICE: c_int = 101;
pub(crate) const INVALID_CONTEXT: c_int = 201;
pub(crate) const INVALID_PTX: c_int = 218;
pub(crate) const OPERATING_SYSTEM: c_int = 304;
pub(crate) const INVALID_HANDLE: c_int = 400;
pub(crate) const NOT_FOUND: c_int = 500;
pub(crate) const NOT_READY: c_int = 600;
pub(crate) const NOT_SUPPORTED: c_int = 801;
pub(crate) const UNKNOWN: c_int = 999;

/// Whether an error code destroys the context in which it occurs.
fn ends_context(code: c_int) -> bool {
    matches!(
        code,
        214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 810 | UNKNOWN
    )
}

/// An allocation of device memory, by `cuMemAlloc` or mapped, and the memfd behind it.
pub(crate) struct Region {
    pub(crate) len: usize,
    pub(crate) memory: OwnedFd,
}

struct Fault {
    function: String,
    nth: u64,
    code: c_int,
}

pub(crate) struct State {
    pub(crate) initialized: bool,
    pub(crate) devices: c_int,
    pub(crate) version: c_int,
    pub(crate) dmabuf: bool,
    pub(crate) pcie: bool,
    pub(crate) rdma_virtual: bool,
    pub(crate) ordering: c_int,
    pub(crate) calls: u64,
    /// The `flags` argument of the last `cuMemGetHandleForAddressRange`.
    pub(crate) flags: u64,
    pub(crate) failed: Option<CString>,
    fault: Option<Fault>,
    lost: Option<c_int>,
    /// Number of calls made after the device was lost, except those that release the context.
    late: usize,
    /// Number of objects that were freed while operations were still queued.
    pub(crate) under_work: usize,
    pub(crate) contexts: i64,
    /// Memory of `cuMemAlloc`, by start address.
    pub(crate) regions: BTreeMap<u64, Region>,
    pub(crate) reserved: BTreeMap<u64, usize>,
    pub(crate) created: BTreeMap<u64, Region>,
    pub(crate) mapped: BTreeMap<u64, Region>,
    pub(crate) pinned: BTreeMap<u64, usize>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) events: BTreeMap<u64, Event>,
    pub(crate) modules: BTreeMap<u64, String>,
    last: u64,
}

static STATE: Mutex<State> = Mutex::new(State::new());

thread_local! {
    /// Number of contexts that this thread has pushed and not popped.
    pub(crate) static CURRENT: Cell<u32> = const { Cell::new(0) };
}

pub(crate) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What must have happened before a driver function may be called: nothing, `cuInit`, or a context
/// made current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Driver,
    Context,
}

/// Runs the body of a driver function: counts the call, returns an injected fault, and refuses what
/// the real driver would refuse.
pub(crate) fn driver_call(
    function: &str,
    needs: Needs,
    work: impl FnOnce(&mut State) -> Result<(), c_int>,
) -> c_int {
    let mut state = state();
    let outcome = state.begin(function, needs).and_then(|()| work(&mut state));
    outcome.err().unwrap_or(0)
}

impl State {
    const fn new() -> Self {
        Self {
            initialized: false,
            devices: 1,
            version: 12080,
            dmabuf: true,
            pcie: false,
            rdma_virtual: true,
            ordering: 100,
            calls: 0,
            flags: 0,
            failed: None,
            fault: None,
            lost: None,
            late: 0,
            under_work: 0,
            contexts: 0,
            regions: BTreeMap::new(),
            reserved: BTreeMap::new(),
            created: BTreeMap::new(),
            mapped: BTreeMap::new(),
            pinned: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            last: 0x1000,
        }
    }

    fn begin(&mut self, function: &str, needs: Needs) -> Result<(), c_int> {
        self.calls += 1;
        if let Some(code) = self.lost {
            let parting = ["cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"];
            self.late += usize::from(!parting.contains(&function));
            return Err(code);
        }
        if let Some(fault) = &mut self.fault {
            if fault.function == "*" || fault.function == function {
                fault.nth -= 1;
            }
            if fault.nth == 0 {
                let code = fault.code;
                self.fault = None;
                self.failed = CString::new(function).ok();
                // Who waits has waited, and is told of an error of earlier work.
                if function.ends_with("Synchronize") {
                    self.finish_all();
                }
                // There it stands for refusals, too.
                if (function, code) != ("cuMemGetHandleForAddressRange", UNKNOWN) {
                    self.mark_lost(code);
                }
                return Err(code);
            }
        }
        if needs != Needs::Nothing && !self.initialized {
            return Err(NOT_INITIALIZED);
        }
        if needs == Needs::Context && CURRENT.get() == 0 {
            return Err(INVALID_CONTEXT);
        }
        Ok(())
    }

    /// Marks the context as lost if the error code is one that destroys it.
    pub(crate) fn mark_lost(&mut self, code: c_int) {
        if ends_context(code) && self.contexts > 0 {
            self.lost = Some(code);
        }
    }

    /// Makes a lost device usable again once its context was released, and forgets all its objects.
    pub(crate) fn revive_if_lost(&mut self) {
        if self.lost.take().is_some() {
            self.forget_objects();
        }
    }

    /// Forgets all objects except contexts. Mappings stay, because a test may still read there.
    pub(crate) fn forget_objects(&mut self) {
        self.regions.clear();
        self.reserved.clear();
        self.created.clear();
        self.mapped.clear();
        self.pinned.clear();
        self.streams.clear();
        self.events.clear();
        self.modules.clear();
    }

    /// Returns a new handle, never used before.
    pub(crate) fn new_handle(&mut self) -> u64 {
        self.last += 0x10;
        self.last
    }

    pub(crate) fn reset(&mut self) {
        let new = State::new();
        self.devices = new.devices;
        self.version = new.version;
        self.dmabuf = new.dmabuf;
        self.pcie = new.pcie;
        self.rdma_virtual = new.rdma_virtual;
        self.ordering = new.ordering;
        self.calls = 0;
        self.failed = None;
        self.fault = None;
        self.late = 0;
        self.under_work = 0;
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "FAIL" => {
                let mut parts = value.split(':');
                self.fault = Some(Fault {
                    function: parts.next()?.into(),
                    nth: parts.next()?.parse().ok().filter(|nth| *nth > 0)?,
                    code: parts.next()?.parse().ok()?,
                });
            }
            "DEVICES" => self.devices = value.parse().ok()?,
            "VERSION" => self.version = value.parse().ok()?,
            "DMABUF" => self.dmabuf = value != "0",
            "PCIE" => self.pcie = value != "0",
            "RDMA_VIRTUAL" => self.rdma_virtual = value != "0",
            "ORDERING" => self.ordering = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    pub(crate) fn held_objects(&self) -> String {
        let counts = [
            ("contexts", self.contexts.unsigned_abs() as usize),
            ("contexts current here", CURRENT.get() as usize),
            ("allocations", self.regions.len()),
            ("reservations", self.reserved.len()),
            ("created", self.created.len()),
            ("mapped", self.mapped.len()),
            ("pinned", self.pinned.len()),
            ("streams", self.streams.range(DEFAULT_STREAM + 1..).count()),
            ("events", self.events.len()),
            ("modules", self.modules.len()),
            ("calls of a lost device", self.late),
            ("given back under work", self.under_work),
        ];
        let held = counts.iter().filter(|(_, count)| *count > 0);
        let held: Vec<_> = held
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        held.join(", ")
    }

    /// Returns the allocation that contains `len` bytes at an address, and their offset in it.
    pub(crate) fn find_region(&self, address: u64, len: usize) -> Result<(&Region, u64), c_int> {
        for regions in [&self.regions, &self.mapped] {
            if let Some((start, region)) = regions.range(..=address).next_back() {
                let at = address - start;
                if at
                    .checked_add(len as u64)
                    .is_some_and(|end| end <= region.len as u64)
                {
                    return Ok((region, at));
                }
            }
        }
        Err(INVALID_VALUE)
    }
}
