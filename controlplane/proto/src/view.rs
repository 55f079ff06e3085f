//! What a node shows of itself.
//!
//! What belongs here: plain values for status and metrics.

use understudy_wire::{
    Epoch, NodeId, Position,
    control::{History, Role},
};

use crate::arbiter::Register;

/// The state of a node at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// What it is.
    pub role: Role,
    /// Its epoch.
    pub epoch: Epoch,
    /// The primary it follows or is.
    pub primary: Option<NodeId>,
    /// It lost its log and must catch up before it counts.
    pub recovering: bool,
    /// The gate is open.
    pub gate_open: bool,
    /// End of its log.
    pub position: Position,
    /// Committed position.
    pub committed: Position,
    /// What the clone has consumed.
    pub applied: Position,
    /// The other voters.
    pub peers: Vec<PeerView>,
    /// The external arbiter, if the group has one.
    pub arbiter: Option<ArbiterView>,
    /// Why this node could not take over; empty if it could (or leads).
    pub not_ready_because: Vec<String>,
    /// The log of the primary that it follows or wants to.
    pub primary_log: Option<PrimaryLog>,
    /// What it needs to be whole again, if the log alone does not do.
    pub needs_checkpoint: Option<NeedsCheckpoint>,
}

/// What a primary last said of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryLog {
    /// It begins here.
    pub start: Position,
    /// And ends here.
    pub position: Position,
    /// Its newest reigns.
    pub history: History,
}

/// A checkpoint would make this node whole, one from which on the primary has the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsCheckpoint {
    /// The clone has left the primary's way: only a checkpoint of another node's is of use.
    pub diverged: bool,
    /// What a clone that diverged, or is gone, has consumed, which must not be repeated; otherwise 0.
    pub applied: Position,
}

/// The external arbiter, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArbiterView {
    /// Whether it answered the last time; `None` before the first answer.
    pub reachable: Option<bool>,
    /// What the register was last read to hold.
    pub register: Option<Register>,
    /// This node serves alone.
    pub alone: bool,
}

/// One of the other voters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Who.
    pub id: NodeId,
    /// Heard within the suspicion time, on any path.
    pub alive: bool,
    /// Time since its last heartbeat on the replica port.
    pub replica_age_ns: Option<u64>,
    /// Time since its last heartbeat on the second path.
    pub second_age_ns: Option<u64>,
    /// Its epoch.
    pub epoch: Epoch,
    /// What it says it is.
    pub role: Role,
    /// End of its log.
    pub position: Position,
    /// What its clone has consumed.
    pub applied: Position,
    /// Its clone is ready.
    pub clone_ready: bool,
    /// It must catch up before it counts.
    pub recovering: bool,
    /// It would stand in an election.
    pub electable: bool,
    /// Its client port has a link.
    pub client_link_up: bool,
    /// Its replica port has a link.
    pub replica_link_up: bool,
}
