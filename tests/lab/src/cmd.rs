//! One small wrapper for the programs the lab is built with: `ip`, `bridge`, `tc`, `ethtool`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// No lab command takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a program said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Everything it printed.
    pub stdout: String,
    /// Everything it complained about.
    pub stderr: String,
}

/// A command that enters a network namespace (and no other) and becomes `program` there.
pub fn inside(netns: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).arg("--").arg(program);
    command
}

/// Runs a command line; an exit code other than 0 is an error that quotes stderr.
pub fn run(words: &[&str]) -> Result<String> {
    run_with_input(words, "")
}

/// Runs a command line inside a network namespace.
pub fn run_inside(netns: &Path, words: &[&str]) -> Result<String> {
    let net = format!("--net={}", netns.display());
    let mut all = vec!["nsenter", net.as_str(), "--"];
    all.extend(words);
    run(&all)
}

/// Runs a command line that reads `input`.
pub fn run_with_input(words: &[&str], input: &str) -> Result<String> {
    let (program, arguments) = words.split_first().context("an empty command line")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output(command, input, TIMEOUT).with_context(|| words.join(" "))?;
    if output.code != 0 {
        bail!("{}: exit {}: {}", words.join(" "), output.code, output.stderr.trim());
    }
    Ok(output.stdout)
}

/// Runs a command to its end, or kills it when `timeout` has passed.
pub fn output(mut command: Command, input: &str, timeout: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input is no failure of ours.
        let _ = stdin.write_all(input.as_bytes());
    }
    let code = wait(&mut child, timeout);
    if code.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |handle: thread::JoinHandle<String>| handle.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    Ok(Output { code: code?, stdout, stderr })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child's end within `timeout`.
pub fn wait(child: &mut Child, timeout: Duration) -> Result<i32> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or(-1));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(anyhow!("still running after {timeout:?}"))
}

/// Waits until `done` says yes; an error names `what` did not happen.
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        if done()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {timeout:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
