//! The few system calls std has no name for; all unsafe code of the lab is here.

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// Wall clock in ns since 1970: the one time base of ledgers, captures and the daemon's timeline.
pub fn unix_ns() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos() as u64)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves the calling thread, and nothing else, into a network namespace.
fn enter_netns(netns: &Path) -> io::Result<()> {
    let file = File::open(netns)?;
    // SAFETY: the descriptor is open for the call; setns reads nothing else.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Runs `work` on a thread of its own inside a network namespace and waits for it.
pub fn in_netns<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| enter_netns(netns).map(|()| work()));
        match inside.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Starts `work` on a named thread inside a network namespace.
pub fn spawn_in_netns<T: Send + 'static>(
    netns: &Path,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<io::Result<T>>> {
    let netns = netns.to_path_buf();
    thread::Builder::new()
        .name(name.to_string())
        .spawn(move || enter_netns(&netns).map(|()| work()))
}

/// Lets this process have so many files open.
///
/// # Errors
/// If the hard limit is lower, and may not be raised.
pub fn allow_open_files(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is of the type that is written.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= count {
        return Ok(());
    }
    limit.rlim_cur = count;
    limit.rlim_max = limit.rlim_max.max(count);
    // SAFETY: reads `limit`, which lives.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Sends a signal to one process. A process that is gone is not an error.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid)
        .ok()
        .filter(|&pid| pid > 1)
        .ok_or_else(|| io::Error::other("refusing to signal pid 0 or 1"))?;
    // SAFETY: plain values; the pid is checked above, so neither a group nor everyone is meant.
    match check(unsafe { libc::kill(pid, signal) }) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// One thread of another process, stopped; its others run on. It goes on when this is dropped.
///
/// Only the thread that stopped it may let it go on.
pub struct StoppedThread {
    tid: libc::pid_t,
    not_send: std::marker::PhantomData<*const ()>,
}

impl StoppedThread {
    /// Stops a thread; gives it back once it stands.
    pub fn stop(tid: u32) -> io::Result<Self> {
        let tid = libc::pid_t::try_from(tid).map_err(io::Error::other)?;
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: seizing takes plain values and changes nothing in this process.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, none, none) } as libc::c_int)?;
        let stopped = Self { tid, not_send: std::marker::PhantomData };
        // SAFETY: as above; the thread is traced by this one.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none) } as libc::c_int)?;
        let mut status = 0;
        // SAFETY: `status` is a live integer, and the thread is traced by this one.
        check(unsafe { libc::waitpid(tid, &mut status, libc::__WALL) })?;
        Ok(stopped)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the thread is traced by this one, which the type cannot leave, and stands still.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.tid, none, none) };
    }
}

/// Tries to take an exclusive lock on an open file; false when another holds it.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for the call.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// What `poll_fds` reports of one descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, an end of stream or an error can be read.
    pub readable: bool,
    /// The send buffer has room.
    pub writable: bool,
}

/// Waits until one of the descriptors is ready; `want` says (read, write) for each.
pub fn poll_fds(fds: &[(RawFd, bool, bool)], wait: Duration) -> io::Result<Vec<Readiness>> {
    let mut set: Vec<libc::pollfd> = fds
        .iter()
        .map(|&(fd, read, write)| libc::pollfd {
            fd,
            events: if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 },
            revents: 0,
        })
        .collect();
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the count describe `set`, which lives through the call.
    let count = unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, wait_ms) };
    match check(count) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
        _ => {}
    }
    let broken = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    Ok(set
        .iter()
        .map(|entry| Readiness {
            readable: entry.revents & (libc::POLLIN | broken) != 0,
            writable: entry.revents & (libc::POLLOUT | broken) != 0,
        })
        .collect())
}

/// Waits until one of the descriptors can be read, or for `wait`, to the ns.
pub fn wait_readable(fds: &[RawFd], wait: Duration) -> io::Result<()> {
    let entry = |&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut set: Vec<libc::pollfd> = fds.iter().map(entry).collect();
    let wait = libc::timespec {
        tv_sec: wait.as_secs() as libc::time_t,
        tv_nsec: wait.subsec_nanos().into(),
    };
    let count = set.len() as libc::nfds_t;
    // SAFETY: the pointer and the count describe `set`, which lives through the call, as does
    // `wait`; no signal mask is given.
    match check(unsafe { libc::ppoll(set.as_mut_ptr(), count, &raw const wait, std::ptr::null()) })
    {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// The write end of the pipe that wakes the watcher of `on_interrupt`.
static INTERRUPT_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    let fd = INTERRUPT_PIPE.load(Ordering::Relaxed);
    // SAFETY: write is async-signal-safe; the byte outlives the call; the pipe is never closed.
    unsafe { libc::write(fd, [1u8].as_ptr().cast(), 1) };
}

/// Runs `cleanup` on a thread of its own at SIGINT, SIGTERM or SIGHUP, then exits with 130.
pub fn on_interrupt(cleanup: fn()) -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| outcome = watch_interrupts(cleanup));
    outcome
}

fn watch_interrupts(cleanup: fn()) -> io::Result<()> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    INTERRUPT_PIPE.store(ends[1], Ordering::Relaxed);
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let mut wake = unsafe { File::from_raw_fd(ends[0]) };
    thread::Builder::new().name("lab-interrupt".into()).spawn(move || {
        let _ = io::Read::read(&mut wake, &mut [0]);
        cleanup();
        std::process::exit(130);
    })?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all-zero is a valid sigaction; its parts are set below.
        let mut action: libc::sigaction = unsafe { zeroed() };
        action.sa_sigaction = note_interrupt as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: `action` is initialised and the handler is async-signal-safe.
        check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    }
    Ok(())
}

/// Bytes kept of one captured frame: every header, and the start of the payload.
pub const SNAP_BYTES: usize = 1600;
const BATCH: usize = 32;
const CONTROL_WORDS: usize = 16;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A raw socket on one interface of the calling thread's network namespace.
pub struct PacketSocket {
    fd: OwnedFd,
    buffers: Vec<[u8; SNAP_BYTES]>,
}

impl PacketSocket {
    /// Opens the socket. With `ignore_outgoing` it sees only what arrives at the interface.
    pub fn open(interface: &str, ignore_outgoing: bool) -> io::Result<Self> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 until bound: nothing of other interfaces gets in.
        // SAFETY: plain values.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor is fresh and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        set_option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, ignore_outgoing.into())?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 96 << 20)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = interface_index(interface)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe `address`.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self { fd, buffers: vec![[0; SNAP_BYTES]; BATCH] })
    }

    /// Sends one whole Ethernet frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length describe `frame`.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent == frame.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends whole Ethernet frames; gives the number of those the interface did not take.
    pub fn send_all(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<u64> {
        let mut refused = 0;
        for batch in frames.chunks(BATCH) {
            let mut at = 0;
            while at < batch.len() {
                match self.send_batch(&batch[at..]) {
                    Ok(count) => at += count,
                    // The first of them: a cut cable, or no memory just now.
                    Err(error) if is_passing(&error) || is_refusal(&error) => {
                        (refused, at) = (refused + 1, at + 1);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(refused)
    }

    /// Sends some of these frames, at least the first.
    fn send_batch(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        let mut vectors: Vec<libc::iovec> = frames
            .iter()
            .map(AsRef::as_ref)
            // The kernel only reads what a vector to send points at.
            .map(|f| libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() })
            .collect();
        // SAFETY: all-zero is a valid mmsghdr.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (header, vector) in headers.iter_mut().zip(&mut vectors) {
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = frames.len().min(BATCH) as u32;
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the first `count` headers point at one vector each, and these at frames that
        // outlive the call.
        let sent =
            unsafe { libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count, flags as _) };
        check(sent).map(|count| count as usize)
    }

    /// Hands every waiting frame of one batch to `sink` as (unix ns, length on the wire, bytes).
    pub fn receive(&mut self, mut sink: impl FnMut(u64, usize, &[u8])) -> io::Result<usize> {
        let mut controls = [[0u64; CONTROL_WORDS]; BATCH];
        let mut vectors: Vec<libc::iovec> = self
            .buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: SNAP_BYTES })
            .collect();
        // SAFETY: all-zero is a valid mmsghdr.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((header, vector), control) in headers.iter_mut().zip(&mut vectors).zip(&mut controls) {
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of_val(control) as _;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: every header points at one vector and one control buffer that outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            // A cut cable is told once, as an error; the socket goes on when it is whole again.
            Err(error) if is_passing(&error) => 0,
            Err(error) => return Err(error),
        };
        for (header, buffer) in headers[..count].iter().zip(&self.buffers) {
            let length = header.msg_len as usize;
            sink(timestamp_of(&header.msg_hdr), length, &buffer[..length.min(SNAP_BYTES)]);
        }
        Ok(count)
    }

    /// Frames the kernel dropped for want of room since the last call.
    pub fn drops(&self) -> io::Result<u64> {
        let mut stats = [0u32; 2];
        let mut length = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: `stats` has the layout of tpacket_stats (two u32) and `length` says its size.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &mut length,
            )
        })?;
        Ok(stats[1].into())
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENETDOWN)
}

fn is_refusal(error: &io::Error) -> bool {
    let codes = [libc::ENOBUFS, libc::ENXIO, libc::EMSGSIZE];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn timestamp_of(header: &libc::msghdr) -> u64 {
    // SAFETY: the kernel filled `header`, and its control buffer is alive in the caller.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    for _ in 0..8 {
        if control.is_null() {
            break;
        }
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header inside the buffer.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_TIMESTAMPNS {
            // SAFETY: the data of this message is a timespec, perhaps unaligned.
            let time: libc::timespec =
                unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(control).cast()) };
            return time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        }
        // SAFETY: as above.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    unix_ns()
}

fn set_option(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length)
    })
    .map(drop)
}

fn interface_index(interface: &str) -> io::Result<libc::c_int> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: `name` is a valid C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index as libc::c_int),
    }
}

/// Sets an interface of the calling thread's network namespace up or down (netdevice(7)): a program
/// started for it would be late by milliseconds.
pub fn set_link_up(interface: &str, up: bool) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: reads the name in `request`, which ends with 0, and writes its flags.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the call above wrote the flags.
    let flags = unsafe { &mut request.ifr_ifru.ifru_flags };
    let is_up = libc::IFF_UP as libc::c_short;
    *flags = if up { *flags | is_up } else { *flags & !is_up };
    // SAFETY: reads `request`, which lives.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) })
        .map(drop)
}

/// Makes the close of a TCP socket send RST at once, as a client that dies does.
pub fn close_with_reset(stream: &impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `linger`.
    check(unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    })
    .map(drop)
}
