//! Pools of mbufs.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::Mbuf;
use crate::eal::{self, PoolPointer};
use crate::error::{Error, last_errno};

/// Frame bytes of an mbuf that suit 1500-byte MTUs and every driver, `net_af_packet` with its
/// default frame size included.
pub const DEFAULT_DATA_ROOM_BYTES: u16 = 2048;

/// A pool of mbufs of one size in EAL's memory (huge pages, normally). Cloning clones the handle.
///
/// The pool itself is never freed before EAL is cleaned up, so an [`Mbuf`] needs no reference to
/// it: the cleanup does not happen while an mbuf of any pool is missing.
#[derive(Debug, Clone)]
pub struct Mempool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: NonNull<dpdk_sys::rte_mempool>,
}

// SAFETY: a pool made by rte_pktmbuf_pool_create with the default ops (Eal::init refuses others)
// can be used by any number of threads at once; per-core caches belong to lcore numbers, of which
// each thread has its own or none.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Creates a pool of `mbufs` mbufs (best is a power of two minus one), each with `data_room`
    /// bytes for the frame; DPDK's headroom (usually 128 bytes) is added to it.
    ///
    /// `cache` mbufs, at most 512 and two thirds of `mbufs`, are kept for each registered thread;
    /// 0 means no cache. `name` is unique in the process and at most 25 bytes long.
    pub fn new(name: &str, mbufs: u32, cache: u32, data_room: u16) -> Result<Mempool, Error> {
        let mut state = eal::running()?;
        let refuse =
            |reason| Err(Error::BadArgument { argument: format!("mbuf pool {name}"), reason });
        if name.is_empty() || name.len() > dpdk_sys::SHIM_MEMPOOL_NAME_BYTES_MAX as usize {
            return refuse("its name is empty or too long");
        }
        if cache > dpdk_sys::SHIM_MEMPOOL_CACHE_MAX || u64::from(cache) * 3 > u64::from(mbufs) * 2 {
            return refuse(
                "its cache is larger than DPDK allows (512, and two thirds of the pool)",
            );
        }
        let Some(room) = u16::try_from(dpdk_sys::SHIM_MBUF_HEADROOM_BYTES)
            .ok()
            .and_then(|headroom| headroom.checked_add(data_room))
        else {
            return refuse("its mbufs are larger than DPDK allows");
        };
        let c_name = eal::c_string(name)?;
        // SAFETY: EAL runs (the lock is held), the name is NUL-terminated and copied by DPDK, and
        // socket -1 (SOCKET_ID_ANY) lets DPDK choose.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(c_name.as_ptr(), mbufs, cache, 0, room, -1)
        };
        let Some(pool) = NonNull::new(pool) else {
            let action = format!("creating the mbuf pool `{name}` ({mbufs} mbufs of {room} bytes)");
            return Err(Error::call(action, last_errno()));
        };
        state.pools.push(PoolPointer(pool));
        state.pools_held += 1;
        Ok(Mempool { inner: Arc::new(Inner { pool }) })
    }

    /// An empty mbuf, or none if the pool is exhausted.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive while a handle is, and the mbuf returned is owned by nobody
        // else: it is direct, in one segment, empty, with one reference.
        unsafe { Mbuf::from_raw(dpdk_sys::shim_mbuf_alloc(self.as_ptr())) }
    }

    /// An mbuf that holds a copy of `bytes`, or none if the pool is exhausted or `bytes` do not fit.
    #[inline]
    pub fn alloc_copy(&self, bytes: &[u8]) -> Option<Mbuf> {
        self.alloc_parts(&[bytes])
    }

    /// As [`Mempool::alloc_copy`], of what `parts` are one after the other.
    #[inline]
    pub fn alloc_parts(&self, parts: &[&[u8]]) -> Option<Mbuf> {
        let mut mbuf = self.alloc()?;
        parts.iter().all(|part| mbuf.extend_from_slice(part)).then_some(mbuf)
    }

    /// Mbufs in the pool and its caches. Walks the caches of all cores: for statistics and tests.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive while a handle is.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Mbufs that are out: owned by an [`Mbuf`], or posted to a device. As slow as
    /// [`Mempool::available`].
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool is alive while a handle is.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.inner.pool.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        eal::state().pools_held -= 1;
    }
}
