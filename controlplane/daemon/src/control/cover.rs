//! `commit = "checkpoint"`: when a primary takes one, what a replica gets, and what either keeps.
//!
//! The data path writes each checkpoint into the log once it is whole; a replica that reads of one
//! gets it, and holds the log beyond it from then on.

use understudy_checkpoint::transfer::Wanted;
use understudy_checkpoint::{Manifest, Mark};
use understudy_config::CommitPolicy;
use understudy_fastpath::command::{STORED_MAX, StoredCheckpoint, StoredCheckpoints};
use understudy_wire::control::EpochStart;
use understudy_wire::record::CheckpointRecord;

use super::restore::reigns;
use super::*;

/// The data path has taken an order by then, and shows it.
const HEARD_NS: u64 = 5 * MS;

impl Control {
    pub(super) fn commits_by_checkpoint(&self) -> bool {
        self.config.commit.policy == CommitPolicy::Checkpoint
    }

    /// Output waits that no checkpoint covers, and the one before is stored by enough.
    pub(super) fn is_cover_due(&self, s: &Snapshot, since_ns: u64, now_ns: u64) -> bool {
        let interval_ns = self.config.commit.checkpoint_interval_ms * MS;
        let leads = matches!(s.role, DataRole::Lead(_)) && s.level && self.app == App::Ready;
        let waits = s.gate_uncovered > 0 && !s.cover_pending && !s.drained;
        self.commits_by_checkpoint() && leads && waits && now_ns >= since_ns + interval_ns
    }

    /// This node's own checkpoint is whole.
    pub(super) fn cover_output(&mut self, manifest: &Manifest) {
        if self.commits_by_checkpoint() {
            self.tell(Command::Checkpointed(record(manifest)));
        }
    }

    /// The log speaks of one that this node lacks.
    pub(super) fn get_lacking(&mut self, now_ns: u64) -> bool {
        let Some(s) = &self.snapshot else { return false };
        let DataRole::Follow(epoch) = s.role else { return false };
        if s.checkpoint_lacking.is_some() {
            self.restoration.give_up_before(now_ns, epoch);
        }
        // What was told a moment ago is not in the snapshot yet.
        let heard = s.at_ns > self.warm.told_ns + HEARD_NS;
        let Some(lacking) =
            s.checkpoint_lacking.filter(|_| heard).filter(|_| self.restoration.is_resting(now_ns))
        else {
            return false;
        };
        let view = self.node.view(now_ns);
        let Some(log) = view.primary_log.as_ref().filter(|_| view.needs_checkpoint.is_none())
        else {
            return false;
        };
        let wanted = Wanted {
            least: Some(mark(lacking)),
            position_max: lacking.position.max(s.committed),
            ..Wanted::new(s.log_start, reigns(&log.history))
        };
        let sources = self.sources(&view.peers, view.primary).into_iter().rev().collect();
        self.look_for(now_ns, epoch, wanted, true, sources);
        true
    }

    /// What this node stores from now on.
    pub(super) fn tell_stored(&mut self, manifests: &[Manifest]) {
        if !self.commits_by_checkpoint() {
            return;
        }
        let stored: StoredCheckpoints =
            manifests.iter().filter_map(stored).take(STORED_MAX).collect();
        self.tell(Command::Stored(stored));
    }

    /// What clients may have heard of must be there when this node takes over.
    pub(super) fn least(&self) -> Option<Mark> {
        self.snapshot.as_ref().and_then(|s| s.checkpoint_held).map(mark)
    }

    /// The newest that enough nodes store is kept, however many come after it.
    pub(super) fn protect_committed(&self) {
        if let (true, Some(taking), Some(s)) =
            (self.commits_by_checkpoint(), &self.taking, &self.snapshot)
        {
            taking.store.keep_from(s.checkpoint_committed.map_or(0, |c| c.position));
        }
    }
}

fn record(manifest: &Manifest) -> CheckpointRecord {
    CheckpointRecord { position: manifest.position, at_ns: manifest.at_ns }
}

fn mark(record: CheckpointRecord) -> Mark {
    Mark { position: record.position, at_ns: record.at_ns }
}

fn stored(manifest: &Manifest) -> Option<StoredCheckpoint> {
    let reign = manifest.reigns.last()?;
    Some(StoredCheckpoint {
        checkpoint: record(manifest),
        reign: EpochStart { epoch: reign.epoch, start: reign.start },
    })
}
