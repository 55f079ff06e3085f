//! What is written beside a checkpoint's files: where in the log it was taken, and the files.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The manifest's version; another one is refused.
pub const VERSION: u32 = 2;

/// A reign of the log before the barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reign {
    /// Its epoch.
    pub epoch: u64,
    /// Where its record is.
    pub start: u64,
}

/// A file of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the checkpoint's directory.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// CRC-32 (IEEE 802.3).
    pub crc32: u32,
}

/// What the clock of a connection's timestamp option showed when the checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// The service's end.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
    /// As `TCP_TIMESTAMP` tells it.
    pub value: u32,
    /// Whether it counts microseconds, not milliseconds.
    pub micros: bool,
}

/// A connection that the log holds from its beginning, and that the application had not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The client's end.
    pub client: SocketAddr,
    /// The service's.
    pub server: SocketAddr,
    /// Where the log has its SYN: not before the floor.
    pub from: u64,
}

/// What tells a checkpoint from every other one of the same history; a later one is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The barrier.
    pub position: u64,
    /// The log's clock there, nanoseconds.
    pub at_ns: u64,
}

/// How an application is saved and brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// By CRIU, as a whole.
    #[default]
    Criu,
    /// By the operator's commands; its connections by socket images.
    Hooks,
}

impl std::fmt::Display for MethodKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MethodKind::Criu => "criu",
            MethodKind::Hooks => "hooks",
        })
    }
}

/// A checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this format.
    pub version: u32,
    /// How it was taken; only the same way brings it back.
    #[serde(default)]
    pub method: MethodKind,
    /// The cluster's name.
    pub cluster: String,
    /// The node that took it.
    pub node: String,
    /// Wall clock of the node that holds this, nanoseconds since 1970.
    pub taken_unix_ns: u64,
    /// The barrier: the application has been given everything before this position of the log.
    pub position: u64,
    /// The log that a restored application needs begins here.
    pub floor: u64,
    /// The log's clock at the barrier, nanoseconds.
    pub at_ns: u64,
    /// The log's newest reigns before the barrier, oldest first.
    pub reigns: Vec<Reign>,
    /// Connections that the application had not accepted, or whose handshake was under way.
    pub pending: Vec<Pending>,
    /// The clocks of its connections.
    pub clocks: Vec<Clock>,
    /// Where the application's output went, on the node that took it.
    pub output_file: String,
    /// How long the application stood still, microseconds.
    pub frozen_us: u64,
    /// How long it was given nothing, microseconds.
    pub held_us: u64,
    /// Pages of its memory, 4 KiB each.
    pub pages: u64,
    /// All files but this one.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// Which one it is.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { position: self.position, at_ns: self.at_ns }
    }

    /// How long ago it was taken.
    #[must_use]
    pub fn age(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(self.taken_unix_ns))
    }

    /// It was taken so long ago.
    pub fn set_age(&mut self, age: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.taken_unix_ns = u64::try_from(now.saturating_sub(age).as_nanos()).unwrap_or(u64::MAX);
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len).sum()
    }
}
