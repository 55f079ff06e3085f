//! What `understudy check FILE` and `understudyd --check FILE` find.
//!
//! `understudyd --check FILE` prints one line of JSON, a [`Findings`], and exits
//! with 0 (no finding is an error), 3 (one is) or 1 (it could not check).

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Works, but perhaps not as meant.
    Warn,
    /// Does not work.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// One sentence.
    pub message: String,
}

impl Finding {
    /// A finding of the given level.
    #[must_use]
    pub fn new(level: Level, message: impl Into<String>) -> Self {
        Self { level, message: message.into() }
    }
}

/// What `understudyd --check FILE` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Everything found.
    pub findings: Vec<Finding>,
}

/// What `understudy check FILE` prints, as `{"ok":...,"check":{...}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The file.
    pub file: String,
    /// Whether no finding is an error.
    pub valid: bool,
    /// Whether `understudyd --check` has looked at this machine as well.
    pub environment_checked: bool,
    /// What the file describes; `None` if it could not be loaded.
    pub group: Option<Group>,
    /// Everything found.
    pub findings: Vec<Finding>,
}

/// A group of nodes and what it tolerates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub node: String,
    /// How many nodes vote.
    pub voters: usize,
    /// How many votes elect a primary.
    pub majority: usize,
    /// How many nodes may be lost with the service taken over.
    pub losses_tolerated: usize,
    /// The commit policy.
    pub policy: String,
    /// The same in words.
    pub tolerance: String,
}
