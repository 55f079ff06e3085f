//! Waking a thread that waits in [`crate::poll_fds`], from other threads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::{Error, Result};

/// Makes its descriptor readable until it is drained; a counter in the kernel (eventfd), so any
/// number of wakes before that are one. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker that was not used yet.
    pub fn new() -> Result<Waker> {
        // SAFETY: plain arguments; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(Error::os("make an eventfd", "raise the limit of open files", error));
        }
        // SAFETY: `fd` was just made and is nobody else's.
        Ok(Waker(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Wakes. One system call, which never blocks: a counter that is full is readable.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is live and of the length given; the descriptor is open.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets the wakes so far. What they were about is looked at after this.
    pub fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is live, writable and of the length given; the descriptor is open.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::poll_fds;

    #[test]
    fn any_number_of_wakes_is_one() {
        let waker = Waker::new().unwrap();
        let readable = || poll_fds(&[waker.as_fd()], Duration::ZERO).unwrap()[0];
        assert!(!readable());
        let other = waker.clone();
        std::thread::spawn(move || (0..1000).for_each(|_| other.wake())).join().unwrap();
        assert!(readable());
        waker.drain();
        assert!(!readable());
        waker.drain();
    }

    #[test]
    fn a_wait_ends_with_a_wake() {
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        assert!(poll_fds(&[waker.as_fd()], Duration::from_secs(60)).unwrap()[0]);
        thread.join().unwrap();
    }
}
