//! Ours: a node that only captures, the shipped daemon with the shipped configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use understudy_api::{CaptureStatus, LinkStatus, Response, decode_response};
use understudy_lab::cmd;
use understudy_lab::proc::Proc;

use crate::lossless::Recorder;
use crate::measure::built;

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(30);
const QUERY_TIMEOUT: Duration = Duration::from_secs(120);

/// The node.
pub struct CaptureNode {
    device: String,
    netns: Option<PathBuf>,
    dir: PathBuf,
    log_mb: u64,
    process: Option<Proc>,
    /// At the end of the last run.
    counted: CaptureStatus,
}

impl CaptureNode {
    /// One that hears a device, in a namespace or where this program is, with so much memory between
    /// its links and its files; all it writes goes into a directory.
    pub fn new(device: String, netns: Option<PathBuf>, dir: PathBuf, log_mb: u64) -> CaptureNode {
        let counted = CaptureStatus::default();
        CaptureNode { device, netns, dir, log_mb, process: None, counted }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write_config(&self) -> Result<()> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/capture/tap.toml");
        let text = fs::read_to_string(&shipped).context("the shipped configuration")?;
        let mut table: toml::Table = text.parse()?;
        let mut set = |section: &str, key: &str, value: toml::Value| {
            let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
            section.as_table_mut().map(|section| section.insert(key.into(), value));
        };
        set("capture", "devices", vec![self.device.clone()].into());
        set("capture", "directory", self.path("segments").to_string_lossy().into_owned().into());
        set("control", "socket", self.path("sock").to_string_lossy().into_owned().into());
        set("log", "size_mb", (self.log_mb as i64).into());
        Ok(fs::write(self.path("tap.toml"), toml::to_string(&table)?)?)
    }

    fn understudy(&self, words: &[&str]) -> Result<cmd::Output> {
        let mut command = built("understudy")?;
        command.args(words);
        cmd::output(command, "", QUERY_TIMEOUT)
    }

    fn status(&self) -> Result<CaptureStatus> {
        let said =
            self.understudy(&["-j", "-s", &self.path("sock").to_string_lossy(), "status"])?;
        match decode_response(said.stdout.trim().as_bytes())? {
            Response::CaptureStatus(status) => Ok(*status),
            other => bail!("another answer: {other:?}"),
        }
    }
}

impl Recorder for CaptureNode {
    fn start(&mut self) -> Result<()> {
        self.write_config()?;
        let daemon = understudy_lab::node::binary("understudyd")?;
        let mut command = match &self.netns {
            Some(netns) => cmd::inside(netns, daemon),
            None => Command::new(daemon),
        };
        command.arg("--config").arg(self.path("tap.toml"));
        let mut process = Proc::start(command, &self.path("tap.log"), "perf")?;
        cmd::wait_until("a node that captures", READY_TIMEOUT, || {
            if !process.is_running() {
                bail!("it has ended: {}", process.log_tail());
            }
            let is_up = |s: CaptureStatus| s.links.iter().all(|l| l.up && !l.clock.is_empty());
            Ok(self.status().is_ok_and(is_up))
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn finish(&mut self) -> Result<PathBuf> {
        let mut last = None;
        cmd::wait_until("frames on disk", DRAIN_TIMEOUT, || {
            std::thread::sleep(Duration::from_millis(200));
            self.counted = self.status()?;
            let now = (self.counted.links.clone(), self.counted.store.written_records);
            let is_quiet = last.as_ref() == Some(&now) && self.counted.behind_bytes == 0;
            last = Some(now);
            Ok(is_quiet)
        })?;
        let mut process = self.process.take().context("it does not run")?;
        let code = process.terminate(END_TIMEOUT)?;
        ensure!(code == 0, "exit {code}: {}", process.log_tail());
        let (segments, file) = (self.path("segments"), self.path("ours.pcapng"));
        let (from, to) = (segments.to_string_lossy(), file.to_string_lossy());
        let said = self.understudy(&["capture", "--directory", &from, "-w", &to])?;
        ensure!(said.code == 0, "understudy capture: exit {}: {}", said.code, said.stderr);
        fs::remove_dir_all(&segments)?;
        Ok(file)
    }

    fn said(&self) -> String {
        let sum = |of: fn(&LinkStatus) -> u64| self.counted.links.iter().map(of).sum::<u64>();
        format!(
            "received {}, missed {}, without buffer {}, not logged {}, overwritten before they were \
             written {}, unwritten {}",
            sum(|l| l.received),
            sum(|l| l.missed),
            sum(|l| l.no_buffer),
            sum(|l| l.not_logged),
            self.counted.store.lost_records,
            self.counted.store.unwritten_records
        )
    }
}
