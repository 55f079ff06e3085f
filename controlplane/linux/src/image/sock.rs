//! A TCP socket and the options that images need: the one place with system calls.

use crate::{Error, Result, error::BE_ROOT, nl};
use std::{
    ffi::{c_int, c_void},
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};
use understudy_image::{Options, Window};

pub(super) const TCP: c_int = libc::IPPROTO_TCP;
const SOCK: c_int = libc::SOL_SOCKET;
// include/uapi/linux/tcp.h
pub(super) const MAXSEG: c_int = 2;
pub(super) const CORK: c_int = 3;
pub(super) const NODELAY: c_int = 1;
pub(super) const WINDOW_CLAMP: c_int = 10;
const INFO: c_int = 11;
const CONGESTION: c_int = 13;
const REPAIR: c_int = 19;
const REPAIR_QUEUE: c_int = 20;
const QUEUE_SEQ: c_int = 21;
pub(super) const REPAIR_OPTIONS: c_int = 22;
pub(super) const TIMESTAMP: c_int = 24;
const REPAIR_WINDOW: c_int = 29;
const ULP: c_int = 31;
// include/uapi/asm-generic/socket.h
const BUF_LOCK: c_int = 72;
// include/uapi/linux/sockios.h
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// Which queue repair mode shows.
#[derive(Clone, Copy)]
pub(super) enum Queue {
    None = 0,
    Receive = 1,
    Send = 2,
}

type Slot = fn(&mut Options) -> &mut i32;

/// Integer options that are set back once a socket is otherwise complete: name, level, number.
const INTEGERS: [(&str, c_int, c_int, Slot); 14] = [
    ("SO_KEEPALIVE", SOCK, libc::SO_KEEPALIVE, |o| &mut o.keepalive),
    ("TCP_KEEPIDLE", TCP, libc::TCP_KEEPIDLE, |o| &mut o.keep_idle_s),
    ("TCP_KEEPINTVL", TCP, libc::TCP_KEEPINTVL, |o| &mut o.keep_interval_s),
    ("TCP_KEEPCNT", TCP, libc::TCP_KEEPCNT, |o| &mut o.keep_count),
    ("TCP_USER_TIMEOUT", TCP, libc::TCP_USER_TIMEOUT, |o| &mut o.user_timeout_ms),
    ("TCP_LINGER2", TCP, libc::TCP_LINGER2, |o| &mut o.linger2_s),
    ("TCP_NOTSENT_LOWAT", TCP, libc::TCP_NOTSENT_LOWAT, |o| &mut o.not_sent_low_at),
    ("SO_OOBINLINE", SOCK, libc::SO_OOBINLINE, |o| &mut o.oob_inline),
    ("SO_RCVLOWAT", SOCK, libc::SO_RCVLOWAT, |o| &mut o.rcv_low_at),
    ("SO_PRIORITY", SOCK, libc::SO_PRIORITY, |o| &mut o.priority),
    ("SO_MARK", SOCK, libc::SO_MARK, |o| &mut o.mark),
    ("TCP_WINDOW_CLAMP", TCP, WINDOW_CLAMP, |o| &mut o.window_clamp),
    // Repair mode sets both of these itself: read before, set back after.
    ("SO_REUSEADDR", SOCK, libc::SO_REUSEADDR, |o| &mut o.reuse_address),
    ("SO_REUSEPORT", SOCK, libc::SO_REUSEPORT, |o| &mut o.reuse_port),
];

/// A descriptor of a socket of ours, or shared with the process it came from.
#[derive(Debug)]
pub(super) struct Sock(pub(super) TcpStream);

fn failed(what: &str, source: io::Error) -> Error {
    let advice = match source.raw_os_error() {
        Some(libc::EPERM) => BE_ROOT,
        _ => "check that the kernel has CONFIG_CHECKPOINT_RESTORE or is 4.8 or later",
    };
    Error::os(what, advice, source)
}

impl Sock {
    pub(super) fn new(ipv6: bool) -> Result<Sock> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) };
        if fd < 0 {
            return Err(failed("open a TCP socket", io::Error::last_os_error()));
        }
        // SAFETY: just opened, owned by nobody else.
        Ok(Sock(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    fn raw_get(&self, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
        let mut len = value.len() as libc::socklen_t;
        let at = value.as_mut_ptr().cast::<c_void>();
        // SAFETY: `value` is live and writable for the length that `len` says.
        let done = unsafe { libc::getsockopt(self.0.as_raw_fd(), level, name, at, &mut len) };
        if done == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn raw_set(&self, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
        let at = value.as_ptr().cast::<c_void>();
        let len = value.len() as libc::socklen_t;
        // SAFETY: `value` is live and readable for the length passed.
        let done = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, at, len) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn get(&self, what: &str, level: c_int, name: c_int) -> Result<i32> {
        let mut value = [0; 4];
        // Some options are one byte long when one byte is asked for only: four are always right.
        self.raw_get(level, name, &mut value).map_err(|e| failed(&format!("read {what}"), e))?;
        Ok(i32::from_ne_bytes(value))
    }

    pub(super) fn set(&self, what: &str, level: c_int, name: c_int, value: i32) -> Result<()> {
        let set = self.raw_set(level, name, &value.to_ne_bytes());
        set.map_err(|e| failed(&format!("set {what} to {value}"), e))
    }

    /// Domain, type, protocol.
    pub(super) fn kind(&self) -> Result<(i32, i32, i32)> {
        let get = |name| self.get("the kind of a socket", SOCK, name);
        Ok((get(libc::SO_DOMAIN)?, get(libc::SO_TYPE)?, get(libc::SO_PROTOCOL)?))
    }

    /// `struct tcp_info`, as long as the kernel has it; zeros behind that.
    pub(super) fn info(&self) -> Result<[u8; 256]> {
        let mut info = [0; 256];
        self.raw_get(TCP, INFO, &mut info).map_err(|e| failed("read TCP_INFO", e))?;
        Ok(info)
    }

    pub(super) fn state(&self) -> Result<u8> {
        Ok(self.info()?[0])
    }

    fn name(&self, what: &str, option: c_int) -> Result<String> {
        let mut name = [0; 16];
        let len = self.raw_get(TCP, option, &mut name).map_err(|e| failed(what, e))?;
        Ok(nl::c_str(&name[..len.min(name.len())]))
    }

    /// The protocol above TCP in the kernel, such as `tls`; empty if there is none.
    pub(super) fn upper_layer(&self) -> Result<String> {
        self.name("read TCP_ULP", ULP)
    }

    /// `SO_PEEK_OFF`; negative if it is off, or TCP has none yet (before Linux 6.9).
    pub(super) fn peek_offset(&self) -> i32 {
        self.get("SO_PEEK_OFF", SOCK, libc::SO_PEEK_OFF).unwrap_or(-1)
    }

    pub(super) fn set_peek_offset(&self, offset: i32) -> Result<()> {
        self.set("SO_PEEK_OFF", SOCK, libc::SO_PEEK_OFF, offset)
    }

    pub(super) fn enter_repair(&self) -> Result<()> {
        self.set("TCP_REPAIR", TCP, REPAIR, 1)
    }

    /// Without a segment.
    pub(super) fn leave_repair(&self) -> Result<()> {
        const OFF_NO_PROBE: i32 = -1;
        self.set("TCP_REPAIR", TCP, REPAIR, OFF_NO_PROBE)
    }

    /// With a window probe, if the state is ESTABLISHED: its answer says what the peer has.
    pub(super) fn leave_repair_and_ask(&self) -> Result<()> {
        self.set("TCP_REPAIR", TCP, REPAIR, 0)
    }

    /// From here on the peer's bare acknowledgements are dropped, as if lost: segments with data, a
    /// FIN or a RST pass.
    pub(super) fn deafen(&self) -> Result<()> {
        const FLAGS_AT: u32 = 13;
        const HEADER_LEN_AT: u32 = 12;
        let op =
            |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
        // Classic BPF (Documentation/networking/filter.rst); a packet begins at its TCP header.
        let mut program = [
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_AT, 0, 0),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, super::inject::ACK.into(), 0, 6),
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, HEADER_LEN_AT, 0, 0),
            op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf0, 0, 0),
            op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 2, 0, 0),
            op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
            op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_X, 0, 0, 1),
            op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let at = (&raw const program).cast::<c_void>();
        let len = size_of_val(&program) as libc::socklen_t;
        let fd = self.0.as_raw_fd();
        // SAFETY: the program and its instructions are live; the kernel copies them.
        let done = unsafe { libc::setsockopt(fd, SOCK, libc::SO_ATTACH_FILTER, at, len) };
        if done == 0 {
            return Ok(());
        }
        Err(failed("set SO_ATTACH_FILTER", io::Error::last_os_error()))
    }

    /// Whether the application has given it a filter of its own.
    pub(super) fn has_filter(&self) -> bool {
        // Asked with no room, the kernel answers how many instructions it has.
        self.raw_get(SOCK, libc::SO_GET_FILTER, &mut []).is_ok_and(|count| count > 0)
    }

    /// The end of [`Sock::deafen`].
    pub(super) fn hear(&self) -> Result<()> {
        self.set("SO_DETACH_FILTER", SOCK, libc::SO_DETACH_FILTER, 0)
    }

    pub(super) fn select(&self, queue: Queue) -> Result<()> {
        self.set("TCP_REPAIR_QUEUE", TCP, REPAIR_QUEUE, queue as i32)
    }

    /// The end of the selected queue: `write_seq` or `rcv_nxt`.
    pub(super) fn queue_seq(&self) -> Result<u32> {
        Ok(self.get("TCP_QUEUE_SEQ", TCP, QUEUE_SEQ)? as u32)
    }

    pub(super) fn set_queue_seq(&self, seq: u32) -> Result<()> {
        self.set("TCP_QUEUE_SEQ", TCP, QUEUE_SEQ, seq as i32)
    }

    pub(super) fn window(&self) -> Result<Window> {
        let mut bytes = [0; 20];
        let got = self.raw_get(TCP, REPAIR_WINDOW, &mut bytes);
        got.map_err(|e| failed("read TCP_REPAIR_WINDOW", e))?;
        let word = |at| nl::u32_at(&bytes, at).unwrap_or(0);
        Ok(Window {
            snd_wl1: word(0),
            snd_wnd: word(4),
            max_window: word(8),
            rcv_wnd: word(12),
            rcv_wup: word(16),
        })
    }

    pub(super) fn set_window(&self, w: &Window) -> Result<()> {
        let words = [w.snd_wl1, w.snd_wnd, w.max_window, w.rcv_wnd, w.rcv_wup];
        let bytes = words.map(u32::to_ne_bytes).concat();
        let set = self.raw_set(TCP, REPAIR_WINDOW, &bytes);
        set.map_err(|e| failed("set TCP_REPAIR_WINDOW", e))
    }

    fn count(&self, what: &str, request: libc::Ioctl) -> Result<u32> {
        let mut count: c_int = 0;
        // SAFETY: these requests write one int, to a live one.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut count) };
        if done != 0 {
            return Err(failed(what, io::Error::last_os_error()));
        }
        Ok(count as u32)
    }

    /// Bytes received and not read.
    pub(super) fn unread(&self) -> Result<u32> {
        self.count("count unread bytes", libc::FIONREAD)
    }

    /// Bytes written and not acknowledged, and those of them not sent; a FIN counts as one.
    pub(super) fn unacked(&self) -> Result<(u32, u32)> {
        let all = self.count("count unacknowledged bytes", libc::TIOCOUTQ)?;
        Ok((all, self.count("count unsent bytes", SIOCOUTQNSD)?))
    }

    /// Reads up to `len` bytes of the selected queue into `room`, and leaves the queue as it is.
    pub(super) fn peek<'a>(&self, room: &'a mut Vec<u8>, len: usize) -> Result<&'a [u8]> {
        if room.len() < len {
            room.resize(len, 0);
        }
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: the buffer is live and writable for the length passed.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), room.as_mut_ptr().cast(), len, flags) };
        let Ok(got) = usize::try_from(got) else {
            return Err(failed("read a queue", io::Error::last_os_error()));
        };
        Ok(&room[..got])
    }

    /// Puts all of it into the queue, at once.
    pub(super) fn put(&self, what: &str, mut bytes: &[u8]) -> Result<()> {
        /// The kernel takes no more at once than it finds memory for in one piece.
        const PIECE: usize = 32 * 1024;
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(PIECE)];
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the buffer is live and readable for the length passed.
            let put = unsafe {
                libc::send(self.0.as_raw_fd(), piece.as_ptr().cast(), piece.len(), flags)
            };
            let Ok(put) = usize::try_from(put) else {
                return Err(failed(
                    &format!("put {what} into a socket"),
                    io::Error::last_os_error(),
                ));
            };
            bytes = &bytes[put..];
        }
        Ok(())
    }

    /// What `poll` says, without waiting.
    pub(super) fn ready(&self, events: libc::c_short) -> libc::c_short {
        let mut polled = libc::pollfd { fd: self.0.as_raw_fd(), events, revents: 0 };
        // SAFETY: one live pollfd, and the count is one.
        unsafe { libc::poll(&mut polled, 1, 0) };
        polled.revents & events
    }

    /// Binds (`connect` false) or connects.
    pub(super) fn join(&self, addr: SocketAddr, connect: bool) -> Result<()> {
        let (storage, len) = raw_address(addr);
        let at = (&raw const storage).cast();
        let fd = self.0.as_raw_fd();
        // SAFETY: `storage` holds a socket address of the length passed.
        let done =
            unsafe { if connect { libc::connect(fd, at, len) } else { libc::bind(fd, at, len) } };
        if done == 0 {
            return Ok(());
        }
        let what = if connect { format!("go on to {addr}") } else { format!("be {addr}") };
        Err(Error::last_os(
            what,
            "restore where the address is, with a route to the peer, and once only",
        ))
    }

    /// Ends a connection in repair mode without a segment; other descriptors of it see an error.
    pub(super) fn abandon(&self) -> Result<()> {
        // SAFETY: all-zero bytes are a valid address; its family is AF_UNSPEC, 0.
        let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
        let len = size_of_val(&nowhere) as libc::socklen_t;
        // SAFETY: `nowhere` is a live address of the length passed.
        let done = unsafe { libc::connect(self.0.as_raw_fd(), &nowhere, len) };
        if done == 0 {
            return Ok(());
        }
        Err(failed("end a connection silently", io::Error::last_os_error()))
    }

    pub(super) fn options(&self, ipv6: bool) -> Result<Options> {
        let mut options = Options {
            congestion: self.name("read TCP_CONGESTION", CONGESTION)?,
            no_delay: self.get("TCP_NODELAY", TCP, NODELAY)?,
            cork: self.get("TCP_CORK", TCP, CORK)?,
            snd_buf: self.get("SO_SNDBUF", SOCK, libc::SO_SNDBUF)?,
            rcv_buf: self.get("SO_RCVBUF", SOCK, libc::SO_RCVBUF)?,
            buf_lock: self.get("SO_BUF_LOCK", SOCK, BUF_LOCK)?,
            linger_s: self.linger()?,
            rcv_timeout_us: self.timeout(libc::SO_RCVTIMEO)?,
            snd_timeout_us: self.timeout(libc::SO_SNDTIMEO)?,
            non_blocking: self.is_non_blocking()?,
            ..Options::default()
        };
        for (what, level, name, slot) in INTEGERS.into_iter().chain(by_family(ipv6)) {
            *slot(&mut options) = self.get(what, level, name)?;
        }
        Ok(options)
    }

    /// Sets what differs, so that a default stays one. Neither buffers nor what holds bytes back.
    pub(super) fn set_options(&self, ipv6: bool, wanted: &Options) -> Result<()> {
        let mut wanted = wanted.clone();
        for (what, level, name, slot) in INTEGERS.into_iter().chain(by_family(ipv6)) {
            let value = *slot(&mut wanted);
            if self.get(what, level, name)? != value {
                self.set(what, level, name, value)?;
            }
        }
        if let Some(seconds) = wanted.linger_s {
            let value = [1i32, seconds].map(i32::to_ne_bytes).concat();
            let set = self.raw_set(SOCK, libc::SO_LINGER, &value);
            set.map_err(|e| failed("set SO_LINGER", e))?;
        }
        for (name, us) in
            [(libc::SO_RCVTIMEO, wanted.rcv_timeout_us), (libc::SO_SNDTIMEO, wanted.snd_timeout_us)]
        {
            let value = [us / 1_000_000, us % 1_000_000].map(u64::to_ne_bytes).concat();
            self.raw_set(SOCK, name, &value).map_err(|e| failed("set a socket's timeout", e))?;
        }
        Ok(())
    }

    pub(super) fn set_congestion(&self, name: &str) -> Result<()> {
        if self.name("read TCP_CONGESTION", CONGESTION)? == name {
            return Ok(());
        }
        self.raw_set(TCP, CONGESTION, name.as_bytes()).map_err(|e| {
            let advice = format!("load the module tcp_{name} on this machine");
            Error::os(format!("use the congestion control \"{name}\""), advice, e)
        })
    }

    /// Room for everything, whatever the limits of the machine.
    pub(super) fn widen(&self, send: usize, receive: usize) -> Result<()> {
        let room = |bytes: usize| i32::try_from(bytes * 2 + 256 * 1024).unwrap_or(i32::MAX / 2);
        self.set("SO_SNDBUFFORCE", SOCK, libc::SO_SNDBUFFORCE, room(send))?;
        self.set("SO_RCVBUFFORCE", SOCK, libc::SO_RCVBUFFORCE, room(receive))
    }

    /// Buffers as they were. The kernel doubles what it is given.
    pub(super) fn set_buffers(&self, wanted: &Options) -> Result<()> {
        self.set("SO_SNDBUFFORCE", SOCK, libc::SO_SNDBUFFORCE, wanted.snd_buf / 2)?;
        self.set("SO_RCVBUFFORCE", SOCK, libc::SO_RCVBUFFORCE, wanted.rcv_buf / 2)?;
        self.set("SO_BUF_LOCK", SOCK, BUF_LOCK, wanted.buf_lock)
    }

    fn linger(&self) -> Result<Option<i32>> {
        let mut value = [0; 8];
        self.raw_get(SOCK, libc::SO_LINGER, &mut value).map_err(|e| failed("read SO_LINGER", e))?;
        let word = |at| nl::i32_at(&value, at).unwrap_or(0);
        Ok((word(0) != 0).then_some(word(4)))
    }

    fn timeout(&self, name: c_int) -> Result<u64> {
        let mut value = [0; 16];
        let got = self.raw_get(SOCK, name, &mut value);
        got.map_err(|e| failed("read a socket's timeout", e))?;
        let word = |at| nl::u64_at(&value, at).unwrap_or(0);
        Ok(word(0).saturating_mul(1_000_000).saturating_add(word(8)))
    }

    fn is_non_blocking(&self) -> Result<bool> {
        // SAFETY: takes plain numbers; the descriptor is open.
        let flags = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(failed("read a socket's flags", io::Error::last_os_error()));
        }
        Ok(flags & libc::O_NONBLOCK != 0)
    }
}

fn by_family(ipv6: bool) -> [(&'static str, c_int, c_int, Slot); 2] {
    let (level, class, hops) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL)
    };
    [
        ("the traffic class", level, class, |o| &mut o.traffic_class),
        ("the hop limit", level, hops, |o| &mut o.hops),
    ]
}

/// A socket address as the kernel takes it.
pub(super) fn raw_address(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = match addr {
        SocketAddr::V4(a) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room and alignment for every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of_val(&raw)
        }
        SocketAddr::V6(a) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: a.port().to_be(),
                sin6_flowinfo: a.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                sin6_scope_id: a.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of_val(&raw)
        }
    };
    (storage, len as libc::socklen_t)
}
