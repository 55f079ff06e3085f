//! Memory whose end is followed by its beginning: any range is one slice.
//!
//! The same pages are mapped twice in a row, in huge pages where the machine
//! has them. All of the crate's unsafe code is here.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use thiserror::Error;

const HUGE_PAGE_LEN: usize = 2 << 20;
/// Bytes that the CPU fetches at once.
#[cfg(target_arch = "x86_64")]
const LINE_LEN: usize = 64;

/// Why there is no memory for a log.
#[derive(Debug, Error)]
#[error(
    "cannot get {len} bytes of memory for the capture log ({step}): {source}; lower log.size_mb"
)]
pub struct RingError {
    len: usize,
    step: &'static str,
    source: std::io::Error,
}

/// The same pages mapped twice in a row, by whoever owns this.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
    reserved: NonNull<libc::c_void>,
    reserved_len: usize,
}

// SAFETY: plain memory that no thread is bound to; what may be done with it from where is for the
// two types below to say.
unsafe impl Send for Mapping {}

/// A ring of bytes, readable and writable at any offset as one contiguous slice.
pub struct MirroredRing {
    /// Owned by this value alone: access goes through &self and &mut self, so the borrow checker
    /// rules out races between users of this mapping.
    map: Mapping,
    fd: OwnedFd,
    huge: bool,
}

/// The ring's pages once more, read-only, for threads that read while the owner writes.
///
/// Invariant: no reference into this mapping exists, ever. It is only read, word by word, by volatile
/// loads, as memory is that another process writes. So a word that is read while it is written has
/// some value, and whoever reads has to find out afterwards whether it counts.
pub struct RingView {
    map: Mapping,
}

// SAFETY: by the invariant of the type all access is by volatile loads of mapped memory, from as many
// threads as like to.
unsafe impl Sync for RingView {}

impl MirroredRing {
    /// A ring of `len` bytes (a power of two, at least one page), zeroed and resident.
    pub fn new(len: usize) -> Result<MirroredRing, RingError> {
        assert!(len.is_power_of_two() && len >= 4096, "ring length must be a power of two");
        if len >= HUGE_PAGE_LEN
            && let Ok(ring) = Self::create(len, true)
        {
            return Ok(ring);
        }
        Self::create(len, false)
    }

    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.map.len
    }

    /// Never: a ring has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether the memory is in huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The same memory for readers on other threads.
    pub fn view(&self) -> Result<RingView, RingError> {
        Ok(RingView { map: Mapping::new(&self.fd, self.map.len, libc::PROT_READ)? })
    }

    /// `count` bytes from `offset`, taken modulo the length. `count` is at most the length.
    #[inline]
    pub fn slice(&self, offset: u64, count: usize) -> &[u8] {
        assert!(count <= self.map.len);
        let at = offset as usize & (self.map.len - 1);
        // SAFETY: at < len and count <= len, so the range lies in the 2*len mapped
        // bytes, which live as long as self; writes need &mut self.
        unsafe { std::slice::from_raw_parts(self.map.base.as_ptr().add(at), count) }
    }

    /// The same, for writing.
    #[inline]
    pub fn slice_mut(&mut self, offset: u64, count: usize) -> &mut [u8] {
        assert!(count <= self.map.len);
        let at = offset as usize & (self.map.len - 1);
        // SAFETY: as in `slice`; count <= len also means that no byte of the memory
        // appears twice in the range, so the slice does not alias itself.
        unsafe { std::slice::from_raw_parts_mut(self.map.base.as_ptr().add(at), count) }
    }

    /// Asks the CPU for `count` bytes from `offset`, at most as many as it holds, which will be
    /// written.
    #[inline]
    pub fn prefetch(&self, offset: u64, count: usize) {
        assert!(count <= self.map.len);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = offset as usize & (self.map.len - 1);
            for line in (0..count).step_by(LINE_LEN) {
                // SAFETY: at < len and line < count <= len, so the address is within the 2*len mapped
                // bytes; a hint, which changes nothing.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(self.map.base.as_ptr().add(at + line).cast())
                };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    fn create(len: usize, huge: bool) -> Result<MirroredRing, RingError> {
        let fail = |step| RingError { len, step, source: std::io::Error::last_os_error() };
        let flags = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
        // SAFETY: the name is a NUL-terminated literal.
        let fd =
            unsafe { libc::memfd_create(c"understudy-log".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(fail("memfd_create"));
        }
        // SAFETY: a descriptor that was just made, and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system call on a descriptor we own.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(fail("ftruncate"));
        }
        let map = Mapping::new(&fd, len, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(MirroredRing { map, fd, huge })
    }
}

impl RingView {
    /// Copies what is at `offset`, taken modulo the length, as it is at some moment of the copying.
    /// `offset` and the length of `out` are multiples of 8, `out` is at most as long as the ring.
    pub fn copy_to(&self, offset: u64, out: &mut [u8]) {
        assert!(offset.is_multiple_of(8) && out.len().is_multiple_of(8));
        assert!(out.len() <= self.map.len);
        let at = offset as usize & (self.map.len - 1);
        for (i, word) in out.chunks_exact_mut(8).enumerate() {
            // SAFETY: at < len and 8 * i + 8 <= out.len() <= len, so the word lies in the 2*len
            // mapped bytes; base is aligned to a page and at to 8. Volatile: see the invariant.
            let read =
                unsafe { self.map.base.as_ptr().add(at + 8 * i).cast::<u64>().read_volatile() };
            word.copy_from_slice(&read.to_ne_bytes());
        }
    }
}

impl Mapping {
    fn new(fd: &OwnedFd, len: usize, protection: libc::c_int) -> Result<Mapping, RingError> {
        let fail = |step| RingError { len, step, source: std::io::Error::last_os_error() };
        let reserved_len = 2 * len + HUGE_PAGE_LEN;
        // SAFETY: a new anonymous reservation at an address of the kernel's choice.
        let reserved = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                reserved_len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reserved == libc::MAP_FAILED {
            return Err(fail("mmap"));
        }
        let aligned = (reserved as usize).next_multiple_of(HUGE_PAGE_LEN);
        let mut ok = true;
        for half in 0..2 {
            let want = (aligned + half * len) as *mut libc::c_void;
            // SAFETY: MAP_FIXED only replaces pages of the reservation made above,
            // which holds 2*len bytes from `aligned` on and is ours alone.
            let got = unsafe {
                libc::mmap(
                    want,
                    len,
                    protection,
                    libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE,
                    fd.as_raw_fd(),
                    0,
                )
            };
            ok &= got == want;
        }
        let error = fail("mmap");
        match (NonNull::new(aligned as *mut u8), NonNull::new(reserved)) {
            (Some(base), Some(reserved)) if ok => Ok(Mapping { base, len, reserved, reserved_len }),
            _ => {
                // SAFETY: the reservation is ours and nothing points into it.
                unsafe { libc::munmap(reserved, reserved_len) };
                Err(error)
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours; slices borrow the ring that owns it, so none is left.
        unsafe { libc::munmap(self.reserved.as_ptr(), self.reserved_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_the_end_is_one_slice() {
        let mut ring = MirroredRing::new(4096).unwrap();
        ring.slice_mut(4090, 12).copy_from_slice(b"over the end");
        assert_eq!(ring.slice(4090, 12), b"over the end");
        assert_eq!(ring.slice(0, 6), b"he end");
        assert_eq!(ring.slice(4096 * 7 + 4090, 4), b"over");
    }

    #[test]
    fn a_view_shows_what_is_written() {
        let mut ring = MirroredRing::new(4096).unwrap();
        let view = ring.view().unwrap();
        ring.slice_mut(4088, 16).copy_from_slice(b"eight, andeight.");
        let mut seen = [0; 16];
        view.copy_to(4096 * 3 + 4088, &mut seen);
        assert_eq!(&seen, b"eight, andeight.");
        drop(ring);
        view.copy_to(0, &mut seen[..8]);
        assert_eq!(&seen[..8], b"ndeight.", "the memory outlives the ring");
    }
}
