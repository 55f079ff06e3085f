//! The ring of frames that were parked, or that the clone's kernel has not confirmed: when each is
//! given, and given again.

use super::*;

/// A frame not acknowledged by the clone's kernel in this time is given again; doubled each time.
const REDELIVER_NS: u64 = 60 * MS;
const REDELIVERIES_MAX: u8 = 8;
/// One behind a gap waits so many times as long: what fills the gap is given again, too, unless the
/// kernel has it and its word was lost.
const GAP_PATIENCE: u64 = 4;
/// Sooner, if the kernel has asked for it so often.
pub(super) const DUP_ACKS: u8 = 3;
/// A closed window is probed with the parked frame after this time.
const WINDOW_PROBE_NS: u64 = 300 * MS;
/// How often the ring is scanned without a reason: each time costs what it holds.
const SCAN_INTERVAL_NS: u64 = MS;

impl Apply {
    /// Looks again at what is parked or unconfirmed.
    pub fn scan_pending<P: Ports>(&mut self, cx: &mut Context<'_, P>) {
        if !self.scan_asked && cx.now_ns < self.scan_due_ns {
            return;
        }
        self.scan_asked = false;
        self.scan_due_ns = cx.now_ns + SCAN_INTERVAL_NS;
        self.scan += 1;
        self.order.parked = 0;
        let (mut done, mut confirmed) = (0, 0);
        for i in 0..self.pending.len() {
            let entry = self.pending[i];
            let state = match entry.state {
                PendingState::Done => {
                    done += 1;
                    continue;
                }
                PendingState::Parked { since_ns } => self.scan_parked(cx, &entry, since_ns),
                PendingState::Delivered { at_ns, tries } => {
                    self.scan_delivered(cx, &entry, at_ns, tries)
                }
            };
            match (entry.state, state) {
                (_, PendingState::Parked { .. }) => {
                    let counts = self.flows.get(entry.flow).is_some_and(|f| !f.overdue);
                    self.order.parked += u32::from(counts);
                }
                (PendingState::Delivered { .. }, PendingState::Done) => confirmed += 1,
                _ => {}
            }
            self.pending[i].state = state;
        }
        self.pace.note_confirmed(confirmed);
        while self.pending.front().is_some_and(|p| p.state == PendingState::Done) {
            self.pending.pop_front();
        }
        // One slow connection at the front must not fill the ring with what is done, to be looked at again
        // and again.
        if done > self.pending.len() / 2 {
            self.pending.retain(|p| p.state != PendingState::Done);
        }
    }

    fn scan_parked<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        entry: &Pending,
        since_ns: u64,
    ) -> PendingState {
        let scan = self.scan;
        let log = cx.log;
        let record = log.record(entry.at);
        let segment = record.as_ref().and_then(|r| Segment::parse(r.payload));
        let (Some(flow), Some(record), Some(segment)) =
            (self.flows.get_mut(entry.flow), record, segment)
        else {
            return PendingState::Done;
        };
        if flow.blocked_in_scan == scan {
            return entry.state;
        }
        let verdict = verdict(flow, &segment);
        let probe = verdict == Verdict::AheadOfWindow && cx.now_ns >= since_ns + WINDOW_PROBE_NS;
        match verdict {
            Verdict::AheadOfOutput => {
                flow.blocked_in_scan = scan;
                self.hand_over_again(cx, record.payload, &segment, entry.flow);
                self.partial_ack(cx, record.payload, &segment, entry.flow);
                entry.state
            }
            Verdict::AheadOfWindow if !probe => {
                flow.blocked_in_scan = scan;
                entry.state
            }
            _ => {
                // First: the adoption takes its numbers from the next frame of the flow.
                self.hand_over_again(cx, record.payload, &segment, entry.flow);
                match verdict {
                    _ if !self.give(
                        cx,
                        record.payload,
                        &segment,
                        entry.flow,
                        verdict,
                        Given::WasParked,
                    ) =>
                    {
                        entry.state
                    }
                    Verdict::Untracked => PendingState::Done,
                    _ => PendingState::Delivered { at_ns: cx.now_ns, tries: 0 },
                }
            }
        }
    }

    fn scan_delivered<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        entry: &Pending,
        at_ns: u64,
        tries: u8,
    ) -> PendingState {
        let Some(flow) = self.flows.get_mut(entry.flow) else { return PendingState::Done };
        if !before(flow.rcv_nxt, entry.seq_end) {
            return PendingState::Done;
        }
        // At the kernel's word (RFC 5681, fast retransmit), or after a while.
        let asked = tries == 0 && flow.dup_acks >= DUP_ACKS;
        if cx.now_ns < at_ns + (REDELIVER_NS << tries) && !asked {
            return entry.state;
        }
        let log = cx.log;
        let record = log.record(entry.at).filter(|_| tries < REDELIVERIES_MAX);
        let Some((record, segment)) =
            record.and_then(|r| Segment::parse(r.payload).map(|s| (r, s)))
        else {
            cx.counters.redelivery_given_up += 1;
            self.fit &= !flow.is_untouched();
            return PendingState::Done;
        };
        let patience_ns = GAP_PATIENCE * (REDELIVER_NS << tries);
        if before(flow.rcv_nxt, segment.seq) && cx.now_ns < at_ns + patience_ns {
            // What comes before it is missing. It may be there itself, and if the connection is
            // closed once the gap is filled, it would be reset for a second delivery.
            return entry.state;
        }
        flow.dup_acks = 0;
        let newest = flow.client_tsval;
        self.hand_over_again(cx, record.payload, &segment, entry.flow);
        cx.deliver_again(record.payload, &segment, newest);
        cx.counters.redelivered += 1;
        PendingState::Delivered { at_ns: cx.now_ns, tries: tries + 1 }
    }
}
