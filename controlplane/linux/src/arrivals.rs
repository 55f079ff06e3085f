//! Sleeping until a frame comes, where drivers receive by sockets of the kernel's: `net_af_packet`, `net_af_xdp`.
//!
//! A driver keeps its sockets to itself; they are found among the process's descriptors. The kernel calls a packet
//! socket readable while the newest frame of its ring was not taken (`packet_poll` in `net/packet/af_packet.c`),
//! which is what the driver looks at, too.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::poll::{self, readable};
use crate::wake::Waker;
use crate::{Error, Result, rtnl};

const FILES: &str = "raise the limit of open files (LimitNOFILE=)";

const AF_PACKET: u64 = libc::AF_PACKET as u64;
const AF_XDP: u64 = libc::AF_XDP as u64;

/// What a thread that has nothing to do waits for: frames, and to be woken.
#[derive(Debug)]
pub struct Arrivals {
    waker: Waker,
    sockets: Vec<Socket>,
    /// The waker, then the sockets.
    polled: Vec<libc::pollfd>,
}

/// A descriptor of ours of a driver's socket.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    inode: u64,
}

impl Arrivals {
    /// Waits for the waker alone.
    pub fn new(waker: Waker) -> Arrivals {
        let polled = vec![readable(waker.as_fd().as_raw_fd())];
        Arrivals { waker, sockets: Vec::new(), polled }
    }

    /// Waits for frames of this interface of the thread's network namespace from now on, too: by the packet sockets
    /// of this process that are bound to it. An AF_XDP socket cannot be asked what it is bound to: every one counts.
    /// Gives how many are new.
    ///
    /// # Errors
    /// If there is no such interface, or the process's descriptors cannot be listed.
    pub fn watch(&mut self, interface: &str) -> Result<usize> {
        let before = self.sockets.len();
        let index = rtnl::link_index(interface)?;
        // Interfaces of two namespaces may have the same index.
        let any = UnixDatagram::unbound().map_err(|e| Error::os("make a socket", FILES, e))?;
        let here = socket_option(any.as_raw_fd(), libc::SO_NETNS_COOKIE);
        let listed = std::fs::read_dir("/proc/self/fd")
            .map_err(|e| Error::os("list this process's descriptors", "mount /proc", e))?;
        for entry in listed.flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // A copy first: another thread may close the descriptor at any moment.
            let Some(fd) = number.and_then(duplicate) else { continue };
            let is_here = socket_option(fd.as_raw_fd(), libc::SO_NETNS_COOKIE) == here;
            if is_here && receives_from(fd.as_raw_fd(), index) {
                self.add(fd);
            }
        }
        Ok(self.sockets.len() - before)
    }

    fn add(&mut self, fd: OwnedFd) {
        let file = File::from(fd);
        let Ok(inode) = file.metadata().map(|metadata| metadata.ino()) else { return };
        if self.sockets.iter().all(|socket| socket.inode != inode) {
            self.polled.push(readable(file.as_raw_fd()));
            self.sockets.push(Socket { fd: file.into(), inode });
        }
    }

    /// Returns when a frame has come or the thread is woken, at once if that was before, or after `timeout`. True if
    /// something had come.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        if poll::wait(&mut self.polled, timeout).is_err() {
            std::thread::sleep(timeout);
            return false;
        }
        let woken = self.polled[0].revents != 0;
        if woken {
            self.waker.drain();
        }
        let has = |bits| self.polled[1..].iter().any(|polled| polled.revents & bits != 0);
        let (came, failed) = (has(libc::POLLIN), has(!libc::POLLIN));
        if failed {
            // An interface that goes down leaves an error, and every wait ends at once until that is read.
            for socket in &self.sockets {
                let _ = socket_option(socket.fd.as_raw_fd(), libc::SO_ERROR);
            }
            if !woken && !came {
                std::thread::sleep(timeout);
            }
        }
        woken || came
    }
}

fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: plain arguments; a number that is no descriptor is refused.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    // SAFETY: `copy` was just made and is nobody else's.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// An option of a socket: a number of 4 or 8 bytes.
fn socket_option(fd: RawFd, option: libc::c_int) -> Option<u64> {
    let mut value = [0u8; 8];
    let mut len = value.len() as libc::socklen_t;
    let out = value.as_mut_ptr().cast();
    // SAFETY: value and length are live and writable, and the length is the value's.
    let code = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, out, &raw mut len) };
    match (code, value.first_chunk()) {
        (0, Some(number)) if len == 4 => Some(u32::from_ne_bytes(*number).into()),
        (0, _) if len == 8 => Some(u64::from_ne_bytes(value)),
        _ => None,
    }
}

fn receives_from(fd: RawFd, index: u32) -> bool {
    match socket_option(fd, libc::SO_DOMAIN) {
        Some(AF_XDP) => true,
        Some(AF_PACKET) => bound_to(fd) == Some(index),
        _ => false,
    }
}

/// The interface of a packet socket.
fn bound_to(fd: RawFd) -> Option<u32> {
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut bound: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: address and length are live and writable, and the length is the address's.
    let code = unsafe { libc::getsockname(fd, (&raw mut bound).cast(), &raw mut len) };
    (code == 0).then(|| u32::try_from(bound.sll_ifindex).ok()).flatten()
}
