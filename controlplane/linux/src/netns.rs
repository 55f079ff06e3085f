//! Network namespaces held by a file descriptor, without a name in the file system.

use crate::{Error, Result, error::BE_ROOT, rtnl};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread,
};

/// A network namespace. It lives as long as this handle, a process or a socket in it does.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

const OF_THREAD: &str = "/proc/thread-self/ns/net";

impl NetNs {
    /// Makes a new, unnamed namespace with `lo` up. The calling thread stays where it is.
    pub fn create() -> Result<NetNs> {
        scratch(|| {
            // SAFETY: unshare takes no pointers. CLONE_NEWNET changes only this scratch thread,
            // which ends with this closure.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(Error::last_os("create a network namespace", BE_ROOT));
            }
            let ns = NetNs::open(OF_THREAD)?;
            rtnl::set_link_up("lo")?;
            Ok(ns)
        })?
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<NetNs> {
        NetNs::open(OF_THREAD)
    }

    /// The namespace of another process.
    pub fn from_pid(pid: i32) -> Result<NetNs> {
        NetNs::open(&format!("/proc/{pid}/ns/net"))
    }

    fn open(path: &str) -> Result<NetNs> {
        let file = File::open(path).map_err(|e| {
            Error::os(
                format!("open the network namespace {path}"),
                "check that the process lives, that /proc is mounted, and that the daemon runs as root",
                e,
            )
        })?;
        Ok(NetNs(file.into()))
    }

    /// Runs `f` inside the namespace, on a scratch thread that ends with it, and waits for it.
    /// Sockets and file descriptors that `f` opens stay in the namespace. A panic in `f` is
    /// passed on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        scratch(|| {
            self.enter()?;
            Ok(f())
        })?
    }

    /// Moves the calling thread into the namespace, for good: only for threads of our own.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: setns takes no pointers; the descriptor is open because we own it.
        if unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(Error::last_os("enter the network namespace", BE_ROOT));
        }
        Ok(())
    }

    /// The namespace's descriptor, for `setns` or `IFLA_NET_NS_FD`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A second handle on the same namespace.
    pub fn duplicate(&self) -> Result<NetNs> {
        let fd = self.0.try_clone().map_err(|e| {
            Error::os("duplicate a descriptor", "raise the limit of open files (LimitNOFILE=)", e)
        })?;
        Ok(NetNs(fd))
    }

    /// Device and inode of the namespace: equal for two handles of the same namespace.
    pub fn id(&self) -> Result<(u64, u64)> {
        // SAFETY: all-zero bytes are a valid stat structure.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and `stat` is a live structure of the right type.
        if unsafe { libc::fstat(self.0.as_raw_fd(), &mut stat) } != 0 {
            return Err(Error::last_os("identify the network namespace", BE_ROOT));
        }
        Ok((stat.st_dev, stat.st_ino))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `f` on a thread of its own: the namespace of a thread that runs other work never changes.
pub(crate) fn scratch<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("netns".into()).spawn_scoped(scope, f).map_err(|e| {
                Error::os("start a thread", "raise the limit of tasks (TasksMax= or ulimit -u)", e)
            })?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
