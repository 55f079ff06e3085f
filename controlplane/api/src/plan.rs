//! What a changed configuration file means for a daemon that runs.

use serde::{Deserialize, Serialize};

/// A configuration file compared with what a daemon runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The file.
    pub file: String,
    /// The daemon goes on with it now.
    pub applied: bool,
    /// Every field that differs.
    pub changes: Vec<Change>,
}

/// A field that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Such as `checkpoint.keep` or `nodes[1].priority`.
    pub field: String,
    /// Its line in the file, or that of the section which it is missing from.
    pub line: u64,
    /// What runs; none if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What the file says; none if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// When the change counts.
    pub effect: Effect,
    /// Why it is not live; empty if it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// When a change counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// By a reload; nothing is interrupted.
    Live,
    /// When this node's daemon is started again.
    Restart,
    /// When the whole group was stopped. Words that this version does not know are read as this one.
    #[default]
    #[serde(other)]
    Group,
}

impl Effect {
    /// What is to be done, as an end of a sentence.
    #[must_use]
    pub const fn what_to_do(self) -> &'static str {
        match self {
            Self::Live => "reload applies it",
            Self::Restart => "restart this node's daemon, which hands the service over first",
            Self::Group => "stop the group, change every node's file, start it again",
        }
    }
}
