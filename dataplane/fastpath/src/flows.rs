//! The connections a clone carries: handshakes seen in the log, and where each side stands.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use understudy_wire::Position;
use understudy_wire::tcp::{FIN, FlowKey, Segment, TcpOptions, before, later};

use crate::adoption::{SynAckInfo, SynInfo};
use crate::hasher::hasher;
use crate::slots::Slots;
use crate::tsclock::TsClocks;

/// The old primary fell silent longer ago, even in a planned switchover between two nodes whose
/// clocks for the connection are the same, and no frame needs as long from the clone's kernel to the
/// host port.
const TS_SLACK_MS: u32 = 5;
/// SYNs waiting for their SYN-ACK at most.
const SYNS_MAX: usize = 4096;

/// Refers to a flow for as long as it is that flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRef {
    slot: u32,
    generation: u32,
}

/// How far a connection has come on the clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// The log holds SYN and SYN-ACK, the client's ACK is still to come.
    HalfOpen,
    /// The clone's kernel holds the connection.
    Adopted,
}

/// A connection. Sequence numbers as in RFC 9293, seen from the service.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Its ends.
    pub key: FlowKey,
    /// How far it has come.
    pub state: FlowState,
    /// The client's SYN.
    pub syn: SynInfo,
    /// The service's SYN-ACK.
    pub synack: SynAckInfo,
    /// Position of the SYN-ACK's record.
    pub synack_at: Position,
    /// What the clone's kernel acknowledged to the client.
    pub rcv_nxt: u32,
    /// Right edge of the window that it offers.
    pub rcv_edge: u32,
    /// What the clone's kernel has sent.
    pub snd_nxt: u32,
    /// What the client acknowledged.
    pub client_acked: u32,
    /// Newest TSval of the client that the clone's kernel was given.
    pub client_tsval: Option<u32>,
    /// Right edge of the window that the client offered.
    pub client_edge: u32,
    /// Times in a row that the clone's kernel acknowledged the same: it lacks what comes next.
    pub dup_acks: u8,
    /// The last bare ACK made for it.
    pub partial_acked: u32,
    /// The clone's kernel has sent something twice: the ACK it was given was lost, or older than
    /// what it had received meanwhile.
    pub sends_again: bool,
    /// Times it was handed to the clone's kernel.
    pub adoptions: u8,
    /// When it last was.
    pub adopted_at_ns: u64,
    /// Frames of it in the parking ring.
    pub parked: u32,
    /// It was given data, and has said nothing since.
    pub asked: bool,
    /// When it last said something new.
    pub spoke_at_ns: u64,
    /// Others have waited for it in vain, and wait no more until it says something.
    pub overdue: bool,
    /// Scan of the ring that found it blocked.
    pub blocked_in_scan: u64,
    /// The clocks of the timestamp option.
    pub ts: TsClocks,
    client_fin: Option<u32>,
    server_fin: Option<u32>,
    generation: u32,
}

/// A connection of a restored application, as its kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSeed {
    /// Both ends.
    pub key: FlowKey,
    /// What the service's kernel expects next.
    pub rcv_nxt: u32,
    /// End of the window it offered.
    pub rcv_edge: u32,
    /// What it sends next.
    pub snd_nxt: u32,
    /// What the client has acknowledged.
    pub client_acked: u32,
    /// End of the client's window.
    pub client_edge: u32,
    /// Window scales, the client's and the service's, if both offered one.
    pub scales: Option<(u8, u8)>,
    /// What its clock of the timestamp option shows, if that counts milliseconds.
    pub tsval: Option<u32>,
    /// The client has closed its direction.
    pub client_closed: bool,
    /// The service has closed its own.
    pub server_closed: bool,
}

impl Flow {
    fn restored(now_ns: u64, seed: &FlowSeed) -> Flow {
        let options = |wscale| TcpOptions { wscale, ..TcpOptions::default() };
        // Begun before all that it has seen, or it would seem untouched.
        let isn = seed.rcv_nxt.wrapping_sub(2);
        let syn = SynInfo { isn, options: options(seed.scales.map(|s| s.0)), at: 0 };
        let (isn, window) = (seed.client_acked.wrapping_sub(2), 0);
        let options = options(seed.scales.map(|s| s.1));
        let synack = SynAckInfo { isn, options, window, ecn: false, at_ns: 0 };
        let mut flow = Flow::new(seed.key, syn, synack, 0);
        flow.state = FlowState::Adopted;
        flow.rcv_nxt = seed.rcv_nxt;
        flow.rcv_edge = seed.rcv_edge;
        flow.snd_nxt = seed.snd_nxt;
        flow.client_acked = seed.client_acked;
        flow.client_edge = seed.client_edge;
        flow.partial_acked = seed.client_acked;
        if let Some(tsval) = seed.tsval {
            flow.ts.note_own(now_ns, tsval);
        }
        flow.client_fin = seed.client_closed.then_some(seed.rcv_nxt);
        flow.server_fin = seed.server_closed.then_some(seed.snd_nxt);
        flow
    }

    fn new(key: FlowKey, syn: SynInfo, synack: SynAckInfo, synack_at: Position) -> Flow {
        let (rcv, snd) = (syn.isn.wrapping_add(1), synack.isn.wrapping_add(1));
        Flow {
            key,
            state: FlowState::HalfOpen,
            syn,
            synack,
            synack_at,
            rcv_nxt: rcv,
            rcv_edge: rcv.wrapping_add(u32::from(synack.window)),
            snd_nxt: snd,
            client_acked: snd,
            client_tsval: None,
            // The window of a SYN is never scaled; the client's first ACK says more.
            client_edge: snd.wrapping_add(u32::from(u16::MAX)),
            dup_acks: 0,
            partial_acked: snd,
            sends_again: false,
            adoptions: 0,
            adopted_at_ns: 0,
            parked: 0,
            asked: false,
            spoke_at_ns: 0,
            overdue: false,
            blocked_in_scan: 0,
            ts: TsClocks::default(),
            client_fin: None,
            server_fin: None,
            generation: 0,
        }
    }

    fn scales(&self) -> (u8, u8) {
        let both = self.syn.options.wscale.zip(self.synack.options.wscale);
        both.unwrap_or((0, 0))
    }

    /// The window field that offers with `ack`, an earlier acknowledgement, what `segment` offers:
    /// the same right edge. Its own field may be 0 when it acknowledges everything.
    pub fn window_for(&self, segment: &Segment, ack: u32) -> u16 {
        let scale = self.scales().0;
        let room = segment.ack.wrapping_sub(ack).wrapping_add(u32::from(segment.window) << scale);
        room.div_ceil(1 << scale).min(u32::from(u16::MAX)) as u16
    }

    /// The client's segment went to the clone.
    pub fn note_client(&mut self, segment: &Segment) {
        let edge = segment.ack.wrapping_add(u32::from(segment.window) << self.scales().0);
        self.client_acked = later(self.client_acked, segment.ack);
        if let Some((tsval, _)) = segment.options.timestamps {
            self.client_tsval = Some(self.client_tsval.map_or(tsval, |t| later(t, tsval)));
        }
        self.client_edge = later(self.client_edge, edge);
        self.asked |= segment.payload_len > 0;
        if segment.has(FIN) {
            self.client_fin = Some(segment.seq_end());
        }
    }

    /// A TSval for what is sent at takeover: no older than what the old primary sent last, no
    /// newer than what the clone's kernel stamped on a frame that has not come out yet.
    pub fn takeover_tsval(&self, now_ns: u64) -> Option<u32> {
        Some(self.ts.shown(now_ns)?.wrapping_sub(TS_SLACK_MS))
    }

    /// The clone sent this segment (not a SYN-ACK), read at `now_ns`. Gives by how much its TSval
    /// must be moved before a client sees it.
    pub fn note_output(&mut self, now_ns: u64, segment: &Segment) -> u32 {
        let own = segment.options.timestamps.map(|(tsval, _)| self.ts.note_own(now_ns, tsval));
        let edge = segment.ack.wrapping_add(u32::from(segment.window) << self.scales().1);
        if before(self.rcv_nxt, segment.ack) {
            self.dup_acks = 0;
        } else if segment.seq_len() == 0 && segment.ack == self.rcv_nxt && edge == self.rcv_edge {
            self.dup_acks = self.dup_acks.saturating_add(1);
        }
        if segment.seq_len() > 0 && before(segment.seq, self.snd_nxt) {
            self.sends_again = true;
        }
        if before(self.snd_nxt, segment.seq_end()) {
            (self.asked, self.overdue, self.spoke_at_ns) = (false, false, now_ns);
        }
        self.rcv_nxt = later(self.rcv_nxt, segment.ack);
        self.rcv_edge = later(self.rcv_edge, edge);
        self.snd_nxt = later(self.snd_nxt, segment.seq_end());
        if segment.has(FIN) {
            self.server_fin = Some(segment.seq_end());
        }
        own.unwrap_or(0)
    }

    /// The clone's kernel has not said a thing about it: the adoption may have been lost
    /// (a full accept queue loses it silently).
    pub fn is_untouched(&self) -> bool {
        self.rcv_nxt == self.syn.isn.wrapping_add(1)
            && self.snd_nxt == self.synack.isn.wrapping_add(1)
    }

    /// It owes an answer, and nothing but the application's work can keep its kernel from sending some.
    pub fn computes(&self) -> bool {
        self.asked && self.snd_nxt == self.client_acked
    }

    /// Both sides closed and both closes acknowledged.
    pub fn is_closed(&self) -> bool {
        self.client_fin.is_some_and(|fin| !before(self.rcv_nxt, fin))
            && self.server_fin.is_some_and(|fin| !before(self.client_acked, fin))
    }
}

/// All connections of a clone, bounded.
pub struct FlowTable {
    index: HashMap<FlowKey, u32, RandomState>,
    slots: Slots<Flow>,
    generation: u32,
}

impl FlowTable {
    /// A table for at most `capacity` connections; all memory is reserved now.
    pub fn new(capacity: usize) -> FlowTable {
        FlowTable {
            index: HashMap::with_capacity_and_hasher(capacity, hasher()),
            slots: Slots::new(capacity),
            generation: 0,
        }
    }

    /// Connections held.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The flow of a key.
    pub fn find(&self, key: &FlowKey) -> Option<FlowRef> {
        let slot = *self.index.get(key)?;
        let flow = self.slots.get(slot)?;
        Some(FlowRef { slot, generation: flow.generation })
    }

    /// The flow, if it still is that one.
    pub fn get(&self, at: FlowRef) -> Option<&Flow> {
        let flow = self.slots.get(at.slot)?;
        (flow.generation == at.generation).then_some(flow)
    }

    /// The flow, to be changed.
    pub fn get_mut(&mut self, at: FlowRef) -> Option<&mut Flow> {
        let flow = self.slots.get_mut(at.slot)?;
        (flow.generation == at.generation).then_some(flow)
    }

    /// A handshake is complete but for the client's ACK. Replaces an older connection of
    /// the same ends; a repeated SYN-ACK changes nothing. False: table full.
    pub fn half_open(
        &mut self,
        key: FlowKey,
        syn: SynInfo,
        synack: SynAckInfo,
        at: Position,
    ) -> bool {
        if let Some(old) = self.find(&key) {
            if self.get(old).is_some_and(|f| f.synack.isn == synack.isn) {
                return true;
            }
            self.remove(old);
        }
        self.insert(Flow::new(key, syn, synack, at))
    }

    /// A connection of a restored application. False: no room.
    pub fn restore(&mut self, now_ns: u64, seed: &FlowSeed) -> bool {
        if let Some(old) = self.find(&seed.key) {
            self.remove(old);
        }
        self.insert(Flow::restored(now_ns, seed))
    }

    fn insert(&mut self, mut flow: Flow) -> bool {
        self.generation = self.generation.wrapping_add(1);
        flow.generation = self.generation;
        let key = flow.key;
        let Some(slot) = self.slots.insert(flow) else { return false };
        self.index.insert(key, slot);
        true
    }

    /// Forgets a flow.
    pub fn remove(&mut self, at: FlowRef) {
        if let Some(key) = self.get(at).map(|f| f.key) {
            self.index.remove(&key);
            self.slots.remove(at.slot);
        }
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.slots.iter()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.slots.iter_mut()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.index.clear();
        self.slots.clear();
    }
}

/// SYNs whose SYN-ACK the log does not hold yet, oldest forgotten first.
pub struct SynTable {
    map: HashMap<FlowKey, SynInfo, RandomState>,
    order: VecDeque<(FlowKey, Position)>,
}

impl Default for SynTable {
    /// An empty one; all memory is taken now.
    fn default() -> SynTable {
        SynTable {
            map: HashMap::with_capacity_and_hasher(SYNS_MAX, hasher()),
            order: VecDeque::with_capacity(SYNS_MAX),
        }
    }
}

impl SynTable {
    /// Remembers a SYN; returns how many were forgotten for it.
    pub fn insert(&mut self, key: FlowKey, syn: SynInfo) -> u64 {
        let mut forgotten = 0;
        while self.order.len() >= SYNS_MAX {
            let Some((old, pos)) = self.order.pop_front() else { break };
            if self.map.get(&old).is_some_and(|syn| syn.at == pos) {
                self.map.remove(&old);
                forgotten += 1;
            }
        }
        self.map.insert(key, syn);
        self.order.push_back((key, syn.at));
        forgotten
    }

    /// The SYN that a SYN-ACK acknowledging `ack` answers; it is no longer waiting.
    pub fn take(&mut self, key: &FlowKey, ack: u32) -> Option<SynInfo> {
        let syn = *self.map.get(key)?;
        (syn.isn.wrapping_add(1) == ack).then(|| self.map.remove(key))?;
        Some(syn)
    }

    /// All that still wait.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, &SynInfo)> {
        self.map.iter()
    }

    /// Takes the positions of all that still wait, in log order.
    pub fn drain(&mut self) -> Vec<Position> {
        let mut all: Vec<Position> = self.map.drain().map(|(_, syn)| syn.at).collect();
        self.order.clear();
        all.sort_unstable();
        all
    }
}
