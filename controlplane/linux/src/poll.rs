//! Waiting for several file descriptors.

use crate::{Error, Result};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

/// Waits until one of `fds` is readable, closed or in error, or `timeout` has passed. The answer
/// has one element per descriptor; all false means that the time passed or a signal arrived.
pub fn poll_fds(fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<Vec<bool>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| readable(fd.as_raw_fd())).collect();
    if let Err(error) = wait(&mut polled, timeout) {
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(vec![false; fds.len()]);
        }
        return Err(Error::os(
            "wait for file descriptors",
            "raise the limit of open files (LimitNOFILE=)",
            error,
        ));
    }
    Ok(polled.iter().map(|p| p.revents != 0).collect())
}

/// A descriptor that is waited for until it is readable.
pub(crate) fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// The same for a set that is kept: it has the answer. It allocates nothing.
pub(crate) fn wait(polled: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let (count, no_mask) = (polled.len() as libc::nfds_t, std::ptr::null());
    // SAFETY: `polled` is a live array of exactly the length passed, `limit` outlives the call, and a null signal
    // mask is allowed. Of a descriptor that is not open the kernel says so in its element.
    let done = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const limit, no_mask) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
