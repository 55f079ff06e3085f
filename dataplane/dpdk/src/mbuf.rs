//! Packet buffers.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use arrayvec::ArrayVec;

use crate::port::DeviceTime;

/// Frames handled by one call of a queue.
pub const BURST: usize = 32;

/// A burst of frames, in order.
pub type Burst = ArrayVec<Mbuf, BURST>;

/// One frame in a packet buffer, owned: dropping it returns the buffer to its pool.
///
/// A frame may have several segments if a device received it so; [`Mbuf::bytes`] is the first one
/// only, and [`Mbuf::linearize`] makes one of many. Frames allocated here are always linear.
///
/// An mbuf must be dropped or transmitted for its pool to get it back; one that is forgotten
/// (`mem::forget`) is lost to the pool, but not unsafe.
// The layout is part of the contract with the queues, which hand arrays of these to DPDK as arrays
// of pointers.
#[repr(transparent)]
pub struct Mbuf {
    /// Invariant: a live mbuf with reference count 1 that nothing else refers to, whose segments
    /// satisfy `data_off + data_len <= buf_len`. Its memory stays mapped while it is out of its
    /// pool, because EAL is not cleaned up before every mbuf is back (see `Eal`).
    raw: NonNull<dpdk_sys::rte_mbuf>,
}

// SAFETY: an mbuf has one owner, is bound to no thread, and its pool takes it back from any thread
// (see Mempool).
unsafe impl Send for Mbuf {}

/// Reads a field of the mbuf header at an offset that the C compiler gave.
macro_rules! field {
    ($mbuf:expr, $offset:ident, $type:ty) => {
        // SAFETY: Mbuf's invariant: the header is live and initialised. The offset and (by a static
        // assertion in wrapper.h) the width are the field's, and C aligns fields naturally.
        unsafe { $mbuf.raw.as_ptr().byte_add(dpdk_sys::$offset as usize).cast::<$type>().read() }
    };
}

impl Mbuf {
    /// Takes ownership of what a DPDK function returned; none if it is null.
    ///
    /// # Safety
    /// If not null, `raw` satisfies the invariant of the type, and nobody else uses it any more.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut dpdk_sys::rte_mbuf) -> Option<Mbuf> {
        NonNull::new(raw).map(|raw| Mbuf { raw })
    }

    /// Bytes in the first segment.
    #[inline]
    fn data_len(&self) -> u16 {
        field!(self, SHIM_MBUF_OFFSET_DATA_LEN, u16)
    }

    #[inline]
    fn data_ptr(&self) -> *mut u8 {
        let data_off = field!(self, SHIM_MBUF_OFFSET_DATA_OFF, u16);
        let buffer = field!(self, SHIM_MBUF_OFFSET_BUF_ADDR, *mut u8);
        // SAFETY: the invariant: data_off is within the buffer.
        unsafe { buffer.add(usize::from(data_off)) }
    }

    /// Sets the length of a frame of one segment.
    ///
    /// # Safety
    /// The mbuf is linear and `len` is at most its capacity.
    #[inline]
    unsafe fn set_len(&mut self, len: u16) {
        let header = self.raw.as_ptr();
        // SAFETY: the header is live and exclusively ours; offsets and widths as in `field!`.
        unsafe {
            header.byte_add(dpdk_sys::SHIM_MBUF_OFFSET_DATA_LEN as usize).cast::<u16>().write(len);
            header
                .byte_add(dpdk_sys::SHIM_MBUF_OFFSET_PKT_LEN as usize)
                .cast::<u32>()
                .write(u32::from(len));
        }
    }

    /// The frame, or its first segment if it is not linear.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the invariant: `data_len` bytes from the data pointer are within the buffer,
        // which was mapped (zeroed) by EAL and so is initialised; `&self` keeps writers away.
        unsafe { slice::from_raw_parts(self.data_ptr(), usize::from(self.data_len())) }
    }

    /// The frame, or its first segment if it is not linear, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the reference count is 1 and `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.data_ptr(), usize::from(self.data_len())) }
    }

    /// Asks the CPU for the first bytes: a frame's headers are looked at soon after it came.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, which reads nothing and faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.data_ptr().cast()) };
        }
    }

    /// Length of [`Mbuf::bytes`].
    #[inline]
    #[allow(clippy::len_without_is_empty)] // it is below
    pub fn len(&self) -> usize {
        usize::from(self.data_len())
    }

    /// [`Mbuf::bytes`] is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.data_len() == 0
    }

    /// Length of the whole frame: that of [`Mbuf::bytes`] if it is linear.
    #[inline]
    pub fn frame_len(&self) -> usize {
        field!(self, SHIM_MBUF_OFFSET_PKT_LEN, u32) as usize
    }

    /// The frame is in one segment.
    #[inline]
    pub fn is_linear(&self) -> bool {
        field!(self, SHIM_MBUF_OFFSET_NB_SEGS, u16) == 1
    }

    /// Gathers the frame in the first segment. False if it has no room; the frame is unchanged then.
    #[inline]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: a live mbuf that is exclusively ours; the segments after the first are freed.
        self.is_linear() || unsafe { dpdk_sys::shim_mbuf_linearize(self.raw.as_ptr()) == 0 }
    }

    /// Copies the frame, whatever its segments, as far as `out` reaches; gives the bytes copied.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        // SAFETY: a live mbuf whose segments are within their buffers; `len` bytes of `out` are ours.
        unsafe { dpdk_sys::shim_mbuf_copy(self.raw.as_ptr(), out.as_mut_ptr(), len) as usize }
    }

    /// The device's time of reception, in its own ticks, if it stamped this frame.
    #[inline]
    pub fn device_time(&self, of: DeviceTime) -> Option<u64> {
        let flags = field!(self, SHIM_MBUF_OFFSET_OL_FLAGS, u64);
        // SAFETY: DeviceTime's invariant: an aligned field of 8 bytes in every mbuf's header, which is
        // live and initialised.
        let read =
            || unsafe { self.raw.as_ptr().byte_add(of.offset as usize).cast::<u64>().read() };
        (flags & of.flag != 0).then(read)
    }

    /// The largest length that [`Mbuf::resize`] can give.
    #[inline]
    pub fn capacity(&self) -> usize {
        let data_off = field!(self, SHIM_MBUF_OFFSET_DATA_OFF, u16);
        usize::from(field!(self, SHIM_MBUF_OFFSET_BUF_LEN, u16).saturating_sub(data_off))
    }

    /// Cuts or lengthens the frame; bytes added at the end are zero, so that nothing of an earlier
    /// frame can leak. False, and no change, if it does not fit or is not linear.
    #[inline]
    pub fn resize(&mut self, len: usize) -> bool {
        let old = self.len();
        if len > self.capacity() || !self.is_linear() {
            return false;
        }
        if len > old {
            // SAFETY: `len` is at most the capacity: the range is within the buffer, which is ours.
            unsafe { self.data_ptr().add(old).write_bytes(0, len - old) };
        }
        // SAFETY: linear, and within the capacity, which is a u16.
        unsafe { self.set_len(len as u16) };
        true
    }

    /// Appends `bytes`. False, and no change, if they do not fit or the frame is not linear.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        let old = self.len();
        if bytes.len() > self.capacity().saturating_sub(old) || !self.is_linear() {
            return false;
        }
        // SAFETY: the range is within the buffer by the check above, and the buffer is exclusively
        // ours, so `bytes` does not overlap it.
        unsafe {
            self.data_ptr().add(old).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.set_len((old + bytes.len()) as u16);
        }
        true
    }
}

impl AsRef<[u8]> for Mbuf {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsMut<[u8]> for Mbuf {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a live mbuf that is exclusively ours; nothing uses it after this.
        unsafe { dpdk_sys::shim_mbuf_free(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("frame_len", &self.frame_len())
            .finish_non_exhaustive()
    }
}
