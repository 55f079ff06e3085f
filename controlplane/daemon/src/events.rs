//! What has happened on this node: numbered, kept in memory, and on disk for the lives to come.
//!
//! A line of JSON each, in two files of bounded size. They are appended to by a thread of its own,
//! which the control plane never waits for: what a disk does not take stays in memory, is tried
//! again, and counted. A line that a crash cut off is taken away at the next start.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{error, warn};
use understudy_api::{EVENTS_MAX, EVENTS_WAIT_MS_MAX, Events, TimelineEvent};

const FILE: &str = "events.jsonl";
const OLD_FILE: &str = "events.1.jsonl";
/// Of one file; there are two.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Of one line on disk: the text is cut, nothing else of it is long.
const DETAIL_BYTES_MAX: usize = 4096;
/// Events in memory.
const KEPT_MAX: usize = 4096;
/// Lines that the disk is behind.
const QUEUE_MAX: usize = 1024;
/// A disk that refused is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// All events; clones are the same log.
#[derive(Clone)]
pub struct EventLog(Arc<Shared>);

struct Shared {
    node: String,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    events: VecDeque<TimelineEvent>,
    next_seq: u64,
    /// The first of this life of the daemon.
    life_seq: u64,
    /// `None` without a thread that writes.
    lines: Option<Sender<Vec<u8>>>,
    /// Lines that were given to the thread and are not on disk yet.
    unwritten: u64,
    not_stored: u64,
    damaged: u64,
    /// Why the disk did not take the last one.
    refused: Option<String>,
}

impl EventLog {
    /// Reads what earlier lives left. A disk that cannot be used is told, and no reason not to start.
    pub fn open(dir: &Path, node: &str) -> EventLog {
        let mut state = State {
            events: VecDeque::with_capacity(KEPT_MAX),
            next_seq: 1,
            life_seq: 1,
            lines: None,
            unwritten: 0,
            not_stored: 0,
            damaged: 0,
            refused: None,
        };
        let opened = Files::open(dir, &mut state);
        state.life_seq = state.next_seq;
        let shared =
            Shared { node: node.into(), state: Mutex::new(state), changed: Condvar::new() };
        let log = EventLog(Arc::new(shared));
        let started = opened.and_then(|files| log.start_writer(files));
        if let Err(e) = started {
            error!("events cannot be kept in {}: {e}", dir.join(FILE).display());
            log.lock().refused = Some(e.to_string());
        }
        log
    }

    fn start_writer(&self, files: Files) -> io::Result<()> {
        let (submit, lines) = bounded(QUEUE_MAX);
        let log = Arc::downgrade(&self.0);
        let write = move || files.write(&lines, &log);
        std::thread::Builder::new().name("events".into()).spawn(write)?;
        self.lock().lines = Some(submit);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What it holds is whole at every moment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened. Never waits.
    pub fn push(&self, mut event: TimelineEvent) {
        let mut state = self.lock();
        event.seq = state.next_seq;
        event.node.clone_from(&self.0.node);
        shorten(&mut event.detail, DETAIL_BYTES_MAX);
        state.next_seq += 1;
        state.store(&event);
        if state.events.len() == KEPT_MAX {
            state.events.pop_front();
        }
        state.events.push_back(event);
        drop(state);
        self.0.changed.notify_all();
    }

    /// The newest of this life, at most so many.
    pub fn this_life(&self, max: usize) -> Vec<TimelineEvent> {
        let state = self.lock();
        let mut newest: Vec<_> = state
            .events
            .iter()
            .rev()
            .take_while(|e| e.seq >= state.life_seq)
            .take(max)
            .cloned()
            .collect();
        newest.reverse();
        newest
    }

    /// Those after `since_seq` that are not older than `since_ns`, oldest first; with none, waits for one.
    pub fn since(&self, since_seq: Option<u64>, since_ns: Option<u64>, wait_ms: u64) -> Events {
        let wait = Duration::from_millis(wait_ms.min(EVENTS_WAIT_MS_MAX));
        let deadline = Instant::now() + wait;
        let mut state = self.lock();
        loop {
            let found = state.since(&self.0.node, since_seq, since_ns);
            let left = deadline.saturating_duration_since(Instant::now());
            // A number from the future is of another log: whoever asks must learn that.
            let is_answer =
                !found.events.is_empty() || since_seq.is_some_and(|s| s > found.newest_seq);
            if is_answer || left.is_zero() {
                return found;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Events that are not on disk, and why the disk refused the last, if it did.
    pub fn trouble(&self) -> (u64, Option<String>) {
        let state = self.lock();
        (state.not_stored, state.refused.clone())
    }

    /// Waits until the disk has everything, but not long.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.unwritten > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                warn!("{} events are not on disk", state.unwritten);
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn written(&self, lines: u64, refused: Option<String>) {
        let mut state = self.lock();
        state.unwritten = state.unwritten.saturating_sub(lines);
        if let Some(text) = &refused
            && state.refused.is_none()
        {
            error!("events cannot be written: {text}");
        }
        state.refused = refused;
        drop(state);
        self.0.changed.notify_all();
    }
}

impl State {
    fn store(&mut self, event: &TimelineEvent) {
        let line = serde_json::to_vec(event).map(|mut line| {
            line.push(b'\n');
            line
        });
        let sent = match (line, &self.lines) {
            (Ok(line), Some(lines)) => lines.try_send(line).is_ok(),
            _ => false,
        };
        if sent {
            self.unwritten += 1;
        } else {
            self.not_stored += 1;
        }
    }

    fn since(&self, node: &str, since_seq: Option<u64>, since_ns: Option<u64>) -> Events {
        let newer = |e: &&TimelineEvent| {
            since_seq.is_none_or(|seq| e.seq > seq) && since_ns.is_none_or(|ns| e.unix_ns >= ns)
        };
        let mut found = self.events.iter().filter(newer);
        Events {
            node: node.into(),
            events: found.by_ref().take(EVENTS_MAX).cloned().collect(),
            oldest_seq: self.events.front().map_or(0, |e| e.seq),
            newest_seq: self.next_seq - 1,
            more: found.next().is_some(),
            not_stored: self.not_stored,
            damaged: self.damaged,
        }
    }

    fn take_file(&mut self, text: &[u8]) {
        for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let Ok(event) = serde_json::from_slice::<TimelineEvent>(line) else {
                self.damaged += 1;
                continue;
            };
            if event.seq < self.next_seq {
                // Out of order: not ours.
                self.damaged += 1;
                continue;
            }
            self.next_seq = event.seq.saturating_add(1);
            if self.events.len() == KEPT_MAX {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
    }
}

/// Cuts a text to so many bytes at most, between two characters.
fn shorten(text: &mut String, mut bytes_max: usize) {
    while !text.is_char_boundary(bytes_max.min(text.len())) {
        bytes_max -= 1;
    }
    text.truncate(bytes_max);
}

/// The two files, as their thread has them.
struct Files {
    dir: PathBuf,
    file: File,
    /// Whole lines that are in it.
    len: u64,
}

impl Files {
    fn open(dir: &Path, state: &mut State) -> io::Result<Files> {
        match File::open(dir.join(OLD_FILE)) {
            Ok(mut old) => state.take_file(&tail(&mut old)?.0),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let path = dir.join(FILE);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let (text, begins) = tail(&mut file)?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        state.take_file(&text[..whole]);
        state.damaged += u64::from(whole < text.len());
        let len = begins + whole as u64;
        file.set_len(len)?;
        Ok(Files { dir: dir.to_path_buf(), file, len })
    }

    /// Until nobody has the log any more.
    fn write(mut self, lines: &Receiver<Vec<u8>>, log: &Weak<Shared>) {
        while let Ok(mut pending) = lines.recv() {
            let mut count = 1;
            for line in lines.try_iter() {
                pending.extend(line);
                count += 1;
            }
            // While the disk refuses no more is taken from the queue, which is the bound.
            loop {
                let refused = self.append(&pending).err().map(|e| e.to_string());
                let Some(shared) = log.upgrade() else { return };
                let done = refused.is_none();
                EventLog(shared).written(if done { count } else { 0 }, refused);
                if done {
                    break;
                }
                std::thread::sleep(RETRY);
            }
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + lines.len() as u64 > FILE_BYTES_MAX {
            self.rotate()?;
        }
        let written = self.append_here(lines);
        match &written {
            Ok(()) => self.len += lines.len() as u64,
            // Half a line would spoil the next one.
            Err(_) => drop(self.file.set_len(self.len)),
        }
        written
    }

    fn append_here(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(lines)?;
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(self.dir.join(FILE), self.dir.join(OLD_FILE))?;
        self.file = File::options().write(true).create_new(true).open(self.dir.join(FILE))?;
        self.len = 0;
        File::open(&self.dir)?.sync_all()
    }
}

/// The end of a file, from the first whole line that is within the bound, and where that begins.
fn tail(file: &mut File) -> io::Result<(Vec<u8>, u64)> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut begins = len.saturating_sub(2 * FILE_BYTES_MAX);
    file.seek(SeekFrom::Start(begins))?;
    let mut text = Vec::new();
    file.take(2 * FILE_BYTES_MAX).read_to_end(&mut text)?;
    if begins > 0 {
        let cut = text.iter().position(|b| *b == b'\n').map_or(text.len(), |end| end + 1);
        text.drain(..cut);
        begins += cut as u64;
    }
    Ok((text, begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir =
                std::env::temp_dir().join(format!("understudy-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn event(detail: impl Into<String>) -> TimelineEvent {
        TimelineEvent { event: "e".into(), detail: detail.into(), ..TimelineEvent::default() }
    }

    fn seqs(events: &Events) -> Vec<u64> {
        events.events.iter().map(|e| e.seq).collect()
    }

    #[test]
    fn numbers_go_on_in_the_next_life() {
        let dir = Dir::new("events-life");
        let first = EventLog::open(&dir.0, "a");
        first.push(event("one"));
        first.push(event("two"));
        first.flush(SOON);
        let second = EventLog::open(&dir.0, "a");
        assert!(second.this_life(10).is_empty(), "what was before is no part of this life");
        second.push(event("three"));
        assert_eq!(second.this_life(10).len(), 1);
        let all = second.since(None, None, 0);
        assert_eq!((seqs(&all), all.newest_seq, all.damaged), (vec![1, 2, 3], 3, 0));
        assert_eq!(all.events[2].node, "a");
        assert_eq!(seqs(&second.since(Some(1), None, 0)), [2, 3]);
        second.flush(SOON);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for (bytes_max, left) in [(9, "aé€"), (6, "aé€"), (5, "aé"), (2, "a"), (0, "")] {
            let mut text = String::from("aé€");
            shorten(&mut text, bytes_max);
            assert_eq!(text, left);
        }
    }

    #[test]
    fn a_torn_line_is_taken_away_and_damage_is_counted() {
        let dir = Dir::new("events-torn");
        let log = EventLog::open(&dir.0, "a");
        log.push(event("one"));
        log.flush(SOON);
        let path = dir.0.join(FILE);
        let mut text = fs::read(&path).unwrap();
        text.extend(b"not json\n{\"seq\":2,\"det");
        fs::write(&path, &text).unwrap();
        let log = EventLog::open(&dir.0, "a");
        assert_eq!(log.since(None, None, 0).damaged, 2);
        log.push(event("two"));
        log.flush(SOON);
        let log = EventLog::open(&dir.0, "a");
        assert_eq!(seqs(&log.since(None, None, 0)), [1, 2]);
    }

    #[test]
    fn the_files_are_bounded_and_the_newest_are_kept() {
        let dir = Dir::new("events-rotate");
        let log = EventLog::open(&dir.0, "a");
        for n in 0..3000u64 {
            log.push(event(format!("{n} {}", "x".repeat(1000))));
            if n % 200 == 0 {
                log.flush(SOON);
            }
        }
        log.flush(SOON);
        for name in [FILE, OLD_FILE] {
            let len = fs::metadata(dir.0.join(name)).unwrap().len();
            assert!(len <= FILE_BYTES_MAX && len > 0, "{name}: {len}");
        }
        let log = EventLog::open(&dir.0, "a");
        let all = log.since(None, None, 0);
        assert!(all.more && all.events.len() == EVENTS_MAX && all.newest_seq == 3000);
        assert!(all.oldest_seq > 1 && all.oldest_seq < 2200, "{}", all.oldest_seq);
    }

    #[test]
    fn whoever_waits_is_told_at_once() {
        let dir = Dir::new("events-wait");
        let log = EventLog::open(&dir.0, "a");
        let begun = Instant::now();
        assert!(log.since(None, None, 50).events.is_empty());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let waiter = log.clone();
        let waiting = std::thread::spawn(move || waiter.since(Some(0), None, 10_000));
        log.push(event("now"));
        assert_eq!(seqs(&waiting.join().unwrap()), [1]);
        assert_eq!(log.since(Some(99), None, 10_000).newest_seq, 1, "of another log: no wait");
        log.flush(SOON);
    }

    #[test]
    fn without_a_disk_there_is_memory() {
        let log = EventLog::open(Path::new("/proc/no-such-directory"), "a");
        log.push(event("kept"));
        let all = log.since(None, None, 0);
        assert_eq!((all.events.len(), all.not_stored), (1, 1));
        assert!(log.trouble().1.is_some());
        log.flush(SOON);
    }
}
