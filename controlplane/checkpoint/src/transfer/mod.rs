//! Checkpoints on their way from one node to another, over a TCP connection of their own.
//!
//! Both ends prove that they hold the cluster key and seal everything (`understudy_seal::stream`).
//! The one that needs a checkpoint asks what there is, then for one file after the other from where
//! it left off; the other one sends no faster than it may. Every read and write has a time limit.

mod client;
mod link;
mod server;

pub use client::{Fetched, Progress, connect, fetch};
pub use link::Identity;
pub use server::{Server, Source};

use serde::{Deserialize, Serialize};

use crate::manifest::{Manifest, Mark, MethodKind, Reign};

/// What a checkpoint must be, to be of use to who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The log from there on can still be had.
    pub floor_min: u64,
    /// Reigns of the log as it is: a checkpoint of another history is worth nothing.
    pub reigns: Vec<Reign>,
    /// It must stand for this one, if for any: clients heard what that had said.
    pub least: Option<Mark>,
    /// Its barrier is not after this.
    pub position_max: u64,
    /// How it was taken.
    #[serde(default)]
    pub method: MethodKind,
}

impl Wanted {
    /// One of this history, taken by CRIU, from which the log can be had.
    #[must_use]
    pub fn new(floor_min: u64, reigns: Vec<Reign>) -> Wanted {
        let method = MethodKind::default();
        Wanted { floor_min, reigns, least: None, position_max: u64::MAX, method }
    }

    /// Whether a checkpoint is of use: recent enough, and nothing in it that turned out not to be
    /// history. A primary's may hold what nobody else had yet, and a later reign cut off.
    #[must_use]
    pub fn fits(&self, manifest: &Manifest) -> bool {
        let Some(newest) = manifest.reigns.last() else { return false };
        let next = self.reigns.iter().find(|reign| reign.epoch > newest.epoch);
        let is_history =
            self.reigns.contains(newest) && next.is_none_or(|next| manifest.position <= next.start);
        let is_enough = self.least.is_none_or(|least| manifest.mark() >= least);
        let recent = manifest.floor >= self.floor_min && is_enough;
        let usable = manifest.method == self.method && manifest.position <= self.position_max;
        recent && usable && is_history
    }
}

/// What the client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    /// For a checkpoint.
    Offer(Wanted),
    /// How old the one that was offered is at this moment: the clocks of its connections go by that.
    Age,
    /// For a file of the one that was offered, from a byte on.
    File { path: String, from: u64 },
}

/// What the server answers; bytes follow a `File`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    /// The newest checkpoint that fits; its manifest is the first file.
    Offer { generation: u64, manifest_len: u64 },
    /// So old.
    Age { age_us: u64 },
    /// So many bytes follow.
    File { len: u64 },
    /// No.
    Refused { why: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_what_is_not_history_does_not_fit() {
        let reign = |epoch, start| Reign { epoch, start };
        let manifest = |reigns: &[Reign], floor, position| Manifest {
            reigns: reigns.to_vec(),
            floor,
            position,
            ..Manifest::default()
        };
        let wanted = Wanted::new(50, vec![reign(2, 0), reign(5, 100)]);
        for (fits, reigns, floor, position) in [
            (true, &[reign(2, 0)][..], 50, 100),
            (false, &[reign(2, 0)], 50, 101),
            (false, &[reign(2, 0)], 49, 100),
            (true, &[reign(2, 0), reign(5, 100)], 90, 5000),
            (false, &[reign(2, 0), reign(4, 100)], 90, 5000),
            (false, &[reign(2, 8)], 50, 60),
            (false, &[], 50, 60),
        ] {
            assert_eq!(wanted.fits(&manifest(reigns, floor, position)), fits, "{reigns:?}");
        }
        let (sound, method) = (manifest(&[reign(2, 0)], 50, 100), MethodKind::Hooks);
        assert!(!Wanted { method, ..wanted.clone() }.fits(&sound));
        assert!(Wanted { method, ..wanted }.fits(&Manifest { method, ..sound }));
    }
}
