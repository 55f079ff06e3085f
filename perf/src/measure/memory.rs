//! What the daemons' memory does while a service is under load for a long time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use understudy_lab::clients::short::Short;
use understudy_lab::node::vip4;
use understudy_lab::{NodeOptions, scenario};

use super::Plan;
use super::group::Service;
use crate::clients::{self, Clients};
use crate::findings::Findings;
use crate::stats::Spread;

/// What it is.
pub const ABOUT: &str = "Memory of the three daemons of a protected redis under load: resident pages and \
    huge pages together, of each daemon, sampled all the time. Four connections ask every 2 ms, others come \
    and go twenty times a second, and checkpoints are taken every 20 s; every reply is checked, and no \
    connection may die. Growth is the median of the last fifth of the soak over that of the second fifth, of \
    the daemon that grew most: before that the log, of 16 MB here, is touched for the first time. What \
    clients and applications use is not counted.";

const CLIENTS: usize = 4;
const INTERVAL: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(50);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const CHECKPOINTS_S: i64 = 20;
/// Written over for the first time after some 40 s of this load.
const LOG_MB: i64 = 16;
const PORT: u16 = 6379;
/// What the target asks for.
const HOUR_MIN: f64 = 60.0;

/// Runs it.
///
/// # Errors
/// If the group does not come up, a reply is wrong, or a connection or a daemon dies.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let set = [("checkpoint.interval_s", CHECKPOINTS_S), ("log.size_mb", LOG_MB)];
    let set = set.map(|(key, value)| (key.to_string(), value.into())).to_vec();
    let service = Service::protected(&NodeOptions { set, ..NodeOptions::default() })?;
    let pids = service.trio.nodes.iter().map(|node| node.pid().context("a node does not run"));
    let pids: Vec<u32> = pids.collect::<Result<_>>()?;
    let netns = service.lab.client_netns();
    let target = vip4(PORT);
    let plan_of_each = clients::Plan { target, interval: INTERVAL, patience: None };
    let steady = Clients::start(&netns, CLIENTS, plan_of_each)?;
    let short = Short { target, prefix: "soak".into(), pause: PAUSE, connections_max: u64::MAX };
    let short = short.start(&netns)?;
    let begun = Instant::now();
    let samples = soak(&pids, plan.soak)?;
    let soaked_min = begun.elapsed().as_secs_f64() / 60.0;
    let replies: usize = steady.finish()?.iter().map(|record| record.replies.len()).sum();
    let verdict = short.finish()?;
    ensure!(verdict.is_pass(), "{verdict}");
    report(&samples, soaked_min, findings)?;
    findings.note(format!(
        "{replies} replies to {CLIENTS} connections, {} connections that came and went.",
        verdict.counts.get("tried").copied().unwrap_or(0)
    ));
    Ok(())
}

/// Samples of each daemon, in MB.
fn soak(pids: &[u32], length: Duration) -> Result<Vec<Vec<f64>>> {
    let end = Instant::now() + length;
    let mut samples = vec![Vec::new(); pids.len()];
    while Instant::now() < end {
        for (&pid, of) in pids.iter().zip(&mut samples) {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.with_context(|| format!("daemon {pid} has ended"))?;
            of.push(memory_mb(&status).with_context(|| format!("daemon {pid} has ended"))?);
        }
        std::thread::sleep(SAMPLE_EVERY.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(samples)
}

/// Resident pages and huge pages of a process, from its /proc status; a zombie has none.
fn memory_mb(status: &str) -> Option<f64> {
    let kb = |name: &str| -> Option<f64> {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((kb("VmRSS:")? + kb("HugetlbPages:")?) / 1024.0)
}

fn report(samples: &[Vec<f64>], soaked_min: f64, findings: &mut Findings) -> Result<()> {
    let mut growths = Vec::new();
    for (name, of) in ["a", "b", "c"].iter().zip(samples) {
        let fifth = of.len() / 5;
        ensure!(fifth > 0, "a soak of {} samples says nothing", of.len());
        let median = |part: &[f64]| Spread::of(part.iter().copied());
        let before = median(&of[fifth..2 * fifth]);
        let after = median(&of[of.len() - fifth..]);
        growths.push((after.median / before.median - 1.0) * 100.0);
        let what = format!("memory of daemon {name}, last fifth of the soak");
        findings.figure(&format!("memory/{name}"), &what, "MB", after, fifth);
        let what = format!("memory of daemon {name}, second fifth");
        findings.figure(&format!("memory/{name}-early"), &what, "MB", before, fifth);
    }
    let most = Spread::exact(growths.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    findings.figure(
        "memory/growth",
        "growth of the daemon that grew most",
        "%",
        most,
        samples.len(),
    );
    findings.figure("memory/soak", "length of the soak", "min", Spread::exact(soaked_min), 1);
    let why = if soaked_min < HOUR_MIN {
        format!(
            "{} min were run, {:.2} % growth in them: `./perf.sh --only memory --soak-min 60` is the hour",
            crate::report::number(soaked_min),
            most.median
        )
    } else {
        "see the daemons' figures below".into()
    };
    findings.explain("memory", why);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_growth_is_of_the_daemon_that_grew() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nHugetlbPages:\t    1024 kB\n";
        assert_eq!(memory_mb(status), Some(3.0));
        assert_eq!(memory_mb("Name:\tx\nState:\tZ (zombie)\n"), None);
        let flat = vec![100.0; 20];
        let grown: Vec<f64> = (0..20).map(|i| if i < 10 { 100.0 } else { 103.0 }).collect();
        let mut findings = Findings::default();
        report(&[flat.clone(), grown, flat], 60.5, &mut findings).unwrap();
        let growth = findings.figures.iter().find(|f| f.id == "memory/growth").unwrap();
        assert!((growth.value.median - 3.0).abs() < 1e-9);
        assert!(report(&[vec![1.0; 4]], 1.0, &mut findings).is_err());
    }
}
