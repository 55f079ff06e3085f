//! Many seeds over a few threads: every run is on its own, the results come in the order of the seeds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::Outcome;

/// Results that may wait for one of an earlier seed.
const AHEAD_MAX: usize = 256;

/// Threads that this machine runs at once.
pub fn jobs() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `one` for every seed on `jobs` threads, and `each` with what came of it, in the order of
/// the seeds, until it returns false.
pub fn sweep(
    seeds: Range<u64>,
    jobs: usize,
    one: impl Fn(u64) -> Outcome + Sync,
    mut each: impl FnMut(u64, Outcome) -> bool,
) {
    let (next, enough) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (tx, rx) = sync_channel(AHEAD_MAX);
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (tx, next, enough, one) = (tx.clone(), &next, &enough, &one);
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || tx.send((seed, one(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tx);
        let (mut early, mut due) = (BTreeMap::new(), seeds.start);
        for (seed, outcome) in rx {
            early.insert(seed, outcome);
            while let Some(outcome) = early.remove(&due) {
                if !enough.load(Ordering::Relaxed) && !each(due, outcome) {
                    enough.store(true, Ordering::Relaxed);
                }
                due += 1;
            }
        }
    });
}
