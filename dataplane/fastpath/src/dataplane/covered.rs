//! `commit = "checkpoint"`: the primary's output leaves once a checkpoint of the application that
//! had said it is stored by the replicas that count. The log says which checkpoint that is, and a
//! replica holds the log only as far as it stores the checkpoints that the log speaks of: so
//! acknowledgement, commit and election stay the ones of the log.
//!
//! A checkpoint stands for another one if it is later on the same history, and committed: what is
//! not may be cut off, and with it the node's claim to hold what it stood for.

use understudy_wire::control::History;
use understudy_wire::record::CheckpointRecord;

use super::*;
use crate::command::{StoredCheckpoint, StoredCheckpoints};
use crate::sender::CommitPolicy;

/// Which output a checkpoint covers. Output is counted as it is put to the gate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cover {
    /// What had been put there when the application was held for the checkpoint under way.
    held_at: u64,
    /// Output before this is covered...
    before: u64,
    /// ...once everything before this is committed.
    tag: Position,
}

impl<P: Ports> Dataplane<P> {
    pub(super) fn commits_by_checkpoint(&self) -> bool {
        self.config.sender.policy == CommitPolicy::Checkpoint
    }

    /// The application stands still: what it said until now is in the checkpoint to come.
    pub(super) fn mark_output(&mut self) {
        self.cover.held_at = self.gate.passed() + self.gate.len() as u64;
    }

    /// The next frame that may leave.
    pub(super) fn pop_released(&mut self, committed: Position) -> Option<Waiting<P::Frame>> {
        let covered = !self.commits_by_checkpoint()
            || self.gate.passed() < self.cover.before && self.cover.tag <= committed;
        if covered { self.gate.pop(committed) } else { None }
    }

    /// Frames at the gate that no checkpoint covers yet, committed or not.
    pub(super) fn uncovered_output(&self) -> usize {
        if !self.commits_by_checkpoint() {
            return 0;
        }
        let covered = self.cover.before.saturating_sub(self.gate.passed());
        self.gate.len() - (covered as usize).min(self.gate.len())
    }

    /// The checkpoint for which output waits is not committed yet.
    pub(super) fn cover_pending(&self) -> bool {
        self.commits_by_checkpoint() && self.cover.tag > self.committed
    }

    /// A checkpoint of this node's application is whole: the replicas are to store it.
    pub(super) fn checkpointed(&mut self, now_ns: u64, checkpoint: CheckpointRecord) {
        let leads = matches!(&self.role, Role::Lead(r) if r.level);
        if !leads || !self.commits_by_checkpoint() {
            return;
        }
        let (floor, stamp_ns) = (self.floor(now_ns), self.stamp(now_ns));
        let level = self.apply.cursor() == self.log.end();
        match self.log.append_checkpoint(checkpoint, stamp_ns, floor) {
            Ok(tag) => {
                self.cover = Cover { before: self.cover.held_at, tag, ..self.cover };
                self.counters.checkpoints_recorded += 1;
                if level && !self.is_held() {
                    self.apply.skip_to(tag);
                }
            }
            // The next one covers as much, and more.
            Err(_) => self.counters.log_full += 1,
        }
    }

    /// What this node stores, all of it.
    pub(super) fn set_stored(&mut self, stored: StoredCheckpoints) {
        self.stored = stored;
        self.prove_checkpoints();
    }

    /// What the log has beyond the first checkpoint that is lacking will be cut off, since nobody
    /// was told of it. What clients sent is as good as new.
    pub(super) fn keep_uncovered(&mut self, now_ns: u64, ports: &mut P) {
        let most = self.kept.capacity();
        let (mut at, mut frames) = (self.log.held(), VecDeque::new());
        while let Some(record) = self.log.record(at) {
            if record.header.kind == RecordKind::ClientFrame {
                if frames.len() == most {
                    frames.pop_front();
                }
                frames.push_back(at);
            }
            at = record.next;
        }
        for at in frames.into_iter().rev() {
            let Some(record) = self.log.record(at) else { continue };
            self.neighbors.observe(record.payload);
            let frame = ports.alloc(&[record.payload]);
            if frame.is_some_and(|frame| self.kept.push_first(now_ns, frame)) {
                self.counters.kept_frames += 1;
            }
        }
    }

    /// How far the log is held may have changed: by what came, what is stored, what is committed.
    pub(super) fn prove_checkpoints(&mut self) {
        let before = self.log.held();
        if before == self.log.end() {
            return;
        }
        let (stored, committed) = (&self.stored, self.committed);
        let history = self.log.history().clone();
        self.log.prove_checkpoints(|record| {
            stored.iter().any(|s| stands_for(s, record, committed) && is_history(s, &history))
        });
        if self.log.held() > before
            && let Role::Follow(receiver) = &mut self.role
        {
            receiver.wants_ack();
        }
    }
}

fn stands_for(stored: &StoredCheckpoint, record: &CheckpointRecord, committed: Position) -> bool {
    let later = stored.checkpoint > *record && stored.checkpoint.position <= committed;
    stored.checkpoint == *record || later
}

/// Everything before its barrier is in this log.
fn is_history(stored: &StoredCheckpoint, history: &History) -> bool {
    let next = history.iter().find(|e| e.epoch > stored.reign.epoch);
    history.contains(&stored.reign) && next.is_none_or(|e| stored.checkpoint.position <= e.start)
}
