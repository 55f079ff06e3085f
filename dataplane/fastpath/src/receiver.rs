//! A replica's side of replication: write at the position, acknowledge, ask for the first gap.

use arrayvec::ArrayVec;
use understudy_log::CaptureLog;
use understudy_wire::pdu::{Ack, DataHeader, Nak};
use understudy_wire::{Epoch, NodeId, Position};

use crate::MS;
use crate::counters::Counters;
use crate::sender::RESEND_BYTES_MAX;

/// Ranges received beyond a gap that are remembered; more are dropped and asked for later.
const RANGES_MAX: usize = 64;
/// An unanswered NAK is repeated after this time.
const NAK_RETRY_NS: u64 = 3 * MS;
/// A sign of life is acknowledged, but not more often than this.
const QUIET_ACK_NS: u64 = 2 * MS;

/// A replica's state for the reign it follows.
#[derive(Clone, Hash)]
pub struct Receiver {
    /// The reign.
    pub epoch: Epoch,
    /// Who reigns.
    pub primary: NodeId,
    /// False after a promise to a newer epoch: it neither writes nor acknowledges.
    pub acknowledging: bool,
    ranges: ArrayVec<(Position, Position), RANGES_MAX>,
    known_end: Position,
    committed: Position,
    primary_log_start: Position,
    echo_ns: u64,
    heard_at_ns: u64,
    /// Least (our clock - the primary's) seen: clock offset plus the fastest path.
    clock_offset_ns: Option<i64>,
    ack_due: bool,
    acked_at_ns: u64,
    asked: Option<Asked>,
}

/// The NAK sent last.
#[derive(Clone, Copy, Hash)]
struct Asked {
    to: Position,
    /// What was held when it was sent, or when something came after it.
    held: Position,
    at_ns: u64,
}

impl Receiver {
    /// Follows `primary`; the log has been cut to what is certainly its history.
    pub fn new(epoch: Epoch, primary: NodeId, committed: Position) -> Receiver {
        Receiver {
            epoch,
            primary,
            acknowledging: true,
            ranges: ArrayVec::new(),
            known_end: 0,
            committed,
            primary_log_start: 0,
            echo_ns: 0,
            heard_at_ns: 0,
            clock_offset_ns: None,
            ack_due: false,
            acked_at_ns: 0,
            asked: None,
        }
    }

    /// What the primary said is committed; may be beyond what is held here.
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// When the primary's newest DATA PDU came; 0: never.
    pub fn heard_at_ns(&self) -> u64 {
        self.heard_at_ns
    }

    /// The oldest position the primary holds.
    pub fn primary_log_start(&self) -> Position {
        self.primary_log_start
    }

    /// What to add to our clock for the one that the primary stamps its log with.
    pub fn primary_ahead_ns(&self) -> Option<i64> {
        self.clock_offset_ns.map(|offset| -offset)
    }

    /// Takes a DATA PDU of this epoch from the primary. `floor`: the clone still needs the log from there.
    pub fn on_data(
        &mut self,
        now_ns: u64,
        header: &DataHeader,
        bytes: &[u8],
        log: &mut CaptureLog,
        floor: Position,
        c: &mut Counters,
    ) {
        c.data_received += 1;
        self.heard_at_ns = now_ns;
        self.echo_ns = self.echo_ns.max(header.sent_at_ns);
        let offset = now_ns.wrapping_sub(header.sent_at_ns) as i64;
        self.clock_offset_ns = Some(self.clock_offset_ns.map_or(offset, |o| o.min(offset)));
        self.known_end = self.known_end.max(header.end);
        self.committed = self.committed.max(header.committed);
        self.primary_log_start = self.primary_log_start.max(header.log_start);
        self.ack_due |= now_ns >= self.acked_at_ns + QUIET_ACK_NS;
        if bytes.is_empty() {
            return;
        }
        let before = log.end();
        self.store(header.position, bytes, log, floor, c);
        self.ack_due |= log.end() > before;
    }

    fn store(
        &mut self,
        at: Position,
        bytes: &[u8],
        log: &mut CaptureLog,
        floor: Position,
        c: &mut Counters,
    ) {
        let end = at + bytes.len() as u64;
        let from = at.max(log.end());
        if from >= end || self.ranges.iter().any(|&(a, b)| a <= from && end <= b) {
            c.data_duplicate += 1;
            self.ack_due = true;
            return;
        }
        let in_order = from == log.end();
        if !in_order && self.ranges.is_full() {
            c.data_gaps_full += 1;
            return;
        }
        if log.write_at(from, &bytes[(from - at) as usize..], floor).is_err() {
            c.data_log_full += 1;
            return;
        }
        if in_order {
            let end = self.absorb(end);
            log.extend_to(end);
        } else {
            self.remember(from, end);
        }
    }

    /// The end of what is now contiguous, with the ranges that it reaches.
    fn absorb(&mut self, mut end: Position) -> Position {
        while let Some(&(a, b)) = self.ranges.first() {
            if a > end {
                break;
            }
            end = end.max(b);
            self.ranges.remove(0);
        }
        end
    }

    /// Adds a range, merging with its neighbours; sorted by position.
    fn remember(&mut self, mut from: Position, mut to: Position) {
        self.ranges.retain(|&mut (a, b)| {
            let touches = a <= to && from <= b;
            if touches {
                (from, to) = (from.min(a), to.max(b));
            }
            !touches
        });
        let at = self.ranges.iter().position(|&(a, _)| a > from).unwrap_or(self.ranges.len());
        // There is room: the caller checked before, and merging only frees.
        let _ = self.ranges.try_insert(at, (from, to));
    }

    /// Something was applied: the primary may want to know.
    pub fn wants_ack(&mut self) {
        self.ack_due = true;
    }

    /// The acknowledgement that is due, at most one per poll. Whole records only: whoever leads
    /// next cuts off the part of a record, and nothing that was acknowledged may be lost.
    pub fn poll_ack(&mut self, now_ns: u64, log: &CaptureLog, applied: Position) -> Option<Ack> {
        if !self.ack_due || !self.acknowledging {
            return None;
        }
        self.ack_due = false;
        self.acked_at_ns = now_ns;
        let position = log.boundary();
        let covered = position.min(log.held());
        Some(Ack { position, applied, covered, echo_ns: self.echo_ns })
    }

    /// The NAK that is due: for the first gap only, at once, then paced. While what was asked for
    /// arrives, the next piece is asked for ahead, so that the primary never waits for a NAK.
    pub fn poll_nak(&mut self, now_ns: u64, log: &CaptureLog) -> Option<Nak> {
        let position = log.end();
        let gap_end = self.ranges.first().map_or(self.known_end, |r| r.0);
        if !self.acknowledging || gap_end <= position || position < self.primary_log_start {
            self.asked = None;
            return None;
        }
        if let Some(asked) = &mut self.asked {
            if position > asked.held {
                (asked.held, asked.at_ns) = (position, now_ns);
            }
            // Bytes beyond a hole in what was asked for: that piece was lost once more.
            let lost_again = gap_end < asked.to;
            let nearly_here = position + RESEND_BYTES_MAX / 2 >= asked.to && asked.to < gap_end;
            let overdue = now_ns >= asked.at_ns + NAK_RETRY_NS;
            if !(lost_again || nearly_here || overdue) {
                return None;
            }
        }
        let length = (gap_end - position).min(RESEND_BYTES_MAX);
        self.asked = Some(Asked { to: position + length, held: position, at_ns: now_ns });
        Some(Nak { position, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use understudy_wire::record::RecordKind;

    fn primary_log() -> CaptureLog {
        let mut log = CaptureLog::new(1 << 16).unwrap();
        for i in 0..100u8 {
            log.append(RecordKind::ClientFrame, 0, &[i; 100], 0).unwrap();
        }
        log
    }

    fn data(log: &CaptureLog, from: Position, to: Position) -> (DataHeader, Vec<u8>) {
        let header = DataHeader { position: from, end: log.end(), ..Default::default() };
        (header, log.bytes(from, to).unwrap().to_vec())
    }

    proptest! {
        /// Any order, any duplication: the replica ends with the same bytes, and only NAKs true gaps.
        #[test]
        fn converges(order in proptest::collection::vec(0u64..120, 1..300)) {
            let primary = primary_log();
            let mut log = CaptureLog::new(1 << 16).unwrap();
            let mut r = Receiver::new(1, 2, 0);
            let mut c = Counters::default();
            let chunk = 100;
            for i in order {
                let from = (i * chunk).min(primary.end());
                let to = (from + chunk).min(primary.end());
                let (h, bytes) = data(&primary, from, to);
                r.on_data(1, &h, &bytes, &mut log, 0, &mut c);
                prop_assert_eq!(log.bytes(0, log.end()), primary.bytes(0, log.end()));
            }
            let mut rounds = 0;
            let mut now = 1;
            while log.end() < primary.end() {
                // Nothing came since the last piece: what is left is asked for again.
                let _ = r.poll_nak(now, &log);
                now += 5 * MS;
                let nak = r.poll_nak(now, &log).expect("a gap is asked for");
                prop_assert_eq!(nak.position, log.end());
                prop_assert!(r.poll_nak(now, &log).is_none());
                let (h, bytes) = data(&primary, nak.position, nak.position + nak.length.min(500));
                r.on_data(now, &h, &bytes, &mut log, 0, &mut c);
                rounds += 1;
                prop_assert!(rounds < 500);
            }
            prop_assert_eq!(log.bytes(0, log.end()), primary.bytes(0, primary.end()));
            prop_assert!(r.poll_nak(now, &log).is_none());
        }
    }

    #[test]
    fn a_promise_silences_it() {
        let primary = primary_log();
        let mut log = CaptureLog::new(1 << 16).unwrap();
        let mut r = Receiver::new(1, 2, 0);
        let (h, bytes) = data(&primary, 0, 100);
        r.on_data(1, &h, &bytes, &mut log, 0, &mut Counters::default());
        r.acknowledging = false;
        assert!(r.poll_ack(1, &log, 0).is_none() && r.poll_nak(1, &log).is_none());
    }

    #[test]
    fn part_of_a_record_is_not_acknowledged() {
        let primary = primary_log();
        let mut log = CaptureLog::new(1 << 16).unwrap();
        let mut r = Receiver::new(1, 2, 0);
        let record = primary.record(0).unwrap().next;
        let (h, bytes) = data(&primary, 0, record + 50);
        r.on_data(1, &h, &bytes, &mut log, 0, &mut Counters::default());
        assert_eq!(log.end(), record + 50);
        assert_eq!(r.poll_ack(1, &log, 0).map(|a| a.position), Some(record));
    }

    #[test]
    fn one_ack_per_poll_and_signs_of_life_are_paced() {
        let mut log = CaptureLog::new(1 << 16).unwrap();
        let mut r = Receiver::new(1, 2, 0);
        let h = DataHeader { sent_at_ns: 7, ..Default::default() };
        let mut c = Counters::default();
        r.on_data(10 * MS, &h, &[], &mut log, 0, &mut c);
        assert_eq!(r.poll_ack(10 * MS, &log, 0).map(|a| a.echo_ns), Some(7));
        r.on_data(10 * MS, &h, &[], &mut log, 0, &mut c);
        assert!(r.poll_ack(10 * MS, &log, 0).is_none());
    }
}
