//! Programs that write what they hear to a file until they are told to end.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use understudy_lab::cmd;
use understudy_lab::proc::Proc;

use crate::lossless::Recorder;

/// dpdk-dumpcap asks testpmd for frames, which on a busy machine may answer too late for it.
const STARTS_MAX: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// After it says that it is ready: some say so just before.
const SETTLE: Duration = Duration::from_millis(300);
/// A file that does not grow for so long is all that comes.
const QUIET: Duration = Duration::from_millis(400);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// It has ended by then: what is still in memory is written first.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A program such as tcpdump.
pub struct Program {
    /// Makes its command line, for a file.
    command: Box<dyn Fn(&str) -> Result<Command>>,
    /// It prints this when it is ready.
    ready: &'static str,
    dir: PathBuf,
    runs: u32,
    running: Option<Running>,
    said: String,
}

struct Running {
    process: Proc,
    file: PathBuf,
}

impl Program {
    /// One whose files and log go into a directory.
    pub fn new(
        dir: PathBuf,
        ready: &'static str,
        command: impl Fn(&str) -> Result<Command> + 'static,
    ) -> Program {
        Program {
            command: Box::new(command),
            ready,
            dir,
            runs: 0,
            running: None,
            said: String::new(),
        }
    }
}

impl Program {
    fn try_start(&mut self) -> Result<()> {
        self.runs += 1;
        let file = self.dir.join(format!("{}.capture", self.runs));
        let log = self.dir.join(format!("{}.log", self.runs));
        let command = (self.command)(&file.to_string_lossy())?;
        let mut process = Proc::start(command, &log, "perf")?;
        cmd::wait_until(&format!("{:?}", self.ready), READY_TIMEOUT, || {
            if !process.is_running() {
                bail!("it has ended: {}", process.log_tail());
            }
            Ok(fs::read_to_string(&log).unwrap_or_default().contains(self.ready))
        })?;
        std::thread::sleep(SETTLE);
        if !process.is_running() {
            bail!("it has ended: {}", process.log_tail());
        }
        self.running = Some(Running { process, file });
        Ok(())
    }
}

impl Recorder for Program {
    fn start(&mut self) -> Result<()> {
        for _ in 1..STARTS_MAX {
            if self.try_start().is_ok() {
                return Ok(());
            }
        }
        self.try_start()
    }

    fn finish(&mut self) -> Result<PathBuf> {
        let mut running = self.running.take().context("it does not run")?;
        let size = || fs::metadata(&running.file).map_or(0, |meta| meta.len());
        let mut last = None;
        cmd::wait_until("a file that is complete", DRAIN_TIMEOUT, || {
            std::thread::sleep(QUIET);
            let is_quiet = last == Some(size());
            last = Some(size());
            Ok(is_quiet)
        })?;
        if !running.process.is_running() {
            bail!("it has ended: {}", running.process.log_tail());
        }
        running.process.terminate(END_TIMEOUT)?;
        self.said = running.process.log_tail().replace('\n', " / ");
        Ok(running.file)
    }

    fn said(&self) -> String {
        self.said.clone()
    }
}
