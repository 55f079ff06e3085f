//! What a restored application had sent before its checkpoint and its clients had not acknowledged:
//! its kernel would send that again only after a second. Like retained output, at takeover.

use understudy_wire::tcp::FlowKey;

use super::*;
use crate::flows::FlowRef;

/// Segments of restored connections.
#[derive(Default)]
pub(super) struct Owed {
    segments: Vec<(FlowRef, Vec<u8>)>,
    /// Neighbours have been learned from the log before this.
    learned_to: Position,
}

impl<P: Ports> Dataplane<P> {
    /// The connections are those of the table.
    pub(super) fn owe(&mut self, segments: Vec<Vec<u8>>) {
        let key =
            |bytes: &[u8]| -> Option<FlowKey> { Some(Segment::parse(bytes)?.key_from_server()) };
        let flows = self.apply.flows();
        self.owed.segments = segments
            .into_iter()
            .take(self.config.retained_frames_max)
            .filter_map(|bytes| Some((flows.find(&key(&bytes)?)?, bytes)))
            .collect();
        self.counters.owed += self.owed.segments.len() as u64;
    }

    /// To the gate with what clients still lack.
    pub(super) fn send_owed(&mut self, now_ns: u64, tag: Position, ports: &mut P) {
        for (at, mut bytes) in std::mem::take(&mut self.owed.segments) {
            let Some(segment) = Segment::parse(&bytes) else { continue };
            let flow = self.apply.flows().get(at);
            let wanted = flow.filter(|f| before(f.client_acked, segment.seq_end()));
            let Some((flow, to)) = wanted.zip(self.neighbors.mac(segment.ip.dst)) else { continue };
            if let (Some(now), Some(_)) = (flow.takeover_tsval(now_ns), segment.options.timestamps)
            {
                set_tsval(&mut bytes, &segment, now);
            }
            bytes[..to.len()].copy_from_slice(&to);
            if self.gate.room() > 0
                && let Some(frame) = ports.alloc(&[&bytes])
            {
                self.gate.push(tag, Waiting { since_ns: now_ns, frame });
                self.counters.owed_sent += 1;
            }
        }
    }

    /// A node on which nothing runs applies nothing, and would not know its neighbours.
    pub(super) fn learn_neighbors(&mut self) {
        let mut at = self.owed.learned_to.max(self.log.start());
        for _ in 0..APPLY_BUDGET {
            let Some(record) = self.log.record(at) else { break };
            if record.header.kind == RecordKind::ClientFrame {
                self.neighbors.observe(record.payload);
            }
            at = record.next;
        }
        self.owed.learned_to = at;
    }
}
