//! `understudy capture`: sends ranges of the capture log while the poll-mode thread writes it. What a
//! client is too slow for is overwritten, and counted; nothing waits for it here.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use understudy_api::stream::Piece;
use understudy_api::{ApiError, Capturing, ErrorCode, Response, server};
use understudy_config::Config;
use understudy_log::{LogReader, LogView, Read};
use understudy_wire::record::records;

use crate::capture_node::Past;

/// Captures at once: each has a thread and a quarter of a megabyte.
const CAPTURES_MAX: usize = 4;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Without news for so long, the client is told so: that is how one that has gone is noticed.
const ALIVE_INTERVAL: Duration = Duration::from_millis(250);
/// How often the log is looked at when it has nothing new.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const MARKS_MAX: usize = 64;

/// A position of the log about which there is something to say.
struct Mark {
    position: u64,
    text: String,
}

/// What the control plane tells captures.
#[derive(Default)]
pub struct Told {
    /// The newest, and how many there were before them.
    marks: Mutex<(VecDeque<Mark>, usize)>,
    /// Frames for the service that were not logged.
    not_logged: AtomicU64,
    /// What stamps frames, once that is known.
    clock: OnceLock<String>,
}

impl Told {
    /// The links are open: what stamps their frames.
    pub fn set_clock(&self, clock: String) {
        let _ = self.clock.set(clock);
    }

    /// A sentence about a position.
    pub fn mark(&self, position: u64, text: String) {
        let Ok(mut marks) = self.marks.lock() else { return };
        if marks.0.len() == MARKS_MAX {
            marks.0.pop_front();
            marks.1 += 1;
        }
        marks.0.push_back(Mark { position, text });
    }

    /// How many frames were not logged since the start.
    pub fn set_not_logged(&self, frames: u64) {
        self.not_logged.store(frames, Ordering::Relaxed);
    }

    /// The marks from the `seen`th on.
    fn marks_after(&self, seen: &mut usize) -> Vec<Piece<'static>> {
        let Ok(marks) = self.marks.lock() else { return Vec::new() };
        let new = marks.0.iter().skip(seen.saturating_sub(marks.1));
        let new = new.map(|m| Piece::Note { position: m.position, text: m.text.clone() }).collect();
        *seen = marks.1 + marks.0.len();
        new
    }
}

/// The node's capture log, for as many clients as may have it at once.
pub struct Captures {
    view: LogView,
    told: Arc<Told>,
    answer: Capturing,
    /// What is on disk, if the node has anything there.
    past: Option<Past>,
    running: AtomicUsize,
}

/// What a client wants.
#[derive(Clone)]
pub struct Range {
    pub from_ns: Option<u64>,
    pub to_ns: Option<u64>,
    pub follow: bool,
    /// What cannot match need not be read.
    pub filter: Option<String>,
}

impl Captures {
    pub fn new(config: &Config, view: LogView, told: Arc<Told>) -> Captures {
        let nodes = config.nodes.iter().map(|n| (n.id, n.name.clone())).collect();
        let device = match config.is_witness() {
            true => "none: a witness, whose log comes from the primary".into(),
            false => config.ports.client.device.clone(),
        };
        let answer = Capturing {
            node: config.me().name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            nodes,
            device,
            clock: "the primary's TSC, set by its system clock at start, read per burst".into(),
            ..Capturing::default()
        };
        Captures { view, told, answer, past: None, running: AtomicUsize::new(0) }
    }

    /// Of a capture-only node.
    pub fn of_links(view: LogView, told: Arc<Told>, answer: Capturing, past: Past) -> Captures {
        Captures { view, told, answer, past: Some(past), running: AtomicUsize::new(0) }
    }

    /// Serves a client on its own thread until the range is sent or either side has gone.
    pub fn serve(&self, mut stream: UnixStream, range: Range) -> io::Result<()> {
        if self.running.fetch_add(1, Ordering::AcqRel) >= CAPTURES_MAX {
            self.running.fetch_sub(1, Ordering::AcqRel);
            let text = format!("{CAPTURES_MAX} captures are running, no more are allowed at once");
            let refused: Response = ApiError::new(ErrorCode::Runtime, text).into();
            return server::write_response(&mut stream, &refused, ANSWER_TIMEOUT);
        }
        let sent = self.send(&mut stream, range);
        self.running.fetch_sub(1, Ordering::AcqRel);
        match sent {
            // It has seen enough.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn send(&self, stream: &mut UnixStream, range: Range) -> io::Result<()> {
        // Before the answer: what is logged from then on is in the capture.
        let mut reader = self.view.reader();
        if let Some(from_ns) = range.from_ns {
            reader.seek_time(from_ns);
        }
        let now = self.view.extent();
        let clock = self.told.clock.get().unwrap_or(&self.answer.clock).clone();
        let (log_start, log_end) = (now.start, now.end);
        let answer = Capturing { log_start, log_end, clock, ..self.answer.clone() };
        server::write_response(stream, &answer.into(), ANSWER_TIMEOUT)?;
        // A client may take as long as it likes: it costs this thread, and records it misses.
        stream.set_write_timeout(None)?;
        let mut sending = Sending {
            stream,
            range: range.clone(),
            told: &self.told,
            marks_seen: 0,
            not_logged_before: self.told.not_logged.load(Ordering::Relaxed),
            floor: 0,
            last: Instant::now(),
        };
        if let (Some(past), Some(from_ns)) = (&self.past, range.from_ns) {
            // What is on disk first, up to what is in memory alone.
            let (floor, floor_ns) = past.send(&self.view, &range, &mut sending)?;
            sending.floor = floor;
            reader.seek_time(floor_ns.max(from_ns));
        }
        sending.run(&mut reader, now.end)
    }
}

/// One client's stream.
pub struct Sending<'a> {
    stream: &'a mut UnixStream,
    range: Range,
    told: &'a Told,
    marks_seen: usize,
    not_logged_before: u64,
    /// What is before it has been sent.
    floor: u64,
    /// When something was sent.
    last: Instant,
}

impl Sending<'_> {
    /// `end`: where a range that is not followed ends.
    fn run(&mut self, reader: &mut LogReader, end: u64) -> io::Result<()> {
        loop {
            for note in self.told.marks_after(&mut self.marks_seen) {
                self.piece(&note)?;
            }
            if !self.range.follow && reader.at() >= end {
                return self.end();
            }
            match reader.read() {
                Read::Records(position, bytes) => {
                    let (position, bytes) = behind(self.floor, position, bytes);
                    let (records, is_over) = within(&self.range, position, bytes);
                    if !records.1.is_empty() {
                        self.piece(&Piece::Records { position: records.0, bytes: records.1 })?;
                    }
                    if is_over {
                        return self.end();
                    }
                }
                Read::Lost(count) => self.piece(&Piece::Lost(count))?,
                Read::TakenBack(count) => self.piece(&Piece::TakenBack(count))?,
                Read::Nothing if self.range.to_ns.is_some_and(|to_ns| unix_ns() > to_ns) => {
                    return self.end();
                }
                Read::Nothing => {
                    self.keep_alive()?;
                    std::thread::sleep(LOOK_INTERVAL);
                }
            }
        }
    }

    /// So that a client that waits knows that it does not wait in vain.
    pub fn keep_alive(&mut self) -> io::Result<()> {
        if self.last.elapsed() >= ALIVE_INTERVAL { self.alive() } else { Ok(()) }
    }

    fn alive(&mut self) -> io::Result<()> {
        let now = self.told.not_logged.load(Ordering::Relaxed);
        self.piece(&Piece::Alive { not_logged: now - self.not_logged_before })
    }

    fn end(&mut self) -> io::Result<()> {
        self.alive()?;
        self.piece(&Piece::End)
    }

    /// Sends a piece.
    pub fn piece(&mut self, piece: &Piece<'_>) -> io::Result<()> {
        self.stream.write_all(&piece.head())?;
        if let Piece::Records { bytes, .. } = piece {
            self.stream.write_all(bytes)?;
        }
        self.last = Instant::now();
        Ok(())
    }
}

/// The records from a position on.
fn behind(floor: u64, position: u64, bytes: &[u8]) -> (u64, &[u8]) {
    let before = records(bytes).take_while(|record| position + (record.at as u64) < floor);
    let at = before.last().map_or(0, |record| record.next);
    (position + at as u64, &bytes[at..])
}

/// The records that are neither too old nor too young, and whether one was too young. Timestamps do
/// not decrease.
fn within<'a>(range: &Range, position: u64, bytes: &'a [u8]) -> ((u64, &'a [u8]), bool) {
    let (from_ns, to_ns) = (range.from_ns.unwrap_or(0), range.to_ns.unwrap_or(u64::MAX));
    let mut first = 0;
    for record in records(bytes) {
        if record.header.timestamp_ns > to_ns {
            return ((position + first as u64, &bytes[first..record.at]), true);
        }
        if record.header.timestamp_ns < from_ns {
            first = record.next;
        }
    }
    ((position + first as u64, &bytes[first..]), false)
}

fn unix_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use understudy_api::stream::PieceBuffer;
    use understudy_log::CaptureLog;
    use understudy_wire::record::{RecordHeader, RecordKind};

    fn records(times: &[u64]) -> Vec<u8> {
        let record = |&timestamp_ns: &u64| {
            let header = RecordHeader { len: 8, kind: RecordKind::ClientFrame, timestamp_ns };
            [&header.encode()[..], &[1; 8]].concat()
        };
        times.iter().flat_map(record).collect()
    }

    #[test]
    fn a_range_has_both_its_ends() {
        let all = records(&[10, 20, 20, 30]);
        let cut = |from_ns, to_ns| {
            let range = Range { from_ns, to_ns, follow: false, filter: None };
            let ((position, bytes), is_over) = within(&range, 1000, &all);
            (position, bytes.len() / 24, is_over)
        };
        assert_eq!(cut(None, None), (1000, 4, false));
        assert_eq!(cut(Some(20), Some(20)), (1024, 2, true));
        assert_eq!(cut(Some(11), Some(30)), (1024, 3, false));
        assert_eq!(cut(Some(31), None), (1096, 0, false));
        assert_eq!(cut(Some(21), Some(25)), (1072, 0, true));
        assert_eq!(cut(None, Some(9)), (1000, 0, true));
        for (floor, expected) in
            [(0, (1000, 4)), (1024, (1024, 3)), (1025, (1048, 2)), (9999, (1096, 0))]
        {
            let (position, bytes) = behind(floor, 1000, &all);
            assert_eq!((position, bytes.len() / 24), expected, "behind {floor}");
        }
    }

    /// A client that reads late costs records, and no memory: what it gets and what it is told it
    /// missed is all there was.
    #[test]
    fn a_slow_client_loses_records_and_knows_how_many() {
        const RECORDS: u64 = 100_000;
        let mut log = CaptureLog::new(1 << 20).unwrap();
        let captures = Captures {
            view: log.view().unwrap(),
            told: Arc::default(),
            answer: Capturing::default(),
            past: None,
            running: AtomicUsize::new(0),
        };
        let (mut client, daemon) = UnixStream::pair().unwrap();
        let range = Range { from_ns: Some(0), to_ns: None, follow: true, filter: None };
        let served = std::thread::spawn(move || captures.serve(daemon, range));
        let (mut pieces, mut read, mut lost) = (PieceBuffer::default(), 0, 0);
        let mut bytes = vec![0; 1 << 16];
        let got = client.read(&mut bytes).unwrap();
        let line_end = bytes[..got].iter().position(|b| *b == b'\n').unwrap() + 1;
        pieces.push(&bytes[line_end..got]);
        // Only now: what is written before the answer is not the client's.
        for i in 0..RECORDS {
            let floor = log.boundary();
            log.append(RecordKind::ClientFrame, i, &[1; 1000], floor).unwrap();
        }
        while read + lost < RECORDS {
            while let Some(piece) = pieces.next_piece().unwrap() {
                match piece {
                    Piece::Records { bytes, .. } => read += bytes.len() as u64 / 1016,
                    Piece::Lost(count) => lost += count,
                    _ => {}
                }
            }
            let got = client.read(&mut bytes).unwrap();
            pieces.push(&bytes[..got]);
        }
        println!("{read} records read, {lost} lost");
        assert_eq!(read + lost, RECORDS);
        assert!(read > 0 && lost > 0);
        drop(client);
        served.join().unwrap().unwrap();
    }

    #[test]
    fn marks_are_told_once_and_the_oldest_go() {
        let told = Told::default();
        let mut seen = 0;
        (0..3).for_each(|i| told.mark(i, "x".into()));
        assert_eq!(told.marks_after(&mut seen).len(), 3);
        assert_eq!(told.marks_after(&mut seen).len(), 0);
        (3..200).for_each(|i| told.mark(i, "x".into()));
        let new = told.marks_after(&mut seen);
        assert_eq!((new.len(), seen), (MARKS_MAX, 200));
        let Piece::Note { position, .. } = new[0] else { panic!("{new:?}") };
        assert_eq!(position, 136);
    }
}
