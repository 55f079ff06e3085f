//! The thread that brings the log in memory to disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use understudy_log::{LogReader, Read};
use understudy_segments::Store;

use super::counters::{Counters, add};
use super::running::Running;
use super::{nap, unix_ns};

/// Without a writer, for whatever reason, there is nothing to capture for.
struct StopAtEnd(Arc<AtomicBool>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Starts it; it ends once the poll-mode thread has, with everything written.
pub fn spawn(
    mut store: Store,
    mut reader: LogReader,
    counters: Arc<Counters>,
    running: Arc<Running>,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("segments".into()).spawn(move || {
        let _guard = StopAtEnd(stop);
        loop {
            add(&counters.writes, 1);
            if let Some(limits) = running.newer_limits() {
                store.set_kept(limits.keep_bytes, limits.keep_ns, limits.flush_ns);
            }
            // Before the log is looked at: nothing comes after that.
            let is_last = counters.finished.load(Ordering::Acquire);
            match reader.read() {
                Read::Records(position, bytes) => store.records(position, bytes, unix_ns()),
                Read::Lost(records) | Read::TakenBack(records) => store.lost(records),
                Read::Nothing if is_last => break,
                Read::Nothing => nap(),
            }
            counters.taken.store(reader.at(), Ordering::Relaxed);
            store.tick(unix_ns());
        }
        store.close(unix_ns());
    })
}
