//! Feeds a clone from the log: in log order, never an effect before its cause, nothing lost.
//!
//! A frame that acknowledges what the clone has not sent yet waits (with bare
//! ACKs for what it has sent, or its congestion window would never open). A
//! frame beyond the clone's window is parked, so that its kernel does not drop
//! what no client will send again. What the clone does not acknowledge is
//! delivered again from the log. The same rules go on after a takeover for the
//! connections it inherited, since the old primary may have sent more than the
//! clone so far.

mod again;
mod order;
mod pace;

use std::collections::{HashMap, VecDeque};

use arrayvec::ArrayVec;
use understudy_log::{CaptureLog, Record};
use understudy_wire::Position;
use understudy_wire::audit::AuditRecord;
use understudy_wire::record::RecordKind;
use understudy_wire::tcp::{
    ACK, BareAck, FlowKey, RST, SYN, Segment, before, build_bare_ack, later, set_tsval,
};

use crate::MS;
use crate::adoption::{SynAckInfo, SynInfo, attributes};
use crate::audit::Auditor;
use crate::command::{Handshake, Resume};
use crate::counters::Counters;
use crate::flows::{Flow, FlowRef, FlowState, FlowTable, SynTable};
use crate::ports::{Frame, Outbox, Ports};
use again::DUP_ACKS;
use order::Order;
pub use order::moves_application;
use pace::Pace;

/// Frames parked or not yet acknowledged at most.
const PENDING_MAX: usize = 16384;
/// A connection of which the clone's kernel says nothing is handed over again after this time.
const READOPT_NS: u64 = 50 * MS;
const ADOPTIONS_MAX: u8 = 100;
/// No window is larger (RFC 7323: 2^30); what is further ahead is not of this connection.
const AHEAD_MAX: i32 = 1 << 30;
/// Repeated SYNs to be answered in one poll; the client sends more.
const SYNACKS_DUE_MAX: usize = 32;

/// Whose output the clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Another node's: handshakes are adopted, SYNs not delivered.
    Clone,
    /// This node's: only inherited connections need care.
    Primary,
}

/// What the applier may use while it works.
pub struct Context<'a, P: Ports> {
    /// Now, on this node's clock.
    pub now_ns: u64,
    /// Now, on the clock that stamps the log.
    pub log_now_ns: u64,
    /// How long a frame may hold up the log before it is parked.
    pub wait_ns_max: u64,
    /// A wait that long means that the clone no longer does what the primary did.
    pub expiry_is_divergence: bool,
    /// The log.
    pub log: &'a CaptureLog,
    /// Buffers and adoption.
    pub ports: &'a mut P,
    /// Towards the capsule.
    pub host: &'a mut Outbox<P::Frame>,
    /// Counts.
    pub counters: &'a mut Counters,
    /// Compares the clone's output with the primary's, if it is to be.
    pub audit: Option<&'a mut Auditor>,
}

impl<P: Ports> Context<'_, P> {
    /// Gives bytes to the capsule. False: no buffer or a full device.
    pub fn deliver(&mut self, bytes: &[u8]) -> bool {
        let frame = self.ports.alloc(&[bytes]);
        self.deliver_frame(frame)
    }

    /// Gives a segment that the capsule lacks again. Its TSval becomes the newest that the
    /// capsule has seen, or its kernel would drop it as old (RFC 7323, PAWS).
    fn deliver_again(&mut self, bytes: &[u8], segment: &Segment, newest: Option<u32>) -> bool {
        let mut frame = self.ports.alloc(&[bytes]);
        if let Some(frame) = &mut frame
            && let Some(((own, _), newest)) = segment.options.timestamps.zip(newest)
        {
            set_tsval(frame.bytes_mut(), segment, later(own, newest));
        }
        self.deliver_frame(frame)
    }

    fn deliver_frame(&mut self, frame: Option<P::Frame>) -> bool {
        let sent = frame.is_some_and(|frame| self.host.push(self.ports, frame));
        if sent {
            self.counters.delivered_frames += 1;
        } else {
            self.counters.host_tx_dropped += 1;
        }
        sent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingState {
    Parked { since_ns: u64 },
    Delivered { at_ns: u64, tries: u8 },
    Done,
}

/// A frame of the log that the clone's kernel has not confirmed.
#[derive(Clone, Copy, Debug)]
struct Pending {
    at: Position,
    flow: FlowRef,
    seq_end: u32,
    state: PendingState,
}

/// What becomes of a segment that the capsule's kernel sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFate {
    /// Nothing special.
    Pass,
    /// The client has not acknowledged it: worth keeping for a takeover.
    Retain(FlowRef),
    /// Says that an adoption was lost; must not reach the client.
    Swallow,
}

/// What to do with a segment of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its time has come; it takes sequence space to be confirmed.
    Tracked,
    /// Its time has come; nothing to confirm, or not of this connection.
    Untracked,
    /// It acknowledges what the clone has not sent.
    AheadOfOutput,
    /// It exceeds the clone's window.
    AheadOfWindow,
}

/// How a frame comes to be given to the capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// In its turn.
    Now(Mode),
    /// It was parked, and is in the ring.
    WasParked,
}

/// The applier's state.
pub struct Apply {
    cursor: Position,
    flows: FlowTable,
    syns: SynTable,
    pending: VecDeque<Pending>,
    pace: Pace,
    waiting_since_ns: Option<u64>,
    order: Order,
    scan: u64,
    scan_due_ns: u64,
    /// A frame that is parked or lacking may be due.
    scan_asked: bool,
    fit: bool,
    unanswered: ArrayVec<Position, SYNACKS_DUE_MAX>,
    /// What a restored clone has seen of the log already.
    seen: Seen,
}

/// Before its barrier, a restored clone lacks only what its kernel had not finished with: frames of
/// the connections it came with, which TCP sorts out, and handshakes it had not accepted. All else
/// is part of its state.
#[derive(Default)]
struct Seen {
    until: Position,
    /// And where each of these handshakes begins.
    pending: HashMap<FlowKey, Position>,
}

impl Apply {
    /// Nothing applied; room for `flows_max` connections.
    pub fn new(flows_max: usize) -> Apply {
        Apply {
            cursor: 0,
            flows: FlowTable::new(flows_max),
            syns: SynTable::default(),
            pending: VecDeque::with_capacity(PENDING_MAX),
            pace: Pace::default(),
            waiting_since_ns: None,
            order: Order::default(),
            scan: 0,
            scan_due_ns: 0,
            scan_asked: false,
            fit: true,
            unanswered: ArrayVec::new(),
            seen: Seen::default(),
        }
    }

    /// Begins again at position 0 with a fresh clone.
    pub fn reset(&mut self) {
        self.cursor = 0;
        self.flows.clear();
        self.syns.drain();
        self.pending.clear();
        self.pace = Pace::default();
        self.waiting_since_ns = None;
        self.order = Order::default();
        self.fit = true;
        self.seen = Seen::default();
    }

    /// Begins again where a restored clone stood.
    pub fn resume(&mut self, now_ns: u64, resume: &Resume) {
        self.reset();
        self.cursor = resume.barrier.floor;
        let pending = resume.pending.iter().map(|h| (h.key, h.from)).collect();
        self.seen = Seen { until: resume.barrier.position, pending };
        for seed in &resume.flows {
            self.fit &= self.flows.restore(now_ns, seed);
        }
    }

    /// Whether the clone has this segment's effect in it.
    fn has_seen(&self, segment: Option<&Segment>) -> bool {
        if self.cursor >= self.seen.until {
            return false;
        }
        let Some(segment) = segment else { return true };
        let key = segment.key_from_client();
        let carried = self.flows.find(&key).is_some() && !segment.has(SYN);
        !carried && self.seen.pending.get(&key).is_none_or(|&from| self.cursor < from)
    }

    /// Handshakes under way: the log has their beginning, and the clone's kernel nothing of them.
    pub fn handshakes(&self) -> impl Iterator<Item = Handshake> {
        let half_open = self.flows.iter().filter(|flow| flow.state == FlowState::HalfOpen);
        let half_open = half_open.map(|flow| Handshake { key: flow.key, from: flow.syn.at });
        let unanswered = self.syns.iter().map(|(key, syn)| Handshake { key: *key, from: syn.at });
        half_open.chain(unanswered)
    }

    /// The next record to apply.
    pub fn cursor(&self) -> Position {
        self.cursor
    }

    /// The clone has in it everything before this: the records applied, or its barrier.
    pub fn consumed(&self) -> Position {
        self.cursor.max(self.seen.until)
    }

    /// Records before it are done with for good.
    pub fn floor(&self) -> Position {
        let pending = self.pending.iter().find(|p| p.state != PendingState::Done);
        pending.map_or(self.cursor, |p| p.at.min(self.cursor))
    }

    /// The log is full. If all that may be applied is, then only unconfirmed frames hold it, and
    /// what they wait for may be the very bytes that find no room: the oldest one is not kept for
    /// another delivery. The capsule's kernel has had it once.
    pub fn yield_room(&mut self, limit: Position, c: &mut Counters) {
        let cursor = self.cursor;
        let oldest = self.pending.iter_mut().find(|p| p.state != PendingState::Done);
        if let Some(p) = oldest.filter(|p| p.at < cursor && limit <= cursor)
            && matches!(p.state, PendingState::Delivered { .. })
        {
            p.state = PendingState::Done;
            c.redelivery_given_up += 1;
        }
    }

    /// Whether the clone has followed the primary so far.
    pub fn is_fit(&self) -> bool {
        self.fit
    }

    /// The connections.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// SYNs that nobody has answered: records to deliver when this node takes over.
    pub fn take_unanswered_syns(&mut self) -> Vec<Position> {
        self.syns.drain()
    }

    /// SYN-ACKs of the log that were asked for again.
    pub fn take_synacks_due(&mut self) -> ArrayVec<Position, SYNACKS_DUE_MAX> {
        std::mem::take(&mut self.unanswered)
    }

    /// Applies whole records before `limit`, at most `budget` of them. Returns whether anything moved.
    pub fn run<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        mode: Mode,
        limit: Position,
        budget: usize,
    ) -> bool {
        self.scan_pending(cx);
        let started_at = self.cursor;
        for _ in 0..budget {
            if self.cursor >= limit {
                break;
            }
            let log = cx.log;
            let Some(record) = log.record(self.cursor).filter(|r| r.next <= limit) else { break };
            if !self.apply_record(cx, mode, &record) {
                break;
            }
            self.waiting_since_ns = None;
            self.cursor = record.next;
        }
        self.cursor != started_at
    }

    /// The frame at the cursor, just appended and to be delivered by this node as the
    /// primary: true if it belongs to an inherited connection and is taken care of.
    pub fn take_if_inherited<P: Ports>(&mut self, cx: &mut Context<'_, P>) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let log = cx.log;
        let Some(record) = log.record(self.cursor) else { return false };
        let Some(segment) = Segment::parse(record.payload) else { return false };
        if self.flows.find(&segment.key_from_client()).is_none() {
            return false;
        }
        self.apply_record(cx, Mode::Primary, &record);
        true
    }

    /// The primary delivered everything up to `position` itself.
    pub fn skip_to(&mut self, position: Position) {
        self.cursor = position;
    }

    /// False: not yet.
    fn apply_record<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        mode: Mode,
        record: &Record<'_>,
    ) -> bool {
        match (record.header.kind, mode) {
            (RecordKind::ClientFrame, _) => self.apply_frame(cx, mode, record),
            (RecordKind::SynAck, Mode::Clone) => {
                self.apply_synack(cx, record);
                true
            }
            (RecordKind::Audit, Mode::Clone) => {
                self.apply_audit(cx, record);
                true
            }
            (RecordKind::Said, Mode::Clone) => {
                self.apply_said(cx, record);
                true
            }
            (RecordKind::SynAck | RecordKind::Audit | RecordKind::Said, Mode::Primary)
            | (RecordKind::Epoch | RecordKind::Checkpoint, _) => true,
            // Of a capture-only node, which replicates nothing: whoever sent it is mistaken.
            (RecordKind::LinkFrame, _) => true,
        }
    }

    /// What an unfit clone says does not count any more.
    fn apply_audit<P: Ports>(&self, cx: &mut Context<'_, P>, record: &Record<'_>) {
        let Some(audit) = cx.audit.as_mut().filter(|_| self.fit) else { return };
        match AuditRecord::decode(record.payload) {
            Some(notes) => audit.hear(&notes, cx.counters),
            None => cx.counters.corrupt_records += 1,
        }
    }

    fn apply_synack<P: Ports>(&mut self, cx: &mut Context<'_, P>, record: &Record<'_>) {
        let Some(segment) = Segment::parse(record.payload) else {
            cx.counters.corrupt_records += 1;
            return;
        };
        let key = segment.key_from_server();
        let Some(syn) = self.syns.take(&key, segment.ack) else { return };
        cx.counters.handshakes += 1;
        let synack = SynAckInfo::new(&segment, record.header.timestamp_ns);
        if let Some(audit) = &mut cx.audit {
            audit.open(cx.now_ns, &key, segment.seq_end(), cx.counters);
        }
        if !self.flows.half_open(key, syn, synack, self.cursor) {
            cx.counters.flows_full += 1;
            self.fit = false;
        }
    }

    fn apply_frame<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        mode: Mode,
        record: &Record<'_>,
    ) -> bool {
        let frame = record.payload;
        // What is not an intact segment is the kernel's to judge. Nobody sends it to a clone again:
        // what the device does not take now, it takes later.
        let intact = Segment::parse(frame).filter(|s| s.checksum_ok(frame));
        if self.has_seen(intact.as_ref()) {
            cx.counters.seen_before += 1;
            return true;
        }
        let Some(segment) = intact else {
            let waits = mode == Mode::Clone && self.waits_for_others(cx, frame, None, None);
            return !waits && cx.deliver(frame);
        };
        let key = segment.key_from_client();
        let found = self.flows.find(&key);
        if segment.has(SYN) && !segment.has(ACK) {
            return self.apply_syn(cx, mode, frame, &segment, found);
        }
        let Some(at) = found else { return cx.deliver(frame) };
        if mode == Mode::Clone {
            self.note_echo(at, &segment, record.header.timestamp_ns);
        }
        let half_open = self.flows.get(at).is_some_and(|f| f.state == FlowState::HalfOpen);
        if half_open && !self.adopt(cx, frame, &segment, at) {
            return true;
        }
        if mode == Mode::Clone && self.waits_for_others(cx, frame, Some(&segment), Some(at)) {
            return false;
        }
        self.apply_segment(cx, mode, frame, &segment, at)
    }

    /// What the client echoes shows the primary's clock.
    fn note_echo(&mut self, at: FlowRef, segment: &Segment, log_ns: u64) {
        if let Some(flow) = self.flows.get_mut(at)
            && segment.has(ACK)
            && let Some((_, tsecr)) = segment.options.timestamps
        {
            flow.ts.note_echo(log_ns, tsecr);
        }
    }

    /// From here on the clone's output is the service's; `log_now_ns`: now on the log's clock.
    pub fn serve(&mut self, now_ns: u64, log_now_ns: u64) {
        self.order = Order::default();
        self.flows.iter_mut().for_each(|flow| flow.ts.serve(now_ns, log_now_ns));
    }

    fn apply_syn<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        mode: Mode,
        frame: &[u8],
        segment: &Segment,
        found: Option<FlowRef>,
    ) -> bool {
        let flow = found.and_then(|at| self.flows.get(at));
        match mode {
            Mode::Clone => {
                let repeated = flow.is_some_and(|f| f.syn.isn == segment.seq);
                if !repeated {
                    let at = self.cursor;
                    let syn = SynInfo { isn: segment.seq, options: segment.options, at };
                    cx.counters.syns_dropped += self.syns.insert(segment.key_from_client(), syn);
                }
            }
            Mode::Primary => {
                let half = found.zip(flow).filter(|(_, f)| f.state == FlowState::HalfOpen);
                if let Some((at, flow)) = half {
                    let noted = flow.synack_at;
                    if flow.syn.isn == segment.seq && cx.log.record(noted).is_some() {
                        // The noted SYN-ACK waits at the gate, or was lost behind it. This node's
                        // kernel would answer with numbers of its own, and one of the two is wrong.
                        let _ = self.unanswered.try_push(noted);
                        return true;
                    }
                    self.flows.remove(at);
                }
                return cx.deliver(frame);
            }
        }
        true
    }

    /// Hands a connection to the kernel on the client's first segment after the handshake.
    /// False: this segment does not complete the handshake.
    fn adopt<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
    ) -> bool {
        let Some(flow) = self.flows.get_mut(at) else { return false };
        if segment.has(RST) {
            self.flows.remove(at);
            return false;
        }
        let seq_ahead = segment.seq.wrapping_sub(flow.rcv_nxt) as i32;
        let ack_ahead = segment.ack.wrapping_sub(flow.snd_nxt) as i32;
        let completes = segment.has(ACK)
            && (0..AHEAD_MAX).contains(&seq_ahead)
            && (0..AHEAD_MAX).contains(&ack_ahead);
        if !completes {
            return false;
        }
        flow.state = FlowState::Adopted;
        self.hand_over(cx, frame, segment, at);
        true
    }

    /// Tells the kernel to adopt, and completes the handshake with a bare ACK of our own: the
    /// client's segment may be a later one, or acknowledge more than the SYN-ACK.
    fn hand_over<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
    ) {
        let Some(flow) = self.flows.get_mut(at) else { return };
        let attrs = attributes(&flow.syn, &flow.synack, segment, cx.log_now_ns);
        let ack = BareAck {
            seq: flow.rcv_nxt,
            ack: flow.snd_nxt,
            window: flow.window_for(segment, flow.snd_nxt),
            timestamps: attrs.timestamps,
        };
        let key = flow.key;
        flow.adoptions = flow.adoptions.saturating_add(1);
        flow.adopted_at_ns = cx.now_ns;
        let built = build_bare_ack(frame, segment, &ack);
        let done = built.is_some_and(|bytes| cx.ports.adopt(&key, &attrs) && cx.deliver(&bytes));
        // What failed is tried again, like what was lost.
        cx.counters.adoptions += u64::from(done);
        cx.counters.adoptions_failed += u64::from(!done);
    }

    /// Hands a connection over again when the kernel seems not to have it. Harmless if it has.
    fn hand_over_again<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
    ) {
        let due = self.flows.get(at).is_some_and(|f| {
            f.is_untouched()
                && f.adoptions < ADOPTIONS_MAX
                && cx.now_ns >= f.adopted_at_ns + READOPT_NS
        });
        if due {
            cx.counters.adoptions_repeated += 1;
            self.hand_over(cx, frame, segment, at);
        }
    }

    fn apply_segment<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        mode: Mode,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
    ) -> bool {
        let Some(flow) = self.flows.get(at) else { return true };
        let verdict = verdict(flow, segment);
        let behind_others = flow.parked > 0;
        match verdict {
            Verdict::AheadOfOutput if !behind_others => {
                if mode == Mode::Clone && self.hold_up(cx, frame, segment, at) {
                    return false;
                }
                self.park(cx, segment, at)
            }
            Verdict::AheadOfOutput | Verdict::AheadOfWindow => self.park(cx, segment, at),
            _ if behind_others => self.park(cx, segment, at),
            _ if verdict == Verdict::Tracked && self.pending.len() >= PENDING_MAX => {
                // Nothing more can be confirmed later: wait for the kernel to confirm something. A primary
                // does not wait, and the client sends it again.
                cx.counters.parked_overflow += u64::from(mode == Mode::Primary);
                mode == Mode::Primary
            }
            _ if mode == Mode::Clone && self.pace.is_ahead(cx.now_ns) => false,
            _ => self.give(cx, frame, segment, at, verdict, Given::Now(mode)),
        }
    }

    /// Keeps the whole log waiting for the clone's output. False: it has waited long enough.
    fn hold_up<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
    ) -> bool {
        self.hand_over_again(cx, frame, segment, at);
        self.partial_ack(cx, frame, segment, at);
        match self.waiting_since_ns {
            None => {
                self.waiting_since_ns = Some(cx.now_ns);
                cx.counters.ack_waits += 1;
                true
            }
            Some(since) if cx.now_ns < since + cx.wait_ns_max => true,
            Some(_) => {
                cx.counters.ack_waits_expired += 1;
                self.fit &= !cx.expiry_is_divergence;
                if let Some(flow) = self.flows.get_mut(at) {
                    flow.overdue = true;
                }
                false
            }
        }
    }

    /// Acknowledges what the clone has sent of what the client acknowledges, so that it can send more.
    fn partial_ack<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
    ) {
        let Some(flow) = self.flows.get_mut(at) else { return };
        let more =
            before(flow.partial_acked, flow.snd_nxt) && before(flow.client_acked, flow.snd_nxt);
        if !more && !flow.sends_again {
            return;
        }
        let ack = BareAck {
            seq: flow.rcv_nxt,
            ack: flow.snd_nxt,
            window: flow.window_for(segment, flow.snd_nxt),
            // Those of a frame that waits are newer than what may yet be given again before it,
            // and the kernel would drop that (PAWS). Without any, Linux judges by numbers alone.
            timestamps: None,
        };
        if let Some(bytes) = build_bare_ack(frame, segment, &ack)
            && cx.deliver(&bytes)
        {
            flow.partial_acked = flow.snd_nxt;
            flow.sends_again = false;
            cx.counters.partial_acks += 1;
        }
    }

    /// False: the ring is full, try again.
    fn park<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        segment: &Segment,
        flow: FlowRef,
    ) -> bool {
        if self.pending.len() >= PENDING_MAX {
            cx.counters.parked_overflow += 1;
            return false;
        }
        if let Some(f) = self.flows.get_mut(flow) {
            f.parked += 1;
            self.order.parked += u32::from(!f.overdue);
        }
        cx.counters.parked += 1;
        let state = PendingState::Parked { since_ns: cx.now_ns };
        self.pending.push_back(Pending {
            at: self.cursor,
            flow,
            seq_end: segment.seq_end(),
            state,
        });
        true
    }

    /// False: the device did not take it, and it waits: a clone has time, and an RST nobody would
    /// give the capsule again.
    fn give<P: Ports>(
        &mut self,
        cx: &mut Context<'_, P>,
        frame: &[u8],
        segment: &Segment,
        at: FlowRef,
        verdict: Verdict,
        given: Given,
    ) -> bool {
        let may_wait = given == Given::Now(Mode::Clone) || segment.has(RST);
        if !cx.deliver(frame) && may_wait {
            return false;
        }
        let Some(flow) = self.flows.get_mut(at) else { return true };
        flow.parked -= u32::from(given == Given::WasParked);
        flow.overdue &= given != Given::WasParked || flow.parked > 0;
        flow.note_client(segment);
        if segment.has(RST) || flow.is_closed() {
            self.flows.remove(at);
        } else if verdict == Verdict::Tracked && given != Given::WasParked {
            self.pace.note_given(cx.now_ns);
            let state = PendingState::Delivered { at_ns: cx.now_ns, tries: 0 };
            self.pending.push_back(Pending {
                at: self.cursor,
                flow: at,
                seq_end: segment.seq_end(),
                state,
            });
        }
        true
    }

    /// The capsule's kernel sent this segment. Says what becomes of it, and by how much its TSval
    /// must be moved before a client sees it.
    pub fn observe_output(
        &mut self,
        now_ns: u64,
        segment: &Segment,
        counters: &mut Counters,
    ) -> (OutputFate, u32) {
        const PASS: (OutputFate, u32) = (OutputFate::Pass, 0);
        if self.flows.is_empty() {
            return PASS;
        }
        let Some(at) = self.flows.find(&segment.key_from_server()) else { return PASS };
        let Some(flow) = self.flows.get_mut(at) else { return PASS };
        if segment.has(SYN) {
            // A new handshake of the same ends, answered by this node's kernel.
            self.flows.remove(at);
            return PASS;
        }
        if segment.has(RST) {
            if flow.is_untouched() && flow.adoptions < ADOPTIONS_MAX {
                return (OutputFate::Swallow, 0);
            }
            counters.clone_resets += u64::from(flow.state == FlowState::Adopted);
            self.flows.remove(at);
            return PASS;
        }
        let shift = flow.note_output(now_ns, segment);
        let due = flow.parked > 0 || flow.dup_acks >= DUP_ACKS;
        self.scan_asked |= due || self.pace.is_full();
        let wanted = segment.seq_len() > 0 && before(flow.client_acked, segment.seq_end());
        if flow.is_closed() {
            self.flows.remove(at);
            return (OutputFate::Pass, shift);
        }
        (if wanted { OutputFate::Retain(at) } else { OutputFate::Pass }, shift)
    }

    /// This clone can no longer be trusted to continue the primary's connections.
    pub fn mark_unfit(&mut self) {
        self.fit = false;
    }
}

fn verdict(flow: &Flow, segment: &Segment) -> Verdict {
    if segment.has(RST) {
        return Verdict::Untracked;
    }
    if segment.has(ACK) && before(flow.snd_nxt, segment.ack) {
        // The old primary never sent beyond the client's window: this acknowledges nothing real.
        let nonsense = before(flow.client_edge, segment.ack);
        return if nonsense { Verdict::Untracked } else { Verdict::AheadOfOutput };
    }
    let ahead = segment.seq_end().wrapping_sub(flow.rcv_nxt) as i32;
    if segment.seq_len() == 0 || ahead <= 0 || ahead >= AHEAD_MAX {
        return Verdict::Untracked;
    }
    if before(flow.rcv_edge, segment.seq_end()) {
        return Verdict::AheadOfWindow;
    }
    Verdict::Tracked
}
