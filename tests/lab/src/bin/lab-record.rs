//! Records what the fuzzers begin with: a takeover under load, every frame of every port, the
//! files of the nodes and what their sockets are asked and answer. `tests/fuzz/corpus/README.md`
//! says what becomes of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use understudy_api::{Request, encode_request};
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::short::Short;
use understudy_lab::node::{READY_TIMEOUT, vip4, vip6};
use understudy_lab::sys::{self, PacketSocket};
use understudy_lab::{Lab, Member, Net, NodeOptions, Trio, scenario};

const REDIS: u16 = 6379;
/// The dataplane's end of a node's host port.
const HOST_PORT: &str = "us-host";

/// What the CLI sends, a line each; to a node that does not exist, so that nothing happens.
fn requests() -> Vec<Vec<u8>> {
    let nobody = Request::Switchover { to: Some("nobody".into()) };
    let mut lines: Vec<_> =
        [Request::Status, Request::Conns, nobody].iter().map(encode_request).collect();
    lines.push(b"{\"version\":1,\"request\":\"nothing\"}\n".to_vec());
    lines
}

#[derive(Parser)]
struct Options {
    /// Where the recording goes.
    dir: PathBuf,
}

/// Frames of some interfaces, each as its length (16 bits, little-endian) and its bytes.
struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Result<()>>>,
}

impl Tap {
    /// `both`: what leaves by the interface as well as what arrives at it.
    fn start(netns: &Path, interfaces: &[String], both: bool, file: &Path) -> Result<Tap> {
        let mut sockets = Vec::new();
        for name in interfaces {
            let socket = sys::in_netns(netns, || PacketSocket::open(name, !both))?;
            sockets.push(socket.with_context(|| format!("record {name}"))?);
        }
        let mut out = fs::File::create(file).with_context(|| file.display().to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = sys::spawn_in_netns(netns, "lab-tap", move || {
            while !ended.load(Ordering::Relaxed) {
                let mut bytes = Vec::new();
                for socket in &mut sockets {
                    // A port of a node that was killed is gone.
                    let _ = socket.receive(|_, _, frame| {
                        bytes.extend((frame.len() as u16).to_le_bytes());
                        bytes.extend(frame);
                    });
                }
                out.write_all(&bytes)?;
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })?;
        Ok(Tap { stop, thread })
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a tap panicked"))??
    }
}

/// Asks a node's socket everything; the answers as they are, a line each.
fn ask(socket: &Path) -> Result<Vec<String>> {
    requests()
        .iter()
        .map(|request| {
            let mut stream = UnixStream::connect(socket)?;
            stream.write_all(request)?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line)
        })
        .collect()
}

fn main() -> Result<()> {
    let dir = Options::parse().dir;
    fs::create_dir_all(&dir)?;
    let path = |name: &str| dir.join(name);
    scenario::prepare_machine()?;
    let lab = Lab::new()?;
    let switch = lab.switch_netns();
    let ports = |net: Net| Member::ALL.map(|member| net.switch_port(member)).to_vec();
    let clients: Vec<_> = ports(Net::Client).into_iter().chain(["cl-x".to_string()]).collect();
    let mut taps = vec![
        Tap::start(&switch, &clients, false, &path("client.frames"))?,
        Tap::start(&switch, &ports(Net::Replica), false, &path("replica.frames"))?,
        Tap::start(&switch, &ports(Net::Mgmt), false, &path("second.frames"))?,
    ];
    let mut trio = Trio::start(&lab, &NodeOptions::default())?;
    for member in Member::ALL {
        let file = path(&format!("host-{member}.frames"));
        taps.push(Tap::start(&lab.node_netns(member), &[HOST_PORT.into()], true, &file)?);
    }
    let (netns, pause) = (lab.client_netns(), Duration::from_millis(20));
    let tasks = [
        Counter { target: vip4(REDIS), key: "n".into(), pause }.start(&netns)?,
        Counter { target: vip6(REDIS), key: "six".into(), pause }.start(&netns)?,
        Short { target: vip4(REDIS), prefix: "s".into(), pause, connections_max: 40 }
            .start(&netns)?,
    ];
    tasks[0].wait_progress(50, READY_TIMEOUT)?;
    let socket = |member: Member| lab.dir().join(format!("{member}.sock"));
    let mut lines = ask(&socket(Member::B))?;
    let old = trio.primary().context("no primary")?;
    lines.extend(ask(&socket(old))?);
    trio.crash(&lab, old)?;
    trio.wait_primary(Some(old), READY_TIMEOUT)?;
    tasks[0].wait_progress(50, READY_TIMEOUT)?;
    lines.extend(ask(&socket(trio.primary().context("no primary")?))?);
    fs::write(path("requests.jsonl"), requests().concat())?;
    fs::write(path("responses.jsonl"), lines.concat())?;
    for member in Member::ALL {
        let state = lab.dir().join(format!("{member}-state")).join("epoch");
        // The first copy of it; what follows is padding and other copies.
        let file = fs::read(&state).context("the epoch file")?;
        let copy = file.split(|&byte| byte == 0).next().unwrap_or_default();
        fs::write(path(&format!("epoch-{member}")), copy)?;
    }
    fs::copy(lab.dir().join("a.key"), path("cluster.key")).context("the key file")?;
    for task in tasks {
        task.finish()?.assert_pass();
    }
    trio.stop()?;
    taps.into_iter().try_for_each(Tap::finish)?;
    println!("{}", dir.display());
    Ok(())
}
