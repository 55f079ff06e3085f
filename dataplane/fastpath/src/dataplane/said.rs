//! The order between connections: what the application had said before it was given a client's data.
//!
//! A client may rely on an answer that its TCP has not acknowledged yet, on another connection. The
//! log alone does not show that; so before such data goes into it, what was said on other
//! connections since the last note is noted, and clones wait for as much ([`crate::apply`]).

use understudy_wire::said::{Progress, SAID_MAX, SaidRecord};

use super::*;
use crate::apply::moves_application;

/// The newest entries looked at for one of the same connection; others may be in the list twice.
const LOOKS_MAX: usize = 8;

/// What was said and is not noted.
#[derive(Default)]
pub(super) struct Said {
    progress: ArrayVec<Progress, SAID_MAX>,
}

impl Said {
    pub(super) fn is_empty(&self) -> bool {
        self.progress.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.progress.clear();
    }

    /// False: no room.
    fn add(&mut self, key: &FlowKey, to: u32) -> bool {
        let looks_from = self.progress.len().saturating_sub(LOOKS_MAX);
        for known in self.progress[looks_from..].iter_mut().rev() {
            if known.key == *key {
                known.to = later(known.to, to);
                return true;
            }
        }
        self.progress.try_push(Progress { key: *key, to }).is_ok()
    }

    fn is_only_of(&self, key: Option<FlowKey>) -> bool {
        self.progress.iter().all(|p| Some(p.key) == key)
    }
}

impl<P: Ports> Dataplane<P> {
    /// The application said this, and nobody withheld it.
    pub(super) fn note_progress(&mut self, now_ns: u64, segment: &Segment) {
        if segment.seq_len() == 0 || segment.has(SYN) || self.commits_by_checkpoint() {
            return;
        }
        let (key, to) = (segment.key_from_server(), segment.seq_end());
        if !self.said.add(&key, to) {
            let floor = self.floor(now_ns);
            self.write_progress(now_ns, floor);
            self.said.add(&key, to);
        }
    }

    /// This frame is about to be logged: what could have caused it comes first.
    pub(super) fn note_causes(&mut self, now_ns: u64, frame: &[u8], floor: Position) {
        let segment = Segment::parse(frame);
        let key = segment.as_ref().map(Segment::key_from_client);
        if moves_application(frame, segment.as_ref()) && !self.said.is_only_of(key) {
            self.write_progress(now_ns, floor);
        }
    }

    fn write_progress(&mut self, now_ns: u64, floor: Position) {
        let record = SaidRecord { progress: std::mem::take(&mut self.said.progress) };
        let noted = self.append_note(now_ns, RecordKind::Said, &record.encode(), floor);
        self.counters.said_notes += u64::from(noted);
        self.counters.said_dropped += u64::from(!noted);
    }
}
