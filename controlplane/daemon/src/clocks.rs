//! The machine's clocks, compared with each other: none of them may step or run away. The daemon's
//! own is the CPU's counter and never steps; what is watched here is what others would notice.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use understudy_proto::supervise::{Cause, Fault};

use crate::ports::NodeClock;

const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Clocks that were not read within this time of each other say nothing.
const READ_NS_MAX: u64 = 100_000;
const READS_MAX: u32 = 8;
/// Rates are compared over at least this time.
const RATE_NS_MIN: u64 = 1_000_000_000;

/// All clocks at one moment, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The kernel's, which never steps.
    pub monotonic_ns: u64,
    /// The time of day.
    pub wall_ns: u64,
    /// The daemon's own.
    pub own_ns: u64,
}

/// Watches them.
pub struct Clocks {
    began: Instant,
    source: Option<String>,
    last: Option<Reading>,
    step_ns: u64,
    drift_ppm: u64,
}

impl Clocks {
    /// What is now is how it should be.
    pub fn new(step_ms: u64, drift_ppm: u64) -> Clocks {
        let step_ns = step_ms * 1_000_000;
        Clocks { began: Instant::now(), source: source(), last: None, step_ns, drift_ppm }
    }

    /// Other limits from now on.
    pub fn set_limits(&mut self, step_ms: u64, drift_ppm: u64) {
        (self.step_ns, self.drift_ppm) = (step_ms * 1_000_000, drift_ppm);
    }

    /// Looks once.
    pub fn look(&mut self, clock: &NodeClock) -> Option<Result<(), Fault>> {
        let now = source();
        if now != self.source {
            let name = |source: &Option<String>| source.clone().unwrap_or_else(|| "unknown".into());
            let text = format!("the clock source is {}, it was {}", name(&now), name(&self.source));
            return Some(Err(Fault::new(Cause::Changed, text)));
        }
        let reading = self.read(clock)?;
        self.compare(reading)
    }

    fn read(&self, clock: &NodeClock) -> Option<Reading> {
        let monotonic_ns = || self.began.elapsed().as_nanos() as u64;
        for _ in 0..READS_MAX {
            let before_ns = monotonic_ns();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let own_ns = clock.now_ns();
            if monotonic_ns() - before_ns <= READ_NS_MAX {
                let wall_ns = wall.as_nanos() as u64;
                return Some(Reading { monotonic_ns: before_ns, wall_ns, own_ns });
            }
        }
        None
    }

    fn compare(&mut self, now: Reading) -> Option<Result<(), Fault>> {
        let Some(last) = self.last else {
            self.last = Some(now);
            return None;
        };
        let passed_ns = now.monotonic_ns - last.monotonic_ns;
        if passed_ns < RATE_NS_MIN {
            return None;
        }
        self.last = Some(now);
        let more = |new: u64, old: u64| i128::from(new) - i128::from(old) - i128::from(passed_ns);
        let stepped_ns = more(now.wall_ns, last.wall_ns);
        if stepped_ns.unsigned_abs() > u128::from(self.step_ns) {
            let text = format!("the time of day was set by {} ms", stepped_ns / 1_000_000);
            return Some(Err(Fault::new(Cause::Stepped, text)));
        }
        let ppm = more(now.own_ns, last.own_ns) * 1_000_000 / i128::from(passed_ns);
        if ppm.unsigned_abs() > u128::from(self.drift_ppm) {
            let text = format!("the CPU's counter and the kernel's clock differ by {ppm} ppm");
            return Some(Err(Fault::new(Cause::Drifted, text)));
        }
        Some(Ok(()))
    }
}

fn source() -> Option<String> {
    std::fs::read_to_string(SOURCE).ok().map(|text| text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(s: u64, wall_more_ns: i64, own_more_ns: i64) -> Reading {
        let ns = s * S;
        Reading {
            monotonic_ns: ns,
            wall_ns: (1_700_000_000 * S + ns).saturating_add_signed(wall_more_ns),
            own_ns: (1_700_000_000 * S + ns).saturating_add_signed(own_more_ns),
        }
    }

    fn cause(seen: Option<Result<(), Fault>>) -> Option<Cause> {
        seen.and_then(|seen| seen.err()).map(|fault| fault.cause)
    }

    #[test]
    fn steps_and_drift_are_seen_once_each_and_both_ways() {
        let mut clocks = Clocks::new(500, 1000);
        assert_eq!(clocks.compare(at(0, 0, 0)), None);
        assert_eq!(clocks.compare(at(5, 499_000_000, 4_900_000)), Some(Ok(())));
        assert_eq!(cause(clocks.compare(at(10, 1_100_000_000, 4_900_000))), Some(Cause::Stepped));
        assert_eq!(clocks.compare(at(15, 1_100_000_000, 4_900_000)), Some(Ok(())), "it is set now");
        assert_eq!(cause(clocks.compare(at(20, 0, 4_900_000))), Some(Cause::Stepped), "back");
        assert_eq!(cause(clocks.compare(at(25, 0, 10_000_000))), Some(Cause::Drifted));
        assert_eq!(cause(clocks.compare(at(30, 0, 4_900_000))), Some(Cause::Drifted));
        assert_eq!(clocks.compare(at(30, 0, 0)), None, "too soon to say anything");
    }

    #[test]
    fn this_machine_is_looked_at() {
        let mut clocks = Clocks::new(3_600_000, 1_000_000);
        assert!(clocks.read(&NodeClock::new()).is_some());
        clocks.source = Some("sundial".into());
        let seen = clocks.look(&NodeClock::new());
        assert_eq!(cause(seen), Some(Cause::Changed));
    }
}
