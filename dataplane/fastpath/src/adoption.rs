//! What the kernel must be told to take over a connection it did not open.

use understudy_wire::Position;
use understudy_wire::tcp::{ECE, Segment, TcpOptions};

use crate::MS;
use crate::tsclock::ECHO_MS;

/// Attributes of a connection: the outcome of its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptAttrs {
    /// The client's maximum segment size.
    pub mss: u16,
    /// The client's window scale, when both sides offered one.
    pub snd_wscale: Option<u8>,
    /// The service's window scale.
    pub rcv_wscale: u8,
    /// SACK agreed on.
    pub sack: bool,
    /// ECN agreed on.
    pub ecn: bool,
    /// The client's TSval in its SYN, as the primary's kernel had it (a later one could be newer
    /// than data still to come), and what the service's TSval clock shall show now.
    pub timestamps: Option<(u32, u32)>,
    /// Sequence and acknowledgement number of the bare ACK that makes the connection; no other
    /// frame may, or the application would miss what came before it.
    pub first: (u32, u32),
}

/// RFC 9293 3.7.1: what a peer that names no MSS accepts.
const MSS_DEFAULT_V4: u16 = 536;
const MSS_DEFAULT_V6: u16 = 1220;

/// How far the clone's TSval clock is set ahead of the primary's: as far as a takeover asks for, so
/// that nothing need be moved then.
const TS_MARGIN_MS: u64 = ECHO_MS as u64;

/// A client's SYN, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct SynInfo {
    /// Initial sequence number.
    pub isn: u32,
    /// Options it offered.
    pub options: TcpOptions,
    /// Position of its record.
    pub at: Position,
}

/// The service's SYN-ACK, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct SynAckInfo {
    /// Initial sequence number.
    pub isn: u32,
    /// Options it answered with.
    pub options: TcpOptions,
    /// Its window, never scaled.
    pub window: u16,
    /// ECN agreed on.
    pub ecn: bool,
    /// When it was logged, on the primary's clock.
    pub at_ns: u64,
}

impl SynAckInfo {
    /// From a SYN-ACK segment logged at `at_ns`.
    pub fn new(segment: &Segment, at_ns: u64) -> SynAckInfo {
        SynAckInfo {
            isn: segment.seq,
            options: segment.options,
            window: segment.window,
            ecn: segment.has(ECE),
            at_ns,
        }
    }
}

/// The attributes for the client's segment `first`, at `log_now_ns` on the log's clock.
pub fn attributes(
    syn: &SynInfo,
    synack: &SynAckInfo,
    first: &Segment,
    log_now_ns: u64,
) -> AdoptAttrs {
    let default = if first.ip.src.is_ipv4() { MSS_DEFAULT_V4 } else { MSS_DEFAULT_V6 };
    let scaled = syn.options.wscale.zip(synack.options.wscale);
    AdoptAttrs {
        mss: syn.options.mss.unwrap_or(default),
        snd_wscale: scaled.map(|(client, _)| client),
        rcv_wscale: scaled.map_or(0, |(_, server)| server),
        sack: syn.options.sack_permitted && synack.options.sack_permitted,
        ecn: synack.ecn,
        first: (syn.isn.wrapping_add(1), synack.isn.wrapping_add(1)),
        timestamps: ts_clock(synack, log_now_ns)
            .zip(syn.options.timestamps)
            .map(|(server_now, (client_tsval, _))| (client_tsval, server_now)),
    }
}

/// What the service's TSval clock (1 ms ticks, RFC 7323 5.4) shows at `log_now_ns`.
fn ts_clock(synack: &SynAckInfo, log_now_ns: u64) -> Option<u32> {
    let (tsval, _) = synack.options.timestamps?;
    let elapsed_ms = log_now_ns.saturating_sub(synack.at_ns).div_ceil(MS) + TS_MARGIN_MS;
    Some(tsval.wrapping_add(elapsed_ms as u32))
}
