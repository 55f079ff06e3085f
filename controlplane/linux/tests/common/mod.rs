//! What the root-only tests share: namespaces, a packet socket and a small frame builder.
#![allow(dead_code)]

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use understudy_linux::{
    netns::NetNs,
    poll_fds,
    rtnl::{self, VethSpec},
};

pub const LIMIT: Duration = Duration::from_secs(3);
pub const VMAC: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x07];
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Whether the test may run. Says why not, or fails if root is required.
pub fn root() -> bool {
    // SAFETY: geteuid takes and returns plain numbers.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    assert!(
        std::env::var("UNDERSTUDY_REQUIRE_ROOT").as_deref() != Ok("1"),
        "UNDERSTUDY_REQUIRE_ROOT=1 but the tests do not run as root"
    );
    eprintln!("skipped: needs root for network namespaces");
    false
}

/// A name unique to this process and call, short enough for an interface.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `done` holds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A capsule joined to a namespace that stands for the dataplane. Both vanish with the value.
pub struct Lab {
    pub outside: NetNs,
    pub capsule: NetNs,
    pub outer: String,
    pub server: IpAddr,
    pub client: IpAddr,
    pub wire: Wire,
}

impl Lab {
    pub fn new(v6: bool) -> Lab {
        let (server, client, gateway): (IpAddr, IpAddr, IpAddr) = if v6 {
            ("fd77::1".parse().unwrap(), "fd77::2".parse().unwrap(), "fd77::fe".parse().unwrap())
        } else {
            let parse = |s: &str| s.parse().unwrap();
            (parse("10.77.0.1"), parse("10.77.0.2"), parse("10.77.0.254"))
        };
        let outside = NetNs::create().unwrap();
        let capsule = NetNs::create().unwrap();
        let outer = unique("u");
        let spec = VethSpec { outer: &outer, inner: "app0", inner_mac: VMAC, mtu: 1500 };
        outside.run(|| rtnl::create_veth(&capsule, &spec)).unwrap().unwrap();
        let prefix = if v6 { 64 } else { 24 };
        rtnl::configure_capsule(&capsule, "app0", &[(server, prefix)], &[gateway]).unwrap();
        let mac = CLIENT_MAC.map(|b| format!("{b:02x}")).join(":");
        let status = capsule
            .run(|| {
                Command::new("ip")
                    .args(["neigh", "replace", &client.to_string(), "lladdr", &mac])
                    .args(["dev", "app0", "nud", "permanent"])
                    .status()
            })
            .unwrap()
            .expect("the tests need ip (Debian package iproute2)");
        assert!(status.success());
        let wire = outside.run(|| Wire::open(&outer)).unwrap();
        Lab { outside, capsule, outer, server, client, wire }
    }

    pub fn listen(&self, addr: SocketAddr) -> TcpListener {
        let listener = self.capsule.run(|| TcpListener::bind(addr)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }
}

/// Accepts one connection, or fails after a while.
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let end = Instant::now() + LIMIT;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                return (stream, peer);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < end, "nothing to accept");
                poll_fds(&[listener.as_fd()], Duration::from_millis(100)).unwrap();
            }
            Err(e) => panic!("accept: {e}"),
        }
    }
}

/// A raw packet socket on one interface.
pub struct Wire(OwnedFd);

impl Wire {
    fn open(dev: &str) -> Wire {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket takes no pointers; the descriptor is checked below.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all.into())
        };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = all;
        addr.sll_ifindex = rtnl::link_index(dev).unwrap() as i32;
        // SAFETY: `addr` is a live sockaddr_ll of the length passed.
        let done = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const addr).cast(),
                size_of_val(&addr) as libc::socklen_t,
            )
        };
        assert_eq!(done, 0, "bind: {}", io::Error::last_os_error());
        Wire(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is live and of the length passed.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }

    fn receive(&self, limit: Duration) -> Option<Vec<u8>> {
        if !poll_fds(&[self.0.as_fd()], limit).unwrap()[0] {
            return None;
        }
        let mut frame = vec![0; 65536];
        // SAFETY: the buffer is live and of the length passed.
        let len = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
            )
        };
        frame.truncate(usize::try_from(len).ok()?);
        Some(frame)
    }

    /// The next TCP frame from the capsule for which `wanted` holds.
    pub fn expect(&self, what: &str, mut wanted: impl FnMut(&Tcp) -> bool) -> Tcp {
        let end = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no frame: {what}; saw {seen:#?}");
            let Some(tcp) = self.receive(left).and_then(|frame| Tcp::parse(&frame)) else {
                continue;
            };
            if wanted(&tcp) {
                return tcp;
            }
            seen.push(tcp);
        }
    }

    /// Every TCP frame that arrives within `time`.
    pub fn collect(&self, time: Duration) -> Vec<Tcp> {
        let end = Instant::now() + time;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return seen;
            }
            seen.extend(self.receive(left).and_then(|frame| Tcp::parse(&frame)));
        }
    }
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// A TCP segment over IPv4 or IPv6.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub timestamps: Option<(u32, u32)>,
    pub payload: Vec<u8>,
}

fn sum(mut total: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    total
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn tcp_sum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let total = sum(6 + segment.len() as u32, &octets(from));
    fold(sum(sum(total, &octets(to)), segment))
}

impl Tcp {
    pub fn new(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) -> Tcp {
        Tcp { from, to, seq, ack, flags, window: 502, timestamps: None, payload: Vec::new() }
    }

    pub fn times(mut self, tsval: u32, tsecr: u32) -> Tcp {
        self.timestamps = Some((tsval, tsecr));
        self
    }

    pub fn data(mut self, payload: &[u8]) -> Tcp {
        self.payload = payload.to_vec();
        self
    }

    /// The frame from the client to the capsule, with valid checksums.
    pub fn frame(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.seq.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        let words = if self.timestamps.is_some() { 8u8 } else { 5 };
        segment.extend([words << 4, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        if let Some((tsval, tsecr)) = self.timestamps {
            segment.extend([1, 1, 8, 10]);
            segment.extend(tsval.to_be_bytes());
            segment.extend(tsecr.to_be_bytes());
        }
        segment.extend(&self.payload);
        let check = tcp_sum(self.from.ip(), self.to.ip(), &segment);
        segment[16..18].copy_from_slice(&check.to_be_bytes());

        let mut frame = Vec::new();
        frame.extend(VMAC);
        frame.extend(CLIENT_MAC);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                let len = (20 + segment.len()) as u16;
                let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
                ip[2..4].copy_from_slice(&len.to_be_bytes());
                ip.extend(from.octets());
                ip.extend(to.octets());
                let check = fold(sum(0, &ip));
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                frame.extend(ip);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((segment.len() as u16).to_be_bytes());
                frame.extend([6, 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            _ => panic!("mixed families"),
        }
        frame.extend(segment);
        frame
    }

    /// Parses a frame from the capsule; its checksum must be whole.
    pub fn parse(frame: &[u8]) -> Option<Tcp> {
        let (from, to, segment): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
            [0x08, 0x00] if frame.get(23) == Some(&6) => {
                let header = usize::from(frame[14] & 15) * 4;
                let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                (
                    <[u8; 4]>::try_from(&frame[26..30]).unwrap().into(),
                    <[u8; 4]>::try_from(&frame[30..34]).unwrap().into(),
                    frame.get(14 + header..14 + total)?,
                )
            }
            [0x86, 0xdd] if frame.get(20) == Some(&6) => {
                let len = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
                (
                    <[u8; 16]>::try_from(&frame[22..38]).unwrap().into(),
                    <[u8; 16]>::try_from(&frame[38..54]).unwrap().into(),
                    frame.get(54..54 + len)?,
                )
            }
            _ => return None,
        };
        assert_eq!(tcp_sum(from, to, segment), 0, "the capsule sent a partial checksum");
        let u16_at = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let u32_at = |b: &[u8]| u32::from_be_bytes(b[..4].try_into().unwrap());
        let header = usize::from(segment[12] >> 4) * 4;
        let mut options = &segment[20..header];
        let mut timestamps = None;
        while let [kind, rest @ ..] = options {
            match (kind, rest) {
                (0, _) => break,
                (1, _) => options = rest,
                (8, [10, ..]) => {
                    timestamps = Some((u32_at(&rest[1..]), u32_at(&rest[5..])));
                    options = &rest[9..];
                }
                (_, [len, ..]) if usize::from(*len) >= 2 => options = &options[usize::from(*len)..],
                _ => break,
            }
        }
        Some(Tcp {
            from: SocketAddr::new(from, u16_at(0)),
            to: SocketAddr::new(to, u16_at(2)),
            seq: u32_at(&segment[4..]),
            ack: u32_at(&segment[8..]),
            flags: segment[13],
            window: u16_at(14),
            timestamps,
            payload: segment[header..].to_vec(),
        })
    }
}
