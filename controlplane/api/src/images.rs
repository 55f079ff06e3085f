//! The service's connections in full, as their sockets have them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Role;

/// Bytes of each list that an answer holds at most; the list's true length is beside them.
pub const LIST_SHOWN_BYTES_MAX: usize = 4096;

/// Which clients are meant: `10.0.0.7`, `10.0.0.7:4711`, `fd00::7` or `[fd00::7]:4711`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientFilter {
    /// Address.
    pub ip: IpAddr,
    /// Port, if not any.
    pub port: Option<u16>,
}

/// What is not a client's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a client's address: give 10.0.0.7, 10.0.0.7:4711, fd00::7 or [fd00::7]:4711"
)]
pub struct BadClientFilter(String);

impl ClientFilter {
    /// Whether it means this client.
    #[must_use]
    pub fn matches(&self, client: SocketAddr) -> bool {
        self.ip.to_canonical() == client.ip().to_canonical()
            && self.port.is_none_or(|port| port == client.port())
    }
}

impl FromStr for ClientFilter {
    type Err = BadClientFilter;

    fn from_str(text: &str) -> Result<Self, BadClientFilter> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(address) => Ok(Self { ip: address.ip(), port: Some(address.port()) }),
            Err(_) => Err(BadClientFilter(text.chars().take(64).collect())),
        }
    }
}

impl TryFrom<String> for ClientFilter {
    type Error = BadClientFilter;

    fn try_from(text: String) -> Result<Self, BadClientFilter> {
        text.parse()
    }
}

impl From<ClientFilter> for String {
    fn from(filter: ClientFilter) -> String {
        filter.to_string()
    }
}

impl fmt::Display for ClientFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.ip.fmt(f),
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
        }
    }
}

/// The service's connections on this node, in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnImages {
    /// What the node is now.
    pub role: Role,
    /// The connections, by client.
    pub conns: Vec<ConnImage>,
    /// Connections that match and are not here, since an answer has an end.
    pub left_out: u64,
    /// How often the application stood still for this.
    pub freezes: u64,
    /// How long it stood still in all.
    pub frozen_us: u64,
    /// How long at once, at most.
    pub frozen_longest_us: u64,
}

/// A connection in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnImage {
    /// Address and port of the client.
    pub client: String,
    /// Address and port of the service.
    pub server: String,
    /// State of the socket.
    pub state: String,
    /// Whether the socket was adopted from the log, not made by a handshake here.
    pub adopted: bool,
    /// Why it cannot be saved; then there is no `socket`.
    pub unsavable: Option<String>,
    /// What its socket has.
    pub socket: Option<ConnSocket>,
}

/// What a socket has: all that another kernel must know to go on with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnSocket {
    /// First sequence number that the client has not acknowledged.
    pub snd_una: u32,
    /// Next one to send; it counts a FIN that was sent.
    pub snd_nxt: u32,
    /// One beyond the last byte written; it counts a FIN.
    pub write_seq: u32,
    /// Sequence number of the first unread byte.
    pub copied_seq: u32,
    /// Next one expected; it counts the client's FIN.
    pub rcv_nxt: u32,
    /// Where the FIN of the service is: `none`, `unsent`, `in_flight` or `acked`.
    pub fin: String,
    /// Whether the application has shut the reading side.
    pub read_shut: bool,
    /// Windows.
    pub window: ConnWindow,
    /// What the handshake agreed on.
    pub agreed: ConnAgreed,
    /// Timers and measurements (`TCP_INFO`).
    pub timing: ConnTiming,
    /// Socket options; a number is as `getsockopt` gives it.
    pub options: ConnOptions,
    /// Sent and not acknowledged.
    pub in_flight: ByteList,
    /// Written and not sent: pending transmission.
    pub pending: ByteList,
    /// Received and not read.
    pub unread: ByteList,
}

/// Windows, in bytes and sequence numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnWindow {
    /// Bytes that the client takes from `snd_una` on.
    pub snd_wnd: u32,
    /// Sequence number of the segment that said so.
    pub snd_wl1: u32,
    /// The largest window that the client ever offered.
    pub max_window: u32,
    /// Bytes that are taken from `rcv_wup` on.
    pub rcv_wnd: u32,
    /// `rcv_nxt` when the client was last told the window.
    pub rcv_wup: u32,
}

/// What the handshake agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnAgreed {
    /// The largest segment that the client takes, without options.
    pub mss: u16,
    /// Scale of the windows that are received, if scaling is on.
    pub snd_wscale: Option<u8>,
    /// Scale of the windows that are sent, if scaling is on.
    pub rcv_wscale: Option<u8>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// The clock of the timestamp option, if that is on.
    pub timestamp: Option<u32>,
    /// Whether that clock counts microseconds, not milliseconds.
    pub timestamp_micros: bool,
}

/// Timers and measurements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnTiming {
    /// Smoothed round-trip time, if measured.
    pub rtt_us: Option<u32>,
    /// Its variation.
    pub rttvar_us: u32,
    /// The least seen, if measured.
    pub min_rtt_us: Option<u32>,
    /// Round-trip time as the receiver sees it, if measured.
    pub rcv_rtt_us: Option<u32>,
    /// Retransmission timeout.
    pub rto_us: u32,
    /// Delayed acknowledgement.
    pub ato_us: u32,
    /// Timeouts in a row without an answer.
    pub retransmits: u8,
    /// Window probes in a row without an answer.
    pub probes: u8,
    /// Doublings of the timeout.
    pub backoff: u8,
    /// Segments sent again since the connection began.
    pub total_retrans: u32,
    /// Since bytes were last sent.
    pub last_data_sent_ms: u32,
    /// Since bytes last arrived.
    pub last_data_recv_ms: u32,
    /// Since an acknowledgement last arrived.
    pub last_ack_recv_ms: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Slow start ends here, in segments; not known before the first loss.
    pub snd_ssthresh: Option<u32>,
    /// Largest segment sent, without options.
    pub snd_mss: u32,
    /// Path MTU.
    pub pmtu: u32,
    /// Segments by which the path reorders.
    pub reordering: u32,
}

/// Socket options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnOptions {
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `TCP_KEEPIDLE`.
    pub keep_idle_s: i32,
    /// `TCP_KEEPINTVL`.
    pub keep_interval_s: i32,
    /// `TCP_KEEPCNT`.
    pub keep_count: i32,
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// `TCP_CORK`.
    pub cork: bool,
    /// `TCP_CONGESTION`.
    pub congestion: String,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout_ms: i32,
    /// `TCP_LINGER2`.
    pub linger2_s: i32,
    /// `TCP_NOTSENT_LOWAT`.
    pub not_sent_low_at: i32,
    /// `TCP_WINDOW_CLAMP`.
    pub window_clamp: i32,
    /// `SO_LINGER`, if it is on.
    pub linger_s: Option<i32>,
    /// `SO_REUSEADDR`.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `SO_OOBINLINE`.
    pub oob_inline: bool,
    /// `SO_RCVLOWAT`.
    pub rcv_low_at: i32,
    /// `SO_PRIORITY`.
    pub priority: i32,
    /// `SO_MARK`.
    pub mark: i32,
    /// `IP_TOS` or `IPV6_TCLASS`.
    pub traffic_class: i32,
    /// `IP_TTL` or `IPV6_UNICAST_HOPS`.
    pub hops: i32,
    /// `SO_SNDBUF`.
    pub snd_buf: i32,
    /// `SO_RCVBUF`.
    pub rcv_buf: i32,
    /// `SO_BUF_LOCK`: which of the two the application has set.
    pub buf_lock: i32,
    /// `SO_RCVTIMEO`; 0 waits for ever.
    pub rcv_timeout_us: u64,
    /// `SO_SNDTIMEO`, likewise.
    pub snd_timeout_us: u64,
    /// `O_NONBLOCK`.
    pub non_blocking: bool,
}

/// A list of bytes in a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteList {
    /// How many there are.
    pub len: u64,
    /// The first of them, at most [`LIST_SHOWN_BYTES_MAX`]; none of a send queue above 1 MiB.
    #[serde(rename = "base64", serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub bytes: Vec<u8>,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text).map_err(serde::de::Error::custom)
}
