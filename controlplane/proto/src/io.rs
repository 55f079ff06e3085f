//! What goes into a node and what comes out of it.
//!
//! What belongs here: the values at the border between the node and its driver. No behaviour.

use arrayvec::ArrayVec;
use understudy_wire::{
    Epoch, NodeId, Position,
    control::{Control, History, VOTERS_MAX},
};

use crate::arbiter::ArbiterRequest;

/// The way a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// The replica port.
    Replica,
    /// The second path.
    Second,
}

/// The ways a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Paths {
    /// Both; the receiver takes the first.
    Both,
    /// The replica port only.
    Replica,
    /// The second path only.
    Second,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To {
    /// Every other voter.
    All,
    /// One node.
    One(NodeId),
}

/// The dataplane's state, reported every few milliseconds and on change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogState {
    /// The epoch it follows or leads, from the last `Follow` or `Lead` it carried out; 0 for none.
    pub epoch: Epoch,
    /// It leads that epoch.
    pub leading: bool,
    /// Epoch of the newest record; 0 with an empty log.
    pub log_epoch: Epoch,
    /// Oldest position still in the log.
    pub log_start: Position,
    /// Contiguous end of the log.
    pub position: Position,
    /// Committed position.
    pub committed: Position,
    /// What the clone has consumed.
    pub applied: Position,
    /// The newest epochs of the log, oldest first; the last one is `log_epoch`.
    pub history: History,
    /// It commits alone, by `DpCommand::Alone` (only while leading).
    pub alone: bool,
    /// The gate is open (only while leading).
    pub gate_open: bool,
    /// The transmit lease runs (only while leading).
    pub lease_valid: bool,
    /// Drained: client frames are no longer delivered and all delivered output has been released.
    pub drained: bool,
    /// When the last replication PDU (data or keep-alive) of the followed primary came; 0 for never.
    pub last_data_rx_ns: u64,
    /// The clone has consumed what it may, or so nearly that a takeover need not wait for it.
    pub clone_level: bool,
    /// The clone has not diverged.
    pub fit: bool,
    /// What each peer has acknowledged in this epoch (only while leading).
    pub peer_acked: ArrayVec<(NodeId, Position), VOTERS_MAX>,
}

/// What a node learns about its own machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalFact {
    /// The application runs in its capsule.
    AppReady,
    /// The application is gone.
    AppExited,
    /// The application was taken away, to be replaced by one that a checkpoint brings back.
    AppReplaced,
    /// `ServiceCommand::Restart` is done: the old application is dead and the log is empty. No report of the
    /// dataplane from before the reset may follow this.
    ServiceFresh,
    /// The client port's link.
    ClientLink(bool),
    /// The replica port's link.
    ReplicaLink(bool),
    /// Something that supervision watches is bad, or nothing is any more: others had better serve.
    Impaired(bool),
    /// An operator wants this node to serve nobody, or allows it again.
    Withdrawn(bool),
    /// A dataplane core makes no progress.
    DataplaneStuck,
    /// The driver's own loop was late.
    LoopOverran,
}

/// An order to the dataplane; carried out in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DpCommand {
    /// Acknowledge no epoch below this and append nothing of one; then report through `handle_promised`.
    Promise {
        /// The epoch promised to.
        epoch: Epoch,
    },
    /// Be a replica of this reign: cut the log if it is longer, then acknowledge in this epoch.
    Follow {
        /// The epoch.
        epoch: Epoch,
        /// Its primary.
        primary: NodeId,
        /// The log may not be longer than this (`u64::MAX`: as it is).
        cut: Position,
    },
    /// Append the epoch record; if it is to serve, finish applying and open the gate once committed in this epoch
    /// and leased.
    Lead {
        /// The epoch.
        epoch: Epoch,
        /// False: only replicate what the log holds, for someone else to take over.
        serve: bool,
    },
    /// Commit without any replica and without a lease, or with them again.
    Alone {
        /// The reign it is for.
        epoch: Epoch,
        /// Alone.
        on: bool,
    },
    /// Keep logging and replicating client frames, deliver none.
    Drain,
    /// Deliver again.
    Undrain,
    /// Drop what the gate holds; nothing leaves any more until a later `Lead`.
    Fence {
        /// The reign that ends.
        epoch: Epoch,
    },
    /// Send the gratuitous ARP / unsolicited neighbour advertisement once.
    Announce,
}

/// An order to the supervisor of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceCommand {
    /// Kill the application, empty the log, report `LocalFact::ServiceFresh`, start a fresh capsule, report `AppReady`.
    Restart {
        /// For the next life, if the process ends with this one: see `Config::held`.
        held: Option<Held>,
    },
}

/// Where a log ended: the reign it is of, and the position.
pub type Held = (Epoch, Position);

/// A mark on the time line of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimelineKind {
    /// The primary is silent on all paths.
    Suspicion,
    /// This node asks whether others would vote for it.
    PreVoteStarted,
    /// This node asks for votes.
    VoteStarted,
    /// This node voted.
    Voted,
    /// A majority voted for this node.
    ElectionWon,
    /// The campaign came to nothing.
    ElectionLost,
    /// The dataplane opened the gate.
    GateOpen,
    /// First announcement of the takeover.
    Announce,
    /// This node gives up its reign.
    SteppedDown,
    /// The dataplane confirmed that nothing leaves any more.
    Fenced,
    /// Another node's primary fenced itself.
    PeerSteppedDown,
    /// This node follows a new primary.
    FollowNew,
    /// This node cannot follow the primary.
    CannotJoin,
    /// The service is restarted from nothing.
    ServiceRestart,
    /// This node holds again what it may have acknowledged in an earlier life.
    Recovered,
    /// Every voter lost its log: the group starts from nothing.
    AllLost,
    /// The node's own loop was late.
    LoopOverran,
    /// A planned switchover began.
    SwitchoverStarted,
    /// The arbiter named this node as the only one: it serves without a replica.
    Alone,
    /// The other node holds everything again, and the arbiter knows.
    Shared,
    /// The arbiter said no.
    ArbiterRefused,
    /// The arbiter answers, or does not any more.
    Arbiter,
    /// This node leads only to hand its log over.
    Caretaker,
}

/// An event of the time line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimelineEvent {
    /// What happened.
    pub kind: TimelineKind,
    /// The epoch it concerns.
    pub epoch: Epoch,
    /// When, by the node's clock.
    pub at_ns: u64,
    /// For people.
    pub text: String,
}

/// What a node wants done, in order.
#[expect(clippy::large_enum_variant, reason = "drained one at a time; a box would allocate")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Send a message.
    Send {
        /// Whom to.
        to: To,
        /// Which way.
        paths: Paths,
        /// The sender's epoch, for the header.
        epoch: Epoch,
        /// The message.
        msg: Control,
    },
    /// Write this durably, then call `handle_persisted` with the epoch.
    Persist {
        /// The epoch.
        epoch: Epoch,
        /// The vote in it.
        voted_for: Option<NodeId>,
    },
    /// An order to the dataplane.
    Dataplane(DpCommand),
    /// Ask the arbiter, then call `handle_arbiter`, exactly once. At most one request is under way.
    Arbiter(ArbiterRequest),
    /// An order to the supervisor.
    Service(ServiceCommand),
    /// Something worth telling.
    Event(TimelineEvent),
    /// The planned switchover ended: the new primary, or why there is none.
    SwitchoverDone(Result<NodeId, String>),
}
