//! Time from the CPU's time-stamp counter (TSC).
//!
//! A read costs some 30 cycles and no system call. EAL's own figure for the TSC frequency is rounded
//! (to 10 MHz when the CPU does not state it, which can be off by 2 ms a second), so it serves as a
//! cross-check only: the frequency used is measured against the kernel's monotonic clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

const NS_PER_S: u64 = 1_000_000_000;
/// Nanoseconds per TSC cycle are kept as a fixed-point number with this many fraction bits.
const SCALE_BITS: u32 = 40;
/// How long the frequency is measured: an error of 100 ns at both ends is then 4 millionths.
const CALIBRATION: Duration = Duration::from_millis(50);
/// How often the wall clock is looked at, measured by the TSC.
const DISCIPLINE_INTERVAL_NS: u64 = 100_000_000;
/// The wall time never runs faster or slower than by this much while it is corrected, unless it is
/// behind: then it jumps forward.
const SLEW_PART: u64 = 2;

/// A clock for one thread. Clones agree exactly in [`Clock::now_ns`]; each keeps its own
/// [`Clock::unix_ns`], within a microsecond or so of the others.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Nanoseconds per cycle, fixed point.
    scale: u64,
    tsc_hz: u64,
    /// The counter when the clock was made: the zero of `now_ns`.
    start_tsc: u64,
    last_now_ns: Cell<u64>,
    wall: Cell<Wall>,
}

/// The wall time as a line through the last look at the system's clock.
#[derive(Debug, Clone, Copy)]
struct Wall {
    /// In `now_ns` time.
    anchor_now_ns: u64,
    anchor_unix_ns: u64,
    /// How much ahead of the system's clock the anchor is: to be worked off by running slower.
    ahead_ns: u64,
    last_unix_ns: u64,
}

impl Wall {
    fn new(now_ns: u64, unix_ns: u64) -> Wall {
        Wall { anchor_now_ns: now_ns, anchor_unix_ns: unix_ns, ahead_ns: 0, last_unix_ns: unix_ns }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.anchor_now_ns) >= DISCIPLINE_INTERVAL_NS
    }

    fn at(&self, now_ns: u64) -> u64 {
        let elapsed_ns = now_ns.saturating_sub(self.anchor_now_ns);
        let held_back_ns = (elapsed_ns / SLEW_PART).min(self.ahead_ns);
        (self.anchor_unix_ns + elapsed_ns - held_back_ns).max(self.last_unix_ns)
    }

    fn read(&mut self, now_ns: u64) -> u64 {
        self.last_unix_ns = self.at(now_ns);
        self.last_unix_ns
    }

    /// Behind the system's clock: jump to it. Ahead of it: run slower until it has caught up.
    fn discipline(&mut self, now_ns: u64, system_unix_ns: u64) {
        let unix_ns = self.at(now_ns);
        self.anchor_now_ns = now_ns;
        self.anchor_unix_ns = unix_ns.max(system_unix_ns);
        self.ahead_ns = unix_ns.saturating_sub(system_unix_ns);
    }
}

impl Clock {
    /// Measures the TSC against the kernel's monotonic clock, which takes 50 ms.
    ///
    /// Works without EAL too. The TSC must be invariant and synchronous between cores, as it is on
    /// any server CPU that Linux runs with `clocksource=tsc`.
    pub fn calibrate() -> Clock {
        let measured_hz = measure_hz();
        // SAFETY: reads a number; 0 before EAL has been initialised.
        let eal_hz = unsafe { dpdk_sys::rte_get_tsc_hz() };
        // The measurement can only be spoilt by losing the CPU at both of its ends; then EAL's
        // rounded figure is the better one.
        let tsc_hz = if eal_hz != 0 && measured_hz.abs_diff(eal_hz) > eal_hz / 50 {
            eal_hz
        } else {
            measured_hz
        };
        let scale = ((u128::from(NS_PER_S) << SCALE_BITS) / u128::from(tsc_hz.max(1))) as u64;
        Clock {
            scale,
            tsc_hz,
            start_tsc: tsc_cycles(),
            last_now_ns: Cell::new(0),
            wall: Cell::new(Wall::new(0, system_unix_ns())),
        }
    }

    /// The TSC frequency in use.
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Nanoseconds since the clock was calibrated; never decreases on one clock.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        // Saturating: a core whose TSC is a few cycles behind must not see the far future.
        let cycles = tsc_cycles().saturating_sub(self.start_tsc);
        let now_ns = ((u128::from(cycles) * u128::from(self.scale)) >> SCALE_BITS) as u64;
        let now_ns = now_ns.max(self.last_now_ns.get());
        self.last_now_ns.set(now_ns);
        now_ns
    }

    /// Nanoseconds since 1970, never decreasing on one clock.
    ///
    /// Follows the system's clock by looking at it every 100 ms (no system call where Linux has a
    /// vDSO): forward by jumping, backward by running at half speed until it has caught up.
    #[inline]
    pub fn unix_ns(&self) -> u64 {
        let now_ns = self.now_ns();
        let mut wall = self.wall.get();
        if wall.is_due(now_ns) {
            wall.discipline(now_ns, system_unix_ns());
        }
        let unix_ns = wall.read(now_ns);
        self.wall.set(wall);
        unix_ns
    }
}

#[inline]
fn tsc_cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction; it touches no memory.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: reads a counter register; needs no EAL.
    unsafe {
        dpdk_sys::shim_tsc_cycles()
    }
}

/// Both clocks at one moment: the pair of many that was read in the fewest cycles.
fn simultaneous() -> (u64, Instant) {
    let mut best = (u64::MAX, 0, Instant::now());
    for _ in 0..16 {
        let before = tsc_cycles();
        let instant = Instant::now();
        let width = tsc_cycles().saturating_sub(before);
        if width < best.0 {
            best = (width, before + width / 2, instant);
        }
    }
    (best.1, best.2)
}

fn measure_hz() -> u64 {
    let (start_tsc, start) = simultaneous();
    std::thread::sleep(CALIBRATION);
    let (end_tsc, end) = simultaneous();
    let elapsed_ns = end.duration_since(start).as_nanos().max(1);
    let cycles = u128::from(end_tsc.saturating_sub(start_tsc));
    (cycles * u128::from(NS_PER_S) / elapsed_ns) as u64
}

fn system_unix_ns() -> u64 {
    // A system that thinks it is before 1970 gets 1970.
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_700_000_000 * NS_PER_S;

    #[test]
    fn wall_time_jumps_forward() {
        let mut wall = Wall::new(0, START_NS);
        assert_eq!(wall.read(1000), START_NS + 1000);
        wall.discipline(2000, START_NS + NS_PER_S);
        assert_eq!(wall.read(2000), START_NS + NS_PER_S);
    }

    #[test]
    fn wall_time_catches_up_with_a_clock_set_back_without_ever_decreasing() {
        let mut wall = Wall::new(0, START_NS);
        let set_back_ns = NS_PER_S;
        let mut last_ns = 0;
        for step in 1..=40 {
            let now_ns = step * DISCIPLINE_INTERVAL_NS;
            wall.discipline(now_ns, START_NS + now_ns - set_back_ns);
            let unix_ns = wall.read(now_ns);
            assert!(unix_ns > last_ns, "decreased at step {step}");
            last_ns = unix_ns;
        }
        assert_eq!(last_ns, START_NS + 40 * DISCIPLINE_INTERVAL_NS - set_back_ns);
    }

    #[test]
    fn agrees_with_the_system() {
        let clock = Clock::calibrate();
        let start = Instant::now();
        let start_ns = clock.now_ns();
        let (mut last_now_ns, mut last_unix_ns) = (start_ns, clock.unix_ns());
        while start.elapsed() < Duration::from_millis(300) {
            let (now_ns, unix_ns) = (clock.now_ns(), clock.unix_ns());
            assert!(now_ns >= last_now_ns && unix_ns >= last_unix_ns);
            (last_now_ns, last_unix_ns) = (now_ns, unix_ns);
        }
        let elapsed_ns = start.elapsed().as_nanos() as u64;
        let error_ns = (clock.now_ns() - start_ns).abs_diff(elapsed_ns);
        assert!(error_ns < elapsed_ns / 1000 + 100_000, "off by {error_ns} ns in {elapsed_ns}");
        let wall_error_ns = clock.unix_ns().abs_diff(system_unix_ns());
        assert!(wall_error_ns < 5_000_000, "wall time off by {wall_error_ns} ns");
        let other = clock.clone();
        assert!(other.now_ns() >= last_now_ns);
    }
}
