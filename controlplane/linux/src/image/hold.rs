//! Reading a live socket.

use super::sock::{MAXSEG, Queue, Sock, TCP, TIMESTAMP};
use crate::{
    Error, Result, nl,
    socks::{SockInfo, TcpState},
};
use std::{
    net::TcpStream,
    os::fd::{AsRawFd, OwnedFd},
};
use understudy_image::{
    Agreed, Fin, LIST_BYTES_MAX, SocketImage, State, Timestamps, Timing, Unsavable, Window,
};

/// A socket in repair mode, and its image. Dropped, the socket lives on as if nothing had been:
/// no segment is sent.
#[derive(Debug)]
pub struct Held {
    /// What was read.
    pub image: SocketImage,
    repair: Repair,
}

impl Held {
    /// Ends the connection here without a FIN or RST, since it goes on elsewhere. The process that
    /// still has a descriptor of it gets ECONNABORTED.
    ///
    /// # Errors
    /// If the kernel refuses; the socket then lives on.
    pub fn end_silently(self) -> Result<SocketImage> {
        self.repair.sock.abandon()?;
        Ok(self.image)
    }

    /// Sets the clock of the timestamp option (`TCP_TIMESTAMP`).
    pub(super) fn set_timestamp(&self, value: u32) -> Result<()> {
        self.repair.sock.set("TCP_TIMESTAMP", TCP, TIMESTAMP, value as i32)
    }
}

/// Repair mode until dropped.
#[derive(Debug)]
struct Repair {
    sock: Sock,
    /// Repair mode forgets it.
    reuse_address: i32,
}

impl Drop for Repair {
    fn drop(&mut self) {
        let back = self.sock.leave_repair().and_then(|()| {
            let level = libc::SOL_SOCKET;
            self.sock.set("SO_REUSEADDR", level, libc::SO_REUSEADDR, self.reuse_address)
        });
        if let Err(error) = back {
            tracing::error!(%error, "a socket stays in repair mode");
        }
    }
}

/// Attempts to read a socket that changes meanwhile.
const ATTEMPTS: usize = 3;
/// A partly acknowledged segment is shown whole: this much more may come.
const SEGMENT_BYTES_MAX: usize = 128 * 1024;

/// Reads a connection (from [`super::socket_of`], or one's own) and leaves it in repair mode.
///
/// Until [`Held`] is dropped, no process may write to the socket (it would get EINVAL) and no
/// segment should reach it: stop the application and its port first. Should the queues move
/// nevertheless it is read again, a few times.
///
/// # Errors
/// [`Error::Unsavable`] for what Linux cannot save; the kernel's refusals.
pub fn hold(socket: OwnedFd) -> Result<Held> {
    let sock = Sock(TcpStream::from(socket));
    check_kind(&sock)?;
    let state = state_of(&sock)?;
    if !sock.upper_layer()?.is_empty() {
        return Err(Unsavable::UpperLayer(sock.upper_layer()?).into());
    }
    if sock.ready(libc::POLLPRI) != 0 {
        return Err(Unsavable::Urgent.into());
    }
    let address = |e| Error::os("read a socket's address", "the connection was reset", e);
    let (local, remote) =
        (sock.0.local_addr().map_err(address)?, sock.0.peer_addr().map_err(address)?);
    let options = sock.options(local.is_ipv6())?;
    let repair = Repair { reuse_address: options.reuse_address, sock };
    repair.sock.enter_repair()?;
    let sock = &repair.sock;
    let mut image = SocketImage {
        local,
        remote,
        state,
        fin: Fin::None,
        read_shut: false,
        snd_una: 0,
        rcv_nxt: 0,
        window: Window::default(),
        agreed: agreed(sock)?,
        timing: Timing::default(),
        options,
        in_flight: Vec::new(),
        pending: Vec::new(),
        unread: Vec::new(),
    };
    for _ in 0..ATTEMPTS {
        let before = ends(sock)?;
        read_queues(sock, &mut image, before)?;
        if ends(sock)? == before && image.check().is_ok() {
            return Ok(Held { image, repair });
        }
    }
    Err(Error::Moving { local: image.local, remote: image.remote })
}

pub(super) fn check_kind(sock: &Sock) -> Result<()> {
    let (domain, kind, protocol) = sock.kind()?;
    let inet = domain == libc::AF_INET || domain == libc::AF_INET6;
    if !inet || kind != libc::SOCK_STREAM {
        return Err(Unsavable::NotTcp(format!("domain {domain}, type {kind}")).into());
    }
    match protocol {
        libc::IPPROTO_TCP => Ok(()),
        libc::IPPROTO_MPTCP => Err(Unsavable::NotTcp("MPTCP".into()).into()),
        other => Err(Unsavable::NotTcp(format!("protocol {other}")).into()),
    }
}

pub(super) fn state_of(sock: &Sock) -> Result<State> {
    let info = sock.info()?;
    State::from_kernel(info[0]).map_err(|reason| match reason {
        // For a listener, the place of unacknowledged segments holds its backlog.
        Unsavable::Listening { .. } => {
            Unsavable::Listening { waiting: nl::u32_at(&info, 24).unwrap_or(0) }.into()
        }
        reason => reason.into(),
    })
}

/// What must not change while the queues are read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    state: u8,
    write_seq: u32,
    unacked: u32,
    unsent: u32,
    rcv_nxt: u32,
    unread: u32,
}

fn ends(sock: &Sock) -> Result<Ends> {
    sock.select(Queue::Send)?;
    let write_seq = sock.queue_seq()?;
    sock.select(Queue::Receive)?;
    let rcv_nxt = sock.queue_seq()?;
    sock.select(Queue::None)?;
    let (unacked, unsent) = sock.unacked()?;
    Ok(Ends { state: sock.state()?, write_seq, unacked, unsent, rcv_nxt, unread: sock.unread()? })
}

fn read_queues(sock: &Sock, image: &mut SocketImage, ends: Ends) -> Result<()> {
    image.state = State::from_kernel(ends.state)?;
    image.fin = match image.state {
        State::Established | State::CloseWait => Fin::None,
        State::FinWait2 => Fin::Acked,
        _ if ends.unsent == 0 => Fin::InFlight,
        _ => Fin::Unsent,
    };
    image.read_shut = !image.state.peer_has_closed() && sock.ready(libc::POLLRDHUP) != 0;
    image.snd_una = ends.write_seq.wrapping_sub(ends.unacked);
    image.rcv_nxt = ends.rcv_nxt;
    image.window = sock.window()?;
    image.timing = timing(&sock.info()?);
    let unsent = (ends.unsent - u32::from(image.fin == Fin::Unsent && ends.unsent > 0)) as usize;
    let fin = u32::from(matches!(image.fin, Fin::Unsent | Fin::InFlight));
    let written = ends.unacked.saturating_sub(fin) as usize;
    bounded(written.max(ends.unread as usize))?;

    image.in_flight = Vec::new();
    image.pending = Vec::new();
    if written > 0 {
        sock.select(Queue::Send)?;
        let mut bytes = sock.peek(written + SEGMENT_BYTES_MAX)?;
        let acknowledged = bytes.len().saturating_sub(written);
        bytes.drain(..acknowledged);
        image.pending = bytes.split_off(bytes.len().saturating_sub(unsent));
        image.in_flight = bytes;
    }
    image.unread = Vec::new();
    if ends.unread > 0 {
        sock.select(Queue::Receive)?;
        image.unread = sock.peek(ends.unread as usize)?;
    }
    sock.select(Queue::None)?;
    let whole = image.in_flight.len() + image.pending.len() == written
        && image.unread.len() == ends.unread as usize;
    if whole { Ok(()) } else { Err(Error::Moving { local: image.local, remote: image.remote }) }
}

fn bounded(bytes: usize) -> Result<()> {
    if bytes > LIST_BYTES_MAX {
        return Err(Error::QueueTooLong { bytes, bytes_max: LIST_BYTES_MAX });
    }
    Ok(())
}

// include/uapi/linux/tcp.h, tcpi_options.
const OPT_TIMESTAMPS: u8 = 1;
const OPT_SACK: u8 = 2;
const OPT_WSCALE: u8 = 4;

/// The clock of the timestamp option, if it is on; also outside of repair mode.
pub(super) fn timestamps(sock: &Sock) -> Result<Option<Timestamps>> {
    if sock.info()?[5] & OPT_TIMESTAMPS == 0 {
        return Ok(None);
    }
    let value = sock.get("TCP_TIMESTAMP", TCP, TIMESTAMP)? as u32;
    Ok(Some(Timestamps { value, micros: value & 1 != 0 }))
}

fn agreed(sock: &Sock) -> Result<Agreed> {
    let info = sock.info()?;
    let has = |option| info[5] & option != 0;
    let mss = sock.get("TCP_MAXSEG", TCP, MAXSEG)?;
    let timestamps = timestamps(sock)?;
    Ok(Agreed {
        mss: u16::try_from(mss).unwrap_or(u16::MAX),
        scales: has(OPT_WSCALE).then_some((info[6] & 15, info[6] >> 4)),
        sack: has(OPT_SACK),
        timestamps,
    })
}

/// Offsets into `struct tcp_info`, which only ever grows at its end.
fn timing(info: &[u8]) -> Timing {
    let word = |at| nl::u32_at(info, at).unwrap_or(0);
    Timing {
        rto_us: word(8),
        ato_us: word(12),
        rtt_us: word(68),
        rttvar_us: word(72),
        min_rtt_us: word(148),
        rcv_rtt_us: word(92),
        last_data_sent_ms: word(44),
        last_data_recv_ms: word(52),
        last_ack_recv_ms: word(56),
        retransmits: info[2],
        probes: info[3],
        backoff: info[4],
        snd_cwnd: word(80),
        snd_ssthresh: word(76),
        snd_mss: word(16),
        pmtu: word(60),
        reordering: word(88),
        total_retrans: word(100),
    }
}

/// Whether a socket that `sock_diag` lists can be saved, with the reason if not: also for those
/// that no descriptor leads to.
///
/// # Errors
/// The reason.
pub fn savable(info: &SockInfo) -> std::result::Result<State, Unsavable> {
    let number = match info.state {
        TcpState::Established => 1,
        TcpState::SynSent => 2,
        TcpState::SynRecv => 3,
        TcpState::FinWait1 => 4,
        TcpState::FinWait2 => 5,
        TcpState::TimeWait => 6,
        TcpState::Close => 7,
        TcpState::CloseWait => 8,
        TcpState::LastAck => 9,
        TcpState::Listen => return Err(Unsavable::Listening { waiting: info.rqueue }),
        TcpState::Closing => 11,
        TcpState::NewSynRecv => 12,
        TcpState::Other(other) => other,
    };
    let state = State::from_kernel(number)?;
    if info.inode == 0 { Err(Unsavable::Orphan(state)) } else { Ok(state) }
}

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.repair.sock.0.as_raw_fd()
    }
}
