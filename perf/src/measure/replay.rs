//! How fast a warm clone is given the log when it takes over.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use understudy_lab::clients::data::Data;
use understudy_lab::node::vip4;
use understudy_lab::{Member, NodeOptions, scenario, sys};

use super::Plan;
use super::group::Service;
use crate::findings::Findings;
use crate::stats::Spread;

/// What it is.
pub const ABOUT: &str = "A group of three whose clones are warm, and redis. A client writes 20 MiB, in values \
    of 100 KiB, over one connection; then the primary is killed. The node that takes over starts its redis \
    and gives it the log from its beginning. The time is from the redis's start until it has all values, \
    asked every millisecond from within its capsule, less the median of the same with one value: that is \
    what starting takes. Each sample is a group of its own, the two kinds in turn. Bytes are the log's, \
    frames those given to the kernel of redis.";

const ROUNDS: usize = 5;
const ROUNDS_QUICK: usize = 2;
const VALUES: usize = 200;
const VALUE_BYTES: usize = 100 << 10;
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(1);
const PORT: u16 = 6379;

/// One takeover.
struct Replay {
    took_s: f64,
    log_bytes: f64,
    frames: f64,
}

/// Runs it.
///
/// # Errors
/// If a group does not come up, or nobody takes over.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let (mut starts, mut replays) = (Vec::new(), Vec::new());
    for _ in 0..plan.count(ROUNDS, ROUNDS_QUICK) {
        starts.push(take_over(1)?.took_s);
        replays.push(take_over(VALUES)?);
    }
    let start = Spread::of(starts.iter().copied());
    let ms = Spread { median: start.median * 1e3, min: start.min * 1e3, max: start.max * 1e3 };
    findings.figure(
        "replay/start",
        "from the start of redis, nothing to replay",
        "ms",
        ms,
        starts.len(),
    );
    let speed = |what: fn(&Replay) -> f64| {
        let of = |r: &Replay| what(r) / (r.took_s - start.median).max(f64::EPSILON);
        Spread::of(replays.iter().map(of))
    };
    let count = replays.len();
    let bytes = speed(|r| r.log_bytes / 1e6);
    findings.figure("replay/bytes", "replay at takeover", "MB/s", bytes, count);
    findings.figure("replay/frames", "replay at takeover", "frames/s", speed(|r| r.frames), count);
    Ok(())
}

fn take_over(values: usize) -> Result<Replay> {
    let set = vec![("service.clone".to_string(), "warm".into())];
    let mut service = Service::protected(&NodeOptions { set, ..NodeOptions::default() })?;
    let data = Data { target: vip4(PORT), keys: values, length: VALUE_BYTES };
    let written = data.write(&service.lab.client_netns())?.join(LIMIT)?;
    ensure!(written.is_pass(), "{written}");
    let old = service.trio.primary().context("no primary")?;
    service.trio.crash(&service.lab, old)?;
    let netns = capsule(&mut service, old)?;
    let whole_ns = sys::in_netns(&netns, || when_whole(values))??;
    let new = service.trio.wait_primary(Some(old), LIMIT)?;
    let status = service.trio.node(new).status()?;
    let raised = status.timeline.iter().rfind(|event| event.event == "raised");
    let raised_ns = raised.with_context(|| format!("{new} has brought nothing to life"))?.unix_ns;
    ensure!(status.log.start == 0, "the log no longer reaches back to the start");
    Ok(Replay {
        took_s: whole_ns.saturating_sub(raised_ns) as f64 / 1e9,
        log_bytes: status.log.end as f64,
        frames: status.counters.get("delivered_frames").map_or(0.0, |&count| count as f64),
    })
}

/// Where the redis runs that a replica has started.
fn capsule(service: &mut Service, old: Member) -> Result<PathBuf> {
    let end = Instant::now() + LIMIT;
    loop {
        let mut pids = old
            .others()
            .filter_map(|member| service.trio.node(member).status().ok()?.service.app_pid);
        if let Some(pid) = pids.next() {
            return Ok(format!("/proc/{pid}/ns/net").into());
        }
        ensure!(Instant::now() < end, "nobody takes over");
        std::thread::sleep(LOOK);
    }
}

/// When redis has all values, as it says from within its capsule.
fn when_whole(values: usize) -> Result<u64> {
    let end = Instant::now() + LIMIT;
    let wanted = format!(":{values}\r\n");
    while Instant::now() < end {
        std::thread::sleep(LOOK);
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)) else { continue };
        stream.set_read_timeout(Some(LIMIT))?;
        let mut answer = [0; 32];
        stream.write_all(b"DBSIZE\r\n")?;
        let count = stream.read(&mut answer)?;
        if answer[..count] == *wanted.as_bytes() {
            return Ok(sys::unix_ns());
        }
    }
    bail!("redis does not get {values} values within {} s", LIMIT.as_secs())
}
