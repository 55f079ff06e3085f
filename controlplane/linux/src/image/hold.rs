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
    /// Looking into the queue would move it (`SO_PEEK_OFF`); negative if it is off.
    peek_offset: i32,
    /// Whether the peer's acknowledgements are dropped.
    is_deaf: bool,
}

impl Repair {
    /// For a socket that `lives_on`, acknowledgements are dropped if anything is unsent: while the
    /// send queue is shown, one would make the kernel count all of it as sent, and send nothing
    /// until the retransmission timer. A segment with data is let through, and still does that.
    fn enter(sock: Sock, reuse_address: i32, lives_on: bool) -> Result<Repair> {
        let mut repair = Repair { sock, reuse_address, peek_offset: -1, is_deaf: false };
        let sock = &repair.sock;
        if lives_on && sock.unacked()?.1 > 0 && !sock.has_filter() {
            sock.deafen()?;
            repair.is_deaf = true;
        }
        let peek_offset = repair.sock.peek_offset();
        if peek_offset >= 0 {
            repair.sock.set_peek_offset(-1)?;
            repair.peek_offset = peek_offset;
        }
        repair.sock.enter_repair()?;
        Ok(repair)
    }

    /// All of it, whatever fails.
    fn leave(&self) -> [Result<()>; 4] {
        let sock = &self.sock;
        let [shown, left] = if self.is_deaf {
            // Not before the queue is hidden; the answer then makes up for what was not heard.
            let hidden = sock.select(Queue::None);
            let heard = sock.hear();
            [hidden.and(heard), sock.leave_repair_and_ask()]
        } else {
            [Ok(()), sock.leave_repair()]
        };
        let level = libc::SOL_SOCKET;
        let reuse = sock.set("SO_REUSEADDR", level, libc::SO_REUSEADDR, self.reuse_address);
        let peeks = self.peek_offset >= 0;
        [shown, left, reuse, if peeks { sock.set_peek_offset(self.peek_offset) } else { Ok(()) }]
    }
}

impl Drop for Repair {
    fn drop(&mut self) {
        for error in self.leave().into_iter().filter_map(Result::err) {
            tracing::error!(%error, "a socket that was read is not as it was");
        }
    }
}

/// Attempts to read a socket that changes meanwhile.
const ATTEMPTS: usize = 3;
/// A partly acknowledged segment is shown whole: this much more may come.
pub(super) const SEGMENT_BYTES_MAX: usize = 128 * 1024;
/// The bytes of longer send queues are not read if the connection lives on.
pub(super) const SEND_QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Reads a connection (from [`super::socket_of`], or one's own) and leaves it in repair mode.
///
/// Until [`Held`] is dropped, no process may write to the socket (it would get EINVAL) and no
/// segment should reach it: stop the application and its port first. Should the queues move
/// nevertheless it is read again, a few times.
///
/// # Errors
/// [`Error::Unsavable`] for what Linux cannot save; the kernel's refusals.
pub fn hold(socket: OwnedFd) -> Result<Held> {
    let look = Look { keep: usize::MAX, room: &mut Vec::new(), lives_on: false };
    Ok(hold_so(socket, look)?.0)
}

/// How a socket is read.
pub(super) struct Look<'a> {
    /// The first so many bytes of each list are kept.
    pub(super) keep: usize,
    /// What else must be read goes here. It is best as long as the longest queue: the kernel shows
    /// a send queue only as a whole.
    pub(super) room: &'a mut Vec<u8>,
    /// Whether the connection goes on here, with frames coming meanwhile. If bytes wait to be sent,
    /// one segment leaves at the end.
    pub(super) lives_on: bool,
}

/// How many bytes each of an image's lists has, if not all of them were kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) in_flight: usize,
    pub(super) pending: usize,
    pub(super) unread: usize,
}

/// As [`hold`], but only as much as is wanted.
pub(super) fn hold_so(socket: OwnedFd, mut look: Look<'_>) -> Result<(Held, Lengths)> {
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
    let repair = Repair::enter(sock, options.reuse_address, look.lives_on)?;
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
        let lengths = match read_queues(sock, &mut image, before, &mut look) {
            Err(Error::Moving { .. }) => continue,
            read => read?,
        };
        if ends(sock)? == before && image.check().is_ok() {
            return Ok((Held { image, repair }, lengths));
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

fn read_queues(
    sock: &Sock,
    image: &mut SocketImage,
    ends: Ends,
    look: &mut Look<'_>,
) -> Result<Lengths> {
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

    let lengths = Lengths {
        in_flight: written.saturating_sub(unsent),
        pending: unsent.min(written),
        unread: ends.unread as usize,
    };
    (image.in_flight, image.pending) = unacknowledged(sock, lengths, look)?;
    image.unread = Vec::new();
    if ends.unread > 0 {
        sock.select(Queue::Receive)?;
        let shown = lengths.unread.min(look.keep);
        let got = sock.peek(&mut image.unread, shown)?.len();
        image.unread.truncate(got);
    }
    sock.select(Queue::None)?;
    if image.unread.len() == lengths.unread.min(look.keep) {
        return Ok(lengths);
    }
    Err(Error::Moving { local: image.local, remote: image.remote })
}

/// The first bytes in flight, and the first pending ones.
fn unacknowledged(
    sock: &Sock,
    lengths: Lengths,
    look: &mut Look<'_>,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let written = lengths.in_flight + lengths.pending;
    if written == 0 || (look.lives_on && written > SEND_QUEUE_BYTES_MAX) {
        return Ok(Default::default());
    }
    sock.select(Queue::Send)?;
    let bytes = sock.peek(look.room, written + SEGMENT_BYTES_MAX)?;
    // What is acknowledged of the first segment comes before. Should others have been acknowledged
    // meanwhile, there are fewer, and the ends have moved.
    let bytes = &bytes[bytes.len().saturating_sub(written)..];
    let (in_flight, pending) = bytes.split_at(bytes.len().saturating_sub(lengths.pending));
    let first = |list: &[u8]| list[..list.len().min(look.keep)].to_vec();
    Ok((first(in_flight), first(pending)))
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
    match state {
        _ if info.inode != 0 => Ok(state),
        // Who closes a socket sends a FIN: without one it was never held.
        State::Established | State::CloseWait => Err(Unsavable::NotAccepted),
        _ => Err(Unsavable::Orphan(state)),
    }
}

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.repair.sock.0.as_raw_fd()
    }
}
