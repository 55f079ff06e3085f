//! One connection's output: its digest, the places where that can still be told, and what the
//! primary's notes say of it.
//!
//! A note may come before the clone has said as much, or after. What comes early is awaited; what
//! comes late is looked up among the marks, or what was said since is taken off again. Digests are
//! cumulative, so a note that can no longer be compared costs nothing but time: the next one covers
//! its bytes, too.

use arrayvec::ArrayVec;
use understudy_wire::audit::Note;
use understudy_wire::tcp::before;

use super::digest::{Key, Running, difference, total};

/// Wherever a sequence number is a multiple of this, both sides keep a mark.
pub(super) const STRIDE: u32 = 4 << 10;
/// Marks kept of multiples of [`STRIDE`], and of the newest ends of segments.
const STRIDES_KEPT: usize = 8;
const ENDS_KEPT: usize = 6;
/// A connection that said nothing for so long has said what it had to say for now.
const QUIET_NS: u64 = 10 * crate::MS;

/// The digest at an earlier place.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    seq: u32,
    sum: u64,
}

/// The newest marks of a kind.
#[derive(Clone, Copy, Debug)]
struct Marks<const N: usize> {
    marks: [Mark; N],
    used: u8,
    next: u8,
}

impl<const N: usize> Marks<N> {
    fn new() -> Self {
        Marks { marks: [Mark::default(); N], used: 0, next: 0 }
    }

    fn push(&mut self, mark: Mark) {
        self.marks[usize::from(self.next)] = mark;
        self.next = (self.next + 1) % N as u8;
        self.used = (self.used + 1).min(N as u8);
    }

    fn all(&self) -> &[Mark] {
        &self.marks[..usize::from(self.used)]
    }

    /// The newest, or one that came so many before it.
    fn newest(&self, before: usize) -> Option<Mark> {
        let at = (usize::from(self.next) + 2 * N - 1 - before) % N;
        (usize::from(self.used) > before).then(|| self.marks[at])
    }

    fn shift(&mut self, sum: u64) {
        self.marks.iter_mut().for_each(|mark| mark.sum = total(mark.sum, sum));
    }
}

/// What a note says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) to: u32,
    pub(super) len: u64,
    pub(super) digest: u64,
}

impl From<&Note> for Claim {
    fn from(note: &Note) -> Claim {
        Claim { to: note.to, len: note.len, digest: note.digest }
    }
}

/// What came of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same bytes.
    Same,
    /// Other bytes, somewhere in this range of sequence numbers.
    Other { from: u32, to: u32 },
    /// The two digests begin at different places: from here on they can be compared.
    Aligned,
    /// Not yet said; it waits.
    Awaited,
    /// More has been said since, and there is no mark at that place.
    TooLate,
    /// Another one that waited gave way to it.
    Replaced,
}

/// What came of a segment.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// There was something new in it.
    pub(super) new: bool,
    /// Something before it was never seen.
    pub(super) gap: bool,
    /// Notes that waited for it.
    pub(super) outcomes: ArrayVec<Outcome, AWAITED_MAX>,
}

/// Notes that wait for a connection's output.
const AWAITED_MAX: usize = 2;

/// A connection's output so far.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    running: Running,
    strides: Marks<STRIDES_KEPT>,
    ends: Marks<ENDS_KEPT>,
    awaited: ArrayVec<Claim, AWAITED_MAX>,
    /// The handshake it began with: the sequence number of its first byte.
    pub(super) opened: Option<u32>,
    /// Noted, or compared, up to here.
    pub(super) covered: u32,
    pub(super) spoke_at_ns: u64,
    /// It waits for its turn to be noted.
    pub(super) queued: bool,
    closed: bool,
}

impl Entry {
    pub(super) fn new(key: &Key, seq: u32, opened: Option<u32>) -> Entry {
        let mut entry = Entry {
            running: Running::new(key, seq),
            strides: Marks::new(),
            ends: Marks::new(),
            awaited: ArrayVec::new(),
            opened,
            covered: seq,
            spoke_at_ns: 0,
            queued: false,
            closed: false,
        };
        entry.ends.push(Mark { seq, sum: 0 });
        entry
    }

    /// Begins again at `seq`: what came before is unknown.
    fn restart(&mut self, key: &Key, seq: u32) {
        let mut awaited = std::mem::take(&mut self.awaited);
        awaited.retain(|claim| before(seq, claim.to));
        let (spoke_at_ns, queued) = (self.spoke_at_ns, self.queued);
        *self = Entry { awaited, spoke_at_ns, queued, ..Entry::new(key, seq, self.opened) };
    }

    /// The digest is another one from here on.
    pub(super) fn change_key(&mut self, key: &Key) {
        self.awaited.clear();
        self.restart(key, self.running.next());
    }

    /// Something was said that no note covers.
    pub(super) fn is_uncovered(&self) -> bool {
        self.covered != self.running.next()
    }

    /// All is said, and covered.
    pub(super) fn is_done(&self) -> bool {
        self.closed && !self.is_uncovered()
    }

    /// Takes what is new in a segment: `bytes` from `seq` on, and a close behind them.
    pub(super) fn said(&mut self, key: &Key, seq: u32, bytes: &[u8], fin: bool) -> Said {
        let mut said = Said::default();
        if before(self.running.next(), seq) {
            said.gap = true;
            self.restart(key, seq);
        }
        let known = self.running.next().wrapping_sub(seq) as usize;
        let mut fresh = bytes.get(known..).unwrap_or_default();
        let end = seq.wrapping_add(bytes.len() as u32);
        while !fresh.is_empty() {
            let (part, rest) = fresh.split_at(fresh.len().min(self.stop()));
            self.running.take(key, part);
            self.at_stop(&mut said);
            fresh = rest;
        }
        if fin && !self.closed && self.running.next() == end {
            self.closed = true;
            self.running.take_fin(key);
            self.at_stop(&mut said);
        }
        if said.new {
            self.ends.push(self.here());
        }
        said
    }

    /// Bytes until something is to be done: a mark, or a note that waits.
    fn stop(&self) -> usize {
        let next = self.running.next();
        let stride = STRIDE - next % STRIDE;
        let awaited = self.awaited.iter().map(|claim| claim.to.wrapping_sub(next));
        awaited.fold(stride, u32::min) as usize
    }

    fn at_stop(&mut self, said: &mut Said) {
        said.new = true;
        let here = self.here();
        if here.seq.is_multiple_of(STRIDE) {
            self.strides.push(here);
        }
        while let Some(at) = self.awaited.iter().position(|claim| claim.to == here.seq) {
            let claim = self.awaited.remove(at);
            let outcome = self.judge(&claim, self.running.sum());
            let _ = said.outcomes.try_push(outcome);
        }
    }

    fn here(&self) -> Mark {
        Mark { seq: self.running.next(), sum: self.running.sum() }
    }

    /// The primary has said this.
    pub(super) fn hear(&mut self, claim: &Claim) -> Outcome {
        if before(self.running.next(), claim.to) {
            return self.wait_for(claim);
        }
        let here = self.here();
        let marks = self.ends.all().iter().chain(self.strides.all()).chain([&here]);
        let sum = marks.copied().find(|mark| mark.seq == claim.to).map(|mark| mark.sum);
        sum.map_or(Outcome::TooLate, |sum| self.judge(claim, sum))
    }

    /// The first to come stays, the last to come stays: whoever is slow loses what is between.
    fn wait_for(&mut self, claim: &Claim) -> Outcome {
        let full = self.awaited.is_full();
        if full {
            self.awaited.pop();
        }
        self.awaited.push(*claim);
        if full { Outcome::Replaced } else { Outcome::Awaited }
    }

    /// The same, of a claim that has no mark; `rest`: what was said from there on.
    pub(super) fn hear_late(&mut self, claim: &Claim, rest: &Running) -> Outcome {
        if rest.next() != self.running.next() {
            return Outcome::TooLate;
        }
        self.judge(claim, difference(self.running.sum(), rest.sum()))
    }

    /// Sequence number after all that was said.
    pub(super) fn next(&self) -> u32 {
        self.running.next()
    }

    fn judge(&mut self, claim: &Claim, sum: u64) -> Outcome {
        let behind = self.running.next().wrapping_sub(claim.to);
        let len = self.running.len().wrapping_sub(u64::from(behind));
        let outcome = match (len == claim.len, sum == claim.digest) {
            (true, true) => Outcome::Same,
            (true, false) => Outcome::Other { from: self.covered, to: claim.to },
            (false, _) => Outcome::Aligned,
        };
        if outcome != Outcome::Same {
            // What is said from there on is compared with what the primary says from there on.
            let by = difference(claim.digest, sum);
            self.running.shift(claim.len.wrapping_sub(len), by);
            self.ends.shift(by);
            self.strides.shift(by);
        }
        if before(self.covered, claim.to) {
            self.covered = claim.to;
        }
        outcome
    }

    /// As if much had been said since.
    #[cfg(test)]
    pub(super) fn forget_marks(&mut self) {
        (self.ends, self.strides) = (Marks::new(), Marks::new());
    }

    /// What the primary notes next: the two newest places where a clone has a mark even if it said
    /// somewhat less; then, the end.
    pub(super) fn claim(&mut self) -> Option<Claim> {
        if !self.is_uncovered() {
            return None;
        }
        let strides = [1, 0].map(|nth| self.strides.newest(nth));
        let mut ahead = strides.into_iter().flatten().filter(|mark| before(self.covered, mark.seq));
        let mark = ahead.next().unwrap_or(self.here());
        self.covered = mark.seq;
        let behind = self.running.next().wrapping_sub(mark.seq);
        let len = self.running.len().wrapping_sub(u64::from(behind));
        Some(Claim { to: mark.seq, len, digest: mark.sum })
    }

    /// It has said what it had to say, for now.
    pub(super) fn is_quiet(&self, now_ns: u64) -> bool {
        self.closed || now_ns >= self.spoke_at_ns + QUIET_NS
    }
}
