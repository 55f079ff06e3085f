//! The divergence audit: the primary notes digests of what its application says on each connection;
//! a clone compares what its own says.
//!
//! One table serves both: a clone that takes over goes on with it. Whatever cannot be compared (the
//! beginning was not seen, a frame was lost before it was read, the table was full) is counted, and
//! never taken for a divergence. Notes are rationed: they are a small share of the log, and a note
//! that waits only comes later, since the next one covers what it would have.
//!
//! TCP only: datagrams have no numbers, and a lost one would look like another answer.

pub mod compare;
mod digest;
mod entry;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use arrayvec::ArrayVec;
use understudy_wire::Position;
use understudy_wire::audit::{AUDIT_HEADER_LEN, AuditRecord, NOTE_LEN_MAX, Note, Seed};
use understudy_wire::record::RECORD_HEADER_LEN;
use understudy_wire::tcp::{FIN, FlowKey, RST, SYN, Segment};

use crate::MS;
use crate::counters::Counters;
use crate::slots::Slots;
use digest::{Key, Running};
use entry::{Claim, Entry, Outcome};

/// From the first byte that no note covers to the note that does, while the ration lasts.
const DELAY_NS: u64 = 50 * MS;
/// Notes take so large a part of the log at most...
const SHARE: u64 = 25;
/// ...or a byte in this time, if that is more: 16 KiB a second.
const BYTE_NS: u64 = 61_035;
/// What may be saved up.
const RATION_MAX: u64 = 64 << 10;
/// Room for a record with one more note.
const NOTE_COST: u64 = (RECORD_HEADER_LEN + AUDIT_HEADER_LEN + NOTE_LEN_MAX + 8) as u64;
/// Connections looked at for one record: some have nothing to note any more.
const LOOKS_MAX: usize = 256;
/// Notes at once for which what was said since is looked up.
const LATE_MAX: usize = 8;
/// Slots looked at for one whose connection is idle, before any is taken.
const EVICT_LOOKS: usize = 8;
/// A connection that said nothing for so long is idle.
const IDLE_NS: u64 = 1_000 * MS;

/// How the output of clones is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Random; chooses the digest of a log that has none yet. A secret from clients.
    pub seed: Seed,
    /// A clone that says other bytes is unfit. False: it is only reported.
    pub heal: bool,
}

/// A clone's application has said other bytes than the primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The connection.
    pub key: FlowKey,
    /// Sequence numbers: everything before was the same, or could not be compared.
    pub from: u32,
    /// The first difference is before this.
    pub to: u32,
}

/// Bytes of the log that notes may take.
#[derive(Debug, Default)]
struct Ration {
    bytes: u64,
    log_end: Position,
    at_ns: u64,
}

impl Ration {
    fn refill(&mut self, now_ns: u64, log_end: Position) {
        let by_log = log_end.saturating_sub(self.log_end) / SHARE;
        let by_time = now_ns.saturating_sub(self.at_ns) / BYTE_NS;
        self.log_end += by_log * SHARE;
        self.at_ns += by_time * BYTE_NS;
        self.bytes = (self.bytes + by_log + by_time).min(RATION_MAX);
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

/// Digests of all connections' output. All memory is taken in [`Auditor::new`].
pub struct Auditor {
    key: Box<Key>,
    index: HashMap<FlowKey, u32, RandomState>,
    slots: Slots<(FlowKey, Entry)>,
    hand: usize,
    /// Connections with something to note, and when: in order.
    due: VecDeque<(u32, u64)>,
    ration: Ration,
    /// This reign's log names the seed.
    seed_told: bool,
    found: Option<Divergence>,
    /// Notes of which the clone has said more since.
    late: ArrayVec<Late, LATE_MAX>,
}

/// A note that needs what was said since to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// The connection.
    pub key: FlowKey,
    slot: u32,
    claim: Claim,
    rest: Running,
    until: u32,
}

impl Late {
    /// A frame that was said, in the order in which they were: takes what comes next of it.
    pub fn take(&mut self, audit: &Auditor, segment: &Segment, frame: &[u8]) {
        let payload = segment.payload(frame);
        let known = self.rest.next().wrapping_sub(segment.seq) as usize;
        let Some(fresh) = payload.get(known..) else { return };
        let wanted = self.until.wrapping_sub(self.rest.next()) as usize;
        self.rest.take(&audit.key, &fresh[..fresh.len().min(wanted)]);
        let end = segment.seq.wrapping_add(payload.len() as u32);
        if segment.has(FIN) && self.rest.next() == end && end != self.until {
            self.rest.take_fin(&audit.key);
        }
    }
}

impl Auditor {
    /// Room for `flows_max` connections, at least one.
    pub fn new(seed: Seed, flows_max: usize) -> Auditor {
        let capacity = flows_max.max(1);
        let [a, b] = [&seed[..8], &seed[8..]]
            .map(|half| u64::from_le_bytes(half.try_into().unwrap_or_default()));
        let hasher = RandomState::with_seeds(a, b, !a, !b);
        Auditor {
            key: Box::new(Key::new(seed)),
            index: HashMap::with_capacity_and_hasher(capacity, hasher),
            slots: Slots::new(capacity),
            hand: 0,
            due: VecDeque::with_capacity(2 * capacity),
            ration: Ration::default(),
            seed_told: true,
            found: None,
            late: ArrayVec::new(),
        }
    }

    /// The clone is another one from now on.
    pub fn clear(&mut self) {
        self.index.clear();
        self.slots.clear();
        self.hand = 0;
        self.due.clear();
        self.late.clear();
        self.found = None;
    }

    /// A handshake is in the log: `seq` is the service's first byte.
    pub fn open(&mut self, now_ns: u64, key: &FlowKey, seq: u32, c: &mut Counters) {
        let known = self.index.get(key).and_then(|&slot| self.slots.get(slot));
        if known.is_none_or(|(_, entry)| entry.opened != Some(seq)) {
            self.insert(now_ns, key, Entry::new(&self.key, seq, Some(seq)), c);
        }
    }

    /// A restored application has this connection, and goes on there.
    pub fn go_on(&mut self, now_ns: u64, key: &FlowKey, seq: u32, c: &mut Counters) {
        self.insert(now_ns, key, Entry::new(&self.key, seq, None), c);
    }

    fn insert(&mut self, now_ns: u64, key: &FlowKey, entry: Entry, c: &mut Counters) {
        if let Some(&slot) = self.index.get(key) {
            self.remove(slot, c);
        }
        if self.slots.is_full() {
            self.evict(now_ns, c);
        }
        let Some(slot) = self.slots.insert((*key, entry)) else { return };
        self.index.insert(*key, slot);
    }

    /// Gives up a connection of a full table, an idle one if there is one near.
    fn evict(&mut self, now_ns: u64, c: &mut Counters) {
        let mut slot = self.hand as u32;
        for _ in 0..EVICT_LOOKS {
            slot = self.hand as u32;
            self.hand = (self.hand + 1) % self.slots.used();
            let entry = self.slots.get(slot);
            if entry.is_none_or(|(_, e)| !e.is_uncovered() && now_ns > e.spoke_at_ns + IDLE_NS) {
                break;
            }
        }
        c.audit_evicted += 1;
        self.remove(slot, c);
    }

    fn remove(&mut self, slot: u32, c: &mut Counters) {
        let Some((key, entry)) = self.slots.remove(slot) else { return };
        c.audit_uncovered += u64::from(entry.is_uncovered());
        self.index.remove(&key);
    }

    /// The capsule's kernel sent this segment, which is whole in `frame`.
    pub fn said(&mut self, now_ns: u64, segment: &Segment, frame: &[u8], c: &mut Counters) {
        if segment.seq_len() == 0 && !segment.has(RST) || segment.has(SYN) {
            return;
        }
        let key = segment.key_from_server();
        let known = self.index.get(&key).copied();
        if segment.has(RST) {
            if let Some(slot) = known {
                self.remove(slot, c);
            }
            return;
        }
        let payload = segment.payload(frame);
        let slot = match known {
            Some(slot) => slot,
            // A repeated close of what is done with.
            None if payload.is_empty() => return,
            None => {
                self.insert(now_ns, &key, Entry::new(&self.key, segment.seq, None), c);
                self.index.get(&key).copied().unwrap_or_default()
            }
        };
        let Some((_, entry)) = self.slots.get_mut(slot) else { return };
        let said = entry.said(&self.key, segment.seq, payload, segment.has(FIN));
        c.audit_gaps += u64::from(said.gap);
        if said.new {
            entry.spoke_at_ns = now_ns;
            if !entry.queued && self.due.len() < self.due.capacity() {
                entry.queued = true;
                self.due.push_back((slot, now_ns + DELAY_NS));
            }
        }
        for outcome in said.outcomes {
            self.count(slot, outcome, c);
        }
    }

    fn count(&mut self, slot: u32, outcome: Outcome, c: &mut Counters) {
        let Some((key, entry)) = self.slots.get(slot) else { return };
        match outcome {
            Outcome::Same => c.audit_same += 1,
            Outcome::Aligned => c.audit_aligned += 1,
            Outcome::TooLate | Outcome::Replaced => c.audit_skipped += 1,
            Outcome::Awaited => {}
            Outcome::Other { from, to } => {
                c.audit_diverged += 1;
                self.found.get_or_insert(Divergence { key: *key, from, to });
            }
        }
        if entry.is_done() {
            self.remove(slot, c);
        }
    }

    // ---- the primary's side ---------------------------------------------------

    /// From here on this node's output is the service's, and its notes are the log's.
    pub fn serve(&mut self, now_ns: u64, log_end: Position) {
        self.seed_told = false;
        self.ration = Ration { bytes: RATION_MAX / 4, log_end, at_ns: now_ns };
    }

    /// A record to be appended to the log, when there is something to note.
    pub fn note(
        &mut self,
        now_ns: u64,
        log_end: Position,
        c: &mut Counters,
    ) -> Option<AuditRecord> {
        let is_due = self.due.front().is_some_and(|(_, at_ns)| now_ns >= *at_ns);
        if !is_due && self.seed_told {
            return None;
        }
        self.ration.refill(now_ns, log_end);
        let mut record = AuditRecord { seed: self.key.seed(), notes: ArrayVec::new() };
        for _ in 0..LOOKS_MAX {
            let may = self.ration.bytes >= NOTE_COST && !record.notes.is_full();
            let due = self.due.front().filter(|(_, at_ns)| may && now_ns >= *at_ns);
            let Some(&(slot, _)) = due else { break };
            self.due.pop_front();
            let note = self.note_of(now_ns, slot, c);
            record.notes.extend(note);
            self.ration.spend(note.map_or(0, |note| note.encoded_len()));
        }
        if record.notes.is_empty() && self.seed_told {
            return None;
        }
        self.seed_told = true;
        // And what it is padded with.
        self.ration.spend(RECORD_HEADER_LEN + AUDIT_HEADER_LEN + 8);
        c.audit_notes += record.notes.len() as u64;
        Some(record)
    }

    fn note_of(&mut self, now_ns: u64, slot: u32, c: &mut Counters) -> Option<Note> {
        let (key, entry) = self.slots.get_mut(slot)?;
        if !std::mem::take(&mut entry.queued) {
            return None;
        }
        let Claim { to, len, digest } = entry.claim()?;
        let note = Note { key: *key, to, len, digest };
        if entry.is_uncovered() {
            entry.queued = true;
            match entry.is_quiet(now_ns) {
                true => self.due.push_front((slot, now_ns)),
                false => self.due.push_back((slot, now_ns + DELAY_NS)),
            }
        } else if entry.is_done() {
            self.remove(slot, c);
        }
        Some(note)
    }

    // ---- a clone's side -------------------------------------------------------

    /// The primary's notes, as the log has them.
    pub fn hear(&mut self, record: &AuditRecord, c: &mut Counters) {
        if record.seed != self.key.seed() {
            self.change_key(record.seed);
        }
        for note in &record.notes {
            let Some(&slot) = self.index.get(&note.key) else {
                c.audit_skipped += 1;
                continue;
            };
            let Some((_, entry)) = self.slots.get_mut(slot) else { continue };
            let claim = Claim::from(note);
            let outcome = entry.hear(&claim);
            if outcome == Outcome::TooLate && !self.late.is_full() {
                let rest = Running::new(&self.key, claim.to);
                self.late.push(Late { key: note.key, slot, claim, rest, until: claim.to });
            } else {
                self.count(slot, outcome, c);
            }
        }
    }

    /// Whether there are notes to be taken by [`Auditor::take_late`].
    #[inline]
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Notes that may still be compared by what the clone has said since; each is to be given back.
    pub fn take_late(&mut self) -> ArrayVec<Late, LATE_MAX> {
        let mut late = std::mem::take(&mut self.late);
        for one in &mut late {
            let entry = self.slots.get(one.slot);
            one.until = entry.map_or(one.until, |(_, entry)| entry.next());
        }
        late
    }

    /// A note and all that is known of what was said since.
    pub fn settle(&mut self, late: &Late, c: &mut Counters) {
        if let Some((key, entry)) = self.slots.get_mut(late.slot)
            && *key == late.key
        {
            let outcome = entry.hear_late(&late.claim, &late.rest);
            self.count(late.slot, outcome, c);
        }
    }

    fn change_key(&mut self, seed: Seed) {
        *self.key = Key::new(seed);
        for (_, entry) in self.slots.iter_mut() {
            entry.change_key(&self.key);
        }
    }

    /// The first difference since the last call.
    pub fn take_found(&mut self) -> Option<Divergence> {
        self.found.take()
    }
}
