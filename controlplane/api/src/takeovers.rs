//! Takeovers, as a node's timeline tells them.

use serde::{Deserialize, Serialize};

use crate::{Status, TimelineEvent};

/// A change of the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The reign that began.
    pub epoch: u64,
    /// When it was noticed here that one was needed, since 1970.
    pub unix_ns: u64,
    /// What was noticed.
    pub cause: String,
    /// Until this node's gate opened; `None` if it was not this node that took over.
    pub took_us: Option<u64>,
}

fn is_cause(e: &TimelineEvent) -> bool {
    e.event.starts_with("suspect") || e.event.starts_with("switchover")
}

impl Status {
    /// The events of the last takeover in [`Status::timeline`], oldest first.
    ///
    /// They are those of the newest epoch and, before them, what led to it: from
    /// the last event of the epoch before whose name begins with `suspect` or
    /// `switchover`, if there is one.
    #[must_use]
    pub fn last_takeover(&self) -> &[TimelineEvent] {
        let events = &self.timeline;
        let Some(epoch) = events.iter().map(|e| e.epoch).max() else { return events };
        let first = events.iter().position(|e| e.epoch == epoch).unwrap_or(0);
        &events[cause_of(events, first).unwrap_or(first)..]
    }
}

/// Every takeover that the events tell of, oldest first.
pub(crate) fn find(events: &[TimelineEvent]) -> Vec<Takeover> {
    let mut takeovers: Vec<Takeover> = Vec::new();
    for (first, event) in events.iter().enumerate() {
        if takeovers.last().is_some_and(|newest| event.epoch <= newest.epoch) {
            continue;
        }
        let begun = &events[cause_of(events, first).unwrap_or(first)];
        let opened = events[first..]
            .iter()
            .take_while(|e| e.epoch <= event.epoch)
            .find(|e| e.epoch == event.epoch && e.event == "gate_open");
        takeovers.push(Takeover {
            epoch: event.epoch,
            unix_ns: begun.unix_ns,
            cause: match begun.detail.is_empty() {
                true => begun.event.clone(),
                false => format!("{}: {}", begun.event, begun.detail),
            },
            took_us: opened.map(|e| e.unix_ns.saturating_sub(begun.unix_ns) / 1000),
        });
    }
    takeovers
}

/// Index of what led to the epoch that begins at `first`.
fn cause_of(events: &[TimelineEvent], first: usize) -> Option<usize> {
    let before = first.checked_sub(1).map(|i| events[i].epoch)?;
    events[..first].iter().rposition(|e| e.epoch == before && is_cause(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takeovers_are_found_in_the_timeline() {
        let event = |ms: u64, epoch: u64, event: &str| TimelineEvent {
            unix_ns: ms * 1_000_000,
            epoch,
            event: event.into(),
            detail: String::new(),
            ..TimelineEvent::default()
        };
        let timeline = vec![
            event(1, 1, "follow"),
            event(900, 1, "suspected"),
            event(1000, 1, "suspected"),
            event(1004, 2, "vote"),
            event(1009, 2, "gate_open"),
            event(5000, 2, "switchover_started"),
            event(5020, 4, "follow"),
        ];
        let found = find(&timeline);
        let brief: Vec<_> =
            found.iter().map(|t| (t.epoch, t.unix_ns / 1_000_000, t.took_us)).collect();
        assert_eq!(brief, [(1, 1, None), (2, 1000, Some(9000)), (4, 5000, None)]);
        assert_eq!(found[2].cause, "switchover_started");
        assert!(find(&[]).is_empty());
    }
}
