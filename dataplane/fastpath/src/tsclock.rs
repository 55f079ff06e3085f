//! The clocks of a connection's timestamp option (RFC 7323): the old primary's, as the client's
//! echoes show it, the clone's own, and how far the clone's must be moved when it serves.
//!
//! A TSval that goes back is dropped by the client. Two clones need not show the same clock: one
//! adopted the connection, another was restored with it, and their machines' clocks run apart.

use understudy_wire::tcp::{before, later};

use crate::MS;

/// A clock is judged by what was seen in this time and the one before it: rates differ.
const PERIOD_NS: u64 = 10_000 * MS;
/// An echo is at least as old as its way here, and as the acknowledgement that carries it waited (40 ms
/// with Linux): the old primary's clock was ahead of it. A planned switchover leaves no silence that
/// would make up for it. Being ahead costs nothing.
pub const ECHO_MS: u32 = 50;

/// The most that was seen lately.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    now: Option<u32>,
    before: Option<u32>,
    until_ns: u64,
}

impl Recent {
    fn note(&mut self, at_ns: u64, value: u32) {
        if at_ns >= self.until_ns {
            self.before = self.now.take();
            self.until_ns = at_ns + PERIOD_NS;
        }
        self.now = Some(self.now.map_or(value, |now| later(now, value)));
    }

    fn most(&self) -> Option<u32> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(later(now, before)),
            (now, before) => now.or(before),
        }
    }
}

/// What is known of a connection's clocks. Clocks are told as what they show less the milliseconds
/// of the clock beside which they were read.
#[derive(Clone, Copy, Debug, Default)]
pub struct TsClocks {
    /// The primary's, by the log's clock.
    primary: Recent,
    /// The clone's, by this node's.
    own: Recent,
    /// Since this node serves, until its own clock is known: what it must not be behind.
    floor: Option<u32>,
    shift: u32,
}

impl TsClocks {
    /// The client echoed a TSval of the primary in a frame that was stamped at `log_ns`.
    pub fn note_echo(&mut self, log_ns: u64, tsecr: u32) {
        self.primary.note(log_ns, tsecr.wrapping_sub(ms(log_ns)));
    }

    /// The clone's kernel sent a TSval, read at `now_ns`. The frame that was read soonest after it
    /// was sent says most. Gives by how much it must be moved before a client sees it.
    pub fn note_own(&mut self, now_ns: u64, tsval: u32) -> u32 {
        let ahead = tsval.wrapping_sub(ms(now_ns));
        self.own.note(now_ns, ahead);
        self.decide(ahead);
        self.shift
    }

    /// What the clone's clock shows now, moved; `None` before it has shown anything.
    pub fn shown(&self, now_ns: u64) -> Option<u32> {
        Some(self.own.most()?.wrapping_add(ms(now_ns)).wrapping_add(self.shift))
    }

    /// From here on this node serves; `log_now_ns`: the same moment on the log's clock.
    pub fn serve(&mut self, now_ns: u64, log_now_ns: u64) {
        let on_ours = ms(log_now_ns).wrapping_sub(ms(now_ns)).wrapping_add(ECHO_MS);
        self.floor = self.primary.most().map(|clock| clock.wrapping_add(on_ours));
        if let Some(own) = self.own.most() {
            self.decide(own);
        }
    }

    fn decide(&mut self, own: u32) {
        let Some(floor) = self.floor.take() else { return };
        if before(own, floor) {
            self.shift = floor.wrapping_sub(own);
        }
    }
}

fn ms(ns: u64) -> u32 {
    (ns / MS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_000_000 * MS;
    /// The log's clock is this far ahead of the node's.
    const LOG_NS: u64 = 77 * MS;

    /// The primary's TSval at a moment of the node's clock.
    fn primary(now_ns: u64) -> u32 {
        ms(now_ns).wrapping_add(u32::MAX - 500_000)
    }

    /// A clone whose clock is `ahead_ms` ahead of the primary's, after a while.
    fn served(ahead_ms: i32, quiet: bool) -> (TsClocks, u64) {
        let (mut clocks, mut now_ns) = (TsClocks::default(), START_NS);
        for n in 0..100 {
            now_ns += 7 * MS;
            // An echo is 1 to 40 ms old.
            clocks.note_echo(now_ns + LOG_NS, primary(now_ns).wrapping_sub(1 + n % 40));
            if !quiet {
                clocks.note_own(now_ns + MS, primary(now_ns).wrapping_add_signed(ahead_ms));
            }
        }
        clocks.serve(now_ns, now_ns + LOG_NS);
        (clocks, now_ns)
    }

    #[test]
    fn a_clock_that_is_behind_is_moved_just_ahead_and_one_that_is_ahead_stays() {
        for quiet in [false, true] {
            for ahead_ms in [-100_000, -20, -1, 0, 3, 50, 100_000] {
                let (mut clocks, now_ns) = served(ahead_ms, quiet);
                let kernel = primary(now_ns).wrapping_add_signed(ahead_ms);
                let sent = kernel.wrapping_add(clocks.note_own(now_ns, kernel));
                let beyond = sent.wrapping_sub(primary(now_ns)) as i32;
                assert!(beyond >= 0, "{ahead_ms} ms ahead: {beyond}");
                let least = ahead_ms.max(0);
                assert!(beyond <= least + ECHO_MS as i32 + 1, "{ahead_ms} ms ahead: {beyond}");
                assert_eq!(clocks.note_own(now_ns, kernel), clocks.shift, "decided once");
                assert!(clocks.shown(now_ns).is_some());
            }
        }
    }

    #[test]
    fn without_echoes_nothing_is_moved() {
        let mut clocks = TsClocks::default();
        assert_eq!(clocks.note_own(START_NS, 5), 0);
        clocks.serve(START_NS, START_NS);
        assert_eq!(clocks.note_own(START_NS, 5), 0);
    }

    #[test]
    fn a_clock_that_runs_slow_is_judged_by_what_it_shows_now() {
        let mut clocks = TsClocks::default();
        let mut now_ns = START_NS;
        // An hour, 400 ppm slow.
        for second in 0..3600u64 {
            now_ns = START_NS + second * 1_000 * MS;
            let slow_ns = now_ns - second * 400_000;
            clocks.note_echo(now_ns, primary(now_ns));
            clocks.note_own(now_ns, primary(slow_ns));
        }
        clocks.serve(now_ns, now_ns);
        let kernel = primary(now_ns - 3_599 * 400_000);
        let sent = kernel.wrapping_add(clocks.note_own(now_ns, kernel));
        let beyond = sent.wrapping_sub(primary(now_ns)) as i32;
        // What a period holds, the margin is less by.
        let margin = ECHO_MS as i32;
        assert!((margin - 13..=margin + 1).contains(&beyond), "{beyond}");
    }
}
