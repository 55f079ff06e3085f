//! Runs the daemon's own checks, which know this machine.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

const DAEMON: &str = "understudyd";
/// How long the daemon's checks may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
const DAEMON_OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Where the daemon is: next to this program, else in PATH.
pub fn daemon() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_daemon(exe.as_deref(), &path)
}

/// `understudyd` next to this program, else in an absolute directory of PATH.
fn find_daemon(exe: Option<&Path>, path: &OsStr) -> Option<PathBuf> {
    let beside = exe.and_then(Path::parent).map(Path::to_path_buf);
    let listed = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    beside.into_iter().chain(listed).map(|d| d.join(DAEMON)).find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs the daemon to be told something: the document that it prints, and its exit code, which has to
/// be one of these. Who takes longer than `limit` is killed.
pub fn ask<T: DeserializeOwned>(
    daemon: &Path,
    arguments: &[&OsStr],
    codes: &[i32],
    limit: Duration,
) -> anyhow::Result<(T, i32)> {
    let words: Vec<_> = arguments.iter().take(1).map(|word| word.to_string_lossy()).collect();
    let name = format!("{} {}", daemon.display(), words.join(" "));
    let mut child = Command::new(daemon)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be run", daemon.display()))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = wait(&mut child, deadline, limit).with_context(|| name.clone())?;
    // A grandchild may hold the pipes open: the deadline counts for them too.
    let output = |pipe: mpsc::Receiver<Vec<u8>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        pipe.recv_timeout(left.max(Duration::from_millis(100))).unwrap_or_default()
    };
    let stdout = output(stdout);
    let code = match status.code() {
        Some(code) if codes.contains(&code) => code,
        _ => bail!("{name} ended with {status}{}", last_words(&output(stderr))),
    };
    // EAL may have printed before: the findings are the last line.
    let line = stdout.split(|&b| b == b'\n').rfind(|line| !line.trim_ascii().is_empty());
    match line.map(serde_json::from_slice::<T>) {
        Some(Ok(found)) => Ok((found, code)),
        Some(Err(e)) => {
            bail!("{name} has printed no findings: {e}{}", last_words(&output(stderr)))
        }
        None if code != 0 => bail!("{name} ended with {status}{}", last_words(&output(stderr))),
        None => bail!("{name} has printed no findings{}", last_words(&output(stderr))),
    }
}

/// Reads a pipe to its end in a thread, and keeps the bounded beginning.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What can be read counts; the rest is drained so that the child can end.
            let _ = pipe.by_ref().take(DAEMON_OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        let _ = sender.send(bytes);
    });
    receiver
}

fn wait(child: &mut Child, deadline: Instant, limit: Duration) -> anyhow::Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("has not ended within {} s and was killed", limit.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The last line of a program's error output, as the end of a sentence.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => {
            format!("; it said: {}", line.trim().chars().take(300).collect::<String>())
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::find_daemon;

    #[test]
    fn relative_directories_of_path_are_not_searched() {
        assert_eq!(find_daemon(None, "".as_ref()), None);
        assert_eq!(find_daemon(None, ".:nonexistent".as_ref()), None);
        assert_eq!(find_daemon(Some(Path::new("/nonexistent/x")), "".as_ref()), None);
    }
}
