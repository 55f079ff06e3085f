//! What `top` shows: the newest status, and what happened between two of them. Sans-IO.

use std::collections::VecDeque;

use serde::Serialize;
use understudy_api::{LogView, NodeView, Role, Status, Takeover, Verdict, Waits};

/// Points of a curve that are kept.
pub const HISTORY_MAX: usize = 240;

/// The document of `top`: one look.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Look {
    /// Name of the node that was asked.
    pub node: String,
    /// What it is.
    pub role: Role,
    /// The epoch it is in.
    pub epoch: u64,
    /// Whether the service would survive the loss of any one node.
    pub verdict: Verdict,
    /// Why not.
    pub reasons: Vec<String>,
    /// Between the two statuses that the rates are of; 0 without a second one.
    pub interval_ms: u64,
    /// What happened in that time.
    pub rates: Rates,
    /// How long what left in that time had waited.
    pub waits: Waits,
    /// The capture log.
    pub log: LogView,
    /// Every node.
    pub nodes: Vec<NodeView>,
    /// The changes of the primary that this node knows of.
    pub takeovers: Vec<Takeover>,
}

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Client frames logged, as the primary.
    pub captured_frames: f64,
    /// Their bytes.
    pub captured_bytes: f64,
    /// Bytes by which the log grew, on any node.
    pub log_bytes: f64,
    /// Frames given to the application.
    pub delivered_frames: f64,
    /// Output that left.
    pub released_frames: f64,
    /// Of it, hundredths that did not wait; `None` if nothing left.
    pub zero_wait_percent: Option<f64>,
    /// Log sent again.
    pub retransmitted: f64,
}

/// A curve, newest last.
pub type Curve = VecDeque<u64>;

/// Everything that is shown, over time.
#[derive(Debug, Default)]
pub struct Model {
    status: Option<Status>,
    /// The newest look, if the daemon ever answered.
    pub look: Option<Look>,
    /// Why it did not answer the last time.
    pub silence: Option<String>,
    /// Output that left, a second.
    pub released: Curve,
    /// The longest wait at the gate of each interval, microseconds.
    pub longest_wait_us: Curve,
    /// Bytes by which the last of the others is behind.
    pub lag_bytes: Curve,
}

impl Model {
    /// Takes what the daemon answered, or why it did not.
    pub fn take(&mut self, answer: Result<Status, String>) {
        let status = match answer {
            Ok(status) => status,
            Err(why) => {
                self.silence = Some(why);
                return;
            }
        };
        self.silence = None;
        let look = look(&status, self.status.as_ref());
        push(&mut self.released, look.rates.released_frames.round() as u64);
        // What is beyond the last bound is shown as twice that.
        let longest = look.waits.total() > 0;
        let bounds = look.waits.bounds_ns.last().map_or(0, |last| last * 2);
        let longest_ns = look.waits.percentile_ns(100).unwrap_or(bounds);
        push(&mut self.longest_wait_us, if longest { longest_ns / 1000 } else { 0 });
        let lag = look.nodes.iter().filter(|n| n.alive).map(|n| n.lag_bytes).max();
        push(&mut self.lag_bytes, lag.unwrap_or(0));
        self.look = Some(look);
        self.status = Some(status);
    }
}

fn push(curve: &mut Curve, value: u64) {
    if curve.len() == HISTORY_MAX {
        curve.pop_front();
    }
    curve.push_back(value);
}

/// The status, and the rates since an earlier one of the same life of the daemon.
pub fn look(s: &Status, earlier: Option<&Status>) -> Look {
    let before = earlier.filter(|old| old.pid == s.pid && old.uptime_ms < s.uptime_ms);
    let interval_ms = before.map_or(0, |old| s.uptime_ms - old.uptime_ms);
    Look {
        node: s.node.clone(),
        role: s.role,
        epoch: s.epoch,
        verdict: s.verdict,
        reasons: s.reasons.clone(),
        interval_ms,
        rates: before.map(|old| rates(s, old, interval_ms)).unwrap_or_default(),
        waits: before.map(|old| s.gate.waits.since(&old.gate.waits)).unwrap_or_default(),
        log: s.log_view(),
        nodes: s.nodes(),
        takeovers: s.takeovers.clone(),
    }
}

fn rates(s: &Status, old: &Status, interval_ms: u64) -> Rates {
    let per_second =
        |new: u64, old: u64| new.saturating_sub(old) as f64 * 1000.0 / interval_ms.max(1) as f64;
    let counted = |name: &str| {
        let of = |s: &Status| s.counters.get(name).copied().unwrap_or_default();
        per_second(of(s), of(old))
    };
    let released = s.gate.released.saturating_sub(old.gate.released);
    let at_once = s.gate.released_zero_wait.saturating_sub(old.gate.released_zero_wait);
    Rates {
        captured_frames: counted("captured_frames"),
        captured_bytes: counted("captured_bytes"),
        log_bytes: per_second(s.log.end, old.log.end),
        delivered_frames: counted("delivered_frames"),
        released_frames: per_second(s.gate.released, old.gate.released),
        zero_wait_percent: (released > 0)
            .then(|| (at_once as f64 * 100.0 / released as f64).min(100.0)),
        retransmitted: counted("data_retransmitted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_api::{Gate, LogPositions};

    pub fn status(uptime_ms: u64, released: u64, counts: [u64; 3]) -> Status {
        let waits = Waits { bounds_ns: vec![1_000, 2_000], counts: counts.to_vec(), sum_ns: 1 };
        Status {
            node: "b".into(),
            pid: 7,
            uptime_ms,
            log: LogPositions { end: released * 10, ..LogPositions::default() },
            gate: Gate { released, released_zero_wait: released / 2, waits, ..Gate::default() },
            counters: [("captured_frames".to_owned(), released)].into(),
            ..Status::default()
        }
    }

    #[test]
    fn rates_are_per_second_of_the_daemons_time() {
        let mut model = Model::default();
        model.take(Ok(status(1000, 100, [100, 0, 0])));
        assert_eq!(model.look.as_ref().unwrap().interval_ms, 0);
        assert_eq!(model.look.as_ref().unwrap().rates, Rates::default());
        model.take(Ok(status(1500, 300, [250, 50, 0])));
        let look = model.look.as_ref().unwrap();
        assert_eq!((look.interval_ms, look.waits.counts.clone()), (500, vec![150, 50, 0]));
        assert_eq!((look.rates.captured_frames, look.rates.log_bytes), (400.0, 4000.0));
        assert_eq!(look.rates.zero_wait_percent, Some(50.0));
        assert_eq!(model.released, [0, 400]);
        assert_eq!(model.longest_wait_us, [0, 2]);
    }

    #[test]
    fn a_fresh_daemon_and_a_silent_one_are_no_rates() {
        let mut model = Model::default();
        model.take(Ok(status(90_000, 500, [500, 0, 0])));
        model.take(Err("no answer".into()));
        assert_eq!(model.silence.as_deref(), Some("no answer"));
        assert!(model.look.is_some(), "the last look stays");
        model.take(Ok(Status { pid: 8, ..status(100, 3, [3, 0, 0]) }));
        assert_eq!(model.look.as_ref().unwrap().rates, Rates::default());
        assert_eq!(model.silence, None);
    }

    #[test]
    fn curves_are_bounded_and_show_what_no_bucket_bounds() {
        let mut model = Model::default();
        for i in 0..HISTORY_MAX as u64 + 10 {
            model.take(Ok(status(1 + i, i, [0, 0, i])));
        }
        assert_eq!(model.released.len(), HISTORY_MAX);
        assert_eq!(model.longest_wait_us.back(), Some(&4));
    }
}
