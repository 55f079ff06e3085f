//! Clients that keep a ledger. Each runs on a thread inside the client's namespace.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::ledger::Verdict;
use crate::{cmd, sys};

pub mod bulk;
pub mod counter;
pub mod crowd;
pub mod data;
pub mod handshake;
pub mod http;
pub mod idle;
pub mod inflight;
pub mod oracle;
pub mod pg;
pub mod pipelined;
pub mod rediscli;
pub mod resp;
pub mod short;
pub mod udp;
pub mod wire;

/// A client gives a reply up after this long: a bound on liveness, no measure of speed.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence that must follow the last reply: a doubled one would show up.
pub const QUIET: Duration = Duration::from_millis(250);
/// What a stopped client may still need.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// What a running client shares with its starter.
#[derive(Clone, Debug, Default)]
pub struct Control {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
}

impl Control {
    /// Whether the client is asked to come to an end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds to the progress: replies, or bytes for a bulk client.
    pub fn advance(&self, more: u64) {
        self.progress.fetch_add(more, Ordering::Relaxed);
    }

    /// Sleeps, but not much longer than until the client is stopped.
    pub fn pause(&self, pause: Duration) {
        let step = Duration::from_millis(20);
        let mut rest = pause;
        while !rest.is_zero() && !self.is_stopped() {
            let now = rest.min(step);
            thread::sleep(now);
            rest -= now;
        }
    }
}

/// A running client.
pub struct Task {
    name: String,
    control: Control,
    handle: thread::JoinHandle<std::io::Result<Verdict>>,
}

impl Task {
    /// Starts `work` inside a namespace; what it returns as an error becomes a fault.
    pub fn start(
        netns: &Path,
        name: &str,
        work: impl FnOnce(&Control, &mut Verdict) -> Result<()> + Send + 'static,
    ) -> Result<Task> {
        let control = Control::default();
        let inside = control.clone();
        let title = name.to_string();
        let handle = sys::spawn_in_netns(netns, "lab-client", move || {
            let mut verdict = Verdict::new(&title);
            if let Err(error) = work(&inside, &mut verdict) {
                verdict.fault(format!("{error:#}"));
            }
            verdict
        })?;
        Ok(Task { name: name.to_string(), control, handle })
    }

    /// Replies so far (bytes for a bulk client).
    pub fn progress(&self) -> u64 {
        self.control.progress.load(Ordering::Relaxed)
    }

    /// Whether the client came to its end, by itself or not.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until `more` further replies (or bytes) have come.
    pub fn wait_progress(&self, more: u64, timeout: Duration) -> Result<()> {
        let goal = self.progress() + more;
        cmd::wait_until(&format!("{}: {more} more replies", self.name), timeout, || {
            Ok(self.progress() >= goal || self.is_finished())
        })
    }

    /// Asks the client to come to its end.
    pub fn stop(&self) {
        self.control.stop.store(true, Ordering::Relaxed);
    }

    /// Asks the client to come to its end and takes its verdict.
    pub fn finish(self) -> Result<Verdict> {
        self.stop();
        self.join(FINISH_TIMEOUT)
    }

    /// Waits for a client that ends by itself.
    pub fn join(self, timeout: Duration) -> Result<Verdict> {
        let ended = cmd::wait_until(&format!("{}: the end", self.name), timeout, || {
            Ok(self.handle.is_finished())
        });
        if let Err(error) = ended {
            self.control.stop.store(true, Ordering::Relaxed);
            return Err(error);
        }
        let outcome = self.handle.join().map_err(|_| anyhow!("{}: panicked", self.name))?;
        outcome.with_context(|| format!("{}: namespace", self.name))
    }
}
