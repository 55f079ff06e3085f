//! Waiting for several file descriptors.

use crate::{Error, Result};
use std::{
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// Waits until one of `fds` is readable, closed or in error, or `timeout` has passed. The answer
/// has one element per descriptor; all false means that the time passed or a signal arrived.
pub fn poll_fds(fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `polled` is a live array of exactly the length passed, `limit` outlives the call,
    // and a null signal mask is allowed. The descriptors are open: they are borrowed.
    let done = unsafe {
        libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &limit, std::ptr::null())
    };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() == std::io::ErrorKind::Interrupted {
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
