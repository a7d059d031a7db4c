//! Memory of a GPU, and memory of the host that a GPU accesses by itself.

use std::ffi::{c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use payload::Descriptor;

use super::api::{AccessDesc, Address, AllocationProp, Location};
use super::context::Context;
use crate::error::Error;
use crate::mapping::Mapping;
use crate::parts::Parts;

/// Size in bytes of a page of a GPU's memory, the unit of allocations. The NIC can reach the last
/// page as a whole, so no other data may be in it.
const PAGE: u64 = 2 << 20;

const MEM_ALLOCATION_TYPE_PINNED: c_int = 1;
const MEM_LOCATION_TYPE_DEVICE: c_int = 1;
const MEM_ACCESS_READ_WRITE: c_int = 3;
const GRANULARITY_RECOMMENDED: c_int = 1;
const RANGE_HANDLE_DMA_BUF_FD: c_int = 1;
const RANGE_FLAG_PCIE: u64 = 1;

const INVALID_VALUE: i32 = 1;
const NOT_SUPPORTED: i32 = 801;

/// Page size of the host in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Memory of a GPU, with what must be freed with it.
pub(crate) struct Memory {
    address: Address,
    len: u64,
    context: Arc<Context>,
    _owner: Owner,
}

enum Owner {
    Plain(#[expect(dead_code, reason = "for its drop")] Allocated),
    Virtual(#[expect(dead_code, reason = "for its drop")] Mapped),
}

struct Allocated {
    context: Arc<Context>,
    address: Address,
}

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: what `cuMemAlloc` gave, once; whoever enqueued work on it has waited for it.
        let free = |api: &super::api::Api| unsafe { (api.free)(self.address) };
        self.context.release("cuMemFree", free);
    }
}

/// Range of a GPU's addresses, reserved by `cuMemAddressReserve` and without memory.
struct Reserved {
    context: Arc<Context>,
    address: Address,
    len: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: what `cuMemAddressReserve` gave, once; nothing is mapped there any more.
        let free = |api: &super::api::Api| unsafe { (api.unreserve)(self.address, self.len) };
        self.context.release("cuMemAddressFree", free);
    }
}

/// Physical memory of a GPU, made by `cuMemCreate` and not yet mapped at an address.
struct Created {
    context: Arc<Context>,
    handle: u64,
}

impl Drop for Created {
    fn drop(&mut self) {
        // SAFETY: what `cuMemCreate` gave, once.
        let release = |api: &super::api::Api| unsafe { (api.release)(self.handle) };
        self.context.release("cuMemRelease", release);
    }
}

/// Memory of a GPU that is mapped at reserved addresses.
struct Mapped {
    created: Created,
    reserved: Reserved,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let Reserved { address, len, .. } = self.reserved;
        // SAFETY: what `cuMemMap` has mapped, as a whole; the fields go after it.
        let unmap = |api: &super::api::Api| unsafe { (api.unmap)(address, len) };
        self.created.context.release("cuMemUnmap", unmap);
    }
}

impl Memory {
    /// Allocates `len` bytes of a GPU's memory by `cuMemAlloc`.
    pub(crate) fn allocate_plain(context: &Arc<Context>, len: u64) -> Result<Self, Error> {
        let rounded = len.next_multiple_of(PAGE);
        let entered = context.enter()?;
        let mut address = 0;
        // SAFETY: writes one address, for which there is room.
        let code = unsafe { (context.api.alloc)(&raw mut address, rounded as usize) };
        context.check(code, || format!("cuMemAlloc of {rounded} bytes"))?;
        drop(entered);
        let context = Arc::clone(context);
        let owner = Owner::Plain(Allocated {
            context: Arc::clone(&context),
            address,
        });
        Ok(Self {
            address,
            len,
            context,
            _owner: owner,
        })
    }

    /// Allocates `len` bytes of a GPU's memory by `cuMemCreate` and maps them at reserved
    /// addresses; with `rdma`, reachable for peers on PCIe.
    pub(crate) fn allocate_at_reserved_addresses(
        context: &Arc<Context>,
        len: u64,
        rdma: bool,
    ) -> Result<Self, Error> {
        let _entered = context.enter()?;
        let location = || Location {
            kind: MEM_LOCATION_TYPE_DEVICE,
            id: context.device,
        };
        let prop = AllocationProp {
            kind: MEM_ALLOCATION_TYPE_PINNED,
            handle_types: 0,
            location: location(),
            win32: std::ptr::null(),
            compression: 0,
            gpudirect_rdma: u8::from(rdma),
            usage: 0,
            reserved: [0; 4],
        };
        let api = &context.api;

        let mut step = 0;
        // SAFETY: reads `prop`, writes one size_t.
        let code =
            unsafe { (api.granularity)(&raw mut step, &raw const prop, GRANULARITY_RECOMMENDED) };
        context.check(code, || "cuMemGetAllocationGranularity".into())?;
        let rounded = len.next_multiple_of(PAGE.max(step as u64)) as usize;

        let mut handle = 0;
        // SAFETY: reads `prop`, writes one handle.
        let code = unsafe { (api.create)(&raw mut handle, rounded, &raw const prop, 0) };
        context.check(code, || format!("cuMemCreate of {rounded} bytes"))?;
        let created = Created {
            context: Arc::clone(context),
            handle,
        };

        let mut address = 0;
        // SAFETY: writes one address.
        let code = unsafe { (api.reserve)(&raw mut address, rounded, 0, 0, 0) };
        context.check(code, || format!("cuMemAddressReserve of {rounded} bytes"))?;
        let reserved = Reserved {
            context: Arc::clone(context),
            address,
            len: rounded,
        };

        // SAFETY: as many bytes as were created, at as many addresses as were reserved.
        let code = unsafe { (api.map)(address, rounded, 0, handle, 0) };
        context.check(code, || format!("cuMemMap of {rounded} bytes"))?;
        let mapped = Mapped { created, reserved };

        let access = AccessDesc {
            location: location(),
            flags: MEM_ACCESS_READ_WRITE,
        };
        // SAFETY: reads one descriptor; the addresses are mapped.
        let code = unsafe { (api.set_access)(address, rounded, &raw const access, 1) };
        context.check(code, || format!("cuMemSetAccess of {rounded} bytes"))?;
        Ok(Self {
            address,
            len,
            context: Arc::clone(context),
            _owner: Owner::Virtual(mapped),
        })
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Address of the `len` bytes at `offset`, or an error if the memory ends before them.
    pub(super) fn at(&self, offset: u64, len: u64) -> Result<Address, Error> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::OutOfBounds {
                offset,
                len,
                size: self.len,
            });
        }
        Ok(self.address + offset)
    }

    /// Exports all of a GPU's memory as a dmabuf. Drivers before CUDA 12.8 don't know the mapping
    /// by PCIe, and later ones refuse it on machines that have only one path.
    pub(crate) fn export(&self, mapping: Mapping) -> Result<OwnedFd, Error> {
        let flags = match mapping {
            Mapping::Default => 0,
            Mapping::Pcie => RANGE_FLAG_PCIE,
        };
        let _entered = self.context.enter()?;
        let mut fd: c_int = -1;
        // SAFETY: for this type of handle, writes one int.
        let code = unsafe {
            (self.context.api.export)(
                (&raw mut fd).cast(),
                self.address,
                self.len as usize,
                RANGE_HANDLE_DMA_BUF_FD,
                flags,
            )
        };
        let done = self.context.check_request(code, || {
            format!("cuMemGetHandleForAddressRange of {} bytes", self.len)
        });
        done.map_err(|error| match (mapping, error) {
            (Mapping::Pcie, Error::Driver { operation, source })
                if matches!(source.code(), INVALID_VALUE | NOT_SUPPORTED) =>
            {
                Error::NoPcie { operation, source }
            }
            (_, error) => error,
        })?;
        // SAFETY: the driver has just opened it for us, and knows it no more.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Copies bytes from the host to a GPU's memory, and waits until the copy is done:
    /// `cuMemcpyHtoD` may return before, and this crate's streams don't wait for it (CUDA driver
    /// API, "API synchronization behavior").
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let to = self.at(offset, bytes.len() as u64)?;
        let _entered = self.context.enter()?;
        // SAFETY: reads `bytes`, writes what `at` has found to lie inside.
        let code = unsafe { (self.context.api.copy_in)(to, bytes.as_ptr().cast(), bytes.len()) };
        self.context
            .check(code, || format!("cuMemcpyHtoD of {} bytes", bytes.len()))?;
        // SAFETY: null stands for the stream that the copy was in.
        let code = unsafe { (self.context.api.stream_wait)(std::ptr::null_mut()) };
        self.context.check(code, || "cuStreamSynchronize".into())
    }

    /// Copies bytes from a GPU's memory to the host, and waits until the copy is done.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let from = self.at(offset, out.len() as u64)?;
        let _entered = self.context.enter()?;
        // SAFETY: reads what `at` has found to lie inside, writes `out`.
        let code = unsafe { (self.context.api.copy_out)(out.as_mut_ptr().cast(), from, out.len()) };
        self.context
            .check(code, || format!("cuMemcpyDtoH of {} bytes", out.len()))
    }
}

/// Pinned pages of the host that a GPU reads and writes by itself while the CPU goes on. The CPU
/// only copies from and to them.
pub(crate) struct Pinned {
    context: Arc<Context>,
    start: *mut c_void,
    len: usize,
}

// SAFETY: plain memory of this process, to which `start` is the only pointer.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn new(context: &Arc<Context>, len: usize) -> Result<Self, Error> {
        let _entered = context.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        let code = unsafe { (context.api.host_alloc)(&raw mut start, len, 0) };
        context.check(code, || format!("cuMemHostAlloc of {len} bytes"))?;
        Ok(Self {
            context: Arc::clone(context),
            start,
            len,
        })
    }

    /// Writes the descriptors of the next parts to the beginning of the pinned pages, as many as
    /// fit, and returns their number.
    pub(crate) fn fill(&mut self, parts: &mut Parts<'_>) -> usize {
        let mut to = self.start.cast::<Descriptor>();
        let room = self.len / size_of::<Descriptor>();
        if let Some(uncut) = parts.uncut(room) {
            let len = size_of_val(uncut);
            // SAFETY: they are at most `room`; no reference to what is written to exists.
            unsafe { std::ptr::copy_nonoverlapping(uncut.as_ptr().cast(), to.cast::<u8>(), len) };
            return uncut.len();
        }
        let mut count = 0;
        while count < room {
            let Some(part) = parts.next() else { break };
            // SAFETY: `count` of `room` descriptors are before it; no reference to it exists.
            unsafe { to.write_unaligned(part) };
            to = to.wrapping_add(1);
            count += 1;
        }
        count
    }

    /// Copies the first `bytes.len()` bytes of the pinned pages.
    pub(crate) fn read(&self, bytes: &mut [u8]) {
        let len = bytes.len().min(self.len);
        // SAFETY: both have `len` bytes; the GPU has been waited for.
        unsafe { std::ptr::copy_nonoverlapping(self.start.cast(), bytes.as_mut_ptr(), len) };
    }

    pub(super) fn start(&self, len: usize) -> Result<*mut c_void, Error> {
        if len > self.len {
            return Err(Error::OutOfBounds {
                offset: 0,
                len: len as u64,
                size: self.len as u64,
            });
        }
        Ok(self.start)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: what `cuMemHostAlloc` gave, once; whoever enqueued work on it has waited for it.
        let free = |api: &super::api::Api| unsafe { (api.host_free)(self.start) };
        self.context.release("cuMemFreeHost", free);
    }
}
