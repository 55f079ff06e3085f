//! A segment from the peer to a socket of ours, over the loopback device: only the peer's own FIN
//! or acknowledgement moves the kernel into some states, and it can be told about them only so.

use super::sock::raw_address;
use crate::{Error, Result, error::BE_ROOT};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

pub(super) const FIN_ACK: u8 = 0x11;
pub(super) const ACK: u8 = 0x10;
pub(super) const PSH_ACK: u8 = 0x18;
/// The timestamp option (RFC 7323) behind two NOPs.
const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
const IPV4_HEADER_LEN: usize = 20;

/// The segment. One without a timestamp leaves the kernel's idea of the peer's clock alone.
pub(super) struct Segment<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    /// As in the header, scaled.
    pub(super) window: u16,
    /// TSval and TSecr.
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) payload: &'a [u8],
}

impl Segment<'_> {
    /// Sends it in the calling thread's network namespace.
    pub(super) fn send(&self) -> Result<()> {
        let failed = |e| {
            let advice = "bring up lo in the namespace, allow it in netfilter, and run as root";
            Error::os("tell the kernel of the peer's segment", advice, e)
        };
        let to = SocketAddr::new(self.to.ip().to_canonical(), 0);
        let socket = raw_socket(to.is_ipv6())?;
        let packet = self.packet();
        let (storage, len) = raw_address(match (to, self.to) {
            (SocketAddr::V6(mut to), SocketAddr::V6(own)) => {
                to.set_scope_id(own.scope_id());
                to.into()
            }
            _ => to,
        });
        // SAFETY: packet and address are live and of the lengths passed.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const storage).cast(),
                len,
            )
        };
        if sent == packet.len() as isize { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
    }

    fn packet(&self) -> Vec<u8> {
        let header_len: u8 = if self.timestamps.is_some() { 32 } else { 20 };
        let mut tcp = Vec::with_capacity(usize::from(header_len) + self.payload.len());
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(header_len / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        if let Some((value, echo)) = self.timestamps {
            tcp.extend(TIMESTAMPS);
            tcp.extend(value.to_be_bytes());
            tcp.extend(echo.to_be_bytes());
        }
        tcp.extend(self.payload);
        let mut addresses = Vec::new();
        for ip in [self.from.ip().to_canonical(), self.to.ip().to_canonical()] {
            match ip {
                IpAddr::V4(ip) => addresses.extend(ip.octets()),
                IpAddr::V6(ip) => addresses.extend(ip.octets()),
            }
        }
        // No payload of ours comes near 64 KiB.
        let len = (tcp.len() as u16).to_be_bytes();
        let pseudo = [&addresses[..], &[0, 6], &len, &tcp].concat();
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        // The kernel fills in IPv4's identification and checksum.
        let mut packet = if addresses.len() == 8 {
            let [high, low] = ((IPV4_HEADER_LEN + tcp.len()) as u16).to_be_bytes();
            vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0]
        } else {
            vec![0x60, 0, 0, 0, len[0], len[1], 6, 64]
        };
        packet.extend(addresses);
        packet.extend(tcp);
        packet
    }
}

/// One's complement of the one's complement sum of 16-bit words (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |w: &[u8]| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn raw_socket(ipv6: bool) -> Result<OwnedFd> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes plain numbers. With IPPROTO_RAW the packet brings its own header.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(Error::last_os("open a raw socket", BE_ROOT));
    }
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
