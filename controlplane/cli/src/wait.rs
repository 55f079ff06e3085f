//! `understudy wait`: for scripts that go on once a node, or its group, is whole.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use understudy_api::{ApiError, ErrorCode, Request, Response, Verdict, client};

use crate::progress::Progress;
use crate::text::plain;
use crate::{Outcome, failed, told};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What was waited for.
#[derive(Serialize)]
struct Waited {
    /// `ready` or `protected`.
    until: &'static str,
    /// For how long.
    waited_ms: u64,
}

/// Asks until it is so, or for too long; a daemon that is not there yet may still come.
pub fn wait(socket: &Path, protected: bool, timeout: Duration, json: bool) -> Outcome {
    let until = if protected { "protected" } else { "ready" };
    let begun = Instant::now();
    let _shown = (!json).then(|| Progress::start("waiting"));
    loop {
        let missing = match client::call(socket, &Request::Status, ANSWER_TIMEOUT) {
            Ok(Response::Status(s)) if protected => match s.verdict {
                Verdict::Protected => None,
                _ => Some((ErrorCode::Runtime, s.reasons.join("; "))),
            },
            Ok(Response::Status(s)) => {
                (!s.ready).then(|| (ErrorCode::Runtime, s.not_ready_because.join("; ")))
            }
            Ok(Response::CaptureStatus(_)) if protected => {
                let text = "a node that only captures has no service to protect";
                return failed(ApiError::new(ErrorCode::Usage, text));
            }
            Ok(Response::CaptureStatus(s)) => {
                let down = s.links.iter().find(|link| !link.up || link.clock.is_empty());
                down.map(|link| (ErrorCode::Runtime, format!("{} is not up", link.device)))
            }
            Ok(Response::Error(error)) => Some((error.code, error.message)),
            Ok(_) => Some((ErrorCode::Runtime, "the daemon gives no status".into())),
            Err(e) => Some((e.code(), e.to_string())),
        };
        let waited = begun.elapsed();
        let waited_ms = waited.as_millis() as u64;
        let Some((code, why)) = missing else {
            let text = format!("{until} after {waited_ms} ms\n");
            return told("wait", &Waited { until, waited_ms }, text, None);
        };
        if waited >= timeout {
            let text = format!("not {until} within {waited_ms} ms: {}", plain(&why));
            return failed(ApiError::new(code, text));
        }
        std::thread::sleep(LOOK_INTERVAL.min(timeout - waited));
    }
}
