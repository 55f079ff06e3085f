//! What systemd is told, where it asks for it: ready, the state in words, and that there is progress.
//!
//! A thread of its own speaks: a supervisor that does not read holds up nothing here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use sd_notify::NotifyState;
use tracing::warn;
use understudy_fastpath::MS;

/// How often the state is looked at, and told if it is another.
const LOOK_INTERVAL_NS: u64 = 100 * MS;
/// What the poll-mode thread said last is no progress once it is so old.
const PROGRESS_AGE_NS_MAX: u64 = 500 * MS;
const NOTICES_MAX: usize = 16;
/// How long the end waits for what it says.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Debug, PartialEq, Eq)]
enum Notice {
    Ready,
    Status(String),
    Alive,
    Reloaded,
    Stopping,
}

/// What the control thread knows at a moment.
pub struct Facts {
    /// The node takes part in its group, as far as that depends on itself.
    pub able: bool,
    /// When the poll-mode thread last told of itself; never at first.
    pub progress_ns: Option<u64>,
    /// The state in words.
    pub status: String,
}

/// The control thread's end.
pub struct Supervisor {
    /// Nobody asks, without.
    notices: Option<Sender<Notice>>,
    /// Half of the time in which systemd wants to hear of progress.
    feed_interval_ns: Option<u64>,
    fed_ns: u64,
    /// The progress that was told last: the same again is none.
    fed_progress_ns: u64,
    looked_ns: u64,
    ready: bool,
    status: String,
    unsent: Arc<AtomicU64>,
    speaker: Option<JoinHandle<()>>,
}

impl Drop for Supervisor {
    /// What was said last is still to be heard, but not for ever.
    fn drop(&mut self) {
        self.notices = None;
        let Some(speaker) = self.speaker.take() else { return };
        let deadline = Instant::now() + LAST_WORDS;
        while !speaker.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Supervisor {
    pub fn start() -> anyhow::Result<Supervisor> {
        let mut watchdog_us = 0;
        let watched = sd_notify::watchdog_enabled(false, &mut watchdog_us);
        let mut supervisor = Supervisor::silent(watched.then_some(watchdog_us.max(1) * 1000 / 2));
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            let (sender, notices) = bounded(NOTICES_MAX);
            let unsent = Arc::clone(&supervisor.unsent);
            let speak = move || {
                for notice in notices {
                    if let Err(e) = tell(&notice)
                        && unsent.fetch_add(1, Ordering::Relaxed) == 0
                    {
                        warn!("systemd is not told: {e}");
                    }
                }
            };
            let speaker = std::thread::Builder::new().name("supervisor".into()).spawn(speak)?;
            supervisor.speaker = Some(speaker);
            supervisor.notices = Some(sender);
        }
        Ok(supervisor)
    }

    /// One that has nobody to tell yet.
    fn silent(feed_interval_ns: Option<u64>) -> Supervisor {
        Supervisor {
            notices: None,
            feed_interval_ns,
            fed_ns: 0,
            fed_progress_ns: 0,
            looked_ns: 0,
            ready: false,
            status: String::new(),
            unsent: Arc::default(),
            speaker: None,
        }
    }

    /// Whether [`Supervisor::look`] has anything to do: it costs the caller its facts.
    pub fn is_due(&self, now_ns: u64) -> bool {
        let interval_ns =
            self.feed_interval_ns.map_or(LOOK_INTERVAL_NS, |ns| ns.min(LOOK_INTERVAL_NS));
        self.notices.is_some() && now_ns >= self.looked_ns + interval_ns
    }

    /// Tells what is new. Without progress of the poll-mode thread since the last time, nobody is
    /// told that there is any; this thread's own progress is that it calls.
    pub fn look(&mut self, now_ns: u64, facts: Facts) {
        self.looked_ns = now_ns;
        if facts.able && !self.ready {
            self.ready = true;
            self.send(Notice::Ready);
        }
        if facts.status != self.status {
            self.status = facts.status;
            self.send(Notice::Status(self.status.clone()));
        }
        let progress_ns = facts.progress_ns.unwrap_or(0);
        let progress = progress_ns > self.fed_progress_ns
            && now_ns < progress_ns.saturating_add(PROGRESS_AGE_NS_MAX);
        let due = self.feed_interval_ns.is_some_and(|ns| now_ns >= self.fed_ns + ns);
        if due && progress {
            (self.fed_ns, self.fed_progress_ns) = (now_ns, progress_ns);
            self.send(Notice::Alive);
        }
    }

    /// The configuration is another one.
    pub fn reloaded(&self) {
        self.send(Notice::Reloaded);
    }

    /// It will end.
    pub fn stopping(&self) {
        self.send(Notice::Stopping);
    }

    /// Notices that did not reach it.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    fn send(&self, notice: Notice) {
        if let Some(notices) = &self.notices
            && notices.try_send(notice).is_err()
        {
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// This life has ended in order; the next one has the watchdog's whole time to take its memory.
pub fn begins_anew() {
    let _ = tell(&Notice::Alive);
}

fn tell(notice: &Notice) -> std::io::Result<()> {
    match notice {
        Notice::Ready => sd_notify::notify(false, &[NotifyState::Ready]),
        Notice::Status(text) => sd_notify::notify(false, &[NotifyState::Status(text)]),
        Notice::Alive => sd_notify::notify(false, &[NotifyState::Watchdog]),
        Notice::Stopping => sd_notify::notify(false, &[NotifyState::Stopping]),
        Notice::Reloaded => {
            let at = NotifyState::monotonic_usec_now()?;
            sd_notify::notify(false, &[NotifyState::Reloading, at])?;
            sd_notify::notify(false, &[NotifyState::Ready])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::Receiver;

    fn supervised(watchdog_ns: u64) -> (Supervisor, Receiver<Notice>) {
        let (sender, notices) = bounded(NOTICES_MAX);
        let mut supervisor = Supervisor::silent(Some(watchdog_ns / 2));
        supervisor.notices = Some(sender);
        (supervisor, notices)
    }

    fn look(s: &mut Supervisor, now_ms: u64, able: bool, progress_ms: u64) {
        let facts = Facts { able, progress_ns: Some(progress_ms * MS), status: "x".into() };
        s.look(now_ms * MS, facts);
    }

    #[test]
    fn a_core_that_stands_still_does_not_feed() {
        let (mut s, notices) = supervised(1000 * MS);
        look(&mut s, 10_000, false, 9_999);
        assert_eq!(
            notices.try_iter().collect::<Vec<_>>(),
            [Notice::Status("x".into()), Notice::Alive]
        );
        for now_ms in 10_001..10_499 {
            look(&mut s, now_ms, false, now_ms);
        }
        assert!(notices.is_empty(), "not before half of the time");
        look(&mut s, 10_500, true, 10_499);
        assert_eq!(notices.try_iter().collect::<Vec<_>>(), [Notice::Ready, Notice::Alive]);
        for now_ms in 10_501..20_000 {
            look(&mut s, now_ms, true, 10_499);
        }
        assert!(notices.is_empty(), "the same progress is none");
        look(&mut s, 20_000, true, 11_000);
        assert!(notices.is_empty(), "nor is one of long ago");
        look(&mut s, 20_001, true, 20_001);
        assert_eq!(notices.try_iter().collect::<Vec<_>>(), [Notice::Alive]);
    }

    #[test]
    fn a_supervisor_that_does_not_read_is_counted() {
        let (mut s, notices) = supervised(1000 * MS);
        for i in 0..100 {
            s.look(i, Facts { able: true, progress_ns: None, status: i.to_string() });
        }
        assert_eq!(s.unsent() + notices.len() as u64, 101);
    }
}
