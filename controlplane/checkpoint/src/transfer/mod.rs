//! Checkpoints on their way from one node to another, over a TCP connection of their own.
//!
//! Both ends prove that they hold the cluster key and seal everything (`understudy_seal::stream`).
//! The one that needs a checkpoint asks what there is, then for one file after the other from where
//! it left off; the other one sends no faster than it may. Every read and write has a time limit.

mod client;
mod link;
mod server;

pub use client::{Fetched, Progress, fetch};
pub use link::Identity;
pub use server::{Server, Source};

use serde::{Deserialize, Serialize};

use crate::manifest::{Manifest, Reign};

/// What a checkpoint must be, to be of use to who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The log from there on can still be had.
    pub floor_min: u64,
    /// Reigns of the log as it is: a checkpoint of another history is worth nothing.
    pub reigns: Vec<Reign>,
}

impl Wanted {
    /// Whether a checkpoint is of use.
    #[must_use]
    pub fn fits(&self, manifest: &Manifest) -> bool {
        let known = manifest.reigns.last().is_some_and(|newest| self.reigns.contains(newest));
        manifest.floor >= self.floor_min && known
    }
}

/// What the client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    /// For a checkpoint.
    Offer(Wanted),
    /// For a file of the one that was offered, from a byte on.
    File { path: String, from: u64 },
}

/// What the server answers; bytes follow a `File`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    /// The newest checkpoint that fits; its manifest is the first file.
    Offer { generation: u64, age_us: u64, manifest_len: u64 },
    /// So many bytes follow.
    File { len: u64 },
    /// No.
    Refused { why: String },
}
