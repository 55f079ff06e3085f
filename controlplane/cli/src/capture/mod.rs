//! `understudy capture`: what clients sent, as tcpdump would show or write it, from the capture log.

mod offline;
mod raw;
mod session;
pub mod when;

use std::io::{self, ErrorKind, IsTerminal, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use understudy_api::client::ClientError;
use understudy_api::stream::{DiskRead, PieceBuffer};
use understudy_api::{ApiError, Capturing, ErrorCode, Request, Response, client};
use understudy_pcap::{Filter, Recorder, Rotation};

use crate::progress::Meter;
pub use session::Summary;
use session::{Session, Sink, SinkError, section};

/// How long a signal may wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 256 * 1024;
/// Silence of a daemon that lives: it says so four times a second.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What is said of `capture -h`.
pub const AFTER_HELP: &str = "\
What is captured: every frame that clients sent to the service, as the primary logged it, and the
SYN-ACKs of its kernel. What else the service sends is not in the log. From a replica or a witness
it is the same log. With --raw it is written as it is, with what the primary noted of its application's
answers, to be replayed. A node that only captures: every frame of its links, live or from its disk, of
which only that is read which time and filter (hosts, ports, protocols) do not exclude.

TIME: 12:00, 12:00:05.25, 2026-11-25T12:00 (local), with Z or an offset, @SECONDS, -5m.
FILTER: tcpdump's (man pcap-filter), such as: host 10.0.0.7 and tcp port 6379";

/// The command line, as near to tcpdump's as makes sense.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CaptureArguments {
    /// Only packets that match
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Write pcapng to FILE, - for the standard output; without it a line is printed for each packet
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Write the log as it is to FILE, for replay: all of it, or from --from on, to now, or with --follow on
    #[arg(long, requires = "write", conflicts_with_all = ["filter", "snap_len", "size", "interval", "files", "count", "directory"])]
    raw: bool,
    /// Bytes kept of a packet, 0 for all
    #[arg(short, long, value_name = "SNAPLEN", default_value_t = 0)]
    snap_len: u32,
    /// Begin the next file before one gets larger: millions of bytes, or with k, m, g
    #[arg(short = 'C', long, value_name = "SIZE", requires = "write", value_parser = when::size_bytes)]
    size: Option<u64>,
    /// Begin the next file every SECONDS of the packets' time; FILE may have strftime's % in it
    #[arg(short = 'G', long, value_name = "SECONDS", requires = "write", value_parser = when::seconds)]
    interval: Option<Duration>,
    /// Keep the newest FILES files
    #[arg(short = 'W', long, value_name = "FILES", requires = "write",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: Option<u32>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Begin with the first packet not older than TIME [default: now, or with a --to that has passed the oldest]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// End with the last packet not younger than TIME
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Go on with what comes after the past range
    #[arg(long)]
    follow: bool,
    /// Read the segments of a capture-only node in DIR, without its daemon
    #[arg(long, value_name = "DIR", conflicts_with = "follow")]
    directory: Option<PathBuf>,
    /// Accepted for habit's sake: addresses and ports are never turned into names
    #[arg(short, action = clap::ArgAction::Count)]
    n: u8,
    /// The daemon's unix socket
    // Takes the place of the global one, whose short form is the snap length here.
    #[arg(id = "socket", long, value_name = "SOCKET")]
    _socket: Option<PathBuf>,
}

/// How a capture went.
pub struct Captured {
    /// What was counted, if it came to that.
    pub summary: Option<Summary>,
    /// Why it ended before its time.
    pub error: Option<ApiError>,
}

impl From<ApiError> for Captured {
    fn from(error: ApiError) -> Self {
        Self { summary: None, error: Some(error) }
    }
}

/// Captures until the range, the count, a signal, or whoever reads the output ends it.
pub fn capture(
    arguments: &CaptureArguments,
    json: bool,
    socket: &Path,
    timeout: Duration,
) -> Captured {
    match begin(arguments, json, socket, timeout) {
        Ok((mut session, mut stream)) => {
            let ended = stream.run(&mut session);
            end(session, ended)
        }
        Err(error) => error.into(),
    }
}

/// The same of a directory; nobody is asked.
pub fn capture_directory(arguments: &CaptureArguments, json: bool, directory: &Path) -> Captured {
    let begun = prepare(arguments, json)
        .and_then(|(filter, stop)| offline::begin(arguments, directory, filter, stop));
    match begun {
        Ok((mut session, mut reading)) => {
            let ended = reading.run(&mut session);
            end(session, ended)
        }
        Err(error) => error.into(),
    }
}

fn end(mut session: Session, ended: Result<(), Ended>) -> Captured {
    let finished = session.finish().map_err(Into::into);
    let error = [ended, finished].into_iter().find_map(Result::err).and_then(Ended::error);
    Captured { summary: Some(session.summary().clone()), error }
}

impl CaptureArguments {
    /// The segments that are read without a daemon.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

/// What is wrong with the command line is said before anybody is asked.
fn prepare(
    arguments: &CaptureArguments,
    json: bool,
) -> Result<(Filter, Arc<AtomicBool>), ApiError> {
    let usage = |text: String| ApiError::new(ErrorCode::Usage, text);
    let to_stdout = arguments.write.as_deref().is_none_or(|name| name == Path::new("-"));
    if json && to_stdout {
        let text = "the standard output is for the JSON document: capture to a file (-w FILE)";
        return Err(usage(text.into()));
    }
    if arguments.write.is_some() && to_stdout && io::stdout().is_terminal() {
        return Err(usage("pcapng is nothing for a terminal: use -w FILE, or a pipe".into()));
    }
    if arguments.raw && to_stdout {
        return Err(usage("--raw is written to a file: -w FILE".into()));
    }
    if to_stdout && (arguments.size.is_some() || arguments.interval.is_some()) {
        return Err(usage("a pipe is one file: -C and -G need -w FILE".into()));
    }
    let filter = Filter::compile(&arguments.filter.join(" ")).map_err(|e| usage(e.to_string()))?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends it at once, in case the first waits for a pipe that nobody reads.
        let watched = signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        watched.map_err(|e| ApiError::new(ErrorCode::Runtime, e.to_string()))?;
    }
    Ok((filter, stop))
}

fn begin(
    arguments: &CaptureArguments,
    json: bool,
    socket: &Path,
    timeout: Duration,
) -> Result<(Session, Stream), ApiError> {
    let (filter, stop) = prepare(arguments, json)?;
    let request = request(arguments).map_err(|text| ApiError::new(ErrorCode::Usage, text))?;
    let (from, stream, rest) = ask(socket, &request, timeout)?;
    // Of what is past it is known how much there is; lines on a terminal would be in its way.
    let is_past = matches!(request, Request::Capture { follow: false, .. });
    let in_way = arguments.write.is_none() && io::stdout().is_terminal();
    let length = from.log_end.saturating_sub(from.log_start);
    let meter = (is_past && !json && !in_way && length > 0)
        .then(|| (Meter::new("the log is read", length), from.log_start));
    let session = session(arguments, &from, filter)?;
    let stream = Stream { stream, pieces: PieceBuffer::new(rest), stop, meter };
    Ok((session, stream))
}

/// What becomes of what is read.
fn session(
    arguments: &CaptureArguments,
    from: &Capturing,
    filter: Filter,
) -> Result<Session, ApiError> {
    let now_ns = now_ns();
    let sink = sink(arguments, from, &filter, now_ns)
        .map_err(|e| ApiError::new(ErrorCode::Runtime, e.to_string()))?;
    let count_max = arguments.count.unwrap_or(u64::MAX);
    Ok(Session::new(from, filter, arguments.snap_len, count_max, sink, now_ns))
}

/// What is asked of the daemon.
fn request(arguments: &CaptureArguments) -> Result<Request, String> {
    let now = jiff::Zoned::now();
    let ns = |text: &Option<String>| text.as_deref().map(|t| when::moment_ns(t, &now)).transpose();
    let (from_ns, to_ns) = (ns(&arguments.from)?, ns(&arguments.to)?);
    if let (Some(from_ns), Some(to_ns)) = (from_ns, to_ns)
        && from_ns > to_ns
    {
        return Err("--from is later than --to".into());
    }
    let to_passed = to_ns.is_some_and(|to_ns| to_ns <= now_ns());
    if arguments.follow && to_passed {
        return Err("there is nothing to follow: --to has passed".into());
    }
    let from_ns = from_ns.or((to_passed || arguments.raw).then_some(0));
    let follow = arguments.follow || from_ns.is_none() || to_ns.is_some() && !to_passed;
    // For a node with a disk to look into: what cannot match need not be read there.
    let filter = arguments.filter.join(" ");
    let filter = (from_ns.is_some() && !filter.trim().is_empty()).then_some(filter);
    Ok(Request::Capture { from_ns, to_ns, follow, filter })
}

fn ask(
    socket: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<(Capturing, UnixStream, Vec<u8>), ApiError> {
    let said = client::begin(socket, request, timeout);
    let error = |e: &ClientError| ApiError::new(e.code(), e.to_string());
    match said.map_err(|e| error(&e))? {
        (Response::Capturing(from), stream, rest) => Ok((from, stream, rest)),
        (Response::Error(error), ..) => Err(error),
        _ => Err(error(&ClientError::Mismatch { request: request.name() })),
    }
}

fn sink(
    arguments: &CaptureArguments,
    from: &Capturing,
    filter: &Filter,
    now_ns: u64,
) -> Result<Sink, SinkError> {
    let Some(name) = &arguments.write else {
        return Ok(Sink::Lines(Box::new(io::BufWriter::new(io::stdout()))));
    };
    if arguments.raw {
        return Ok(Sink::Raw(Box::new(raw::RawLog::create(name, from, now_ns)?)));
    }
    let section = section(from, filter, arguments.snap_len);
    let recorder = if name == Path::new("-") {
        let out = io::BufWriter::with_capacity(READ_BYTES, io::stdout());
        Recorder::to_pipe(Box::new(out), section)?
    } else {
        let interval_ns = arguments.interval.map(|i| i.as_nanos() as u64);
        let rotation =
            Rotation { size_bytes: arguments.size, interval_ns, files_max: arguments.files };
        Recorder::to_files(name, section, rotation, now_ns)?
    };
    Ok(Sink::Recorder(Box::new(recorder)))
}

fn now_ns() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// Why a capture is over before its range is.
enum Ended {
    Sink(SinkError),
    Daemon(String),
    Stopped,
}

impl Ended {
    /// A reader that has gone (`capture | head`, a closed Wireshark) is no error.
    fn error(self) -> Option<ApiError> {
        match self {
            Self::Sink(e) if e.is_broken_pipe() => None,
            Self::Sink(e) => Some(ApiError::new(ErrorCode::Runtime, e.to_string())),
            Self::Stopped => None,
            Self::Daemon(text) => Some(ApiError::new(ErrorCode::Unreachable, text)),
        }
    }
}

impl From<SinkError> for Ended {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

/// The daemon's end.
struct Stream {
    stream: UnixStream,
    pieces: PieceBuffer,
    stop: Arc<AtomicBool>,
    /// How far it is, from which position on.
    meter: Option<(Meter, u64)>,
}

impl Stream {
    fn run(&mut self, session: &mut Session) -> Result<(), Ended> {
        let mut bytes = vec![0; READ_BYTES];
        let failed = |e: &dyn std::fmt::Display| {
            Ended::Daemon(format!("the connection to the daemon ended: {e}"))
        };
        self.stream.set_read_timeout(Some(LOOK_INTERVAL)).map_err(|e| failed(&e))?;
        let (mut silence, mut more_waits) = (Duration::ZERO, false);
        loop {
            while let Some(piece) = self.pieces.next_piece().map_err(|e| failed(&e))? {
                if session.take(piece)? || self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some((meter, start)) = &mut self.meter {
                meter.at(session.at().saturating_sub(*start));
            }
            // Less than there was room for: nothing more waits, so far.
            if more_waits {
                more_waits = false;
            } else {
                session.pause()?;
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(failed(&"it has gone")),
                Ok(read) => {
                    silence = Duration::ZERO;
                    more_waits = read == READ_BYTES;
                    self.pieces.push(&bytes[..read]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    silence += LOOK_INTERVAL;
                    if silence >= SILENCE_MAX {
                        return Err(failed(&"it is silent"));
                    }
                }
                Err(e) => return Err(failed(&e)),
            }
        }
    }
}

/// How much of the disk a query read.
fn disk_text(read: &DiskRead) -> String {
    let mut out = format!(
        "{} of {} segments, {} of {} blocks in them read from disk, {} bytes\n",
        read.segments_read,
        read.segments_read + read.segments_skipped,
        read.blocks_read,
        read.blocks_read + read.blocks_skipped,
        read.bytes_read
    );
    if read.damaged > 0 {
        out.push_str(&format!("{} blocks or segments could not be read\n", read.damaged));
    }
    out
}

/// The summary on stderr, as tcpdump's.
pub fn text(summary: &Summary) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let packets = |n: u64| format!("{n} packet{}", if n == 1 { "" } else { "s" });
    let _ = writeln!(out, "{} captured", packets(summary.captured));
    let _ = writeln!(
        out,
        "{} received by filter, {} filtered out",
        packets(summary.received),
        summary.filtered
    );
    let _ = writeln!(
        out,
        "{} record{} dropped: overwritten in the log before they were read",
        summary.dropped,
        if summary.dropped == 1 { "" } else { "s" }
    );
    if let Some(read) = &summary.disk {
        out.push_str(&disk_text(read));
    }
    if summary.not_logged > 0 {
        let _ = writeln!(
            out,
            "{} not logged by the node: no room in the log",
            packets(summary.not_logged)
        );
    }
    if summary.taken_back > 0 {
        let _ = writeln!(
            out,
            "{} captured of a deposed primary, no part of the log any more",
            packets(summary.taken_back)
        );
    }
    out
}
