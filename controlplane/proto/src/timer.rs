//! The timers of a node.
//!
//! What belongs here: the one list of everything a node waits for, and the table that holds the deadlines.

/// Everything a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Timer {
    /// Send the next heartbeat. Always armed.
    Heartbeat,
    /// The primary has been silent for too long. Armed while a primary is followed or known.
    Detector,
    /// Stand for election, or look again whether one may. Armed while there is no primary.
    Stand,
    /// The campaign (pre-vote or vote) has failed. Armed during one.
    Campaign,
    /// Ask again those that have not answered. Armed during a campaign.
    Repeat,
    /// The lease of the primary voted against has ended: the vote may be sent. Armed while one is held back.
    VoteHold,
    /// Send `StepDown` again. Armed for a few rounds after the fence.
    StepDown,
    /// Announce again. Armed after the gate opened.
    Announce,
    /// The drain, or the wait for the successor, has taken too long. Armed during a switchover.
    Switchover,
    /// Ask the arbiter, again or anew. Armed while there is one.
    Arbiter,
}

impl Timer {
    const ALL: [Self; 10] = [
        Self::Heartbeat,
        Self::Detector,
        Self::Stand,
        Self::Campaign,
        Self::Repeat,
        Self::VoteHold,
        Self::StepDown,
        Self::Announce,
        Self::Switchover,
        Self::Arbiter,
    ];
}

/// One deadline per timer.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Timers([Option<u64>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at_ns: u64) {
        self.0[timer as usize] = Some(at_ns);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<u64> {
        self.0[timer as usize]
    }

    /// The earliest deadline.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes the earliest timer that is due.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Timer> {
        let due = Timer::ALL
            .into_iter()
            .filter_map(|timer| self.get(timer).map(|at_ns| (at_ns, timer)))
            .filter(|&(at_ns, _)| at_ns <= now_ns)
            .min_by_key(|&(at_ns, _)| at_ns)?;
        self.stop(due.1);
        Some(due.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_due_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Stand, 20);
        timers.set(Timer::Heartbeat, 10);
        assert_eq!(timers.next_ns(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(30), Some(Timer::Heartbeat));
        assert_eq!(timers.pop_due(30), Some(Timer::Stand));
        assert_eq!(timers.pop_due(30), None);
        assert_eq!(timers.next_ns(), None);
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, index);
        }
    }
}
