//! A learning switch that mistreats what it forwards, as told. No IO: frames and the time go in,
//! frames come out when they are due. `forwarder` puts it between the ports of a lab's network.
//!
//! A frame's way over the pair (from, to): block, loss, rate limit (a bounded queue in front of
//! it), delay and jitter (both keep the order), reordering (the frame is held back longer while
//! others pass), corruption of one bit, duplication. Nothing looks into a frame but for the two
//! MACs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use crate::pattern::Rng;
use crate::topology::Member;

mod spec;

/// Frames one pair may hold; more are dropped and counted.
pub const QUEUE_FRAMES_MAX: usize = 16384;
/// Frames a recording keeps.
pub const RECORDED_FRAMES_MAX: usize = 65536;
/// Longest delay, jitter and hold: two minutes.
pub const DELAY_NS_MAX: u64 = 120_000_000_000;
/// MACs that are learnt.
const MACS_MAX: usize = 1024;
const PORTS: usize = Member::ALL.len();
/// The two MACs and the ethertype are never corrupted: the frame shall arrive.
const HEADER_BYTES: usize = 14;

/// A frame on its way; copies of it share the bytes.
pub type FrameBytes = Arc<[u8]>;

/// What happens to the frames of one ordered pair of nodes. The default is nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// All are dropped.
    pub block: bool,
    /// Share that is lost, 0..=1.
    pub loss: f64,
    /// Time on the way.
    pub delay_ns: u64,
    /// Up to this much more, evenly spread; the order is kept.
    pub jitter_ns: u64,
    /// Share that comes twice.
    pub duplicate: f64,
    /// Share that is held back while later frames pass.
    pub reorder: f64,
    /// For how long.
    pub reorder_by_ns: u64,
    /// Share with one wrong bit behind the Ethernet header.
    pub corrupt: f64,
    /// Bits of a second, Ethernet header included; 0 is no limit.
    pub rate_bits: u64,
    /// Bytes that may wait for the rate limit.
    pub queue_bytes: u64,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            block: false,
            loss: 0.0,
            delay_ns: 0,
            jitter_ns: 0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by_ns: 1_000_000,
            corrupt: 0.0,
            rate_bits: 0,
            queue_bytes: 256 << 10,
        }
    }
}

impl Impairment {
    /// A full block.
    pub fn blocked() -> Self {
        Self { block: true, ..Self::default() }
    }
}

/// What became of the frames of one ordered pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Meant for this pair.
    pub offered: u64,
    /// Handed out, duplicates included.
    pub forwarded: u64,
    /// Bytes of them.
    pub forwarded_bytes: u64,
    /// Dropped by the block.
    pub blocked: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Held back by chance.
    pub held_back: u64,
    /// Handed out after one that had come later.
    pub overtaken: u64,
    /// Given a wrong bit.
    pub corrupted: u64,
    /// Dropped: the rate limit's queue or the switch's was full.
    pub queue_drops: u64,
}

#[derive(Default)]
struct Pair {
    impairment: Impairment,
    counters: Counters,
    /// When the rate limit lets the next bit pass.
    line_free_ns: u64,
    /// When the newest frame that was not held back leaves.
    last_due_ns: u64,
    waiting: usize,
    /// Number of the newest frame that was handed out.
    newest_out: u64,
}

/// A frame that waits for its time. The order of the fields is the order of leaving.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due_ns: u64,
    number: u64,
    pair: (Member, Member),
    frame: FrameBytes,
}

/// The switch.
pub struct Switch {
    rng: Rng,
    pairs: [[Pair; PORTS]; PORTS],
    macs: BTreeMap<[u8; 6], Member>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    next_number: u64,
    recording: Option<Vec<(Member, FrameBytes)>>,
}

impl Switch {
    /// A switch that forwards everything at once.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            pairs: Default::default(),
            macs: BTreeMap::new(),
            waiting: BinaryHeap::new(),
            next_number: 0,
            recording: None,
        }
    }

    fn pair(&mut self, from: Member, to: Member) -> &mut Pair {
        &mut self.pairs[from as usize][to as usize]
    }

    /// From now on `impairment` is the fate of what goes from one node to another.
    pub fn set(&mut self, from: Member, to: Member, impairment: Impairment) {
        self.pair(from, to).impairment = impairment;
    }

    /// What a pair has seen.
    pub fn counters(&self, from: Member, to: Member) -> Counters {
        self.pairs[from as usize][to as usize].counters
    }

    /// Keeps copies of what arrives from now on, before any impairment.
    pub fn start_recording(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// Ends a recording: at most the first `RECORDED_FRAMES_MAX` frames, each with its sender.
    pub fn take_recording(&mut self) -> Vec<(Member, FrameBytes)> {
        self.recording.take().unwrap_or_default()
    }

    /// A frame arrives from a node.
    pub fn arrive(&mut self, now_ns: u64, from: Member, frame: &[u8]) {
        let (Some(destination), Some(source)) = (mac_at(frame, 0), mac_at(frame, 6)) else {
            return;
        };
        let frame: FrameBytes = frame.into();
        if let Some(recording) = &mut self.recording
            && recording.len() < RECORDED_FRAMES_MAX
        {
            recording.push((from, Arc::clone(&frame)));
        }
        if is_unicast(source) && (self.macs.len() < MACS_MAX || self.macs.contains_key(&source)) {
            self.macs.insert(source, from);
        }
        let known = self.macs.get(&destination).copied().filter(|_| is_unicast(destination));
        for to in from.others().filter(|&to| known.is_none_or(|only| only == to)) {
            self.forward(now_ns, (from, to), &frame);
        }
    }

    /// A frame out of nowhere: goes to `to` as it is, ahead of what waits. For replayed frames.
    pub fn inject(&mut self, to: Member, frame: &[u8]) {
        // The switch's own pair (to, to) has no other use.
        self.enqueue((to, to), 0, frame.into());
    }

    fn forward(&mut self, now_ns: u64, (from, to): (Member, Member), frame: &FrameBytes) {
        let impairment = self.pair(from, to).impairment.clone();
        let (is_lost, is_held) = (self.chance(impairment.loss), self.chance(impairment.reorder));
        let (is_corrupt, is_double) =
            (self.chance(impairment.corrupt), self.chance(impairment.duplicate));
        let jitter_ns = match impairment.jitter_ns {
            0 => 0,
            most => self.rng.below(most + 1),
        };
        let pair = self.pair(from, to);
        pair.counters.offered += 1;
        if impairment.block {
            pair.counters.blocked += 1;
            return;
        }
        if is_lost {
            pair.counters.lost += 1;
            return;
        }
        let Some(sent_ns) = pair.sent_at(now_ns, frame.len() as u64) else {
            pair.counters.queue_drops += 1;
            return;
        };
        let mut due_ns = sent_ns + (impairment.delay_ns + jitter_ns).min(DELAY_NS_MAX);
        due_ns = due_ns.max(pair.last_due_ns);
        if is_held {
            pair.counters.held_back += 1;
            due_ns += impairment.reorder_by_ns.min(DELAY_NS_MAX);
        } else {
            pair.last_due_ns = due_ns;
        }
        let mut frame = Arc::clone(frame);
        if is_corrupt {
            frame = self.with_wrong_bit(&frame);
            self.pair(from, to).counters.corrupted += 1;
        }
        if is_double && self.enqueue((from, to), due_ns, Arc::clone(&frame)) {
            self.pair(from, to).counters.duplicated += 1;
        }
        self.enqueue((from, to), due_ns, frame);
    }

    fn chance(&mut self, share: f64) -> bool {
        // 53 bits are what a f64 holds exactly. No draw for a share of 0: most pairs do nothing.
        share > 0.0 && ((self.rng.word() >> 11) as f64) < share * (1u64 << 53) as f64
    }

    fn with_wrong_bit(&mut self, frame: &[u8]) -> FrameBytes {
        let mut bytes = frame.to_vec();
        let bits = (bytes.len().saturating_sub(HEADER_BYTES) * 8) as u64;
        if bits > 0 {
            let bit = self.rng.below(bits) as usize;
            bytes[HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
        }
        bytes.into()
    }

    fn enqueue(&mut self, (from, to): (Member, Member), due_ns: u64, frame: FrameBytes) -> bool {
        let number = self.next_number;
        let pair = self.pair(from, to);
        if pair.waiting >= QUEUE_FRAMES_MAX {
            pair.counters.queue_drops += 1;
            return false;
        }
        pair.waiting += 1;
        self.next_number += 1;
        self.waiting.push(Reverse(Waiting { due_ns, number, pair: (from, to), frame }));
        true
    }

    /// The next frame that is due, and where to.
    pub fn due(&mut self, now_ns: u64) -> Option<(Member, FrameBytes)> {
        if self.next_due_ns()? > now_ns {
            return None;
        }
        let Reverse(Waiting { number, pair: (from, to), frame, .. }) = self.waiting.pop()?;
        let pair = self.pair(from, to);
        pair.waiting -= 1;
        pair.counters.forwarded += 1;
        pair.counters.forwarded_bytes += frame.len() as u64;
        pair.counters.overtaken += u64::from(number < pair.newest_out);
        pair.newest_out = pair.newest_out.max(number);
        Some((to, frame))
    }

    /// When the next frame is due.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse(first)| first.due_ns)
    }
}

impl Pair {
    /// When the last bit of a frame is on the line; nothing when the queue has no room for it.
    fn sent_at(&mut self, now_ns: u64, bytes: u64) -> Option<u64> {
        let Impairment { rate_bits, queue_bytes, .. } = self.impairment;
        if rate_bits == 0 {
            return Some(now_ns);
        }
        let line_ns =
            |bytes: u64| (u128::from(bytes) * 8_000_000_000 / u128::from(rate_bits)) as u64;
        let start_ns = self.line_free_ns.max(now_ns);
        if start_ns - now_ns > line_ns(queue_bytes) {
            return None;
        }
        self.line_free_ns = start_ns + line_ns(bytes);
        Some(self.line_free_ns)
    }
}

fn mac_at(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

fn is_unicast(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0
}

#[cfg(test)]
mod tests;
