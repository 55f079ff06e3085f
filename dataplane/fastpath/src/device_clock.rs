//! The time of a device that stamps frames by a clock of its own, as ns since 1970.
//!
//! Both clocks are read together now and then; between the readings the device's is taken to run at
//! the rate it had, which is tracked: neither its frequency nor its drift need be known.

/// Readings are this far apart at least: each may be late by microseconds, so a rate needs a while.
pub const SAMPLE_INTERVAL_NS: u64 = 100_000_000;
/// The part of a new rate, and of a reading's difference, that is believed.
const SMOOTHING: f64 = 0.25;
/// A clock that is further off than that was set, not slow: begin again.
const STEP_NS: i64 = 10_000_000;
/// Rates until the conversion counts.
const RATES_MIN: u32 = 2;

/// Converts one device's ticks.
#[derive(Clone, Debug, Default)]
pub struct DeviceClock {
    /// Ticks of the last reading, what this clock said of it, and what was read.
    last: Option<(u64, u64, u64)>,
    /// ns a tick.
    rate: f64,
    rates: u32,
    error_ns: i64,
    steps: u64,
}

impl DeviceClock {
    /// A reading: the device's clock at a moment.
    pub fn sample(&mut self, ticks: u64, unix_ns: u64) {
        let Some((ticks_before, _, ns_before)) = self.last else {
            self.last = Some((ticks, unix_ns, unix_ns));
            return;
        };
        let elapsed = ticks.wrapping_sub(ticks_before) as i64;
        let elapsed_ns = unix_ns.wrapping_sub(ns_before) as i64;
        let error_ns = self.at(ticks).map_or(0, |ns| unix_ns.wrapping_sub(ns) as i64);
        let is_set = self.rates >= RATES_MIN && error_ns.abs() > STEP_NS;
        if elapsed <= 0 || elapsed_ns <= 0 || is_set {
            let steps = self.steps + 1;
            *self = DeviceClock { last: Some((ticks, unix_ns, unix_ns)), steps, ..Self::default() };
            return;
        }
        let rate = elapsed_ns as f64 / elapsed as f64;
        self.rate = if self.rates == 0 { rate } else { self.rate + (rate - self.rate) * SMOOTHING };
        // It goes on from where it is, and some of the way to what was read.
        let correction =
            if self.rates == 0 { 0 } else { (error_ns as f64 * (1.0 - SMOOTHING)) as i64 };
        let said = unix_ns.saturating_add_signed(-correction);
        self.last = Some((ticks, said, unix_ns));
        self.error_ns = if self.rates == 0 { 0 } else { error_ns };
        self.rates = self.rates.saturating_add(1);
    }

    /// Since the last reading, which an `f64` holds to the ns; the time itself it would not.
    fn at(&self, ticks: u64) -> Option<u64> {
        let (at, said, _) = self.last?;
        let since = ticks.wrapping_sub(at) as i64 as f64 * self.rate;
        said.checked_add_signed(since.round() as i64)
    }

    /// ns since 1970 at a number of ticks; `None` until enough was read.
    #[inline]
    pub fn unix_ns(&self, ticks: u64) -> Option<u64> {
        if self.rates < RATES_MIN { None } else { self.at(ticks) }
    }

    /// Ticks a second, as measured; 0 until then.
    pub fn hz(&self) -> f64 {
        if self.rate > 0.0 { 1e9 / self.rate } else { 0.0 }
    }

    /// How far off the last reading was.
    pub fn error_ns(&self) -> i64 {
        self.error_ns
    }

    /// How often one of the two clocks was set.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_763_888_400_000_000_123;

    /// A device's clock: hz, and how much it drifts in parts of 10^9.
    fn ticks(hz: f64, drift: f64, elapsed_ns: u64) -> u64 {
        (elapsed_ns as f64 / 1e9 * hz * (1.0 + drift / 1e9)) as u64 + 77
    }

    #[test]
    fn any_frequency_is_followed_with_its_drift() {
        for (hz, drift) in [(1e9, 0.0), (1e9, 40_000.0), (156_250_000.0, -20_000.0), (78e6, 5.0)] {
            let mut clock = DeviceClock::default();
            assert_eq!(clock.unix_ns(5), None);
            let mut worst = 0;
            for i in 0..200u64 {
                let elapsed_ns = i * SAMPLE_INTERVAL_NS;
                // A reading is late by up to 2 us.
                let late_ns = i * 7919 % 2000;
                clock.sample(ticks(hz, drift, elapsed_ns), START_NS + elapsed_ns + late_ns);
                let then_ns = elapsed_ns + SAMPLE_INTERVAL_NS / 2;
                if i > 20 {
                    let said = clock.unix_ns(ticks(hz, drift, then_ns)).unwrap();
                    worst = said.abs_diff(START_NS + then_ns).max(worst);
                }
            }
            assert!(worst < 3000, "{hz} Hz, {drift}: off by {worst} ns");
            assert!((clock.hz() / hz - 1.0).abs() < 1e-4, "{} Hz", clock.hz());
            assert_eq!(clock.steps(), 0);
        }
    }

    #[test]
    fn a_rate_that_changes_is_followed() {
        let mut clock = DeviceClock::default();
        let mut device = 0u64;
        for i in 0..400u64 {
            // It warms up: a tenth of a part in a million more each time.
            device += SAMPLE_INTERVAL_NS + SAMPLE_INTERVAL_NS / 10_000_000 * i;
            clock.sample(device, START_NS + i * SAMPLE_INTERVAL_NS);
        }
        assert!(clock.error_ns().abs() < 200, "off by {} ns", clock.error_ns());
    }

    #[test]
    fn a_clock_that_is_set_begins_anew() {
        let mut clock = DeviceClock::default();
        let sample = |clock: &mut DeviceClock, i: u64, set: u64| {
            clock.sample(
                ticks(1e9, 0.0, i * SAMPLE_INTERVAL_NS) + set,
                START_NS + i * SAMPLE_INTERVAL_NS,
            );
        };
        (0..5).for_each(|i| sample(&mut clock, i, 0));
        assert!(clock.unix_ns(0).is_some());
        sample(&mut clock, 5, 1_000_000_000);
        assert_eq!((clock.unix_ns(0), clock.steps()), (None, 1));
        (6..9).for_each(|i| sample(&mut clock, i, 1_000_000_000));
        assert!(clock.unix_ns(ticks(1e9, 0.0, 9 * SAMPLE_INTERVAL_NS)).is_some());
        // And back, where a clock cannot go.
        sample(&mut clock, 9, 0);
        assert_eq!((clock.unix_ns(0), clock.steps()), (None, 2));
    }
}
