//! `understudy replay`: a recorded log is fed to a fresh application, which the daemon's program does; what
//! it said otherwise is told.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use understudy_api::replay::{Replay, ReplayDifference, ReplayVerdict, ReplayedConnection};
use understudy_api::{ApiError, ErrorCode, Request, client};
use understudy_config::NodeFile;

use crate::capture::when;
use crate::progress::Progress;
use crate::text::plain;
use crate::{ASK_TIMEOUT_MS, config_error, probe};

/// Who waits longer has forgotten it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Connections that are named.
const NAMED_MAX: usize = 20;

/// What is said of `replay -h`.
pub const AFTER_HELP: &str = "\
RECORDING is made by: understudy capture --raw -w RECORDING, on any node, also on one that has failed
if its daemon runs. It begins where the log does. What was overwritten since the service's start
(log.size_mb) cannot be replayed: begin then with a checkpoint that was taken later, by its number on the
node of CONFIG, or a copy of its directory (STATE_DIR/checkpoints/NUMBER). Its application finds DIR, or an
empty directory, as service.work_dir, and its own state in service.state_dirs; what it was saying as the
checkpoint was taken, up to the next note, is not compared. A fresh application starts in namespaces of its own, with the address
and the command of CONFIG, in an empty directory (or DIR), is fed as a clone is, and what it says is
compared with the notes of the primary in the log. Clients and nodes notice nothing. Needs root.

What a primary noted of its application's answers is compared, byte for byte by a digest: UDP, and
what was said after the last note of a connection, is not.

Exit codes: 0 the same, 1 it differs, or nothing could be compared.";

/// The command line.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ReplayArguments {
    /// A log that was recorded by capture --raw
    #[arg(value_name = "RECORDING")]
    recording: PathBuf,
    /// Begin with a checkpoint of the node's, by number, or in a directory
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "command")]
    checkpoint: Option<String>,
    /// Also write what the application says to FILE, as pcapng
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Where the application runs, instead of in an empty directory that is gone afterwards
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// At most FACTOR times as fast as it was [default: as fast as the application follows]
    #[arg(long, value_name = "FACTOR", value_parser = speed)]
    speed: Option<f64>,
    /// Run this instead of service.command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn speed(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|f| f.is_finite() && *f > 0.0);
    factor.ok_or_else(|| format!("{text:?} is no factor, such as 1 or 0.5"))
}

/// Replays; an error too if it differs.
pub fn replay(
    arguments: &ReplayArguments,
    config: Option<&Path>,
    timeout: Option<Duration>,
) -> Result<(Replay, Option<ApiError>), ApiError> {
    let usage = |text: &str| ApiError::new(ErrorCode::Usage, text);
    let config = config.ok_or_else(|| usage("-c CONFIG is missing: it says what to run"))?;
    let node = NodeFile::load(config).map_err(|e| config_error(&e))?;
    let NodeFile::Service(service) = &node else {
        return Err(usage("a node that only captures has no application to replay to"));
    };
    // That of a checkpoint has its own.
    let shares = arguments.checkpoint.is_none() && !service.service.state_dirs.is_empty();
    if shares && is_running(service.control.socket.as_path()) {
        return Err(ApiError::new(
            ErrorCode::RefusedUnsafe,
            "the node of this configuration runs here, and the replayed application would share its \
             service.state_dirs; replay on another machine, or with other ones in a copy of CONFIG",
        ));
    }
    let runtime = |text: String| ApiError::new(ErrorCode::Runtime, text);
    let daemon = probe::daemon().ok_or_else(|| {
        runtime(
            "understudyd, which does the work, is neither next to this program nor in PATH".into(),
        )
    })?;
    let factor = arguments.speed.map(|factor| OsString::from(factor.to_string()));
    let mut words = vec![OsStr::new("--replay"), arguments.recording.as_os_str()];
    words.extend([OsStr::new("--config"), config.as_os_str()]);
    for (name, value) in [
        ("--checkpoint", arguments.checkpoint.as_deref().map(OsStr::new)),
        ("--write", arguments.write.as_deref().map(Path::as_os_str)),
        ("--work-dir", arguments.work_dir.as_deref().map(Path::as_os_str)),
        ("--speed", factor.as_deref()),
    ] {
        words.extend(value.into_iter().flat_map(|value| [OsStr::new(name), value]));
    }
    if !arguments.command.is_empty() {
        words.push(OsStr::new("--"));
        words.extend(arguments.command.iter().map(OsString::as_os_str));
    }
    let _shown = Progress::start("the log is replayed");
    let (found, _) =
        probe::ask::<Replay>(&daemon, &words, &[0, 1], timeout.unwrap_or(TIMEOUT_DEFAULT))
            .map_err(|e| runtime(format!("{e:#}")))?;
    let error = verdict(&found);
    Ok((found, error))
}

fn is_running(socket: &Path) -> bool {
    client::call(socket, &Request::Status, Duration::from_millis(ASK_TIMEOUT_MS)).is_ok()
}

fn verdict(found: &Replay) -> Option<ApiError> {
    let text = match found.verdict {
        ReplayVerdict::Same => return None,
        ReplayVerdict::Differs if found.connections_differing > 0 => format!(
            "the application differs on {} of {} connections",
            found.connections_differing, found.connections_total
        ),
        ReplayVerdict::Differs => "the application ended".into(),
        ReplayVerdict::NothingToCompare if found.ended_early.is_some() => {
            "the replay did not reach the recording's end".into()
        }
        ReplayVerdict::NothingToCompare => {
            "nothing could be compared: the recording has no note of \
                                            what the primary's application said (service.audit, \
                                            commit.policy = \"checkpoint\"), or none was reached"
                .into()
        }
    };
    Some(ApiError::new(ErrorCode::Runtime, text))
}

/// For people.
pub fn text(found: &Replay) -> String {
    let mut out = String::new();
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
    let _ = writeln!(
        out,
        "recorded on node {}, {} to {}",
        plain(&found.recorded_on),
        when::clock(found.from_unix_ns),
        when::clock(found.to_unix_ns)
    );
    if let Some(checkpoint) = &found.checkpoint {
        let _ = writeln!(
            out,
            "from a checkpoint of node {}, taken at position {}, with {} connections",
            plain(&checkpoint.taken_on),
            checkpoint.position,
            checkpoint.connections
        );
    }
    let _ = writeln!(
        out,
        "applied: {} records to position {} of {}, {} bytes of clients; said: {} bytes; took {}",
        found.records,
        found.applied,
        found.end,
        found.applied_bytes,
        found.said_bytes,
        seconds(found.took_ms)
    );
    let notes = [
        found.incomplete.as_ref().map(|why| format!("the recording ends at {}: {why}", found.end)),
        found.ended_early.as_ref().map(|why| format!("ended early: {why}")),
        found.application_ended.as_ref().map(|how| format!("the application {how}")),
    ];
    for note in notes.into_iter().flatten() {
        let _ = writeln!(out, "{}", plain(&note));
    }
    let mut named = 0;
    for c in &found.connections {
        let Some(difference) = &c.difference else { continue };
        named += 1;
        if named <= NAMED_MAX {
            let _ = writeln!(out, "{}", plain(&differs(c, difference)));
        }
    }
    if found.connections_differing > NAMED_MAX as u64 {
        let more = found.connections_differing - NAMED_MAX as u64;
        let _ = writeln!(out, "and {more} more connections that differ");
    }
    let verdict = verdict(found).map_or_else(|| "the same".to_owned(), |error| error.message);
    let _ = writeln!(
        out,
        "{verdict}: {} connections, {} notes of the primary agree, {} could not be compared",
        found.connections_total, found.notes_same, found.notes_uncompared
    );
    out
}

fn differs(c: &ReplayedConnection, d: &ReplayDifference) -> String {
    let how = if d.said_less { "said nothing more" } else { "said other bytes" };
    let opened = match c.opened_unix_ns {
        0 => "before the checkpoint".into(),
        opened_ns => when::clock(opened_ns),
    };
    format!(
        "{} to {}, opened {opened}: {how} between sequence numbers {} and {}, after {} bytes; the primary noted \
         it at {}, position {}{}",
        c.client,
        c.server,
        d.from_seq,
        d.to_seq,
        d.offset,
        when::clock(d.noted_unix_ns),
        d.position,
        if c.reset { "; the application's kernel reset it" } else { "" }
    )
}
