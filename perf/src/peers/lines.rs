//! A child process that is told lines and answers with lines.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines that wait to be read.
const LINES_MAX: usize = 4096;
/// Lines that an error message quotes.
const QUOTED: usize = 5;
/// A child that was told to end has ended by then, or is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The child; it is ended when this is dropped.
pub struct Lines {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    last: VecDeque<String>,
}

impl Lines {
    /// Starts it; its stderr is read as its stdout is.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Result<Lines> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let (sender, lines) = sync_channel(LINES_MAX);
        let streams: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as _),
            child.stderr.take().map(|s| Box::new(s) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Lines { name, child, stdin, lines, last: VecDeque::new() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it a line.
    ///
    /// # Errors
    /// If it has ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        let told = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        told.with_context(|| format!("{} has ended: {}", self.name, self.quoted()))
    }

    /// Reads until `pick` finds what it looks for in a line.
    ///
    /// # Errors
    /// If it ends, or the time is up.
    pub fn expect<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!("{}: no {what} within {timeout:?}: {}", self.name, self.quoted());
            };
            if let Some(found) = pick(&line) {
                return Ok(found);
            }
            if self.last.len() == QUOTED {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }

    fn quoted(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // The end of its input is what both kinds of child end by.
        self.stdin = None;
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            // Whatever it still says must not block it.
            let _ = self.lines.recv_timeout(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_both_ways_and_an_end_is_told() {
        let mut cat = Lines::start(Command::new("cat")).unwrap();
        cat.tell("one").unwrap();
        cat.tell("two 7").unwrap();
        let number = |line: &str| line.strip_prefix("two ")?.parse::<u32>().ok();
        assert_eq!(cat.expect("number", Duration::from_secs(5), number).unwrap(), 7);
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2"]);
        let mut short = Lines::start(command).unwrap();
        let error = short.expect("answer", Duration::from_secs(5), |_| None::<()>).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
}
