//! What a group is made of, where it is not just nodes that are all alike.

use understudy_wire::NodeId;

use crate::rng::Rng;
use crate::scenario::Fault;

/// A group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Voters.
    pub nodes: u16,
    /// The one that votes and acknowledges, and serves nobody.
    pub witness: Option<NodeId>,
    /// Replicas that must hold the cause of what is released, whoever was evicted: `commit.min`.
    pub min_replicas: usize,
    /// Two nodes and a register.
    pub arbiter: bool,
}

impl Group {
    /// Nodes that are all alike.
    pub fn of(nodes: u16) -> Group {
        Group { nodes, witness: None, min_replicas: usize::from(nodes) / 2, arbiter: false }
    }

    /// Any other one: with a witness, with more replicas than make a majority, or two with an arbiter.
    pub fn draw(rng: &mut Rng) -> Group {
        match rng.below(4) {
            0 => {
                let trio = Group::of(3);
                let min_replicas = if rng.percent(20) { 2 } else { trio.min_replicas };
                Group { witness: Some(rng.range(1, 3) as NodeId), min_replicas, ..trio }
            }
            1 => {
                let group = Group::of(rng.pick(&[3, 3, 5]));
                let (least, most) = (group.min_replicas as u64 + 1, u64::from(group.nodes) - 1);
                Group { min_replicas: rng.range(least, most) as usize, ..group }
            }
            _ => {
                let min_replicas = usize::from(rng.percent(30));
                Group { min_replicas, arbiter: true, ..Group::of(2) }
            }
        }
    }

    /// Votes or acknowledgements that make a majority.
    pub fn majority(&self) -> usize {
        usize::from(self.nodes) / 2 + 1
    }

    /// Nodes that must hold what a primary with replicas calls committed.
    pub fn holders(&self) -> usize {
        self.majority().max(self.min_replicas + 1)
    }

    /// Nodes without which nobody can lead.
    pub fn quorum(&self) -> usize {
        if self.arbiter { 1 } else { self.majority() }
    }

    /// As long as a quorum is left, the service is to go on.
    pub fn serves_with_quorum(&self) -> bool {
        self.min_replicas < self.quorum()
    }

    /// The primary may serve without the other node, if the register names it alone.
    pub fn alone_allowed(&self) -> bool {
        self.arbiter && self.min_replicas == 0
    }

    /// Whether there is anything at this node that can break so.
    pub fn can_suffer(&self, id: NodeId, fault: Fault) -> bool {
        use Fault::*;
        let of_service =
            matches!(fault, AppExit | SlowClone | ClientCarrier | ClientMute | ClientDeaf);
        match fault {
            CutArbiter => self.arbiter,
            _ => !of_service || self.witness != Some(id),
        }
    }
}
