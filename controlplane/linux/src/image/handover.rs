//! Giving connections to an application that takes them so.
//!
//! The application listens on a Unix socket of type `SOCK_SEQPACKET`. For each connection it gets
//! one message: the line `understudy-socket 1 LOCAL REMOTE\n` (addresses as `10.0.0.1:80` or
//! `[fd00::1]:80`), with exactly one descriptor (`SCM_RIGHTS`): the TCP socket, connected, to be
//! used as one that `accept` returned. It answers each with one message, `ok\n`, or
//! `error REASON\n`, after which it must have closed the descriptor. Connections go over one
//! after another; the end of the Unix socket is the end of the handover.

use crate::{Error, Result};
use std::{
    ffi::c_int,
    io,
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

const GREETING: &str = "understudy-socket 1";
/// Longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 512;
const RETRY: &str = "check that the application takes connections on that socket, and its log";

/// The giver's end.
#[derive(Debug)]
pub struct Giver(OwnedFd);

/// The application's listening end.
#[derive(Debug)]
pub struct Taker(OwnedFd);

/// The application's end of one handover.
#[derive(Debug)]
pub struct Taking(OwnedFd);

/// A connection that was handed over.
#[derive(Debug)]
pub struct Taken {
    /// The connection.
    pub socket: TcpStream,
    /// Its own address.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
}

fn failed(what: &str) -> impl Fn(io::Error) -> Error {
    move |e| Error::os(what, RETRY, e)
}

impl Giver {
    /// Connects to the application; each answer may take up to `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Giver> {
        let what = format!("hand connections over at {}", path.display());
        let fd = open(path, |fd, addr, len| {
            // SAFETY: `open` passes a live address and its length.
            unsafe { libc::connect(fd, addr, len) }
        })
        .map_err(failed(&what))?;
        let limit = [timeout.as_secs(), timeout.subsec_micros().into()].map(u64::to_ne_bytes);
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            set_timeout(&fd, option, &limit.concat()).map_err(failed(&what))?;
        }
        Ok(Giver(fd))
    }

    /// Hands one connection over and waits for the answer. The caller's descriptor stays open.
    ///
    /// # Errors
    /// If the application refuses, does not answer in time, or is gone.
    pub fn give(&self, socket: &TcpStream) -> Result<()> {
        let what = failed("hand a connection over");
        let (local, remote) =
            (socket.local_addr().map_err(&what)?, socket.peer_addr().map_err(&what)?);
        let line = format!("{GREETING} {local} {remote}\n");
        send(&self.0, line.as_bytes(), Some(socket.as_raw_fd())).map_err(&what)?;
        let (answer, _) = receive(&self.0).map_err(&what)?;
        match answer.as_str() {
            "ok\n" => Ok(()),
            "" => Err(Error::HandoverRefused { remote, reason: "it is gone".into() }),
            other => {
                let reason = other.trim().strip_prefix("error ").unwrap_or("not an answer");
                Err(Error::HandoverRefused { remote, reason: reason.into() })
            }
        }
    }
}

impl Taker {
    /// Listens at a path that does not exist yet.
    pub fn bind(path: &Path) -> Result<Taker> {
        let what = format!("take connections at {}", path.display());
        let fd = open(path, |fd, addr, len| {
            // SAFETY: `open` passes a live address and its length.
            if unsafe { libc::bind(fd, addr, len) } != 0 {
                return -1;
            }
            // SAFETY: takes plain numbers.
            unsafe { libc::listen(fd, 4) }
        });
        fd.map(Taker).map_err(failed(&what))
    }

    /// Waits for somebody who hands connections over.
    pub fn accept(&self) -> Result<Taking> {
        let null = std::ptr::null_mut();
        // SAFETY: the peer's address is not asked for.
        let fd = unsafe {
            libc::accept4(self.0.as_raw_fd(), null, std::ptr::null_mut(), libc::SOCK_CLOEXEC)
        };
        if fd < 0 {
            return Err(Error::last_os("accept a handover", RETRY));
        }
        // SAFETY: just made, owned by nobody else.
        Ok(Taking(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Taking {
    /// The next connection, already answered; `None` when there are no more.
    ///
    /// # Errors
    /// If what comes is no connection; the giver is told so.
    pub fn take(&self) -> Result<Option<Taken>> {
        let what = failed("take a connection over");
        let (line, fd) = receive(&self.0).map_err(&what)?;
        if line.is_empty() && fd.is_none() {
            return Ok(None);
        }
        let Some(taken) = fd.and_then(|fd| parse(&line, fd)) else {
            send(&self.0, b"error not a connection\n", None).map_err(&what)?;
            let e = io::Error::new(io::ErrorKind::InvalidData, "not a connection");
            return Err(what(e));
        };
        send(&self.0, b"ok\n", None).map_err(&what)?;
        Ok(Some(taken))
    }
}

fn parse(line: &str, fd: OwnedFd) -> Option<Taken> {
    let mut words = line.strip_prefix(GREETING)?.strip_suffix('\n')?.split_ascii_whitespace();
    let (local, remote) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then(|| Taken { socket: fd.into(), local, remote })
}

fn open(
    path: &Path,
    join: impl FnOnce(RawFd, *const libc::sockaddr, libc::socklen_t) -> c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= addr.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path of 1 to 107 bytes"));
    }
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = size_of_val(&addr) as libc::socklen_t;
    if join(fd.as_raw_fd(), (&raw const addr).cast(), len) != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn set_timeout(fd: &OwnedFd, option: c_int, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: `value` is live and of the length passed.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value.as_ptr().cast(), len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Room for the control message of some descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn send(to: &OwnedFd, bytes: &[u8], fd: Option<RawFd>) -> io::Result<()> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: computes a length: room for one header and one descriptor, below 64 bytes.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
        // SAFETY: the control buffer is live, aligned and long enough for the header and the
        // descriptor written behind it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        }
    }
    // SAFETY: `message` refers to live buffers of the lengths it says; nothing is written to them.
    let sent = unsafe { libc::sendmsg(to.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
    if sent == bytes.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One message and the first descriptor that came with it; others are closed.
fn receive(from: &OwnedFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut bytes = [0u8; MESSAGE_BYTES_MAX];
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: `message` refers to live, writable buffers of the lengths it says.
    let got = unsafe { libc::recvmsg(from.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
    let mut first = None;
    // SAFETY: the kernel filled the control buffer up to msg_controllen.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie whole in the buffer.
        let (level, kind, len) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: computes a length.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            for at in 0..(len - head) / size_of::<RawFd>() {
                // SAFETY: cmsg_len says that the descriptors lie in the buffer, and each is new
                // and ours.
                let fd = unsafe {
                    let data = libc::CMSG_DATA(header).cast::<RawFd>();
                    OwnedFd::from_raw_fd(data.add(at).read_unaligned())
                };
                first.get_or_insert(fd);
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok((String::from_utf8_lossy(&bytes[..got]).into_owned(), first))
}
