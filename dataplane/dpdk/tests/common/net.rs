//! A network namespace of the test's own, and a plain socket to look into it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use understudy_dpdk::{Burst, RxQueues};

use super::frame;

/// Not IP, so that the kernel takes no part: an experimental EtherType.
const ETHERTYPE: u16 = 0x88b5;

/// Moves the calling thread to a network namespace without a name, which ends with it.
pub fn enter_new_namespace() -> io::Result<()> {
    // SAFETY: detaches only the calling thread from the network namespace of the process.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A pair of interfaces that are up, with the MAC addresses 02::01 and 02::02; returns their names.
pub fn veth_pair() -> (String, String) {
    let (near, far) = (format!("us{}n", std::process::id()), format!("us{}f", std::process::id()));
    ip(&["link", "add", &near, "type", "veth", "peer", "name", &far]);
    for (end, mac) in [(&near, "02:00:00:00:00:01"), (&far, "02:00:00:00:00:02")] {
        ip(&["link", "set", end, "address", mac, "mtu", "1500", "up"]);
    }
    (near, far)
}

/// Addressed to a virtual MAC address; as many bytes as asked for, at least the header.
pub fn test_frame(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x00, 0x00, 0x5e, 0x00, 0x01, 0x07, 2, 0, 0, 0, 0, 9];
    bytes.extend(ETHERTYPE.to_be_bytes());
    bytes.extend(frame(seed, len - bytes.len()));
    bytes
}

/// Polls until `count` frames of the test came or the time is up.
pub fn receive_ours(rx: &mut RxQueues, count: usize, timeout_ms: u64) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let mut all = Vec::new();
    loop {
        let mut burst = Burst::new();
        rx.rx_burst(&mut burst);
        all.extend(ours(burst));
        if all.len() >= count || Instant::now() >= deadline {
            return all;
        }
    }
}

/// Without what the kernel says by itself.
fn ours(burst: Burst) -> Vec<Vec<u8>> {
    let is_ours = |bytes: &[u8]| bytes.get(12..14) == Some(&ETHERTYPE.to_be_bytes());
    burst.iter().map(|mbuf| mbuf.bytes().to_vec()).filter(|bytes| is_ours(bytes)).collect()
}

/// An UDP datagram of a flow, over IPv4 without checksums, which nobody here looks at.
pub fn flow_frame(flow: u8, round: u8) -> Vec<u8> {
    let mut bytes = vec![0x00, 0x00, 0x5e, 0x00, 0x01, 0x07, 2, 0, 0, 0, 0, 9, 0x08, 0x00];
    bytes.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([FLOW_PORTS, flow, FLOW_PORTS, 0, 0, 26, 0, 0, round]);
    bytes.resize(60, 0);
    bytes
}

/// The high byte of their ports.
const FLOW_PORTS: u8 = 0x42;

/// Polls until `count` of such datagrams came or the time is up; their flows and rounds.
pub fn receive_flows(rx: &mut RxQueues, count: usize, timeout_ms: u64) -> Vec<(u8, u8)> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let mut all = Vec::new();
    while all.len() < count && Instant::now() < deadline {
        let mut burst = Burst::new();
        rx.rx_burst(&mut burst);
        let ours = burst.iter().map(|mbuf| mbuf.bytes()).filter(|bytes| {
            bytes.len() == 60 && bytes[12..14] == [0x08, 0x00] && bytes[34] == FLOW_PORTS
        });
        all.extend(ours.map(|bytes| (bytes[35], bytes[42])));
    }
    all
}

pub fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).status().expect("`ip` runs");
    assert!(status.success(), "ip {args:?}");
}

/// A raw socket on an interface; sees and sends frames of the test only.
pub struct Peer {
    socket: OwnedFd,
}

impl Peer {
    pub fn open(interface: &str) -> Peer {
        let protocol = i32::from(ETHERTYPE.to_be());
        // SAFETY: plain arguments; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol) };
        assert!(fd >= 0, "socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` is open and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(interface).expect("no NUL");
        // SAFETY: a NUL-terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert_ne!(index, 0, "{interface} exists");
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETHERTYPE.to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: the address is of the size given.
        let code = unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        assert_eq!(code, 0, "bind: {}", io::Error::last_os_error());
        let timeout = libc::timeval { tv_sec: 2, tv_usec: 0 };
        // SAFETY: the option's value is of the size given.
        let code = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                size_of_val(&timeout) as libc::socklen_t,
            )
        };
        assert_eq!(code, 0, "setsockopt: {}", io::Error::last_os_error());
        Peer { socket }
    }

    pub fn send(&self, bytes: &[u8]) {
        // SAFETY: the buffer is of the length given.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize, "send: {}", io::Error::last_os_error());
    }

    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        // SAFETY: the buffer is writable for the length given.
        let len = unsafe {
            libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
        };
        let len = usize::try_from(len).unwrap_or_else(|_| {
            panic!("recv: {}", io::Error::last_os_error());
        });
        buffer.truncate(len);
        buffer
    }
}
