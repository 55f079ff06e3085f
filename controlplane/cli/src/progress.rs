//! Long work shows that it goes on: a moving line on a terminal, now and then a plain one elsewhere.
//! On the standard error, so that the answer stays what it is.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Quick work shows nothing.
const FIRST: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(100);
/// Between two plain lines.
const LINES: Duration = Duration::from_secs(2);

/// Shown until it is dropped.
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show that `what` takes its time.
    pub fn start(what: &'static str) -> Progress {
        let (stop, stopped) = mpsc::channel::<()>();
        let shown = move || {
            let begun = Instant::now();
            if stopped.recv_timeout(FIRST) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if std::io::stderr().is_terminal() {
                let style = ProgressStyle::with_template("{spinner} {msg}: {elapsed}");
                let bar = ProgressBar::new_spinner().with_elapsed(begun.elapsed());
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar.set_message(what);
                bar.enable_steady_tick(TICK);
                let _ = stopped.recv();
                bar.finish_and_clear();
                return;
            }
            while stopped.recv_timeout(LINES) == Err(RecvTimeoutError::Timeout) {
                let s = begun.elapsed().as_secs();
                let _ = writeln!(std::io::stderr(), "understudy: {what}: {s} s so far");
            }
        };
        // Without a thread nothing is shown, and all else goes on.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(shown).ok();
        Progress { stop: Some(stop), thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How much of a known amount is done: a bar on a terminal, now and then a line elsewhere.
pub struct Meter {
    bar: Option<ProgressBar>,
    what: &'static str,
    all: u64,
    begun: Instant,
    told: Instant,
}

impl Meter {
    /// Of `all` bytes.
    pub fn new(what: &'static str, all: u64) -> Meter {
        let now = Instant::now();
        Meter { bar: None, what, all, begun: now, told: now }
    }

    /// So many of them are done.
    pub fn at(&mut self, done: u64) {
        if self.begun.elapsed() < FIRST {
            return;
        }
        let done = done.min(self.all);
        if std::io::stderr().is_terminal() {
            let (what, all) = (self.what, self.all);
            let bar = self.bar.get_or_insert_with(|| {
                let line = "{msg} {wide_bar} {bytes} of {total_bytes}, {eta}";
                let style = ProgressStyle::with_template(line);
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(all).with_style(style).with_message(what)
            });
            bar.set_position(done);
        } else if self.told.elapsed() >= LINES {
            self.told = Instant::now();
            let percent = done * 100 / self.all.max(1);
            let what = self.what;
            let _ = writeln!(std::io::stderr(), "understudy: {what}: {percent} % so far");
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
