//! What sockets a namespace holds, by `sock_diag`.

use crate::{
    Error, Result,
    error::BE_ROOT,
    netns::NetNs,
    nl::{self, Client, NLM_F_ACK, NLM_F_DUMP, Request},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `include/uapi/linux/sock_diag.h`; needs CONFIG_INET_DIAG_DESTROY.
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid`, in answers; in requests it begins 4 bytes later.
const SOCK_ID: std::ops::Range<usize> = 4..52;
const INET_DIAG_INFO: u16 = 2;
const DIAG_MSG_BYTES: usize = 72;
const STATE_LISTEN: u32 = 1 << 10;
const ALL_STATES: u32 = !0;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A TCP socket's state, as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    /// A state this version does not know.
    Other(u8),
}

impl From<u8> for TcpState {
    fn from(state: u8) -> Self {
        match state {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 => TcpState::SynRecv,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            7 => TcpState::Close,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            12 => TcpState::NewSynRecv,
            other => TcpState::Other(other),
        }
    }
}

/// One TCP socket. The fields from `rtt_us` on are zero or `None` for a socket without TCP_INFO
/// (TIME_WAIT, SYN_RECV) and meaningless for a listener. IPv4 peers of an IPv6 socket appear as
/// IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SockInfo {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address; all zero for a listener.
    pub remote: SocketAddr,
    /// State.
    pub state: TcpState,
    /// Bytes received and not read; for a listener, connections waiting to be accepted.
    pub rqueue: u32,
    /// Bytes not acknowledged; for a listener, the limit of its accept queue.
    pub wqueue: u32,
    /// Inode of the socket, as `/proc/<pid>/fd` shows it; 0 if no process holds it.
    pub inode: u32,
    /// Smoothed round-trip time, if one was measured.
    pub rtt_us: Option<u32>,
    /// Variation of the round-trip time.
    pub rttvar_us: u32,
    /// Retransmission timeout.
    pub rto_us: u32,
    /// Largest segment sent.
    pub snd_mss: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Window scale of the windows we receive, if scaling is on.
    pub snd_wscale: u8,
    /// Window scale of the windows we send, if scaling is on.
    pub rcv_wscale: u8,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments retransmitted since the connection began.
    pub retrans: u32,
    /// Bytes sent and acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
}

fn request(family: i32, proto: Proto, states: u32, port: u16) -> Request {
    let (protocol, ext) = match proto {
        Proto::Tcp => (libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1)),
        Proto::Udp => (libc::IPPROTO_UDP as u8, 0),
    };
    let mut bytes = [0u8; 56];
    bytes[0] = family as u8;
    bytes[1] = protocol;
    bytes[2] = ext;
    bytes[4..8].copy_from_slice(&states.to_ne_bytes());
    bytes[8..10].copy_from_slice(&port.to_be_bytes());
    let mut request = Request::new(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
    request.bytes(&bytes);
    request
}

fn address(family: u8, octets: &[u8], port: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let ip = if i32::from(family) == libc::AF_INET {
        IpAddr::from(<[u8; 4]>::try_from(octets.get(..4)?).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

fn parse(payload: &[u8]) -> Option<SockInfo> {
    let fixed = payload.get(..DIAG_MSG_BYTES)?;
    let info = nl::attrs(&payload[DIAG_MSG_BYTES..])
        .find(|(kind, _)| *kind == INET_DIAG_INFO)
        .map_or(&[][..], |(_, info)| info);
    // Offsets into struct tcp_info, which only ever grows at its end.
    let word = |at| nl::u32_at(info, at).unwrap_or(0);
    let rtt = word(68);
    let scales = info.get(6).copied().unwrap_or(0);
    Some(SockInfo {
        local: address(fixed[0], &fixed[8..24], &fixed[4..6])?,
        remote: address(fixed[0], &fixed[24..40], &fixed[6..8])?,
        state: fixed[1].into(),
        rqueue: nl::u32_at(fixed, 56)?,
        wqueue: nl::u32_at(fixed, 60)?,
        inode: nl::u32_at(fixed, 68)?,
        rtt_us: (rtt != 0).then_some(rtt),
        rttvar_us: word(72),
        rto_us: word(8),
        snd_mss: word(16),
        snd_cwnd: word(80),
        snd_wscale: scales & 0x0f,
        rcv_wscale: scales >> 4,
        unacked: word(24),
        retrans: word(100),
        bytes_acked: nl::u64_at(info, 120).unwrap_or(0),
        bytes_received: nl::u64_at(info, 128).unwrap_or(0),
    })
}

const NEED_DESTROY: &str = "use a kernel with CONFIG_INET_DIAG_DESTROY";
const NEED_DIAG: &str = "load the kernel module inet_diag (or tcp_diag and udp_diag)";

/// The TCP sockets in a namespace, in every state, at most `limit` of them.
pub fn tcp_sockets(ns: &NetNs, limit: usize) -> Result<Vec<SockInfo>> {
    ns.run(|| {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            if found.len() >= limit {
                break;
            }
            let mut client = Client::open(NETLINK_SOCK_DIAG)?;
            let request = request(family, Proto::Tcp, ALL_STATES, 0);
            client.request("list TCP sockets", NEED_DIAG, request, |_, payload| {
                found.extend(parse(payload));
                if found.len() >= limit {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        }
        Ok(found)
    })?
}

/// Ends every TCP connection in the namespace, those that no process holds included, so that their
/// addresses can be used by others. Listeners stay. Returns how many there were.
pub fn destroy_connections(ns: &NetNs) -> Result<usize> {
    ns.run(|| {
        let mut count = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut client = Client::open(NETLINK_SOCK_DIAG)?;
            let mut found: Vec<Vec<u8>> = Vec::new();
            let list = request(family, Proto::Tcp, ALL_STATES & !STATE_LISTEN, 0);
            client.request("list TCP sockets", NEED_DIAG, list, |_, payload| {
                found.extend(payload.get(SOCK_ID).map(<[u8]>::to_vec));
                ControlFlow::Continue(())
            })?;
            for id in &found {
                client
                    .request("end a connection", NEED_DESTROY, destroy(family, id), |_, _| {
                        ControlFlow::Continue(())
                    })
                    .or_else(|e| match e.raw_os_error() {
                        // It ended by itself.
                        Some(libc::ENOENT) => Ok(()),
                        _ => Err(e),
                    })?;
            }
            count += found.len();
        }
        Ok(count)
    })?
}

fn destroy(family: i32, id: &[u8]) -> Request {
    let mut bytes = [0u8; 56];
    bytes[0] = family as u8;
    bytes[1] = libc::IPPROTO_TCP as u8;
    bytes[4..8].copy_from_slice(&ALL_STATES.to_ne_bytes());
    bytes[8..].copy_from_slice(id);
    let mut request = Request::new(SOCK_DESTROY, NLM_F_ACK);
    request.bytes(&bytes);
    request
}

/// Whether a socket in the namespace serves the port, over IPv4 or IPv6: for TCP a listener, for
/// UDP any bound socket.
pub fn is_bound(ns: &NetNs, proto: Proto, port: u16) -> Result<bool> {
    if port == 0 {
        return Ok(false);
    }
    let states = match proto {
        Proto::Tcp => STATE_LISTEN,
        Proto::Udp => ALL_STATES,
    };
    ns.run(|| {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut bound = false;
            let mut client = Client::open(NETLINK_SOCK_DIAG)?;
            let asked = client.request(
                &format!("look for a socket on port {port}"),
                NEED_DIAG,
                request(family, proto, states, port),
                |_, payload| {
                    bound |= payload.get(4..6) == Some(&port.to_be_bytes()[..]);
                    if bound { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
            );
            match asked {
                Ok(()) if bound => return Ok(true),
                Ok(()) => {}
                // No diag module for this protocol: /proc tells the same, more slowly.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    return is_bound_by_proc(proto, port);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    })?
}

fn is_bound_by_proc(proto: Proto, port: u16) -> Result<bool> {
    let name = match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    };
    for suffix in ["", "6"] {
        let path = format!("/proc/thread-self/net/{name}{suffix}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::os(format!("read {path}"), BE_ROOT, e)),
        };
        if proc_has_port(&text, proto, port) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn proc_has_port(text: &str, proto: Proto, port: u16) -> bool {
    text.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|l| l.rsplit_once(':'));
        let listens = words.nth(1) == Some("0A");
        local.and_then(|(_, p)| u16::from_str_radix(p, 16).ok()) == Some(port)
            && (proto == Proto::Udp || listens)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_lines_are_read_like_the_kernel_writes_them() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n   \
            1: 0100007F:0016 0100007F:9999 01 00000000:00000000\n";
        assert!(proc_has_port(text, Proto::Tcp, 8080));
        assert!(!proc_has_port(text, Proto::Tcp, 22));
        assert!(proc_has_port(text, Proto::Udp, 22));
        assert!(!proc_has_port("", Proto::Tcp, 22));
    }

    #[test]
    fn short_diag_messages_are_refused() {
        assert_eq!(parse(&[0; DIAG_MSG_BYTES - 1]), None);
        assert!(parse(&[0; DIAG_MSG_BYTES]).is_some());
    }
}
