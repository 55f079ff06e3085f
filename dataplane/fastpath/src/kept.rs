//! Client frames that reach a node while no primary takes them: kept briefly, captured at takeover.

use std::collections::VecDeque;

use crate::MS;

/// Frames kept at most.
pub const KEPT_MAX: usize = 512;
/// Older ones are the client's to retransmit.
const KEPT_AGE_NS_MAX: u64 = 2_000 * MS;

/// A bounded queue of frames with their time of arrival.
pub struct Kept<F> {
    frames: VecDeque<(u64, F)>,
}

impl<F> Kept<F> {
    /// Nothing kept; all memory is taken now.
    pub fn new() -> Kept<F> {
        Kept { frames: VecDeque::with_capacity(KEPT_MAX) }
    }

    /// Keeps a frame; returns how many were dropped for it.
    pub fn push(&mut self, now_ns: u64, frame: F) -> u64 {
        let dropped = self.expire(now_ns.saturating_sub(KEPT_AGE_NS_MAX));
        let full = self.frames.len() == KEPT_MAX;
        if full {
            self.frames.pop_front();
        }
        self.frames.push_back((now_ns, frame));
        dropped + u64::from(full)
    }

    /// Puts a frame before all others. False: no room.
    pub fn push_first(&mut self, now_ns: u64, frame: F) -> bool {
        let room = self.frames.len() < KEPT_MAX;
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

impl<F> Default for Kept<F> {
    fn default() -> Self {
        Self::new()
    }
}
