//! Page pools: the memory of rx queues.

use netlink::{Attrs, Family, Request, Result};
use serde::Serialize;

use super::queue::io_uring;
use super::{IoUring, Netdev, cmd};
use crate::parse::{Parsed, attributes, counters, required, small_uint};
use crate::{DmabufId, Ifindex, NapiId, PagePoolId};

attributes! {
    /// Attributes of a page pool: `NETDEV_A_PAGE_POOL_*`.
    pub(super) mod attr {
        ID = 1, number("id");
        IFINDEX = 2, number("ifindex");
        NAPI_ID = 3, number("napi-id");
        INFLIGHT = 4, number("inflight");
        INFLIGHT_MEM = 5, number("inflight-mem");
        DETACH_TIME = 6, number("detach-time");
        DMABUF = 7, number("dmabuf");
        IO_URING = 8, nest("io-uring", io_uring::ALL);
    }
}

attributes! {
    /// Attributes of a page pool's statistics: `NETDEV_A_PAGE_POOL_STATS_*`.
    pub(super) mod stats_attr {
        INFO = 1, nest("info", attr::ALL);
    }
}

impl Netdev {
    /// Reads the state of a page pool (`netdev_nl_page_pool_get_doit`).
    ///
    /// # Errors
    /// `ENOENT` where no pool has that number in this network namespace.
    #[doc(alias = "NETDEV_CMD_PAGE_POOL_GET")]
    pub fn page_pool(&mut self, id: PagePoolId) -> Result<PagePool> {
        let request = get(&self.0.family, id);
        self.0.ask(&request, PagePool::parse)
    }

    /// Lists the page pools of one device or of all (`netdev_nl_page_pool_get_dumpit`).
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "NETDEV_CMD_PAGE_POOL_GET")]
    pub fn page_pools(&mut self, of: Option<Ifindex>) -> Result<Vec<PagePool>> {
        let request = self.listing(cmd::PAGE_POOL_GET, "page-pool-get", attr::IFINDEX, of);
        self.0.dump(&request, PagePool::parse)
    }

    /// Reads the statistics of the page pools of one device or of all
    /// (`netdev_nl_page_pool_stats_get_dumpit`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a kernel without `CONFIG_PAGE_POOL_STATS`.
    #[doc(alias = "NETDEV_CMD_PAGE_POOL_STATS_GET")]
    pub fn page_pool_stats(&mut self, of: Option<Ifindex>) -> Result<Vec<PagePoolStats>> {
        let object = of.map(|ifindex| self.0.device(ifindex)).unwrap_or_default();
        let request = stats(&self.0.family, of, object);
        self.0.dump(&request, PagePoolStats::parse)
    }
}

pub(super) fn get(family: &Family, id: PagePoolId) -> Request {
    let mut request = family.request(cmd::PAGE_POOL_GET, "page-pool-get", id.to_string());
    request.attrs().uint(attr::ID, id.get().into());
    request
}

pub(super) fn stats(family: &Family, of: Option<Ifindex>, object: String) -> Request {
    let mut request = family.request(cmd::PAGE_POOL_STATS_GET, "page-pool-stats-get", object);
    if let Some(ifindex) = of {
        request.attrs().nest(stats_attr::INFO, |info| {
            info.u32(attr::IFINDEX, ifindex.get());
        });
    }
    request
}

/// State of a page pool (`page_pool_nl_fill`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PagePool {
    /// Number of the page pool.
    pub id: PagePoolId,
    /// Device of the page pool; `None` where the device is gone and the pool waits for its memory
    /// to return.
    pub ifindex: Option<Ifindex>,
    /// NAPI instance that uses the page pool.
    pub napi: Option<NapiId>,
    /// Number of pages or niovs that are allocated: in sockets, rings or caches.
    pub inflight: Option<u64>,
    /// Size in bytes of the allocated pages or niovs.
    pub inflight_mem: Option<u64>,
    /// Time at which the driver released the page pool, in seconds of `CLOCK_BOOTTIME`; since then
    /// it waits for its memory to return. `None` while the pool is in use.
    pub detach_time: Option<u64>,
    /// Id of the dmabuf that the pool's memory is from.
    pub dmabuf: Option<DmabufId>,
    /// Instance of io_uring that the memory is from.
    pub io_uring: Option<IoUring>,
}

impl PagePool {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let mut id = None;
        let mut pool = Self {
            id: PagePoolId::new(0),
            ifindex: None,
            napi: None,
            inflight: None,
            inflight_mem: None,
            detach_time: None,
            dmabuf: None,
            io_uring: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::ID => id = Some(PagePoolId::new(small_uint(&attr)?)),
                attr::IFINDEX => pool.ifindex = Some(Ifindex::new(attr.u32()?)),
                attr::NAPI_ID => pool.napi = Some(NapiId::new(small_uint(&attr)?)),
                attr::INFLIGHT => pool.inflight = Some(attr.uint()?),
                attr::INFLIGHT_MEM => pool.inflight_mem = Some(attr.uint()?),
                attr::DETACH_TIME => pool.detach_time = Some(attr.uint()?),
                attr::DMABUF => pool.dmabuf = Some(DmabufId::new(attr.u32()?)),
                attr::IO_URING => pool.io_uring = Some(IoUring::parse(&attr)?),
                _ => {}
            }
        }
        pool.id = required(id, attr::ID)?;
        Ok(pool)
    }
}

counters!(
    /// Counters of a page pool's allocations and returns (`struct page_pool_stats`).
    PoolCounters {
        /// Number of allocations from the page pool's cache.
        alloc_fast = 8,
        /// Number of allocations from the page allocator or the memory provider.
        alloc_slow = 9,
        /// Number of allocations of more than one page from the page allocator or the memory
        /// provider.
        alloc_slow_high_order = 10,
        /// Number of times the page pool's recycling ring was empty.
        alloc_empty = 11,
        /// Number of refills of the page pool's cache from its ring.
        alloc_refill = 12,
        /// Number of pages of the recycling ring that were not used because they are on another
        /// NUMA node.
        alloc_waive = 13,
        /// Number of pages returned to the page pool's cache.
        recycle_cached = 14,
        /// Number of times the page pool's cache was full.
        recycle_cache_full = 15,
        /// Number of pages returned to the page pool's recycling ring.
        recycle_ring = 16,
        /// Number of pages released because the recycling ring was full.
        recycle_ring_full = 17,
        /// Number of pages released because they had other users.
        recycle_released_refcnt = 18,
    }
);

/// Statistics of a page pool (`page_pool_nl_stats_fill`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PagePoolStats {
    /// Number of the page pool.
    pub id: PagePoolId,
    /// Device of the page pool, unless the device is gone.
    pub ifindex: Option<Ifindex>,
    /// Counters of the page pool.
    #[serde(flatten)]
    pub counters: PoolCounters,
}

impl PagePoolStats {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let (mut id, mut ifindex) = (None, None);
        let mut counters = PoolCounters::default();
        for attr in attrs {
            let attr = attr?;
            if attr.kind() != stats_attr::INFO {
                counters.take(&attr)?;
                continue;
            }
            for info in attr.nested() {
                let info = info?;
                match info.kind() {
                    attr::ID => id = Some(PagePoolId::new(small_uint(&info)?)),
                    attr::IFINDEX => ifindex = Some(Ifindex::new(info.u32()?)),
                    _ => {}
                }
            }
        }
        Ok(Self {
            id: required(id, attr::ID)?,
            ifindex,
            counters,
        })
    }
}
