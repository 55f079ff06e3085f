//! What a node is told once: the group, the times, and what the last life persisted.
//!
//! What belongs here: settings and the relations between them. Nothing that changes while a node runs.

use understudy_wire::{
    NodeId,
    control::{CONTROL_LEN_MAX, VOTERS_MAX},
};

use crate::io::Held;

/// The settings of one node. Times are in nanoseconds of the node's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node; one of the voters.
    pub me: NodeId,
    /// Every voter of the group, this node included.
    pub voters: Vec<NodeId>,
    /// Higher is preferred as primary among equals.
    pub priority: u8,
    /// Grows with each life of this node (wall-clock nanoseconds at start will do).
    pub incarnation: u64,
    /// All that the life before can have acknowledged, if it knew and ended by `ServiceCommand::Restart`, and nothing
    /// of it ran since. A node that knows what it lost may vote for whoever holds that.
    pub held: Option<Held>,
    /// A node that votes and holds no clone; it leads only to hand its log over.
    pub witness: bool,
    /// A group of two with an external arbiter: see [`crate::arbiter`].
    pub arbiter: bool,
    /// A primary that the arbiter names as the only one may serve alone.
    pub alone_allowed: bool,
    /// Between two heartbeats.
    pub heartbeat_interval_ns: u64,
    /// Silence on all paths for this long is a suspicion; nobody votes against a primary heard within it.
    pub suspect_after_ns: u64,
    /// How long after sending what a quorum acknowledged the dataplane may still transmit.
    pub lease_ns: u64,
    /// How long a node that starts waits for a primary or for the others.
    pub startup_grace_ns: u64,
    /// Between the candidates of two ranks.
    pub stagger_ns: u64,
    /// How long a campaign may take, and how long a voter waits for the one it voted for.
    pub election_timeout_ns: u64,
    /// How long a primary that stepped down does not stand again.
    pub hold_down_ns: u64,
    /// How long a planned switchover may drain, and then may take to find its new primary.
    pub switchover_limit_ns: u64,
    /// How long a primary may be without a lease that would have a successor, or hears nobody. More than a
    /// suspicion: followers that got no CPU for a moment must not cost a clone.
    pub unleased_limit_ns: u64,
    /// How long a primary may be without a lease that nobody could succeed: a new one whose followers may be
    /// restarting, or one that hears only nodes which could not serve.
    pub takeover_limit_ns: u64,
}

/// So long a thread may have to wait for a CPU.
const STARVED_NS: u64 = 100_000_000;

impl Config {
    /// Settings derived from the three times that matter.
    #[must_use]
    pub fn new(
        me: NodeId,
        voters: Vec<NodeId>,
        heartbeat_interval_ns: u64,
        suspect_after_ns: u64,
        lease_ns: u64,
    ) -> Self {
        let unleased_limit_ns = suspect_after_ns + (3 * suspect_after_ns).min(STARVED_NS);
        Self {
            me,
            voters,
            priority: 100,
            incarnation: 1,
            held: None,
            witness: false,
            arbiter: false,
            alone_allowed: false,
            heartbeat_interval_ns,
            suspect_after_ns,
            lease_ns,
            startup_grace_ns: 3 * suspect_after_ns,
            stagger_ns: suspect_after_ns / 2,
            election_timeout_ns: unleased_limit_ns.max(2 * suspect_after_ns),
            hold_down_ns: 10 * suspect_after_ns,
            switchover_limit_ns: 500_000_000,
            unleased_limit_ns,
            takeover_limit_ns: 30_000_000_000,
        }
    }

    /// Votes or acknowledgements needed, this node's included; the arbiter's consent counts as a vote.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Refuses settings that could not keep the promises.
    ///
    /// # Errors
    /// The first relation that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut voters = self.voters.clone();
        voters.sort_unstable();
        voters.dedup();
        if voters.len() != self.voters.len() || voters.first() == Some(&0) {
            return Err(ConfigError::Voters);
        }
        if voters.len() > VOTERS_MAX {
            return Err(ConfigError::TooManyVoters(voters.len()));
        }
        if !voters.contains(&self.me) {
            return Err(ConfigError::NotAVoter(self.me));
        }
        if self.arbiter && voters.len() != 2 || self.alone_allowed && !self.arbiter {
            return Err(ConfigError::Arbiter);
        }
        if self.lease_ns >= self.suspect_after_ns {
            return Err(ConfigError::Lease);
        }
        if self.heartbeat_interval_ns == 0 || self.heartbeat_interval_ns * 2 > self.suspect_after_ns
        {
            return Err(ConfigError::Heartbeat);
        }
        if self.stagger_ns == 0 || self.election_timeout_ns < self.suspect_after_ns {
            return Err(ConfigError::Election);
        }
        Ok(())
    }
}

/// Settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A voter is 0 or named twice.
    #[error("voters must be distinct and not 0")]
    Voters,
    /// More voters than a message can name.
    #[error("{0} voters; at most {VOTERS_MAX}")]
    TooManyVoters(usize),
    /// The node is not in its own group.
    #[error("node {0} is not among the voters")]
    NotAVoter(NodeId),
    /// An arbiter where there is a majority without it, or nobody to prove that a node is alone.
    #[error("an arbiter is for groups of two, and only with one may a node serve alone")]
    Arbiter,
    /// The lease could outlive the detection.
    #[error("lease_ns must be shorter than suspect_after_ns")]
    Lease,
    /// One lost heartbeat would be a suspicion.
    #[error("suspect_after_ns must hold at least two heartbeat intervals")]
    Heartbeat,
    /// Votes wait for the primary's lease to end, so a campaign must outlast it.
    #[error("election_timeout_ns must be at least suspect_after_ns, and stagger_ns not 0")]
    Election,
}

const _: () = assert!(VOTERS_MAX * 10 < CONTROL_LEN_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn derived_settings_are_valid() {
        for voters in [vec![1], vec![1, 2, 3], vec![1, 2, 3, 4, 5]] {
            assert_eq!(Config::new(1, voters, 10 * MS, 50 * MS, 40 * MS).validate(), Ok(()));
        }
    }

    #[test]
    fn contradictions_are_named() {
        let good = Config::new(1, vec![1, 2, 3], 10 * MS, 50 * MS, 40 * MS);
        let bad = |change: fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate()
        };
        assert_eq!(bad(|c| c.lease_ns = c.suspect_after_ns), Err(ConfigError::Lease));
        assert_eq!(bad(|c| c.me = 9), Err(ConfigError::NotAVoter(9)));
        assert_eq!(bad(|c| c.voters = vec![1, 1]), Err(ConfigError::Voters));
        assert_eq!(bad(|c| c.voters = (1..=17).collect()), Err(ConfigError::TooManyVoters(17)));
        assert_eq!(bad(|c| c.heartbeat_interval_ns = 30 * MS), Err(ConfigError::Heartbeat));
        assert_eq!(bad(|c| c.election_timeout_ns = 1), Err(ConfigError::Election));
    }
}
