//! A capture-only node in a lab: the shipped daemon on a link of its own, fed by tcpreplay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use understudy_api::{CaptureStatus, Response, decode_response};

use crate::node::binary;
use crate::proc::Proc;
use crate::topology::{Lab, Member};
use crate::{cmd, sys};

/// Where frames are sent.
pub const SENDER: &str = "tx0";
/// Where they arrive.
pub const LISTENER: &str = "rx0";
const MTU: u32 = 9600;
/// The longest frame that its link carries.
pub const FRAME_LEN_MAX: usize = MTU as usize + 14;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const CLI_TIMEOUT: Duration = Duration::from_secs(40);

/// The node.
pub struct Tap {
    lab: Lab,
    config: PathBuf,
    socket: PathBuf,
    directory: PathBuf,
    process: Option<Proc>,
    /// The supervisor's socket, and in which time it wants to hear of progress, in us.
    pub notify: Option<(PathBuf, u64)>,
}

/// What `understudy capture -j` counted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Packets that matched.
    pub captured: u64,
    /// Packets that were overwritten.
    pub dropped: u64,
    /// Blocks read from disk.
    pub blocks_read: u64,
    /// Blocks that were not.
    pub blocks_skipped: u64,
    /// Segments of which something was read.
    pub segments_read: u64,
}

impl Tap {
    /// A lab with a link more, heard by net_af_packet, and the node's file with these lines in
    /// `[capture]`.
    pub fn new(lines: &str) -> Result<Tap> {
        let device = "net_af_packet_tap,iface=rx0,blocksz=65536,framesz=16384,framecnt=2048";
        Self::on(&[device], lines)
    }

    /// The same, heard by other devices.
    pub fn on(devices: &[&str], lines: &str) -> Result<Tap> {
        let lab = Lab::new()?;
        link(&lab)?;
        let directory = lab.dir().join("segments");
        let socket = lab.dir().join("tap.sock");
        let config = lab.dir().join("tap.toml");
        let text = format!(
            "[capture]\nnode = \"tap\"\n\
             devices = {devices:?}\n\
             directory = {directory:?}\nframe_bytes_max = 16368\n{lines}\n\
             [dpdk]\nmemory_mb = 0\n[log]\nsize_mb = 32\n[control]\nsocket = {socket:?}\n"
        );
        fs::write(&config, text)?;
        Ok(Tap { lab, config, socket, directory, process: None, notify: None })
    }

    /// The lab that it is in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.lab.dir()
    }

    /// Where the segments are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the daemon runs.
    pub fn netns(&self) -> PathBuf {
        self.lab.node_netns(Member::A)
    }

    /// `understudy capture` to a file, while it runs; it has begun.
    pub fn live(&self, name: &str) -> Result<(Proc, PathBuf)> {
        let path = self.lab.dir().join(name);
        let mut command = Command::new(binary("understudy")?);
        command.arg("-s").arg(&self.socket).args(["capture", "-w"]).arg(&path);
        let capture = Proc::start(command, &self.lab.dir().join("live.log"), self.lab.prefix())?;
        cmd::wait_until("a capture that begins", READY_TIMEOUT, || Ok(path.exists()))?;
        Ok((capture, path))
    }

    /// The node's file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Starts the daemon and waits until it captures.
    pub fn start(&mut self) -> Result<CaptureStatus> {
        let (netns, daemon) = (self.lab.node_netns(Member::A), binary("understudyd")?);
        let mut command = match &self.notify {
            None => cmd::inside(&netns, daemon),
            Some((socket, watchdog_us)) => {
                // The watchdog is for one process id, which only the process itself knows here.
                let mut shell = cmd::inside(&netns, "sh");
                shell.args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" \"$@\""]).arg(daemon);
                shell.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", watchdog_us.to_string());
                shell
            }
        };
        command.arg("--config").arg(&self.config);
        let log = self.lab.dir().join("tap.log");
        let mut process = Proc::start(command, &log, self.lab.prefix())?;
        let mut ready = None;
        let outcome = cmd::wait_until("a node that captures", READY_TIMEOUT, || {
            if !process.is_running() {
                bail!("it has ended:\n{}", process.log_tail());
            }
            // Its links are open once they say what stamps them, and up once they were looked at.
            ready =
                self.status().ok().filter(|s| s.links.iter().all(|l| l.up && !l.clock.is_empty()));
            Ok(ready.is_some())
        });
        self.process = Some(process);
        outcome?;
        ready.context("no status")
    }

    /// Its daemon.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Proc::pid)
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_tree(&[]);
        }
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Result<i32> {
        let mut process = self.process.take().context("not started")?;
        process.terminate(Duration::from_secs(20))
    }

    /// `understudy status`.
    pub fn status(&self) -> Result<CaptureStatus> {
        let said = self.understudy(&["-j", "-s", &self.socket.to_string_lossy(), "status"])?;
        match decode_response(said.stdout.trim().as_bytes())? {
            Response::CaptureStatus(status) => Ok(*status),
            other => bail!("another answer: {other:?}"),
        }
    }

    /// Runs the CLI.
    pub fn understudy(&self, words: &[&str]) -> Result<cmd::Output> {
        let mut command = Command::new(binary("understudy")?);
        command.args(words);
        cmd::output(command, "", CLI_TIMEOUT)
    }

    /// Waits until so many frames were received and everything is written, or can not be.
    pub fn wait_received(&self, frames: u64) -> Result<CaptureStatus> {
        let mut last = CaptureStatus::default();
        let waited = cmd::wait_until("frames on disk", READY_TIMEOUT, || {
            last = self.status()?;
            let received: u64 = last.links.iter().map(|l| l.received).sum();
            let captured: u64 = last.links.iter().map(|l| l.captured).sum();
            let store = &last.store;
            let dealt_with = store.written_records + store.unwritten_records + store.lost_records;
            Ok(received >= frames && dealt_with >= captured)
        });
        waited.with_context(|| format!("{last:#?}"))?;
        Ok(last)
    }

    /// Everything that was captured of a time, as pcapng in a file; the words go to `capture`.
    pub fn query(&self, name: &str, words: &[&str]) -> Result<(PathBuf, Query)> {
        let path = self.lab.dir().join(name);
        let (socket, file) = (self.socket.to_string_lossy(), path.to_string_lossy());
        let mut all = vec!["-j", "-s", &socket, "capture", "-w", &file];
        all.extend(words);
        let said = self.understudy(&all)?;
        let document: serde_json::Value = serde_json::from_str(&said.stdout)
            .with_context(|| format!("{}{}", said.stdout, said.stderr))?;
        if document["ok"] != true {
            bail!("{document}");
        }
        let capture = &document["capture"];
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
        Ok((
            path,
            Query {
                captured: number(&capture["captured"]),
                dropped: number(&capture["dropped"]),
                blocks_read: number(&capture["disk"]["blocks_read"]),
                blocks_skipped: number(&capture["disk"]["blocks_skipped"]),
                segments_read: number(&capture["disk"]["segments_read"]),
            },
        ))
    }

    /// tcpreplay of frames to the link; further words are tcpreplay's.
    pub fn replay(&self, frames: &[Vec<u8>], interval_ns: u64, words: &[&str]) -> Result<Proc> {
        let path = self.lab.dir().join("replay.pcap");
        fs::write(&path, pcap(frames, interval_ns))?;
        let mut command = cmd::inside(&self.lab.client_netns(), "tcpreplay");
        command.args(["-q", "-i", SENDER]).args(words).arg(&path);
        Proc::start(command, &self.lab.dir().join("tcpreplay.log"), self.lab.prefix())
    }

    /// The same, to its end.
    pub fn replay_all(&self, frames: &[Vec<u8>], interval_ns: u64, words: &[&str]) -> Result<()> {
        let mut replay = self.replay(frames, interval_ns, words)?;
        cmd::wait_until("tcpreplay", READY_TIMEOUT, || Ok(!replay.is_running()))
            .with_context(|| replay.log_tail())
    }
}

/// A link more in a lab, from the client's namespace to node a's; nothing is on it by itself.
pub fn link(lab: &Lab) -> Result<()> {
    let (client, node) = (lab.client_netns(), lab.node_netns(Member::A));
    let peer = node.file_name().and_then(|n| n.to_str()).context("a namespace's name")?;
    let mtu = MTU.to_string();
    let words =
        ["ip", "link", "add", SENDER, "mtu", &mtu, "type", "veth", "peer", "name", LISTENER];
    cmd::run_inside(&client, &[&words[..], &["netns", peer]].concat())?;
    cmd::run_inside(&node, &["ip", "link", "set", LISTENER, "mtu", &mtu])?;
    for (netns, name) in [(&client, SENDER), (&node, LISTENER)] {
        // Nothing is heard but what is sent on purpose.
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        sys::in_netns(netns, || fs::write(&path, "1"))??;
        for feature in ["tx", "rx", "tso", "gso", "gro", "txvlan", "rxvlan"] {
            // Not every kernel lets all of them be changed.
            let _ = cmd::run_inside(netns, &["ethtool", "-K", name, feature, "off"]);
        }
        cmd::run_inside(netns, &["ip", "link", "set", name, "up"])?;
    }
    Ok(())
}

/// A pcap file with ns.
pub fn pcap(frames: &[Vec<u8>], interval_ns: u64) -> Vec<u8> {
    let mut out = Vec::new();
    // Magic of ns resolution, version 2.4, zone, accuracy, longest frame, Ethernet.
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        out.extend(word.to_le_bytes());
    }
    for (i, frame) in frames.iter().enumerate() {
        let ns = i as u64 * interval_ns;
        let words =
            [1 + ns / 1_000_000_000, ns % 1_000_000_000, frame.len() as u64, frame.len() as u64];
        words.iter().for_each(|&word| out.extend((word as u32).to_le_bytes()));
        out.extend(frame);
    }
    out
}
