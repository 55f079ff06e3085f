//! Requests and answers of the daemon's unix socket, shared by daemon and CLI.
//!
//! The socket speaks newline-delimited JSON: one request line, one response
//! line, and the daemon closes. A line has a bounded length in either
//! direction ([`REQUEST_BYTES_MAX`], [`RESPONSE_BYTES_MAX`]).
//!
//! ```text
//! {"version":1,"request":"status"}
//! {"ok":true,"schema_version":1,"status":{...}}
//!
//! {"version":1,"request":"switchover","to":"b"}
//! {"ok":false,"schema_version":1,"error":{"code":"refused_unsafe","message":"..."}}
//! ```
//!
//! A capture's answer is followed by more than a line: see [`stream`].
//!
//! [`codec`] is sans-IO; [`client`] and [`server`] put it on a socket.
#![forbid(unsafe_code)]

mod capture_node;
pub mod check;
pub mod client;
pub mod codec;
pub mod doctor;
mod error;
mod events;
mod images;
mod plan;
mod protection;
pub mod replay;
pub mod server;
pub mod stream;
mod takeovers;
mod types;
mod views;
mod waits;

pub use capture_node::{CaptureStatus, LinkStatus, StoreStatus};
pub use client::ClientError;
pub use codec::{DecodeError, decode_request, decode_response, encode_request, encode_response};
pub use error::{ApiError, ErrorCode};
pub use events::{Events, Fault, TimelineEvent};
pub use images::{
    BadClientFilter, ByteList, ClientFilter, ConnAgreed, ConnImage, ConnImages, ConnOptions,
    ConnSocket, ConnTiming, ConnWindow, LIST_SHOWN_BYTES_MAX,
};
pub use plan::{Change, Effect, Plan};
pub use protection::Verdict;
pub use takeovers::Takeover;
pub use types::{
    Arbiter, Capturing, Checkpoint, Checkpoints, Conn, Conns, Drained, Gate, KeyPath, KeyPeer,
    Keys, LogPositions, Peer, Register, Request, Response, Restoring, Role, Service, Status,
    SwitchoverDone,
};

pub use views::{CloneView, LogPeer, LogView, NodeView};
pub use waits::Waits;

/// Version of the documents that answers are, `schema_version` in each: raised when a field goes or
/// changes its meaning, not when one is added.
pub const SCHEMA_VERSION: u32 = 1;
/// Version of the requests.
pub const VERSION: u32 = 1;
/// Longest request line, its newline counted.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest response line, its newline counted.
pub const RESPONSE_BYTES_MAX: usize = 1024 * 1024;
/// Most events a daemon keeps in [`Status::timeline`].
pub const TIMELINE_EVENTS_MAX: usize = 256;
/// Most events in one answer.
pub const EVENTS_MAX: usize = 1000;
/// Longest wait for an event that has not happened yet.
pub const EVENTS_WAIT_MS_MAX: u64 = 10_000;
/// Where the daemon listens if nothing else is said.
pub const SOCKET_DEFAULT: &str = "/run/understudy/understudyd.sock";
