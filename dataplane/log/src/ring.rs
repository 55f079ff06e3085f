//! Memory whose end is followed by its beginning: any range is one slice.
//!
//! The same pages are mapped twice in a row, in huge pages where the machine
//! has them. All of the crate's unsafe code is here.

use std::ptr::NonNull;

use thiserror::Error;

const HUGE_PAGE_LEN: usize = 2 << 20;

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

/// A ring of bytes, readable and writable at any offset as one contiguous slice.
pub struct MirroredRing {
    base: NonNull<u8>,
    len: usize,
    reserved: NonNull<libc::c_void>,
    reserved_len: usize,
    huge: bool,
}

// SAFETY: the mapping is owned by this value alone and is plain memory; access
// goes through &self and &mut self, so the borrow checker rules out races.
unsafe impl Send for MirroredRing {}

impl MirroredRing {
    /// A ring of `len` bytes (a power of two, at least one page), zeroed and resident.
    pub fn new(len: usize) -> Result<MirroredRing, RingError> {
        assert!(len.is_power_of_two() && len >= 4096, "ring length must be a power of two");
        if len >= HUGE_PAGE_LEN
            && let Ok(ring) = Self::map(len, true)
        {
            return Ok(ring);
        }
        Self::map(len, false)
    }

    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a ring has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether the memory is in huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// `count` bytes from `offset`, taken modulo the length. `count` is at most the length.
    pub fn slice(&self, offset: u64, count: usize) -> &[u8] {
        assert!(count <= self.len);
        let at = offset as usize & (self.len - 1);
        // SAFETY: at < len and count <= len, so the range lies in the 2*len mapped
        // bytes, which live as long as self; writes need &mut self.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at), count) }
    }

    /// The same, for writing.
    pub fn slice_mut(&mut self, offset: u64, count: usize) -> &mut [u8] {
        assert!(count <= self.len);
        let at = offset as usize & (self.len - 1);
        // SAFETY: as in `slice`; count <= len also means that no byte of the memory
        // appears twice in the range, so the slice does not alias itself.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), count) }
    }

    fn map(len: usize, huge: bool) -> Result<MirroredRing, RingError> {
        let fail = |step| RingError { len, step, source: std::io::Error::last_os_error() };
        let flags = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
        // SAFETY: the name is a NUL-terminated literal.
        let fd =
            unsafe { libc::memfd_create(c"understudy-log".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(fail("memfd_create"));
        }
        let result = Self::map_fd(fd, len, huge);
        // SAFETY: fd is ours and not used after; mappings keep the memory alive.
        unsafe { libc::close(fd) };
        result
    }

    fn map_fd(fd: libc::c_int, len: usize, huge: bool) -> Result<MirroredRing, RingError> {
        let fail = |step| RingError { len, step, source: std::io::Error::last_os_error() };
        // SAFETY: plain system call on a descriptor we own.
        if unsafe { libc::ftruncate(fd, len as libc::off_t) } != 0 {
            return Err(fail("ftruncate"));
        }
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
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE,
                    fd,
                    0,
                )
            };
            ok &= got == want;
        }
        let error = fail("mmap");
        match (NonNull::new(aligned as *mut u8), NonNull::new(reserved)) {
            (Some(base), Some(reserved)) if ok => {
                Ok(MirroredRing { base, len, reserved, reserved_len, huge })
            }
            _ => {
                // SAFETY: the reservation is ours and nothing points into it.
                unsafe { libc::munmap(reserved, reserved_len) };
                Err(error)
            }
        }
    }
}

impl Drop for MirroredRing {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours; slices borrow self, so none is left.
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
}
