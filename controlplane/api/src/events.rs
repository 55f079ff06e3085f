//! What has happened on a node.

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimelineEvent {
    /// Its number on its node; each is one more than the one before, in all lives of the daemon.
    pub seq: u64,
    /// When, since 1970.
    pub unix_ns: u64,
    /// Name of the node.
    pub node: String,
    /// In which epoch.
    pub epoch: u64,
    /// What, one word with underscores.
    pub event: String,
    /// The supervised resource that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What is wrong with that resource, or was, one word with underscores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// More about it, for people.
    pub detail: String,
}

/// What has happened on a node, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// Name of the node.
    pub node: String,
    /// The events.
    pub events: Vec<TimelineEvent>,
    /// Number of the oldest that the daemon still has; 0: none.
    pub oldest_seq: u64,
    /// Number of the newest; 0: none.
    pub newest_seq: u64,
    /// There are more than the answer holds: ask for those after the last one.
    pub more: bool,
    /// Events that are not on disk: it was full, or too slow.
    pub not_stored: u64,
    /// Lines of the file that could not be read when the daemon started.
    pub damaged: u64,
}

/// A supervised resource that is bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Which.
    pub resource: String,
    /// Name of the other node that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What is wrong, one word with underscores.
    pub cause: String,
    /// What is done about it: `failover`, `restart` or `alert`.
    pub policy: String,
    /// Since it was found.
    pub since_ms: u64,
    /// More about it, for people.
    pub detail: String,
}
