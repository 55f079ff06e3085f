//! What systemd is told of a capture-only node: ready once its links are open, alive while both the
//! poll-mode thread and the one that writes get on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::running::Running;
use super::status::Stated;
use crate::supervisor::{Facts, Supervisor};

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Starts the thread; it ends once the poll-mode thread has.
pub fn spawn(
    counters: Arc<Counters>,
    stated: Arc<Stated>,
    running: Arc<Running>,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("supervised".into()).spawn(move || {
        let Ok(mut supervisor) = Supervisor::start() else { return };
        let since = Instant::now();
        let (mut turns, mut progress_ns) = ([0, 0], 0);
        let (mut reloads, mut is_stopping) = (0, false);
        while !counters.finished.load(Ordering::Acquire) {
            let now_ns = since.elapsed().as_nanos() as u64 + 1;
            let now = [&counters.polls, &counters.writes].map(|n| n.load(Ordering::Relaxed));
            if now[0] > turns[0] && now[1] > turns[1] {
                (turns, progress_ns) = (now, now_ns);
            }
            if supervisor.is_due(now_ns) {
                let facts = Facts {
                    able: progress_ns > 0,
                    progress_ns: (progress_ns > 0).then_some(progress_ns),
                    status: stated.sentence(),
                };
                supervisor.look(now_ns, facts);
            }
            if running.reloads() != reloads {
                reloads = running.reloads();
                supervisor.reloaded();
            }
            if stop.load(Ordering::Acquire) && !std::mem::replace(&mut is_stopping, true) {
                supervisor.stopping();
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        if !is_stopping {
            supervisor.stopping();
        }
    })
}
