//! What a client sent and received, to the byte, and the verdict over it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::pattern::Hash;
use crate::sys::unix_ns;

/// Bytes kept of each direction of one connection; beyond it only hash and length.
const KEPT_BYTES: usize = 256 << 10;
/// Events kept of one connection.
const KEPT_EVENTS: usize = 1 << 20;
/// Faults kept in words; more are counted.
const KEPT_FAULTS: usize = 20;

/// Direction of bytes, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Way {
    /// From the client.
    Sent,
    /// To the client.
    Received,
}

/// Bytes passed between the client and its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, in ns since 1970.
    pub unix_ns: u64,
    /// Which way.
    pub way: Way,
    /// How many.
    pub bytes: usize,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The first bytes, as they were.
    pub kept: Vec<u8>,
    /// Hash and length of all of them.
    pub hash: Hash,
}

impl Stream {
    fn take(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend(&bytes[..room]);
        self.hash.update(bytes);
    }
}

/// Every byte of one connection.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// What the client sent.
    pub sent: Stream,
    /// What it received.
    pub received: Stream,
    /// When.
    pub events: Vec<Event>,
}

impl Ledger {
    /// Enters bytes.
    pub fn enter(&mut self, way: Way, bytes: &[u8]) {
        match way {
            Way::Sent => self.sent.take(bytes),
            Way::Received => self.received.take(bytes),
        }
        if self.events.len() < KEPT_EVENTS {
            self.events.push(Event { unix_ns: unix_ns(), way, bytes: bytes.len() });
        }
    }
}

/// A silence that a moment caused begins no later than this after it: what was
/// on its way is still answered.
const AFTERMATH_NS: u64 = 500_000_000;

/// How long a client saw nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stall {
    /// Last reply before the silence that the moment caused.
    pub last_before_ns: Option<u64>,
    /// First reply after that silence.
    pub first_after_ns: Option<u64>,
    /// Longest time between two replies of the whole run.
    pub longest_ns: u64,
}

impl Stall {
    /// The silence that the moment caused.
    pub fn around_ns(&self) -> Option<u64> {
        Some(self.first_after_ns? - self.last_before_ns?)
    }
}

/// What a client found.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The client.
    pub name: String,
    /// How many of what.
    pub counts: BTreeMap<String, u64>,
    /// What was wrong, in words; empty means PASS.
    pub faults: Vec<String>,
    /// Faults beyond the kept ones.
    pub faults_more: u64,
    /// When each reply arrived, in ns since 1970.
    #[serde(skip)]
    pub replies_ns: Vec<u64>,
    /// Every byte, connection by connection.
    #[serde(skip)]
    pub ledgers: Vec<Ledger>,
}

impl Verdict {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_string(),
            counts: BTreeMap::new(),
            faults: Vec::new(),
            faults_more: 0,
            replies_ns: Vec::new(),
            ledgers: Vec::new(),
        }
    }

    /// Counts.
    pub fn count(&mut self, what: &str, more: u64) {
        *self.counts.entry(what.to_string()).or_default() += more;
    }

    /// How many of `what` were counted.
    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// A good reply, now.
    pub fn reply(&mut self) {
        self.count("replies", 1);
        if self.replies_ns.len() < KEPT_EVENTS {
            self.replies_ns.push(unix_ns());
        }
    }

    /// Something that must not happen.
    pub fn fault(&mut self, what: impl fmt::Display) {
        if self.faults.len() < KEPT_FAULTS {
            self.faults.push(what.to_string());
        } else {
            self.faults_more += 1;
        }
    }

    /// Whether nothing was wrong and something was seen.
    pub fn is_pass(&self) -> bool {
        self.faults.is_empty() && self.counted("replies") > 0
    }

    /// Panics with the whole verdict unless it is PASS.
    pub fn assert_pass(&self) {
        assert!(self.is_pass(), "{self}");
    }

    /// The longest silence that ends after a moment and begins before or soon after it.
    pub fn stall(&self, moment_ns: u64) -> Stall {
        let gaps = || self.replies_ns.windows(2).map(|pair| (pair[0], pair[1]));
        let length = |&(from, to): &(u64, u64)| to.saturating_sub(from);
        let caused = gaps()
            .filter(|&(from, to)| to > moment_ns && from < moment_ns.saturating_add(AFTERMATH_NS))
            .max_by_key(length);
        Stall {
            last_before_ns: caused.map(|gap| gap.0),
            first_after_ns: caused.map(|gap| gap.1),
            longest_ns: gaps().map(|gap| length(&gap)).max().unwrap_or(0),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_pass() { "PASS" } else { "FAIL" };
        write!(out, "{word}  {}", self.name)?;
        for (what, count) in &self.counts {
            write!(out, "  {what} {count}")?;
        }
        for fault in &self.faults {
            write!(out, "\n      {fault}")?;
        }
        if self.faults_more > 0 {
            write!(out, "\n      and {} more", self.faults_more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_the_silence_that_the_moment_caused() {
        let ms = |ms: u64| ms * 1_000_000;
        let mut verdict = Verdict::new("x");
        // Killed at 25: a reply on its way arrives at 26, the next at 300. Much later: 2 s.
        verdict.replies_ns = [10, 20, 26, 300, 400, 600, 2600].map(ms).to_vec();
        let stall = verdict.stall(ms(25));
        assert_eq!((stall.last_before_ns, stall.first_after_ns), (Some(ms(26)), Some(ms(300))));
        assert_eq!(stall.around_ns(), Some(ms(274)));
        assert_eq!(stall.longest_ns, ms(2000));
        assert_eq!(verdict.stall(ms(4000)).around_ns(), None);
    }

    #[test]
    fn nothing_seen_is_no_pass() {
        let mut verdict = Verdict::new("x");
        assert!(!verdict.is_pass());
        verdict.reply();
        assert!(verdict.is_pass());
        verdict.fault("lost");
        assert!(!verdict.is_pass());
    }
}
