//! Output commit: a frame leaves when all that was delivered before it is committed.
//!
//! A ring and a compare, nothing per flow. DESIGN: "the one rule that makes it correct".

use std::collections::VecDeque;

use understudy_wire::Position;

/// Output waiting for its cause to be committed, in order.
#[derive(Clone, Hash)]
pub struct Gate<F> {
    ring: VecDeque<(Position, F)>,
    capacity: usize,
    passed: u64,
}

impl<F> Gate<F> {
    /// A gate for at most `capacity` waiting frames; all memory is taken now.
    pub fn new(capacity: usize) -> Gate<F> {
        Gate { ring: VecDeque::with_capacity(capacity), capacity, passed: 0 }
    }

    /// Frames that may still be pushed.
    pub fn room(&self) -> usize {
        self.capacity - self.ring.len()
    }

    /// Frames waiting.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Frames that have left it so far, one way or the other.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Adds a frame caused by everything before `tag`. False: no room, frame dropped.
    pub fn push(&mut self, tag: Position, frame: F) -> bool {
        debug_assert!(self.ring.back().is_none_or(|(last, _)| *last <= tag));
        if self.room() == 0 {
            return false;
        }
        self.ring.push_back((tag, frame));
        true
    }

    /// The next frame whose cause is committed.
    pub fn pop(&mut self, committed: Position) -> Option<F> {
        self.ring.front().filter(|(tag, _)| *tag <= committed)?;
        self.passed += 1;
        self.ring.pop_front().map(|(_, frame)| frame)
    }

    /// Drops everything; returns how many frames that was.
    pub fn clear(&mut self) -> usize {
        let n = self.ring.len();
        self.ring.clear();
        self.passed += n as u64;
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Nothing leaves early, nothing overtakes, nothing is lost.
        #[test]
        fn order_and_commit(steps in proptest::collection::vec((0u64..5, 0u64..8), 1..100)) {
            let mut gate = Gate::new(1000);
            let (mut tag, mut committed, mut pushed, mut popped) = (0, 0, 0u64, 0u64);
            for (more, ahead) in steps {
                tag += more;
                prop_assert!(gate.push(tag, (tag, pushed)));
                pushed += 1;
                committed = (committed + ahead).min(tag);
                while let Some((t, n)) = gate.pop(committed) {
                    prop_assert!(t <= committed);
                    prop_assert_eq!(n, popped);
                    popped += 1;
                }
            }
            while gate.pop(u64::MAX).is_some() { popped += 1; }
            prop_assert_eq!(pushed, popped);
        }
    }

    #[test]
    fn it_is_bounded() {
        let mut gate = Gate::new(1);
        assert!(gate.push(0, ()));
        assert!(!gate.push(0, ()));
        assert_eq!(gate.clear(), 1);
    }
}
