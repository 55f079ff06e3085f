//! `understudy doctor`: what this machine can do, what it cannot, and how to mend that.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;

use understudy_api::doctor::{Diagnoses, Diagnosis, Health};
use understudy_api::{ApiError, ErrorCode, Request, Response, client};
use understudy_config::NodeFile;

use crate::text::plain;
use crate::{ASK_TIMEOUT_MS, config_error, probe};

/// Looks at everything; `file`: also against this configuration.
pub fn doctor(file: Option<&Path>) -> (Diagnoses, Option<ApiError>) {
    let mut all = Diagnoses::default();
    let mut failure = None;
    match probe::daemon() {
        None => all.checks.push(Diagnosis::bad(
            "understudyd",
            "the daemon, which also looks at this machine for this command",
            Health::Fail,
            "it is neither next to this program nor in PATH",
            "install it, or put its directory into PATH",
        )),
        Some(daemon) => {
            let mut words = vec![OsStr::new("--doctor")];
            if let Some(file) = file {
                words.extend([OsStr::new("--config"), file.as_os_str()]);
            }
            match probe::ask::<Diagnoses>(&daemon, &words, &[0, 1], probe::CHECK_TIMEOUT) {
                Ok((found, _)) => all = found,
                Err(e) => failure = Some(ApiError::new(ErrorCode::Runtime, format!("{e:#}"))),
            }
        }
    }
    let config = file.map(NodeFile::load);
    if let Some(Ok(config)) = &config {
        all.checks.push(running(config.socket()));
    }
    let error = failure.or_else(|| {
        let failing: Vec<&str> = all
            .checks
            .iter()
            .filter(|c| c.health == Health::Fail)
            .map(|c| c.name.as_str())
            .collect();
        if failing.is_empty() {
            return None;
        }
        if let Some(Err(e)) = &config {
            return Some(config_error(e));
        }
        let message = format!("this machine cannot run a node as it is: {}", failing.join(", "));
        Some(ApiError::new(ErrorCode::Runtime, message))
    });
    (all, error)
}

/// Whether the daemon of this configuration runs, and what it says.
fn running(socket: &Path) -> Diagnosis {
    let (name, means) = ("running", "the daemon of this configuration");
    let timeout = std::time::Duration::from_millis(ASK_TIMEOUT_MS);
    match client::call(socket, &Request::Status, timeout) {
        Ok(Response::Status(status)) if status.reasons.is_empty() => {
            Diagnosis::ok(name, means, format!("it is {}: {}", status.role, status.verdict_line()))
        }
        Ok(Response::Status(status)) => Diagnosis::bad(
            name,
            means,
            Health::Warn,
            format!("it is {}: {}", status.role, status.verdict_line()),
            "see understudy status, nodes and clones",
        ),
        Ok(Response::CaptureStatus(s)) => match s.store.failed_because {
            None => Diagnosis::ok(name, means, "it captures"),
            Some(why) => Diagnosis::bad(
                name,
                means,
                Health::Warn,
                format!("it captures, but not all is written: {why}"),
                "see understudy status",
            ),
        },
        Ok(_) => Diagnosis::bad(name, means, Health::Warn, "it gives no status", "see its log"),
        Err(e) => Diagnosis::bad(
            name,
            means,
            Health::Note,
            e.to_string(),
            "start it: understudyd --config FILE",
        ),
    }
}

/// A line for each, and what to do where something is not as it should be.
pub fn text(all: &Diagnoses, error: Option<&ApiError>) -> String {
    let mut out = String::new();
    let width = all.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    for c in &all.checks {
        // A sentence of `check` begins with the field, which is the name here.
        let found = c.found.strip_prefix(&format!("{}: ", c.name)).unwrap_or(&c.found);
        let _ = writeln!(out, "{:<4}  {:<width$}  {}", c.health, plain(&c.name), plain(found));
        if let Some(mend) = &c.mend {
            let _ = writeln!(out, "{:6}{:<width$}  needed for: {}", "", "", plain(&c.means));
            let _ = writeln!(out, "{:6}{:<width$}  to mend it: {}", "", "", plain(mend));
        }
    }
    let verdict = match (error, all.worst()) {
        (Some(error), _) => plain(&error.message),
        (None, Health::Ok | Health::Note) => "nothing is missing".to_owned(),
        (None, _) => "a node can run here, but see the warnings".to_owned(),
    };
    let _ = writeln!(out, "{verdict}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        let checks = vec![
            Diagnosis::ok("kernel", "m", "Linux 6.18"),
            Diagnosis::bad("criu", "checkpoints", Health::Warn, "none\u{1b}", "install it"),
        ];
        let text = text(&Diagnoses { checks }, None);
        let expected = "\
ok    kernel  Linux 6.18
warn  criu    none\\u{1b}
              needed for: checkpoints
              to mend it: install it
a node can run here, but see the warnings
";
        assert_eq!(text, expected);
    }
}
