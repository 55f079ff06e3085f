//! How fast a warm clone is given the log when it takes over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use understudy_lab::clients::data::Data;
use understudy_lab::node::vip4;
use understudy_lab::{NodeOptions, scenario};

use super::Plan;
use super::group::Service;
use crate::findings::Findings;
use crate::stats::Spread;

/// What it is.
pub const ABOUT: &str = "A group of three whose clones are warm, and redis. A client writes 20 MiB, in values \
    of 100 KiB, over one connection; then the primary is killed. The node that takes over starts its redis \
    and gives it the log from its beginning. The time is from the redis's start to the open gate, less \
    the median of the same with one value: that is what starting takes. Each sample is a group of its own, \
    the two kinds in turn. Bytes are the log's, frames those given to the kernel of redis.";

const ROUNDS: usize = 5;
const ROUNDS_QUICK: usize = 2;
const VALUES: usize = 200;
const VALUE_BYTES: usize = 100 << 10;
const LIMIT: Duration = Duration::from_secs(60);
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
        "start to open gate, nothing to replay",
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
    let new = service.trio.wait_primary(Some(old), LIMIT)?;
    let status = service.trio.node(new).status()?;
    let at = |event: &str| {
        let found = status.timeline.iter().rfind(|e| e.event == event);
        found.map(|e| e.unix_ns).with_context(|| format!("{new} tells of no {event}"))
    };
    let count = |name: &str| status.counters.get(name).map_or(0.0, |&count| count as f64);
    ensure!(status.log.start == 0, "the log no longer reaches back to the start");
    Ok(Replay {
        took_s: at("gate_open")?.saturating_sub(at("raised")?) as f64 / 1e9,
        log_bytes: status.log.end as f64,
        frames: count("delivered_frames"),
    })
}
