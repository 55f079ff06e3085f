//! The sockets of another process.

use crate::{Error, Result, error::BE_ROOT};
use std::{
    ffi::c_int,
    fs,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// A socket in a process's table of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessSocket {
    /// Its number there.
    pub fd: c_int,
    /// The socket's inode: equal for descriptors of one socket, and what `sock_diag` shows.
    pub inode: u64,
}

/// A descriptor of a process, by which its sockets are reached whatever becomes of its number.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }, || {
        (format!("open process {pid}"), "check that it runs")
    })
}

/// A second descriptor of a socket of a running process, which does not notice.
pub fn socket_of(pidfd: BorrowedFd<'_>, fd: c_int) -> Result<OwnedFd> {
    // SAFETY: takes plain numbers; the pidfd is open because it is borrowed.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) }, || {
        (format!("take descriptor {fd} of a process"), BE_ROOT)
    })
}

fn owned(fd: libc::c_long, failed: impl FnOnce() -> (String, &'static str)) -> Result<OwnedFd> {
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        let (what, advice) = failed();
        return Err(Error::os(what, advice, error));
    }
    // SAFETY: the kernel just made it for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// The sockets of a process, of every kind, by number.
pub fn sockets_of(pid: i32) -> Result<Vec<ProcessSocket>> {
    let dir = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&dir)
        .map_err(|e| Error::os(format!("read {dir}"), "check that the process runs", e))?;
    let mut found: Vec<ProcessSocket> = entries
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
            Some(ProcessSocket { fd: entry.file_name().to_str()?.parse().ok()?, inode })
        })
        .collect();
    found.sort_unstable_by_key(|socket| socket.fd);
    Ok(found)
}
