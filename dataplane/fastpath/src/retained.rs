//! What a clone has sent and its client has not acknowledged: sent at takeover at once,
//! instead of after a retransmission timer.

use std::collections::VecDeque;

use understudy_wire::tcp::{Segment, before, set_tsval};

use crate::flows::{FlowRef, FlowTable};
use crate::ports::Frame;

struct Entry<F> {
    flow: FlowRef,
    seq_end: u32,
    frame: F,
}

impl<F> Entry<F> {
    fn is_wanted(&self, flows: &FlowTable) -> bool {
        flows.get(self.flow).is_some_and(|f| before(f.client_acked, self.seq_end))
    }
}

/// A bounded queue of frames, in the order the clone sent them.
pub struct Retained<F> {
    entries: VecDeque<Entry<F>>,
    capacity: usize,
}

impl<F: Frame> Retained<F> {
    /// Room for `capacity` frames; all memory is taken now.
    pub fn new(capacity: usize) -> Retained<F> {
        Retained { entries: VecDeque::with_capacity(capacity), capacity }
    }

    /// Retains a frame; returns how many wanted ones were dropped for it.
    pub fn push(&mut self, flow: FlowRef, seq_end: u32, frame: F, flows: &FlowTable) -> u64 {
        while self.entries.front().is_some_and(|e| !e.is_wanted(flows)) {
            self.entries.pop_front();
        }
        if self.entries.len() == self.capacity {
            self.entries.retain(|e| e.is_wanted(flows));
        }
        let full = self.entries.len() == self.capacity;
        if full {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { flow, seq_end, frame });
        u64::from(full)
    }

    /// The next frame its client still lacks, its TSval brought up to date so that
    /// it is not older than what the old primary sent last (RFC 7323, PAWS).
    pub fn pop_wanted(&mut self, now_ns: u64, flows: &FlowTable) -> Option<F> {
        while let Some(entry) = self.entries.pop_front() {
            if !entry.is_wanted(flows) {
                continue;
            }
            let mut frame = entry.frame;
            let now = flows.get(entry.flow).and_then(|f| f.takeover_tsval(now_ns));
            if let Some(now) = now
                && let Some(segment) = Segment::parse(frame.bytes())
                && segment.options.timestamps.is_some_and(|(own, _)| before(own, now))
            {
                set_tsval(frame.bytes_mut(), &segment, now);
            }
            return Some(frame);
        }
        None
    }

    /// What is held of a flow, in the order the clone sent it.
    pub fn of(&self, flow: FlowRef) -> impl Iterator<Item = &F> {
        self.entries.iter().filter(move |e| e.flow == flow).map(|e| &e.frame)
    }

    /// Frames held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
