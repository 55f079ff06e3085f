//! What `nodes`, `clones` and `log` show: parts of [`Status`], in the form that they have as JSON.

use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Restoring, Role, Status};

/// A node of the group, as the node that was asked sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Name of the node.
    pub name: String,
    /// Number of the node.
    pub id: u16,
    /// Whether it is the one that was asked.
    pub this: bool,
    /// What it is; `None` if it was never heard.
    pub role: Option<Role>,
    /// Whether it was heard within the detection time.
    pub alive: bool,
    /// Its clone could take over; of a primary or a witness: it does its part.
    pub ready: bool,
    /// Its epoch.
    pub epoch: u64,
    /// End of its log.
    pub position: u64,
    /// How far its log is behind the primary's.
    pub lag_bytes: u64,
    /// Whether output waits for it; `None` where this is not known: only a primary knows.
    pub in_commit_set: Option<bool>,
    /// Time since it was heard on the replica port.
    pub replica_path_ms: Option<u64>,
    /// Time since it was heard on the second path.
    pub second_path_ms: Option<u64>,
}

/// The clone of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneView {
    /// Name of the node.
    pub node: String,
    /// Whether it is the one that was asked.
    pub this: bool,
    /// What the node is; `None` if it was never heard.
    pub role: Option<Role>,
    /// Whether the clone could take over, or serves.
    pub ready: bool,
    /// Why not, where this is known: each node knows it of itself.
    pub not_ready_because: Vec<String>,
    /// It has been given the log up to here.
    pub applied: u64,
    /// Of the node's log it has not been given so much.
    pub behind_bytes: u64,
    /// Of this node: digests of the primary's output that its own matches.
    pub audit_same: Option<u64>,
    /// Of this node: digests that say other bytes.
    pub audit_diverged: Option<u64>,
    /// Of this node: the newest checkpoint it has taken.
    pub checkpoint: Option<Checkpoint>,
    /// Of this node: a checkpoint on its way, by which it becomes whole.
    pub restoring: Option<Restoring>,
}

/// The capture log of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogView {
    /// Name of the node.
    pub node: String,
    /// Its epoch.
    pub epoch: u64,
    /// Oldest position still in the log.
    pub start: u64,
    /// End of the log.
    pub end: u64,
    /// Highest position the commit policy's set has acknowledged.
    pub committed: u64,
    /// Delivered to the application up to here.
    pub applied: u64,
    /// Memory of the log.
    pub capacity_bytes: u64,
    /// Of it, in use.
    pub used_bytes: u64,
    /// Not yet committed.
    pub uncommitted_bytes: u64,
    /// Not yet delivered.
    pub not_applied_bytes: u64,
    /// Client frames that this node has logged as primary.
    pub captured_frames: u64,
    /// Their bytes.
    pub captured_bytes: u64,
    /// Client frames dropped because the log was full.
    pub dropped_full: u64,
    /// The other nodes' ends of it.
    pub peers: Vec<LogPeer>,
}

/// Where another node's log ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPeer {
    /// Name of the node.
    pub name: String,
    /// End of its log.
    pub position: u64,
    /// How far it is behind the primary's.
    pub lag_bytes: u64,
}

impl Status {
    /// Every node of the group, this one first.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        let i_lead = self.role == Role::Primary;
        let me = NodeView {
            name: self.node.clone(),
            id: self.node_id,
            this: true,
            role: Some(self.role),
            alive: true,
            ready: self.ready,
            epoch: self.epoch,
            position: self.log.end,
            ..NodeView::default()
        };
        let peers = self.peers.iter().map(|p| NodeView {
            name: p.name.clone(),
            id: p.id,
            this: false,
            role: p.role,
            alive: p.alive,
            ready: p.clone_ready && (p.electable || p.role == Some(Role::Primary)),
            epoch: p.epoch,
            position: p.position,
            lag_bytes: p.lag_bytes,
            in_commit_set: i_lead.then_some(p.in_commit_set),
            replica_path_ms: p.replica_path_ms,
            second_path_ms: p.second_path_ms,
        });
        std::iter::once(me).chain(peers).collect()
    }

    /// The clone of every node that may hold one, this one's first.
    #[must_use]
    pub fn clones(&self) -> Vec<CloneView> {
        let counter = |name: &str| self.counters.get(name).copied();
        let me = CloneView {
            node: self.node.clone(),
            this: true,
            role: Some(self.role),
            ready: self.ready,
            not_ready_because: self.not_ready_because.clone(),
            applied: self.log.applied,
            behind_bytes: self.log.end.saturating_sub(self.log.applied),
            audit_same: counter("audit_same"),
            audit_diverged: counter("audit_diverged"),
            checkpoint: self.checkpoints.as_ref().and_then(|c| c.newest.clone()),
            restoring: self.checkpoints.as_ref().and_then(|c| c.restoring.clone()),
        };
        let peers = self.peers.iter().map(|p| CloneView {
            node: p.name.clone(),
            role: p.role,
            ready: p.clone_ready,
            not_ready_because: (!p.alive).then(|| "it is not heard".into()).into_iter().collect(),
            applied: p.applied,
            behind_bytes: p.position.saturating_sub(p.applied),
            ..CloneView::default()
        });
        let all = std::iter::once(me).chain(peers);
        all.filter(|clone| clone.role != Some(Role::Witness)).collect()
    }

    /// The capture log.
    #[must_use]
    pub fn log_view(&self) -> LogView {
        let log = &self.log;
        let counter = |name: &str| self.counters.get(name).copied().unwrap_or_default();
        LogView {
            node: self.node.clone(),
            epoch: self.epoch,
            start: log.start,
            end: log.end,
            committed: log.committed,
            applied: log.applied,
            capacity_bytes: log.capacity_bytes,
            used_bytes: log.end.saturating_sub(log.start),
            uncommitted_bytes: log.end.saturating_sub(log.committed),
            not_applied_bytes: log.end.saturating_sub(log.applied),
            captured_frames: counter("captured_frames"),
            captured_bytes: counter("captured_bytes"),
            dropped_full: counter("log_full"),
            peers: self
                .peers
                .iter()
                .map(|p| LogPeer {
                    name: p.name.clone(),
                    position: p.position,
                    lag_bytes: p.lag_bytes,
                })
                .collect(),
        }
    }
}
