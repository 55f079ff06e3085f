//! The unmodified `redis-cli`: its output must count on, and its connection stay the same.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow};

use super::REPLY_TIMEOUT;
use crate::ledger::Verdict;
use crate::{cmd, proc, sys};

/// Time between two looks at the local port.
const PORT_INTERVAL: Duration = Duration::from_millis(50);

/// A running `redis-cli -r N -i PAUSE INCR KEY`.
pub struct RedisCli {
    process: std::process::Child,
    reader: thread::JoinHandle<Verdict>,
    watcher: thread::JoinHandle<BTreeSet<String>>,
    stop: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    errors: PathBuf,
}

impl RedisCli {
    /// Starts it in `netns`; its stderr goes to a file in `dir`.
    pub fn start(
        netns: &Path,
        dir: &Path,
        mark: &str,
        target: SocketAddr,
        key: &str,
        pause: Duration,
    ) -> Result<Self> {
        let errors = dir.join(format!("redis-cli-{key}.log"));
        let seconds = format!("{:.6}", pause.as_secs_f64());
        let mut process = cmd::inside(netns, "redis-cli")
            .args(["-h", &target.ip().to_string(), "-p", &target.port().to_string()])
            .args(["-r", "1000000", "-i", &seconds, "INCR", key])
            .env(proc::MARK, mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors)?)
            .spawn()
            .context("cannot start redis-cli")?;
        let stdout = process.stdout.take().context("no stdout")?;
        let replies = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&replies);
        let reader = thread::spawn(move || read_counts(BufReader::new(stdout), &seen));
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, pid, inside) = (Arc::clone(&stop), process.id(), netns.to_path_buf());
        let watcher = thread::spawn(move || watch_ports(&inside, pid, &ended));
        Ok(Self { process, reader, watcher, stop, replies, errors })
    }

    /// Lines so far.
    pub fn progress(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// Waits until `more` further lines have come.
    pub fn wait_progress(&self, more: u64, timeout: Duration) -> Result<()> {
        let goal = self.progress() + more;
        cmd::wait_until("redis-cli: more replies", timeout, || Ok(self.progress() >= goal))
    }

    /// Ends it and takes the verdict.
    pub fn finish(mut self) -> Result<Verdict> {
        // One that waits for a reply for ever prints nothing wrong.
        let seen = self.progress();
        let moved = cmd::wait_until("redis-cli: one more reply", REPLY_TIMEOUT, || {
            Ok(self.progress() > seen || !matches!(self.process.try_wait(), Ok(None)))
        });
        let still_runs = matches!(self.process.try_wait(), Ok(None));
        self.stop.store(true, Ordering::Relaxed);
        let ports = self.watcher.join().map_err(|_| anyhow!("the port watcher panicked"))?;
        sys::kill(self.process.id(), libc::SIGKILL)?;
        cmd::wait(&mut self.process, REPLY_TIMEOUT)?;
        let mut verdict = self.reader.join().map_err(|_| anyhow!("the reader panicked"))?;
        if !still_runs {
            verdict.fault("redis-cli ended by itself");
        }
        if moved.is_err() {
            verdict.fault(format!("no reply within {REPLY_TIMEOUT:?}"));
        }
        verdict.count("connections", ports.len() as u64);
        if ports.len() > 1 {
            verdict.fault(format!("it connected again: {ports:?}"));
        }
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        if let Some(line) = errors.lines().next() {
            verdict.fault(format!("redis-cli says: {line}"));
        }
        Ok(verdict)
    }
}

fn read_counts(output: impl BufRead, seen: &AtomicU64) -> Verdict {
    let mut verdict = Verdict::new("redis-cli");
    for (line, number) in output.lines().map_while(Result::ok).zip(1u64..) {
        // The kill at the end may cut the last line; a wrong number is no prefix of the right one.
        let expected = number.to_string();
        if line != expected {
            verdict.fault(format!("line {number} is {line:?}"));
        }
        verdict.reply();
        seen.store(number, Ordering::Relaxed);
    }
    verdict
}

/// Every local address the process had a connection from.
fn watch_ports(netns: &Path, pid: u32, ended: &AtomicBool) -> BTreeSet<String> {
    let mut ports = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(3600);
    while Instant::now() < deadline {
        let is_last = ended.load(Ordering::Relaxed);
        if let Ok(text) = cmd::run_inside(netns, &["ss", "-tnHp"]) {
            let ours = format!("pid={pid},");
            let lines = text.lines().filter(|line| line.contains(&ours));
            ports.extend(lines.filter_map(|line| line.split_whitespace().nth(3)).map(String::from));
        }
        if is_last {
            break;
        }
        thread::sleep(PORT_INTERVAL);
    }
    ports
}
