//! Cause before effect between connections: a client's data waits until the clone has said, on every
//! other connection, what the primary's application had said before it was given that data, and has
//! been given what is parked of them. Nothing else waits: what is waited for may need the ACKs that
//! follow in the log.
//!
//! A clone may be unable to say as much (it has sent all that its congestion window allows, Nagle's
//! rule holds the rest back, a timer runs late there). So a wait has a limit, and after one that
//! passed it nothing is waited for until many times as long has passed: then the order is that of
//! the log and of ACKs alone. What is really missing is noticed by those.

use understudy_wire::frame::{Ip, PROTO_UDP};
use understudy_wire::said::SaidRecord;

use super::*;

/// Connections waited for at most.
const AWAITED_MAX: usize = 256;
/// Patience with what may be unable to come.
const DOUBTFUL_NS: u64 = 50 * MS;
/// Without waiting, after a wait in vain: so many times as long.
const REST: u64 = 8;
/// Segments that any kernel sends without having been acknowledged anything (RFC 6928)...
const SURE_SEGMENTS: u32 = 10;
/// ...of this size at least.
const SURE_MSS: u16 = 536;

#[derive(Clone, Copy, Debug)]
struct Awaited {
    flow: FlowRef,
    to: u32,
}

/// What other connections' data waits for.
#[derive(Debug, Default)]
pub(super) struct Order {
    awaited: ArrayVec<Awaited, AWAITED_MAX>,
    /// Frames parked of connections that are not overdue.
    pub(super) parked: u32,
    since_ns: Option<u64>,
    rest_until_ns: u64,
}

/// Whether an application sees anything of a client's frame, which is of a connection if there is a
/// segment.
pub fn moves_application(frame: &[u8], segment: Option<&Segment>) -> bool {
    match segment {
        Some(s) => !s.has(SYN) && (s.seq_len() > 0 || s.has(RST)),
        None => Ip::parse(frame).is_some_and(|ip| ip.protocol == PROTO_UDP),
    }
}

/// The clone has not said as much of `to` as its kernel can be sure to send.
fn lacks(flow: &Flow, to: u32) -> bool {
    let mss = u32::from(flow.syn.options.mss.unwrap_or(SURE_MSS).max(SURE_MSS));
    // After a retransmission timeout it begins with one.
    let segments = if flow.sends_again { 1 } else { SURE_SEGMENTS };
    let acked = later(flow.client_acked, flow.partial_acked);
    let sure = acked.wrapping_add(segments * mss);
    before(flow.snd_nxt, if before(sure, to) { sure } else { to })
}

impl Apply {
    /// The primary's application had said so much before what follows in the log.
    pub(super) fn apply_said<P: Ports>(&mut self, cx: &mut Context<'_, P>, record: &Record<'_>) {
        let Some(said) = SaidRecord::decode(record.payload) else {
            cx.counters.corrupt_records += 1;
            return;
        };
        if self.cursor < self.seen.until {
            return;
        }
        for progress in &said.progress {
            let Some(at) = self.flows.find(&progress.key) else { continue };
            let owes = self.flows.get(at).is_some_and(|f| !f.overdue && lacks(f, progress.to));
            let awaited = &mut self.order.awaited;
            if !owes {
                continue;
            }
            if let Some(known) = awaited.iter_mut().find(|a| a.flow == at) {
                known.to = later(known.to, progress.to);
            } else if awaited.try_push(Awaited { flow: at, to: progress.to }).is_err() {
                cx.counters.said_overflow += 1;
            }
        }
    }

    /// Keeps the whole log waiting before a frame of the connection `own`, if it is of one.
    pub(super) fn waits_for_others<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: Option<&Segment>,
        own: Option<FlowRef>,
    ) -> bool {
        let idle = self.order.awaited.is_empty() && self.order.parked == 0;
        if idle || cx.now_ns < self.order.rest_until_ns || !moves_application(frame, segment) {
            return false;
        }
        let since_ns = self.order.since_ns.unwrap_or(cx.now_ns);
        let Some(until_ns) = self.wait_until(since_ns, cx.wait_ns_max, own) else {
            self.order.since_ns = None;
            return false;
        };
        cx.counters.order_waits += u64::from(self.order.since_ns.is_none());
        if cx.now_ns < until_ns {
            self.order.since_ns = Some(since_ns);
            return true;
        }
        cx.counters.order_waits_expired += 1;
        self.order.since_ns = None;
        self.order.rest_until_ns = cx.now_ns + REST * (cx.now_ns - since_ns);
        self.give_others_up(own);
        false
    }

    /// Until when to wait, if there is anything to wait for. What gets on is given its time anew.
    fn wait_until(&mut self, since_ns: u64, longest_ns: u64, own: Option<FlowRef>) -> Option<u64> {
        let doubtful_ns = DOUBTFUL_NS.min(longest_ns);
        let flows = &self.flows;
        let awaited = &mut self.order.awaited;
        awaited.retain(|a| flows.get(a.flow).is_some_and(|f| !f.overdue && lacks(f, a.to)));
        let others = awaited.iter().filter(|a| Some(a.flow) != own);
        let until_ns = others
            .filter_map(|a| flows.get(a.flow))
            .map(|f| {
                let patience_ns = if f.computes() { longest_ns } else { doubtful_ns };
                since_ns.max(f.spoke_at_ns) + patience_ns
            })
            .max();
        let of_own = own.and_then(|at| flows.get(at)).filter(|f| !f.overdue);
        let parked = self.order.parked > of_own.map_or(0, |f| f.parked);
        until_ns.max(parked.then_some(since_ns + doubtful_ns))
    }

    fn give_others_up(&mut self, own: Option<FlowRef>) {
        for awaited in &self.order.awaited {
            if let Some(flow) =
                self.flows.get_mut(awaited.flow).filter(|_| Some(awaited.flow) != own)
            {
                flow.overdue = true;
            }
        }
        for pending in &self.pending {
            if matches!(pending.state, PendingState::Parked { .. })
                && let Some(flow) = self.flows.get_mut(pending.flow)
            {
                flow.overdue = true;
            }
        }
        self.order.parked = 0;
    }

    /// Until when to wait, after all was applied, for the clone to have said what the log says that
    /// the primary had, and to have been given what is parked.
    pub fn owes_until(&mut self, now_ns: u64, since_ns: u64, longest_ns: u64) -> Option<u64> {
        let rests = now_ns < self.order.rest_until_ns;
        if rests { None } else { self.wait_until(since_ns, longest_ns, None) }
    }
}
