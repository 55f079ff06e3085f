//! What `understudy replay` and `understudyd --replay` find: whether an application that is fed a recorded
//! log says what the primary's said.
//!
//! `understudyd --replay FILE --config FILE` prints one line of JSON, a [`Replay`], and exits with 0 (the
//! same) or 1 (not, or nothing could be compared).

use serde::{Deserialize, Serialize};

/// Connections that are told one by one, those that differ first.
pub const CONNECTIONS_TOLD_MAX: usize = 1000;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayVerdict {
    /// All that could be compared is the same.
    Same,
    /// The application said something else, said less, or ended.
    Differs,
    /// The recording has no note of what the primary's application said, or none was reached.
    #[default]
    NothingToCompare,
}

/// A replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// What came of it.
    pub verdict: ReplayVerdict,
    /// The node that it was recorded on.
    pub recorded_on: String,
    /// Time of the oldest record that was replayed, ns since 1970.
    pub from_unix_ns: u64,
    /// Time of the youngest.
    pub to_unix_ns: u64,
    /// Position at which the recording ends, or has its first hole.
    pub end: u64,
    /// Why it ends there, where that is not its end.
    pub incomplete: Option<String>,
    /// With which the application came; without, it was a fresh one.
    #[serde(default)]
    pub checkpoint: Option<ReplayedCheckpoint>,
    /// Records that were given to the application, or told about it.
    pub records: u64,
    /// Position up to which that was.
    pub applied: u64,
    /// Why not to the end.
    pub ended_early: Option<String>,
    /// How the application ended, if it did, and its last words.
    pub application_ended: Option<String>,
    /// Bytes of clients that were applied.
    pub applied_bytes: u64,
    /// Bytes that the application said.
    pub said_bytes: u64,
    /// Notes of the primary that agree.
    pub notes_same: u64,
    /// Notes that could not be compared.
    pub notes_uncompared: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Connections in the recording, those that a checkpoint brought included.
    pub connections_total: u64,
    /// Those that differ.
    pub connections_differing: u64,
    /// Connections, those that differ first; [`CONNECTIONS_TOLD_MAX`] at most.
    pub connections: Vec<ReplayedConnection>,
}

/// The checkpoint with which a replay began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedCheckpoint {
    /// The node that took it.
    pub taken_on: String,
    /// When, ns since 1970.
    pub taken_unix_ns: u64,
    /// Position in the log at which it was taken: before it, nothing was replayed.
    pub position: u64,
    /// The log was needed from here on.
    pub floor: u64,
    /// Connections that the application came with.
    pub connections: u64,
}

/// A connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedConnection {
    /// Address and port of the client.
    pub client: String,
    /// Of the service.
    pub server: String,
    /// When the service answered its handshake, ns since 1970; 0: before the checkpoint.
    pub opened_unix_ns: u64,
    /// Bytes of the client that were applied.
    pub applied_bytes: u64,
    /// Bytes that the application said.
    pub said_bytes: u64,
    /// Notes that agree.
    pub notes_same: u64,
    /// Notes that could not be compared.
    pub notes_uncompared: u64,
    /// The application's kernel reset it.
    pub reset: bool,
    /// Where it first differs.
    pub difference: Option<ReplayDifference>,
}

/// The first difference on a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayDifference {
    /// The application said less, not something else.
    pub said_less: bool,
    /// Sequence number before which all was the same.
    pub from_seq: u32,
    /// The first difference is before this.
    pub to_seq: u32,
    /// Bytes of the service before `from_seq`, modulo 2^32; since the checkpoint, if that brought the
    /// connection.
    pub offset: u64,
    /// Position of the primary's note in the log.
    pub position: u64,
    /// When the primary noted it, ns since 1970; its application had spoken just before.
    pub noted_unix_ns: u64,
}
