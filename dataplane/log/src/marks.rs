//! Checkpoints that the log speaks of, and up to which of them this node has proven to store one.
//!
//! Under `commit = "checkpoint"` a node holds the log only up to the first checkpoint that it could
//! not bring back: that position is what it acknowledges and stands for election with.

use std::ops::Range;

use arrayvec::ArrayVec;
use understudy_wire::Position;
use understudy_wire::record::CheckpointRecord;

/// Newest marks that are remembered.
const MARKS_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Where its record is.
    at: Position,
    checkpoint: CheckpointRecord,
}

/// The checkpoint records of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    newest: ArrayVec<Mark, MARKS_MAX>,
    /// The first record whose checkpoint is not stored here. May be older than all that are
    /// remembered.
    unproven: Option<Position>,
}

impl Marks {
    /// A record came with the log: its checkpoint is yet to be stored here.
    pub fn note(&mut self, at: Position, checkpoint: CheckpointRecord) {
        self.push(at, checkpoint);
        self.unproven.get_or_insert(at);
    }

    /// A checkpoint that this node has taken.
    pub fn push(&mut self, at: Position, checkpoint: CheckpointRecord) {
        if self.newest.is_full() {
            self.newest.remove(0);
        }
        self.newest.push(Mark { at, checkpoint });
    }

    /// Whatever covers a checkpoint covers those before it.
    pub fn prove(&mut self, is_stored: impl Fn(&CheckpointRecord) -> bool) {
        let Some(unproven) = self.unproven else { return };
        let proven = self.newest.iter().rposition(|m| m.at >= unproven && is_stored(&m.checkpoint));
        if let Some(index) = proven {
            self.unproven = self.newest.get(index + 1).map(|m| m.at);
        }
    }

    /// Everything from `end` on is cut off.
    pub fn truncate(&mut self, end: Position) {
        while self.newest.last().is_some_and(|m| m.at >= end) {
            self.newest.pop();
        }
        self.unproven = self.unproven.filter(|&at| at < end);
    }

    pub fn unproven(&self) -> Option<Position> {
        self.unproven
    }

    /// The newest checkpoint of which the log speaks in `range`.
    pub fn newest_in(&self, range: Range<Position>) -> Option<CheckpointRecord> {
        self.newest.iter().rfind(|m| range.contains(&m.at)).map(|m| m.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checkpoint(n: u64) -> CheckpointRecord {
        CheckpointRecord { position: 10 * n, at_ns: n }
    }

    proptest! {
        /// Against a list of everything: nothing counts as held that is not, however many come at once.
        #[test]
        fn nothing_is_proven_that_is_not_stored(
            steps in proptest::collection::vec((0u8..4, 0u64..60), 1..200),
        ) {
            let mut marks = Marks::default();
            let (mut all, mut next, mut stored) = (Vec::<u64>::new(), 1, 0);
            for (step, n) in steps {
                match step {
                    0 | 1 => {
                        marks.note(10 * next + 5, checkpoint(next));
                        all.push(next);
                        next += 1;
                    }
                    2 => stored = n.min(next).max(stored),
                    _ => {
                        let end = (10 * next).saturating_sub(n);
                        marks.truncate(end);
                        all.retain(|&m| 10 * m + 5 < end);
                        stored = stored.min(all.last().copied().unwrap_or(0));
                    }
                }
                marks.prove(|c| c.at_ns == stored);
                let held = marks.unproven().unwrap_or(u64::MAX);
                let first = all.iter().find(|&&m| m > stored);
                let limit = first.map_or(u64::MAX, |m| 10 * m + 5);
                prop_assert!(held <= limit, "held {held}, but {limit} lacks its checkpoint");
            }
            if let Some(&last) = all.last() {
                marks.prove(|c| c.at_ns == last);
                prop_assert!(marks.unproven().is_none() || marks.newest_in(0..u64::MAX).is_none());
            }
        }
    }
}
