//! Client frames that reach a node while no primary takes them: kept briefly, captured at takeover.

use std::collections::VecDeque;

use crate::MS;

/// Older ones are the client's to retransmit.
const KEPT_AGE_NS_MAX: u64 = 2_000 * MS;

/// A bounded queue of frames with their time of arrival.
pub struct Kept<F> {
    frames: VecDeque<(u64, F)>,
    capacity: usize,
}

impl<F> Kept<F> {
    /// Room for `capacity` frames; all memory is taken now.
    pub fn new(capacity: usize) -> Kept<F> {
        Kept { frames: VecDeque::with_capacity(capacity), capacity }
    }

    /// Frames kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Frames that may be kept before one is dropped for them.
    pub fn room(&self) -> usize {
        self.capacity - self.frames.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Keeps a frame; returns how many were dropped for it.
    pub fn push(&mut self, now_ns: u64, frame: F) -> u64 {
        let dropped = self.expire(now_ns.saturating_sub(KEPT_AGE_NS_MAX));
        let full = self.room() == 0;
        if full {
            self.frames.pop_front();
        }
        self.frames.push_back((now_ns, frame));
        dropped + u64::from(full)
    }

    /// Puts a frame before all others. False: no room.
    pub fn push_first(&mut self, now_ns: u64, frame: F) -> bool {
        let room = self.room() > 0;
        if room {
            self.frames.push_front((now_ns, frame));
        }
        room
    }

    /// Drops frames that came before `since_ns`: a primary had them.
    pub fn expire(&mut self, since_ns: u64) -> u64 {
        let mut dropped = 0;
        while self.frames.front().is_some_and(|(at, _)| *at < since_ns) {
            self.frames.pop_front();
            dropped += 1;
        }
        dropped
    }

    /// The oldest frame.
    pub fn pop(&mut self) -> Option<F> {
        self.frames.pop_front().map(|(_, f)| f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_only_for_so_long() {
        let mut kept = Kept::new(3);
        let dropped: Vec<u64> = (0..5).map(|n| kept.push(n * MS, n)).collect();
        assert_eq!(dropped, [0, 0, 0, 1, 1]);
        assert!(!kept.push_first(5 * MS, 9), "no room before what is newer");
        assert_eq!((kept.expire(3 * MS), kept.pop()), (1, Some(3)));
        assert!(kept.push_first(5 * MS, 9));
        assert_eq!(kept.push(4 * MS + KEPT_AGE_NS_MAX, 10), 0);
        assert_eq!(kept.push(6 * MS + KEPT_AGE_NS_MAX, 11), 2);
        assert_eq!((kept.pop(), kept.pop(), kept.is_empty()), (Some(10), Some(11), true));
    }
}
