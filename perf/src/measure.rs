//! The table of measurements, and how one is run.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::findings::{Findings, Measurement, Outcome};
use crate::machine::Machine;
use crate::peers::pktgen;

pub mod auditing;
pub mod capture;
pub mod checkpoint;
pub mod data_path;
pub mod dumpcap;
pub mod generators;
mod group;
pub mod iperf3;
pub mod latency;
pub mod memory;
mod recording;
pub mod redis;
pub mod replay;
pub mod sealing;
pub mod segments;
pub mod stopwatch;
pub mod takeover;
pub mod veth;

/// How much is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As little as shows that it works.
    pub quick: bool,
    /// Kills of each kind for the stopwatch.
    pub kills: usize,
    /// How long the memory soak lasts.
    pub soak: Duration,
    /// Where files may be put; gone after the run.
    pub scratch: PathBuf,
}

impl Plan {
    /// `full`, or less in a quick run.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// What a measurement cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// To be root.
    Root,
    /// A program on the path.
    Program(&'static str),
    /// One of these programs, which are one under several names.
    OneOf(&'static [&'static str]),
    /// A binary of this build.
    Binary(&'static str),
}

impl Need {
    /// What is missing, if it is.
    fn missing(self) -> Option<String> {
        match self {
            Need::Root => (!understudy_lab::sys::is_root()).then(|| "not root".into()),
            Need::Program(name) => find(name).is_none().then(|| format!("{name} is not installed")),
            Need::OneOf(names) => {
                let is_found = names.iter().any(|name| find(name).is_some());
                (!is_found).then(|| format!("{} is not installed", names.join(" or ")))
            }
            Need::Binary(name) => understudy_lab::node::binary(name).err().map(|e| e.to_string()),
        }
    }
}

/// A program on the path, or where Debian puts those for root.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A measurement.
pub struct Measure {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// What it measures, and how.
    pub about: &'static str,
    /// What it needs.
    pub needs: &'static [Need],
    /// Makes it.
    pub run: fn(&Plan, &mut Findings) -> Result<()>,
}

/// All of them, in the order in which they are made.
pub const ALL: &[Measure] = &[
    Measure {
        name: "capture",
        about: capture::ABOUT,
        needs: &[Need::Root, Need::Binary("perf-dpdk"), Need::Program("dpdk-testpmd")],
        run: capture::run,
    },
    Measure {
        name: "dumpcap",
        about: dumpcap::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Binary("perf-dpdk"),
            Need::Program("dpdk-testpmd"),
            Need::Program("dpdk-dumpcap"),
        ],
        run: dumpcap::run,
    },
    Measure {
        name: "veth",
        about: veth::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Binary("perf-dpdk"),
            Need::Program("tcpdump"),
            Need::Program("netsniff-ng"),
        ],
        run: veth::run,
    },
    Measure {
        name: "tcpreplay",
        about: generators::TCPREPLAY,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("tcpreplay"),
        ],
        run: generators::tcpreplay,
    },
    Measure {
        name: "pktgen",
        about: generators::PKTGEN,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::OneOf(pktgen::NAMES),
        ],
        run: generators::pktgen,
    },
    Measure { name: "data-path", about: data_path::ABOUT, needs: &[], run: data_path::run },
    Measure { name: "segments", about: segments::ABOUT, needs: &[], run: segments::run },
    Measure {
        name: "checkpoint",
        about: checkpoint::ABOUT,
        needs: &[Need::Root, Need::Program("criu"), Need::Program("redis-server")],
        run: checkpoint::run,
    },
    Measure {
        name: "replay",
        about: replay::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("redis-server"),
        ],
        run: replay::run,
    },
    Measure {
        name: "stopwatch",
        about: stopwatch::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("redis-server"),
            Need::Program("keepalived"),
        ],
        run: stopwatch::run,
    },
    Measure {
        name: "takeover",
        about: takeover::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("redis-server"),
        ],
        run: takeover::run,
    },
    Measure {
        name: "redis",
        about: redis::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("redis-server"),
            Need::Program("redis-benchmark"),
        ],
        run: redis::run,
    },
    Measure {
        name: "iperf3",
        about: iperf3::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("dpdk-testpmd"),
            Need::Program("iperf3"),
        ],
        run: iperf3::run,
    },
    Measure {
        name: "latency",
        about: latency::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Binary("lab-server"),
        ],
        run: latency::run,
    },
    Measure {
        name: "memory",
        about: memory::ABOUT,
        needs: &[
            Need::Root,
            Need::Binary("understudyd"),
            Need::Binary("understudy"),
            Need::Program("redis-server"),
            Need::Program("criu"),
        ],
        run: memory::run,
    },
];

impl Measure {
    /// Makes it; whatever comes of it is a measurement.
    pub fn make(&self, plan: &Plan) -> Measurement {
        let begun = Instant::now();
        let begun_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let missing: Vec<String> = self.needs.iter().filter_map(|need| need.missing()).collect();
        let mut findings = Findings::default();
        let outcome = if !missing.is_empty() {
            Outcome::Skipped(missing.join("; "))
        } else {
            match (self.run)(plan, &mut findings) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(format!("{error:#}")),
            }
        };
        Measurement {
            about: self.about.into(),
            outcome,
            quick: plan.quick,
            begun_unix_s,
            took_s: begun.elapsed().as_secs_f64(),
            machine: Machine::here(),
            findings,
        }
    }
}

/// A directory of a measurement's own below the plan's.
fn scratch(plan: &Plan, name: &str) -> Result<PathBuf> {
    let dir = plan.scratch.join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// A program of this build, to be run.
pub(crate) fn built(name: &str) -> Result<Command> {
    Ok(Command::new(understudy_lab::node::binary(name)?))
}

/// The first and the last CPU that may be used.
pub(crate) fn first_and_last_cpu() -> Result<(usize, usize)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.context("no Cpus_allowed_list in /proc/self/status")?.trim();
    let number = |text: Option<&str>| text.and_then(|t| t.parse().ok());
    let first = number(list.split([',', '-']).next());
    let last = number(list.split([',', '-']).next_back());
    first.zip(last).with_context(|| format!("no list of CPUs: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scratch: &std::path::Path) -> Plan {
        Plan { quick: true, kills: 1, soak: Duration::from_secs(1), scratch: scratch.into() }
    }

    #[test]
    fn what_is_missing_or_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut measure = Measure {
            name: "x",
            about: "a test",
            needs: &[Need::Program("no-such-program"), Need::Binary("no-such-binary")],
            run: |_, _| unreachable!("it lacks what it needs"),
        };
        let Outcome::Skipped(why) = measure.make(&plan(dir.path())).outcome else {
            panic!("not skipped")
        };
        assert!(why.contains("no-such-program is not installed"), "{why}");
        assert!(why.contains("no-such-binary is not in"), "{why}");
        measure.needs = &[];
        measure.run = |_, findings| {
            findings.note("as far as it came");
            anyhow::bail!("no more")
        };
        let made = measure.make(&plan(dir.path()));
        assert_eq!(made.outcome, Outcome::Failed("no more".into()));
        assert_eq!(made.findings.notes, ["as far as it came"]);
    }

    #[test]
    fn names_are_unique_and_cpus_are_found() {
        let mut names: Vec<&str> = ALL.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        let (first, last) = first_and_last_cpu().unwrap();
        assert!(first <= last);
    }
}
