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
