//! What the threads of a capture-only node count for each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Of one link. Written by the poll-mode thread alone.
#[derive(Default)]
pub struct LinkCounters {
    pub received: AtomicU64,
    pub received_bytes: AtomicU64,
    pub filtered: AtomicU64,
    pub captured: AtomicU64,
    pub cut: AtomicU64,
    pub not_logged: AtomicU64,
    // As the driver has them.
    pub missed: AtomicU64,
    pub errors: AtomicU64,
    pub no_buffer: AtomicU64,
    pub up: AtomicBool,
    /// Frames that the device stamped.
    pub device_stamped: AtomicU64,
}

/// Of the node.
pub struct Counters {
    pub links: Vec<LinkCounters>,
    /// End of the log in memory.
    pub log_end: AtomicU64,
    /// What the writer has taken of it.
    pub taken: AtomicU64,
    /// Turns of the poll-mode thread, and of the one that writes.
    pub polls: AtomicU64,
    pub writes: AtomicU64,
    /// The poll-mode thread writes no more.
    pub finished: AtomicBool,
}

impl Counters {
    pub fn new(links: usize) -> Counters {
        Counters {
            links: (0..links).map(|_| LinkCounters::default()).collect(),
            log_end: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            finished: AtomicBool::new(false),
        }
    }

    /// Frames that did not fit in the log.
    pub fn not_logged(&self) -> u64 {
        self.links.iter().map(|l| l.not_logged.load(Ordering::Relaxed)).sum()
    }
}

/// One writer: no locked instruction is needed.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}
