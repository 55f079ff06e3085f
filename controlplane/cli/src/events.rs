//! `understudy events`: what has happened on a node, and what happens.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use jiff::Zoned;
use understudy_api::{ApiError, ErrorCode, Events, Request, Response, TimelineEvent, client};

use crate::capture::when;
use crate::document::document;
use crate::text;

/// How long the daemon holds an answer back for want of an event.
const WAIT_MS: u64 = 1_000;
/// A daemon that starts anew is asked again.
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Only events after this number, or not before this time: 42, 12:00, 2026-11-25T12:00, -5m
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Go on with what happens; with -j one document per line and event
    #[arg(short, long)]
    follow: bool,
}

/// From where on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Since {
    seq: Option<u64>,
    ns: Option<u64>,
}

fn since(text: Option<&str>, now: &Zoned) -> Result<Since, ApiError> {
    let Some(text) = text else { return Ok(Since::default()) };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let seq = text.parse().map_err(|_| usage(format!("{text} is no number of an event")))?;
        return Ok(Since { seq: Some(seq), ns: None });
    }
    let ns = when::moment_ns(text, now).map_err(usage)?;
    Ok(Since { seq: None, ns: Some(ns) })
}

fn usage(text: String) -> ApiError {
    ApiError::new(ErrorCode::Usage, format!("--since: {text}"))
}

/// What was asked for; `None` after following, whose events are printed already.
pub fn events(
    wanted: &EventsArguments,
    json: bool,
    socket: &Path,
    timeout: Duration,
) -> Result<Option<Events>, ApiError> {
    let since = since(wanted.since.as_deref(), &Zoned::now())?;
    if wanted.follow {
        return follow(since, json, socket, timeout).map(|()| None);
    }
    let mut all = ask(socket, since, 0, timeout)?;
    while all.more {
        let seq = all.events.last().map(|e| e.seq);
        let next = ask(socket, Since { seq, ns: None }, 0, timeout)?;
        let earlier = std::mem::replace(&mut all, next);
        all.events.splice(..0, earlier.events);
    }
    Ok(Some(all))
}

fn ask(socket: &Path, since: Since, wait_ms: u64, timeout: Duration) -> Result<Events, ApiError> {
    let request = Request::Events { since_seq: since.seq, since_ns: since.ns, wait_ms };
    match client::call(socket, &request, timeout + Duration::from_millis(wait_ms)) {
        Ok(Response::Events(events)) => Ok(events),
        Ok(Response::Error(error)) => Err(error),
        Ok(_) => Err(ApiError::new(ErrorCode::Runtime, "the daemon answered something else")),
        Err(e) => Err(ApiError::new(e.code(), e.to_string())),
    }
}

/// Until the reader goes away. A daemon that was there once is waited for: it starts anew when its
/// node has lost its reign.
fn follow(mut since: Since, json: bool, socket: &Path, timeout: Duration) -> Result<(), ApiError> {
    let (mut answered, mut away) = (false, false);
    loop {
        let events = match ask(socket, since, WAIT_MS, timeout) {
            Ok(events) => events,
            Err(error) if error.code == ErrorCode::Unreachable && answered => {
                if !std::mem::replace(&mut away, true) {
                    let _ = writeln!(io::stderr(), "understudy: {}; waiting", error.message);
                }
                std::thread::sleep(RETRY);
                continue;
            }
            Err(error) => return Err(error),
        };
        (answered, away) = (true, false);
        if since.seq.is_some_and(|seq| seq > events.newest_seq) {
            // The node has forgotten all: it counts from the beginning.
            since = Since::default();
            continue;
        }
        match print(&events.events, json) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => {
                let text = format!("the output cannot be written: {e}");
                return Err(ApiError::new(ErrorCode::Runtime, text));
            }
            Ok(()) => {}
        }
        let last = events.events.last().map(|e| e.seq);
        since = Since { seq: last.or(since.seq).or(Some(events.newest_seq)), ns: None };
    }
}

fn print(events: &[TimelineEvent], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for event in events {
        if json {
            out.write_all(document("event", event, None)?.as_bytes())?;
        } else {
            out.write_all(text::event(event).as_bytes())?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_events_and_the_rest_is_time() {
        let now: Zoned = "2026-11-25T12:30+00:00[+00:00]".parse().unwrap();
        assert_eq!(since(Some("42"), &now).unwrap(), Since { seq: Some(42), ns: None });
        assert_eq!(since(None, &now).unwrap(), Since::default());
        let five = since(Some("-5m"), &now).unwrap();
        assert_eq!(five.ns, Some((now.timestamp().as_second() as u64 - 300) * 1_000_000_000));
        for bad in ["", "yesterday", "99999999999999999999999"] {
            let error = since(Some(bad), &now).unwrap_err();
            assert_eq!(error.code, ErrorCode::Usage);
            assert!(error.message.starts_with("--since: "), "{}", error.message);
        }
    }
}
