//! The audit's part in the data path: what is digested, when notes go into the log, and what a
//! divergence means in which role.

use super::*;

/// Divergences that change nothing any more are told at most so often; all are counted.
const TELL_NS: u64 = 1_000 * MS;

impl<P: Ports> Dataplane<P> {
    /// The capsule's kernel sent this segment, and nobody withheld it.
    pub(super) fn audit_output(&mut self, now_ns: u64, segment: &Segment, frame: &[u8]) {
        let Some(audit) = &mut self.audit else { return };
        if segment.has(SYN | ACK) {
            let key = segment.key_from_server();
            audit.open(now_ns, &key, segment.seq_end(), &mut self.counters);
        } else {
            audit.said(now_ns, segment, frame, &mut self.counters);
        }
    }

    /// The primary's notes, in their turn.
    pub(super) fn write_notes(&mut self, now_ns: u64) {
        let Some(audit) = self.audit.as_mut().filter(|_| self.hold == hold::Hold::Off) else {
            return;
        };
        let record = audit.note(now_ns, self.log.end(), &mut self.counters);
        if let Some(record) = record {
            let floor = self.floor(now_ns);
            let noted = self.append_note(now_ns, RecordKind::Audit, &record.encode(), floor);
            self.counters.audit_dropped += u64::from(!noted);
        }
    }

    /// What the primary tells clones beside the frames. False: no room.
    pub(super) fn append_note(
        &mut self,
        now_ns: u64,
        kind: RecordKind,
        bytes: &[u8],
        floor: Position,
    ) -> bool {
        let stamp_ns = self.stamp(now_ns);
        let (cause, at) = (self.cause_end(), self.log.end());
        let level = self.apply.cursor() == at;
        if self.log.append(kind, stamp_ns, bytes, floor).is_err() {
            return false;
        }
        self.notes_at_end = (cause, self.log.end());
        if level {
            self.apply.skip_to(self.log.end());
        }
        true
    }

    /// The end of what can have caused output. Notes cause none: nobody waits for their commit.
    pub(super) fn cause_end(&self) -> Position {
        match self.notes_at_end {
            (cause, end) if end == self.log.end() => cause,
            _ => self.log.end(),
        }
    }

    /// Notes that came when the clone had said more: what it has said since its client has not
    /// acknowledged, since the primary has not said it, so it is retained.
    fn settle_late_notes(&mut self) {
        let Some(audit) = self.audit.as_mut().filter(|audit| audit.has_late()) else { return };
        for mut late in audit.take_late() {
            if let Some(flow) = self.apply.flows().find(&late.key) {
                for frame in self.retained.of(flow) {
                    if let Some(segment) = Segment::parse(frame.bytes()) {
                        late.take(audit, &segment, frame.bytes());
                    }
                }
            }
            audit.settle(&late, &mut self.counters);
        }
    }

    /// Says where the clone has left the primary's way. It is unfit at once; unless it is taking
    /// over, or serves: then nobody else does, and what it said has been decided.
    pub(super) fn report_divergence(&mut self, now_ns: u64) {
        self.settle_late_notes();
        let Some(divergence) = self.audit.as_mut().and_then(|audit| audit.take_found()) else {
            return;
        };
        let follows = matches!(self.role, Role::Follow(_) | Role::Idle | Role::Fenced);
        let heal = self.config.audit.is_some_and(|audit| audit.heal);
        let unfit = follows && heal && self.apply.is_fit();
        if unfit {
            self.apply.mark_unfit();
        } else if now_ns < self.diverged_at_ns + TELL_NS {
            return;
        }
        self.diverged_at_ns = now_ns;
        self.push_event(Event::Diverged { divergence, unfit });
    }
}
