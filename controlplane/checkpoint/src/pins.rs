//! Generations that stay because somebody reads them: other nodes that are sent one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A reader of whom nothing has moved for so long does not keep a generation any more.
const STALE_AFTER: Duration = Duration::from_secs(20);

/// All pins of a store.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    begun: Instant,
    pins: Arc<Mutex<Vec<Arc<Entry>>>>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Milliseconds from the store's opening to when something last moved.
    moved_ms: AtomicU64,
}

/// Keeps a generation from being removed for newer ones, until it is dropped or nothing moves.
#[derive(Debug)]
pub struct Pin {
    entry: Arc<Entry>,
    all: Pins,
}

impl Default for Pins {
    fn default() -> Pins {
        Pins { begun: Instant::now(), pins: Arc::default() }
    }
}

impl Pins {
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Arc<Entry>>) -> T) -> T {
        f(&mut self.pins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn pin(&self, number: u64) -> Pin {
        let entry = Arc::new(Entry { number, moved_ms: AtomicU64::new(self.now_ms()) });
        self.with(|pins| pins.push(Arc::clone(&entry)));
        Pin { entry, all: self.clone() }
    }

    /// Whether somebody reads it, and has got on lately.
    pub(crate) fn holds(&self, number: u64) -> bool {
        let stale_ms = STALE_AFTER.as_millis() as u64;
        let moved_ms = |entry: &Entry| entry.moved_ms.load(Ordering::Relaxed);
        let now_ms = self.now_ms();
        let lately = |entry: &Entry| now_ms.saturating_sub(moved_ms(entry)) < stale_ms;
        self.with(|pins| {
            pins.iter().any(|e| e.number == number && moved_ms(e) != EXPIRED && lately(e))
        })
    }
}

/// In place of a time: nothing has moved for too long.
const EXPIRED: u64 = u64::MAX;

impl Pin {
    /// Of which generation.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.entry.number
    }

    /// Its reader has got on.
    pub fn moved(&self) {
        self.entry.moved_ms.store(self.all.now_ms(), Ordering::Relaxed);
    }

    /// As if nothing had moved for too long.
    #[cfg(test)]
    pub(crate) fn expire(&self) {
        self.entry.moved_ms.store(EXPIRED, Ordering::Relaxed);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.all.with(|pins| pins.retain(|entry| !Arc::ptr_eq(entry, &self.entry)));
    }
}
