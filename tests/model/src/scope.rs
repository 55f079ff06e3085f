//! What is explored: the bounds of a model, and the rule that is broken on purpose.
//!
//! What belongs here: numbers and their names. No behaviour.

use understudy_fastpath::MS;
use understudy_fastpath::sender::{CommitPolicy, SenderConfig};
use understudy_proto::Config;
use understudy_wire::NodeId;

/// The unit of time. Shorter than every constant of the protocol that counts seconds, longer than those that only
/// pace repetition within a round trip (2 to 10 ms), so both kinds behave as they do in a real group.
pub const TICK_NS: u64 = 100 * MS;
/// All clocks show this at first; 0 would mean "never" to the protocol.
pub const START_NS: u64 = 1000 * TICK_NS;
/// Silence that is a suspicion, in ticks.
const SUSPECT_TICKS: u64 = 3;
/// How long an acknowledgement allows output, in ticks.
const LEASE_TICKS: u64 = 2;

/// A rule that is broken, to see that the exploration notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Planted {
    /// None.
    #[default]
    Nothing,
    /// A candidate needs one vote less than a majority.
    VoteQuorum,
    /// A commit needs one node less than a majority.
    CommitQuorum,
    /// Votes and epochs are not written to disk.
    ForgottenVote,
    /// A promise is reported and not kept.
    SkippedPromise,
    /// The lease outlives the silence that makes a suspicion.
    LongLease,
    /// A primary's clock stands still while it does.
    StoppedClock,
    /// The arbiter writes whatever the register holds meanwhile.
    BlindWrite,
}

/// The bounds of one exploration. Everything that can happen within them is explored.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Nodes; 2 means a group with an arbiter.
    pub nodes: NodeId,
    /// Begin with nodes that just started, not with a settled reign.
    pub cold: bool,
    /// How long, from the beginning.
    pub ticks: u8,
    /// Nodes that crash, in total.
    pub crashes: u8,
    /// Nodes that stand still, in total.
    pub pauses: u8,
    /// Times that a node is cut off from the others.
    pub cuts: u8,
    /// Frames that clients send.
    pub frames: u8,
    /// Messages delivered twice.
    pub duplicates: u8,
    /// Messages that do not arrive within the tick they were sent in, in total: they come later, or never.
    pub late: u8,
    /// How many ticks such a message may be on its way; after that it is lost.
    pub delay_ticks: u8,
    /// Messages on their way at most; what is sent beyond is lost.
    pub in_flight: usize,
    /// Who must hold the cause before output leaves.
    pub policy: CommitPolicy,
    /// The broken rule.
    pub planted: Planted,
}

impl Scope {
    /// The same bounds with a broken rule.
    #[must_use]
    pub fn planted(self, planted: Planted) -> Scope {
        Scope { planted, ..self }
    }

    /// Whether a replica that leaves the commit set makes a difference.
    pub fn evicts(&self) -> bool {
        self.policy == CommitPolicy::All
    }

    /// The group.
    pub fn voters(&self) -> Vec<NodeId> {
        (1..=self.nodes).collect()
    }

    /// The settings of a node in its `life`-th life.
    pub fn node(&self, me: NodeId, life: u64) -> Config {
        let (suspect_ns, lease_ns) = (SUSPECT_TICKS * TICK_NS, LEASE_TICKS * TICK_NS);
        Config {
            incarnation: life,
            arbiter: self.nodes == 2,
            alone_allowed: self.nodes == 2,
            election_timeout_ns: 4 * TICK_NS,
            stagger_ns: TICK_NS,
            hold_down_ns: 6 * TICK_NS,
            switchover_limit_ns: 6 * TICK_NS,
            unleased_limit_ns: suspect_ns + TICK_NS,
            takeover_limit_ns: 10 * TICK_NS,
            ..Config::new(me, self.voters(), TICK_NS, suspect_ns, lease_ns)
        }
    }

    /// The settings of a primary's sender.
    pub fn sender(&self) -> SenderConfig {
        let lease_ticks = if self.planted == Planted::LongLease { 12 } else { LEASE_TICKS };
        let voters = usize::from(self.nodes);
        SenderConfig {
            policy: self.policy,
            voters: if self.planted == Planted::CommitQuorum { voters - 2 } else { voters },
            min_replicas: if self.nodes == 2 { 0 } else { 1 },
            lease_ns: lease_ticks * TICK_NS,
            evict_after_ns: 4 * TICK_NS,
            heartbeat_interval_ns: TICK_NS,
            chunk_len: 1024,
        }
    }
}

const BASE: Scope = Scope {
    name: "",
    about: "",
    nodes: 3,
    cold: false,
    ticks: 0,
    crashes: 0,
    pauses: 0,
    cuts: 0,
    frames: 0,
    duplicates: 0,
    late: 1,
    delay_ticks: 2,
    in_flight: 6,
    policy: CommitPolicy::Quorum,
    planted: Planted::Nothing,
};

const ELECTION: Scope = Scope {
    name: "election",
    about: "three nodes that just started; one may be cut off",
    cold: true,
    ticks: 4,
    cuts: 1,
    late: 0,
    ..BASE
};
const CUT: Scope = Scope {
    name: "cut",
    about: "a reign; one node is cut off and comes back; a client's frame",
    ticks: 7,
    cuts: 1,
    frames: 1,
    late: 0,
    delay_ticks: 4,
    ..BASE
};
const PAUSE: Scope = Scope {
    name: "pause",
    about: "a reign; one node stands still and goes on; a client's frame",
    ticks: 7,
    pauses: 1,
    frames: 1,
    late: 0,
    ..BASE
};
const EVICTION: Scope = Scope {
    name: "eviction",
    about: "commit = all: a replica dies, leaves the set and returns; a client's frame",
    ticks: 8,
    crashes: 1,
    frames: 1,
    late: 0,
    policy: CommitPolicy::All,
    ..BASE
};
const ARBITER: Scope = Scope {
    name: "arbiter",
    about: "two nodes and an arbiter whose writes come late and whose answers are lost",
    nodes: 2,
    ticks: 6,
    cuts: 1,
    frames: 1,
    ..BASE
};
/// A crash and a cut together: too much for a test, enough to find what needs both.
pub const CRASH: Scope = Scope {
    name: "crash",
    about: "a reign; one node dies and returns, one is cut off and comes back; a client's frame",
    ticks: 6,
    crashes: 1,
    cuts: 1,
    frames: 1,
    ..BASE
};

/// What a test can afford.
pub const QUICK: [Scope; 5] = [ELECTION, CUT, PAUSE, EVICTION, ARBITER];

/// What takes minutes.
pub const LARGE: [Scope; 6] = [
    Scope { ticks: 5, ..ELECTION },
    Scope { ticks: 8, ..CUT },
    Scope { ticks: 8, ..PAUSE },
    Scope { ticks: 9, frames: 2, ..EVICTION },
    ARBITER,
    Scope { ticks: 5, late: 0, ..CRASH },
];
