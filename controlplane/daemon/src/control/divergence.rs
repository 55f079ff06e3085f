//! A clone that has left the primary's way: what is told of it, and when it is made anew. An
//! application that never does twice the same would be made anew for ever: that is told, too, and
//! its checkpoints become rare.

use understudy_fastpath::audit::Divergence;

use super::*;

/// So often within the period, and it is the application.
const OFTEN: usize = 3;
const PERIOD_NS: u64 = 3_600_000 * MS;
/// Other clones may have gone the same way, and know soon: none of theirs is asked for before.
const SETTLE_NS: u64 = 300 * MS;
/// Between two checkpoints for such an application; doubled with each, up to the last.
const RARELY_FIRST_NS: u64 = 60_000 * MS;
const RARELY_LAST_NS: u64 = 900_000 * MS;
/// What changes nothing is told at most so often.
const TELL_NS: u64 = 60_000 * MS;
const TIMES_MAX: usize = 16;
const LATE: &str = "its output is later than service.clone_wait_ms";

/// How often the clone diverged lately.
#[derive(Default)]
pub(super) struct Divergences {
    times: VecDeque<u64>,
    /// It is in one now, since the last of the times.
    under_way: bool,
    /// Where, if it was the audit that noticed.
    found: Option<String>,
    told_ns: Option<u64>,
    untold: u64,
}

impl Divergences {
    /// The clone is unfit. True when that is new.
    fn begin(&mut self, now_ns: u64) -> bool {
        self.times.retain(|at| now_ns < at + PERIOD_NS);
        if std::mem::replace(&mut self.under_way, true) {
            return false;
        }
        if self.times.len() == TIMES_MAX {
            self.times.pop_front();
        }
        self.times.push_back(now_ns);
        true
    }

    /// It follows again.
    pub(super) fn over(&mut self) {
        if std::mem::take(&mut self.under_way) {
            self.found = None;
        }
    }

    fn is_often(&self) -> bool {
        self.times.len() >= OFTEN
    }

    /// When a checkpoint may be asked for.
    fn until_ns(&self) -> u64 {
        let wait_ns = match self.times.len().checked_sub(OFTEN) {
            None => SETTLE_NS,
            Some(more) => (RARELY_FIRST_NS << more.min(8)).min(RARELY_LAST_NS),
        };
        self.times.back().map_or(0, |at| at + wait_ns)
    }

    fn last(&self) -> &str {
        self.found.as_deref().unwrap_or(LATE)
    }

    /// Why the clone stays unfit for a while.
    pub(super) fn reason(&self, now_ns: u64) -> Option<String> {
        let wait_ns = self.until_ns().saturating_sub(now_ns);
        (self.under_way && self.is_often()).then(|| {
            format!(
                "the application is not deterministic: its clone left the primary's way {} times \
                 within an hour (last: {}); the next checkpoint in {} s, see service.audit",
                self.times.len(),
                self.last(),
                wait_ns.div_ceil(1_000 * MS),
            )
        })
    }

    /// What is told of what the audit found, unless that was told a moment ago.
    fn tell(&mut self, now_ns: u64, unfit: bool, text: String) -> Option<String> {
        let recent = self.told_ns.is_some_and(|at| now_ns < at + TELL_NS);
        if recent && !unfit {
            self.untold += 1;
            return None;
        }
        self.told_ns = Some(now_ns);
        Some(match std::mem::take(&mut self.untold) {
            0 => text,
            more => format!("{text}; {more} more times since it was last told"),
        })
    }
}

impl Control {
    /// The audit has found other bytes.
    pub(super) fn diverged(&mut self, now_ns: u64, d: &Divergence, unfit: bool) {
        let ends = |(ip, port)| std::net::SocketAddr::new(ip, port);
        let (client, server) = (ends(d.key.client), ends(d.key.server));
        let bytes = d.to.wrapping_sub(d.from);
        let text = format!(
            "to {client} from {server}: other bytes than the primary's within the {bytes} from \
             sequence number {} to {}",
            d.from, d.to
        );
        if unfit {
            self.divergences.found = Some(text.clone());
        }
        if let Some(text) = self.divergences.tell(now_ns, unfit, text) {
            let epoch = self.node.view(now_ns).epoch;
            self.note(now_ns, epoch, "diverged", text);
        }
    }

    /// Whether an unfit clone may be made anew now.
    pub(super) fn may_heal(&mut self, now_ns: u64, epoch: Epoch) -> bool {
        if self.divergences.begin(now_ns)
            && let Some(text) = self.divergences.reason(now_ns)
        {
            self.note(now_ns, epoch, "not_deterministic", text);
        }
        now_ns >= self.divergences.until_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000 * MS;

    /// Diverges again as soon as it is made anew; gives when that was.
    fn always(hours: u64) -> Vec<u64> {
        let (mut d, mut healed) = (Divergences::default(), Vec::new());
        for now_s in 0..hours * 3600 {
            d.begin(now_s * S);
            if now_s * S >= d.until_ns() {
                healed.push(now_s);
                d.over();
            }
        }
        healed
    }

    #[test]
    fn an_application_that_always_differs_is_rarely_made_anew() {
        let healed = always(10);
        assert!(healed[1] < 5, "the first times it is made anew at once: {healed:?}");
        let in_hour = |h: u64| healed.iter().filter(|at| **at / 3600 == h).count();
        assert!((0..10).all(|h| in_hour(h) <= 9 && in_hour(h) >= 4), "{healed:?}");
    }

    #[test]
    fn it_says_so_while_it_waits() {
        let mut d = Divergences::default();
        for n in 0..OFTEN as u64 {
            assert_eq!(d.reason(n * S), None);
            assert!(d.begin(n * S) && !d.begin(n * S));
            if n + 1 < OFTEN as u64 {
                d.over();
            }
        }
        let text = d.reason(3 * S).unwrap();
        assert!(text.contains("not deterministic") && text.contains("3 times"), "{text}");
        assert!(text.contains(LATE) && text.contains("59 s"), "{text}");
        d.over();
        assert_eq!(d.reason(4 * S), None);
    }

    #[test]
    fn what_changes_nothing_is_told_once_a_minute() {
        let mut d = Divergences::default();
        let mut told = Vec::new();
        for s in 0..150 {
            told.extend(d.tell(s * S, false, "x".into()));
        }
        assert_eq!(
            told,
            [
                "x",
                "x; 59 more times since it was last told",
                "x; 59 more times since it was last told"
            ]
        );
    }
}
