//! What disturbs a slice: time that the hypervisor stole, and time spent waiting for a CPU.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A slice is disturbed when more than this part of it was stolen or waited away.
const SHARE_MAX: f64 = 0.01;
/// A failure is, when more was stolen meanwhile: in half a second two ticks, as long as a takeover.
const FAILURE_SHARE_MAX: f64 = 0.03;
/// Length of a tick of /proc/stat: USER_HZ is 100 on every Linux.
const TICK_NS: u64 = 10_000_000;

/// Why slices were discarded, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    /// The hypervisor ran something else.
    pub stolen: u64,
    /// The measured threads waited for a CPU.
    pub gaps: u64,
}

impl Discarded {
    /// Both together.
    pub fn total(self) -> u64 {
        self.stolen + self.gaps
    }

    /// Counts a slice that is to be discarded; false: it is not.
    pub fn count(&mut self, fate: Fate) -> bool {
        match fate {
            Fate::Quiet => return false,
            Fate::Stolen => self.stolen += 1,
            Fate::Gap => self.gaps += 1,
        }
        true
    }

    /// What is said of failures that the hypervisor disturbed, if it did.
    pub fn remark(self, whose: &str, failures: usize) -> Option<String> {
        let why = "count for lost connections only: the hypervisor took more than 3 % of the time";
        let count = self.total();
        (count > 0).then(|| format!("{whose}: of {failures} failures {count} {why}."))
    }

    /// These and others.
    pub fn with(self, other: Discarded) -> Discarded {
        Discarded { stolen: self.stolen + other.stolen, gaps: self.gaps + other.gaps }
    }
}

/// What happened to a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing worth mentioning.
    Quiet,
    /// Time was stolen.
    Stolen,
    /// A measured thread waited for a CPU.
    Gap,
}

/// Whose waiting counts.
#[derive(Clone, Debug)]
pub enum Watched {
    /// The calling thread.
    ThisThread,
    /// Every thread of these processes.
    Processes(Vec<u32>),
    /// Nobody's: long slices of many processes, in which all take turns.
    Nobody,
}

/// The counters at the start of a slice.
pub struct Watch<'a> {
    watched: &'a Watched,
    share_max: f64,
    begun: Instant,
    stolen_ticks: u64,
    waited_ns: u64,
}

impl Watch<'_> {
    /// Begins a slice.
    pub fn begin(watched: &Watched) -> Watch<'_> {
        Watch::bearing(watched, SHARE_MAX)
    }

    /// Begins a failure and its half second: only what is stolen disturbs it.
    pub fn begin_failure() -> Watch<'static> {
        Watch::bearing(&Watched::Nobody, FAILURE_SHARE_MAX)
    }

    fn bearing(watched: &Watched, share_max: f64) -> Watch<'_> {
        let (stolen_ticks, waited_ns) = (stolen_ticks(), waited_ns(watched));
        Watch { watched, share_max, begun: Instant::now(), stolen_ticks, waited_ns }
    }

    /// Ends it.
    pub fn end(self) -> Fate {
        let allowed_ns = self.begun.elapsed().as_nanos() as f64 * self.share_max;
        let stolen_ns = stolen_ticks().saturating_sub(self.stolen_ticks) * TICK_NS;
        let waited_ns = waited_ns(self.watched).saturating_sub(self.waited_ns);
        match () {
            () if stolen_ns as f64 > allowed_ns => Fate::Stolen,
            () if waited_ns as f64 > allowed_ns => Fate::Gap,
            () => Fate::Quiet,
        }
    }
}

/// Ticks that the hypervisor took from all CPUs since boot.
fn stolen_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // cpu user nice system idle iowait irq softirq steal
    stat.split_whitespace().nth(8).and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn waited_ns(watched: &Watched) -> u64 {
    match watched {
        Watched::ThisThread => waited_at(&PathBuf::from("/proc/thread-self")),
        Watched::Processes(pids) => {
            pids.iter().flat_map(|&pid| tasks(pid)).map(|p| waited_at(&p)).sum()
        }
        Watched::Nobody => 0,
    }
}

fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The second number of schedstat: ns on a run queue, not running.
fn waited_at(task: &std::path::Path) -> u64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_a_cpu_is_seen() {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let own = Watched::Processes(vec![std::process::id()]);
        let fate = std::thread::scope(|scope| {
            let watch = Watch::begin(&own);
            let spin = || {
                let begun = Instant::now();
                while begun.elapsed().as_millis() < 300 {
                    std::hint::black_box(0);
                }
            };
            // More threads than CPUs: some wait.
            let threads: Vec<_> = (0..2 * cpus + 1).map(|_| scope.spawn(spin)).collect();
            // Their counters go with them, so look before they end.
            std::thread::sleep(std::time::Duration::from_millis(150));
            let fate = watch.end();
            threads.into_iter().for_each(|t| t.join().unwrap());
            fate
        });
        assert_ne!(fate, Fate::Quiet);
        let idle = Watch::begin(&Watched::Nobody);
        assert_ne!(idle.end(), Fate::Gap);
    }
}
