//! What an image consists of, and what must be true of it.

use crate::codec::{Error, Field, LIST_BYTES_MAX, Reader, field};
use std::net::SocketAddr;

/// A struct whose encoding is its fields, in order.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }

        impl Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
                Ok($name { $($field: Field::get(from)?,)* })
            }
        }
    };
}

/// A state that can be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum State {
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    LastAck,
    Closing,
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] = [
        State::Established,
        State::FinWait1,
        State::FinWait2,
        State::CloseWait,
        State::LastAck,
        State::Closing,
    ];

    /// From the kernel's number (`include/net/tcp_states.h`).
    ///
    /// # Errors
    /// For states that Linux cannot save, with the reason.
    pub fn from_kernel(number: u8) -> Result<State, Unsavable> {
        Ok(match number {
            1 => State::Established,
            4 => State::FinWait1,
            5 => State::FinWait2,
            8 => State::CloseWait,
            9 => State::LastAck,
            11 => State::Closing,
            2 => return Err(Unsavable::SynSent),
            3 | 12 => return Err(Unsavable::SynReceived),
            6 => return Err(Unsavable::TimeWait),
            7 => return Err(Unsavable::Closed),
            10 => return Err(Unsavable::Listening { waiting: 0 }),
            other => return Err(Unsavable::Unknown(other)),
        })
    }

    /// The kernel's number.
    pub fn to_kernel(self) -> u8 {
        match self {
            State::Established => 1,
            State::FinWait1 => 4,
            State::FinWait2 => 5,
            State::CloseWait => 8,
            State::LastAck => 9,
            State::Closing => 11,
        }
    }

    /// Whether the peer's FIN has arrived: it is counted in `rcv_nxt`.
    pub fn peer_has_closed(self) -> bool {
        matches!(self, State::CloseWait | State::LastAck | State::Closing)
    }
}

impl Field for State {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.to_kernel());
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        State::from_kernel(u8::get(from)?).map_err(|_| field("state"))
    }
}

/// A socket that no image can be made of, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsavable {
    /// LISTEN: the application makes its listeners anew.
    #[error(
        "a listening socket has no image; the application listens anew, and the {waiting} \
         connections that wait in its backlog cannot be saved: accept them first"
    )]
    Listening {
        /// Connections in its accept queue.
        waiting: u32,
    },
    /// SYN_SENT.
    #[error("a connection that waits for the answer to its SYN cannot be saved: wait or close it")]
    SynSent,
    /// SYN_RECV.
    #[error("a connection whose handshake is not complete (SYN_RECV) cannot be saved: wait for it")]
    SynReceived,
    /// TIME_WAIT.
    #[error("a connection in TIME_WAIT cannot be saved: it has no socket any more, only a timer")]
    TimeWait,
    /// CLOSE: never connected, reset, or closed and in TIME_WAIT, which its descriptor does not tell.
    #[error("a closed socket cannot be saved: it is not connected, was reset, or is in TIME_WAIT")]
    Closed,
    /// No process holds it: the kernel alone closes it, and no descriptor leads to it.
    #[error("a connection in {0:?} that no process holds cannot be saved: wait until it is closed")]
    Orphan(State),
    /// Still in a listener's accept queue: no descriptor leads to it yet.
    #[error("a connection that the application has not accepted cannot be saved: wait for it")]
    NotAccepted,
    /// Not a TCP socket.
    #[error("only TCP sockets over IPv4 or IPv6 have an image; this is {0}")]
    NotTcp(String),
    /// A protocol above TCP in the kernel holds state of its own.
    #[error("a connection with \"{0}\" in the kernel cannot be saved: that keeps state of its own")]
    UpperLayer(String),
    /// Urgent data is waiting, which repair mode does not show.
    #[error("a connection with unread urgent data cannot be saved: let the application read it")]
    Urgent,
    /// A state that this version does not know.
    #[error("a connection in a state unknown to this version ({0}) cannot be saved")]
    Unknown(u8),
}

/// Where our own FIN is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fin {
    /// Not asked for: the application may still write.
    None,
    /// Behind the pending bytes.
    Unsent,
    /// Behind the bytes in flight, sent and not acknowledged.
    InFlight,
    /// Acknowledged; `snd_una` is beyond it.
    Acked,
}

impl Field for Fin {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        let all = [Fin::None, Fin::Unsent, Fin::InFlight, Fin::Acked];
        all.get(usize::from(u8::get(from)?)).copied().ok_or(field("place of the FIN"))
    }
}

record! {
    /// The windows, as `struct tcp_repair_window` has them: sequence numbers and bytes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Window {
        /// Sequence number of the segment that brought `snd_wnd`.
        pub snd_wl1: u32,
        /// Bytes that the peer takes from `snd_una` on.
        pub snd_wnd: u32,
        /// The largest window that the peer ever offered, in bytes.
        pub max_window: u32,
        /// Bytes that we take from `rcv_wup` on.
        pub rcv_wnd: u32,
        /// `rcv_nxt` when we last told the window.
        pub rcv_wup: u32,
    }
}

record! {
    /// The clock of the timestamp option.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Timestamps {
        /// What `TCP_TIMESTAMP` says: no TSval sent so far is more than 1 above it.
        pub value: u32,
        /// Whether it counts microseconds, not milliseconds.
        pub micros: bool,
    }
}

impl Timestamps {
    /// The clock `elapsed_us` microseconds later, or earlier if negative: as near as the kernel
    /// tells it, which hides the lowest bit.
    #[must_use]
    pub fn shifted(self, elapsed_us: i64) -> Timestamps {
        let ticks = if self.micros { elapsed_us } else { elapsed_us.div_euclid(1000) };
        let value = (self.value & !1).wrapping_add(ticks as u32).wrapping_add(1) & !1;
        Timestamps { value: value | u32::from(self.micros), micros: self.micros }
    }
}

record! {
    /// What the handshake agreed on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Agreed {
        /// The largest segment that the peer takes, in bytes without options.
        pub mss: u16,
        /// Window scales of the windows that we receive and that we send, if scaling is on.
        pub scales: Option<(u8, u8)>,
        /// Selective acknowledgements.
        pub sack: bool,
        /// The timestamp option, if it is on.
        pub timestamps: Option<Timestamps>,
    }
}

record! {
    /// Timers and measurements from `TCP_INFO`. For people and for deciding: Linux takes none of
    /// them back, a restored socket measures anew.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Timing {
        /// Retransmission timeout.
        pub rto_us: u32,
        /// Delayed acknowledgement.
        pub ato_us: u32,
        /// Smoothed round-trip time; 0 if none was measured.
        pub rtt_us: u32,
        /// Its variation.
        pub rttvar_us: u32,
        /// The least seen; `u32::MAX` if none was measured.
        pub min_rtt_us: u32,
        /// Round-trip time as the receiver sees it; 0 if none was measured.
        pub rcv_rtt_us: u32,
        /// Since bytes were last sent.
        pub last_data_sent_ms: u32,
        /// Since bytes last arrived.
        pub last_data_recv_ms: u32,
        /// Since an acknowledgement last arrived.
        pub last_ack_recv_ms: u32,
        /// Timeouts in a row without an answer.
        pub retransmits: u8,
        /// Window probes in a row without an answer.
        pub probes: u8,
        /// Doublings of the timeout.
        pub backoff: u8,
        /// Congestion window in segments.
        pub snd_cwnd: u32,
        /// Slow start ends here, in segments.
        pub snd_ssthresh: u32,
        /// Largest segment sent, without options, in bytes.
        pub snd_mss: u32,
        /// Path MTU in bytes.
        pub pmtu: u32,
        /// Segments by which the path reorders.
        pub reordering: u32,
        /// Segments retransmitted since the connection began.
        pub total_retrans: u32,
    }
}

record! {
    /// Socket options, as `getsockopt` gives them; a switch is 0 or 1.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Options {
        /// `SO_KEEPALIVE`.
        pub keepalive: i32,
        /// `TCP_KEEPIDLE`, seconds.
        pub keep_idle_s: i32,
        /// `TCP_KEEPINTVL`, seconds.
        pub keep_interval_s: i32,
        /// `TCP_KEEPCNT`.
        pub keep_count: i32,
        /// `TCP_NODELAY`.
        pub no_delay: i32,
        /// `TCP_CORK`.
        pub cork: i32,
        /// `TCP_USER_TIMEOUT`, milliseconds.
        pub user_timeout_ms: i32,
        /// `TCP_LINGER2`, seconds.
        pub linger2_s: i32,
        /// `TCP_NOTSENT_LOWAT`, bytes.
        pub not_sent_low_at: i32,
        /// `TCP_WINDOW_CLAMP`, bytes.
        pub window_clamp: i32,
        /// `TCP_CONGESTION`.
        pub congestion: String,
        /// `SO_LINGER`: seconds, if it is on.
        pub linger_s: Option<i32>,
        /// `SO_REUSEADDR`.
        pub reuse_address: i32,
        /// `SO_REUSEPORT`.
        pub reuse_port: i32,
        /// `SO_OOBINLINE`.
        pub oob_inline: i32,
        /// `SO_RCVLOWAT`, bytes.
        pub rcv_low_at: i32,
        /// `SO_PRIORITY`.
        pub priority: i32,
        /// `SO_MARK`.
        pub mark: i32,
        /// `IP_TOS` or `IPV6_TCLASS`.
        pub traffic_class: i32,
        /// `IP_TTL` or `IPV6_UNICAST_HOPS`.
        pub hops: i32,
        /// `SO_SNDBUF` as the kernel counts it, twice what was asked for.
        pub snd_buf: i32,
        /// `SO_RCVBUF`, likewise.
        pub rcv_buf: i32,
        /// `SO_BUF_LOCK`: which of the two were set by the application, so the kernel leaves them.
        pub buf_lock: i32,
        /// `SO_RCVTIMEO`; 0 waits for ever.
        pub rcv_timeout_us: u64,
        /// `SO_SNDTIMEO`, likewise.
        pub snd_timeout_us: u64,
        /// `O_NONBLOCK`.
        pub non_blocking: bool,
    }
}

record! {
    /// One TCP connection, from the side of the socket that was saved.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SocketImage {
        /// Our end. An IPv6 socket with an IPv4 peer has `::ffff:` addresses, and so is made again.
        pub local: SocketAddr,
        /// The peer's end.
        pub remote: SocketAddr,
        /// Its state.
        pub state: State,
        /// Where our FIN is.
        pub fin: Fin,
        /// Whether the application has shut the reading side (`SHUT_RD`).
        pub read_shut: bool,
        /// The first sequence number that the peer has not acknowledged: where `in_flight` begins.
        pub snd_una: u32,
        /// The next sequence number expected; it counts the peer's FIN.
        pub rcv_nxt: u32,
        /// Windows.
        pub window: Window,
        /// What the handshake agreed on.
        pub agreed: Agreed,
        /// Timers and measurements.
        pub timing: Timing,
        /// Socket options.
        pub options: Options,
        /// Sent and not acknowledged.
        pub in_flight: Vec<u8>,
        /// Written and not sent.
        pub pending: Vec<u8>,
        /// Received in order, acknowledged or to be, and not read.
        pub unread: Vec<u8>,
    }
}

/// An image that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a socket image contradicts itself: {0}")]
pub struct Inconsistent(pub &'static str);

const WSCALE_MAX: u8 = 14;
/// Longest name of a congestion control, `TCP_CA_NAME_MAX` with its NUL.
const CONGESTION_BYTES_MAX: usize = 15;

impl SocketImage {
    /// The next sequence number to send; it counts a FIN that was sent.
    pub fn snd_nxt(&self) -> u32 {
        let sent = self.in_flight.len() as u32 + u32::from(self.fin == Fin::InFlight);
        self.snd_una.wrapping_add(sent)
    }

    /// One beyond the last byte written; it counts a FIN.
    pub fn write_seq(&self) -> u32 {
        let written = self.pending.len() as u32 + u32::from(self.fin == Fin::Unsent);
        self.snd_nxt().wrapping_add(written)
    }

    /// Sequence number of the first unread byte.
    pub fn copied_seq(&self) -> u32 {
        let counted = self.unread.len() as u32 + u32::from(self.state.peer_has_closed());
        self.rcv_nxt.wrapping_sub(counted)
    }

    /// Whether the segments are IPv4 (the socket may be of either family).
    pub fn is_ipv4(&self) -> bool {
        self.local.ip().to_canonical().is_ipv4()
    }

    /// A value for `TCP_TIMESTAMP` that is above every TSval sent before the image was taken,
    /// `elapsed_us` microseconds ago; the low bit says whether it counts microseconds.
    pub fn timestamp_after(&self, elapsed_us: u64) -> Option<u32> {
        let clock = self.agreed.timestamps?;
        let ticks = if clock.micros { elapsed_us } else { elapsed_us.div_ceil(1000) };
        // The kernel hides the lowest bit of the value that it tells.
        let value = clock.value.wrapping_add(ticks as u32).wrapping_add(3) & !1;
        Some(value | u32::from(clock.micros))
    }

    /// Whether all fields agree with each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let (local, remote) = (self.local.ip(), self.remote.ip());
        let families = local.is_ipv4() == remote.is_ipv4()
            && local.to_canonical().is_ipv4() == remote.to_canonical().is_ipv4();
        let fin = match self.state {
            State::Established | State::CloseWait => self.fin == Fin::None,
            State::FinWait2 => self.fin == Fin::Acked,
            _ => matches!(self.fin, Fin::Unsent | Fin::InFlight),
        };
        let lists = [&self.in_flight, &self.pending, &self.unread];
        let scales = self.agreed.scales.is_none_or(|(s, r)| s.max(r) <= WSCALE_MAX);
        let name = &self.options.congestion;
        let behind = self.rcv_nxt.wrapping_sub(self.window.rcv_wup) as i32;
        let rules = [
            (families, "its addresses are of different families"),
            (self.local.port() != 0 && self.remote.port() != 0, "a port is 0"),
            (fin, "its state and its FIN do not fit"),
            (self.fin != Fin::InFlight || self.pending.is_empty(), "bytes follow a FIN"),
            (self.fin != Fin::Acked || self.snd_nxt() == self.write_seq(), "bytes follow a FIN"),
            (self.fin != Fin::Acked || self.in_flight.is_empty(), "bytes follow a FIN"),
            (lists.iter().all(|l| l.len() <= LIST_BYTES_MAX), "a list of bytes is too long"),
            (scales, "a window scale is above 14"),
            (self.agreed.mss > 0, "its largest segment is 0 bytes"),
            (name.len() <= CONGESTION_BYTES_MAX, "a congestion control's name is too long"),
            (name.bytes().all(|b| b.is_ascii_graphic()), "a congestion control's name is none"),
            (self.window.max_window >= self.window.snd_wnd, "a window is above the largest"),
            (behind >= 0, "it told a window for what had not arrived"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(Inconsistent(why)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> SocketImage {
        SocketImage {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:4000".parse().unwrap(),
            state: State::LastAck,
            fin: Fin::Unsent,
            read_shut: false,
            snd_una: u32::MAX - 2,
            rcv_nxt: 3,
            window: Window { snd_wl1: 1, snd_wnd: 2, max_window: 3, rcv_wnd: 4, rcv_wup: u32::MAX },
            agreed: Agreed {
                mss: 1460,
                scales: Some((7, 8)),
                sack: true,
                timestamps: Some(Timestamps { value: u32::MAX - 1, micros: false }),
            },
            timing: Timing { rto_us: 204_000, ..Timing::default() },
            options: Options {
                congestion: "cubic".into(),
                linger_s: Some(3),
                ..Options::default()
            },
            in_flight: b"in flight".to_vec(),
            pending: b"pending".to_vec(),
            unread: b"unread".to_vec(),
        }
    }

    #[test]
    fn sequence_numbers_follow_from_the_lists() {
        let image = sample();
        assert_eq!(image.snd_nxt(), 6);
        assert_eq!(image.write_seq(), 6 + 7 + 1);
        assert_eq!(image.copied_seq(), 3u32.wrapping_sub(6 + 1));
    }

    #[test]
    fn the_clock_goes_forward_and_keeps_its_unit() {
        let mut image = sample();
        // The kernel may have sent one more than it tells.
        let sent = u32::MAX;
        let next = image.timestamp_after(0).unwrap();
        assert!(next.wrapping_sub(sent) as i32 > 0 && next & 1 == 0, "{next}");
        let later = image.timestamp_after(5_000).unwrap();
        assert!((5..8).contains(&later.wrapping_sub(sent)), "{later}");
        for value in [6, 7] {
            image.agreed.timestamps = Some(Timestamps { value, micros: true });
            let next = image.timestamp_after(0).unwrap();
            assert!(next > value && next & 1 == 1, "{next}");
        }
        image.agreed.timestamps = None;
        assert_eq!(image.timestamp_after(0), None);
    }

    #[test]
    fn a_clock_that_is_carried_on_many_times_stays_what_it_is() {
        for micros in [false, true] {
            let begun = Timestamps { value: (u32::MAX - 20) & !1 | u32::from(micros), micros };
            let mut clock = begun;
            for _ in 0..1000 {
                clock = clock.shifted(4_000);
            }
            let ticks = if micros { 4_000_000 } else { 4_000 };
            let drift = clock.value.wrapping_sub(begun.value).wrapping_sub(ticks) as i32;
            assert!(drift.abs() <= 1, "{drift}");
            assert_eq!(clock.shifted(-4_000_000).value, begun.value);
        }
    }

    #[test]
    fn states_are_the_kernels_and_others_are_refused_with_a_reason() {
        for state in State::ALL {
            assert_eq!(State::from_kernel(state.to_kernel()), Ok(state));
        }
        for (number, word) in [
            (2, "SYN"),
            (3, "SYN_RECV"),
            (6, "TIME_WAIT"),
            (7, "closed"),
            (10, "backlog"),
            (12, "SYN_RECV"),
            (99, "99"),
        ] {
            let text = State::from_kernel(number).unwrap_err().to_string();
            assert!(text.contains(word), "{number}: {text}");
        }
    }

    #[test]
    fn contradictions_are_found() {
        assert_eq!(sample().check(), Ok(()));
        let wrong: [fn(&mut SocketImage); 9] = [
            |i| i.remote = "[fd00::1]:1".parse().unwrap(),
            |i| i.local.set_port(0),
            |i| i.fin = Fin::None,
            |i| i.fin = Fin::InFlight,
            |i| i.agreed.scales = Some((15, 0)),
            |i| i.agreed.mss = 0,
            |i| i.options.congestion = "a b".into(),
            |i| i.window.snd_wnd = 9,
            |i| i.window.rcv_wup = 4,
        ];
        for (at, spoil) in wrong.iter().enumerate() {
            let mut image = sample();
            spoil(&mut image);
            assert!(image.check().is_err(), "{at}");
            assert!(image.encode().is_err(), "{at}");
        }
    }
}
