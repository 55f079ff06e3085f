//! The arbiter's register as etcd keeps it, and what each node waits for from it.

use std::collections::BTreeMap;

use understudy_proto::arbiter::{ArbiterRequest, Register};
use understudy_wire::NodeId;

/// A request, told apart from equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which one.
    pub serial: u64,
    /// By which life of which node.
    pub by: (NodeId, u64),
    /// What is asked.
    pub request: ArbiterRequest,
}

/// The register.
#[derive(Debug, Default)]
pub struct Arbiter {
    /// What it holds.
    pub register: Option<Register>,
    revision: u64,
    asked: u64,
    waiting: BTreeMap<NodeId, u64>,
}

impl Arbiter {
    /// A node asks, and waits for the answer to this and to nothing before it.
    pub fn ask(&mut self, by: (NodeId, u64), request: ArbiterRequest) -> Ask {
        self.asked += 1;
        self.waiting.insert(by.0, self.asked);
        Ask { serial: self.asked, by, request }
    }

    /// Whether the node still waits for it: after an answer, it decides nothing more for it.
    pub fn is_awaited(&self, ask: &Ask) -> bool {
        self.waiting.get(&ask.by.0) == Some(&ask.serial)
    }

    /// It is answered. False: it was before, or another one has been asked since.
    pub fn answer(&mut self, ask: &Ask) -> bool {
        self.is_awaited(ask) && self.waiting.remove(&ask.by.0).is_some()
    }

    /// What a write depends on.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Writes, if nothing was written since that revision.
    pub fn write(&mut self, revision: u64, new: &Register) -> bool {
        let unchanged = self.revision == revision;
        if unchanged {
            self.revision += 1;
            self.register = Some(new.clone());
        }
        unchanged
    }

    /// Whether only this node is named.
    pub fn names_alone(&self, id: NodeId) -> bool {
        self.register.as_ref().is_some_and(|r| r.members == [id])
    }

    /// Whether so many are named.
    pub fn names(&self, count: usize) -> bool {
        self.register.as_ref().is_some_and(|r| r.members.len() == count)
    }
}
