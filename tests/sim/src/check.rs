//! What must always hold of the logs and of what leaves: one history, committed before released,
//! one reign at a time.

use std::collections::BTreeMap;

use understudy_fastpath::command::{DataRole, Snapshot};
use understudy_log::CaptureLog;
use understudy_wire::{Epoch, NodeId, Position};

use crate::frames::SimFrame;

/// Which nodes hold these bytes at this position.
pub type Holders<'a> = dyn Fn(Position, &[u8]) -> Vec<NodeId> + 'a;

/// Whether a log holds these bytes at this position.
pub fn holds(log: &CaptureLog, from: Position, bytes: &[u8]) -> bool {
    log.bytes(from, from + bytes.len() as u64) == Some(bytes)
}

/// The one history, as its leaders committed it.
#[derive(Default)]
pub struct Truth {
    /// Its bytes.
    pub bytes: Vec<u8>,
    required: usize,
    compared: BTreeMap<NodeId, (u64, Position)>,
    leaders: BTreeMap<Epoch, NodeId>,
    elected: BTreeMap<Epoch, NodeId>,
    opened: Epoch,
    released: (Epoch, NodeId),
    /// The newest frame of each life's capsule that left.
    last_sent: BTreeMap<(NodeId, u64), u64>,
    /// Frames that left.
    pub frames_released: u64,
}

impl Truth {
    /// Nothing committed yet. `required`: nodes that must hold what is.
    pub fn new(required: usize) -> Truth {
        Truth { required, ..Truth::default() }
    }

    /// How much is committed.
    pub fn len(&self) -> Position {
        self.bytes.len() as Position
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Newest reign that released anything.
    pub fn released_epoch(&self) -> Epoch {
        self.released.0
    }

    /// A node says that it has won an epoch: the only one ever, even if it reigns for no time at all.
    pub fn won(&mut self, id: NodeId, epoch: Epoch) -> Result<(), String> {
        match *self.elected.entry(epoch).or_insert(id) {
            first if first == id => Ok(()),
            first => Err(format!("epoch {epoch} was won by node {first} and node {id}")),
        }
    }

    /// A node's data path has moved.
    pub fn observe(
        &mut self,
        id: NodeId,
        life: u64,
        s: &Snapshot,
        log: &CaptureLog,
        holders: &Holders<'_>,
    ) -> Result<(), String> {
        if let DataRole::Lead(epoch) = s.role {
            let first = *self.leaders.entry(epoch).or_insert(id);
            if first != id {
                return Err(format!("epoch {epoch} is led by node {first} and node {id}"));
            }
            self.extend(id, epoch, s, log, holders)?;
            if s.gate_open && epoch > self.opened {
                self.opened = epoch;
                self.covers(id, epoch, log)?;
            }
        }
        self.compare(id, life, s, log)?;
        if matches!(s.role, DataRole::Follow(_)) && s.applied > self.len() {
            return Err(format!(
                "node {id} fed its clone up to {}, committed is {}",
                s.applied,
                self.len()
            ));
        }
        Ok(())
    }

    /// The leader says that more is committed.
    fn extend(
        &mut self,
        id: NodeId,
        epoch: Epoch,
        s: &Snapshot,
        log: &CaptureLog,
        holders: &Holders<'_>,
    ) -> Result<(), String> {
        let (from, to) = (self.len(), s.committed);
        if to <= from {
            return Ok(());
        }
        let Some(bytes) = log.bytes(from, to) else {
            return Err(format!("node {id} committed up to {to} but does not hold {from}..{to}"));
        };
        let holders = holders(from, bytes);
        if holders.len() < if s.alone { 1 } else { self.required } {
            return Err(format!(
                "node {id} in epoch {epoch} calls {from}..{to} committed, but only {holders:?} hold it"
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Who opens a gate holds all that was ever committed.
    fn covers(&self, id: NodeId, epoch: Epoch, log: &CaptureLog) -> Result<(), String> {
        let from = log.start().min(self.len());
        if log.bytes(from, self.len()) == Some(&self.bytes[from as usize..]) {
            return Ok(());
        }
        Err(format!("node {id} opens epoch {epoch} without all of the {} committed", self.len()))
    }

    /// What a node believes committed is the one history.
    fn compare(
        &mut self,
        id: NodeId,
        life: u64,
        s: &Snapshot,
        log: &CaptureLog,
    ) -> Result<(), String> {
        let entry = self.compared.entry(id).or_insert((life, 0));
        if entry.0 != life {
            *entry = (life, 0);
        }
        entry.1 = entry.1.min(s.committed);
        let (from, to) = (entry.1.max(log.start()), s.committed.min(log.end()));
        if to <= from {
            return Ok(());
        }
        entry.1 = to;
        let want = self.bytes.get(from as usize..to as usize);
        if want.is_none() || log.bytes(from, to) != want {
            return Err(format!(
                "node {id} holds {from}..{to} as committed, which is not the history (its length: {})",
                self.bytes.len()
            ));
        }
        Ok(())
    }

    /// Frames left a node's client port.
    pub fn release(
        &mut self,
        (id, life): (NodeId, u64),
        role: DataRole,
        frames: &[SimFrame],
    ) -> Result<(), String> {
        if frames.is_empty() {
            return Ok(());
        }
        let DataRole::Lead(epoch) = role else {
            return Err(format!("node {id} released output as {role:?}"));
        };
        if epoch < self.released.0 {
            return Err(format!(
                "node {id} released output in epoch {epoch} after node {} did in epoch {}",
                self.released.1, self.released.0
            ));
        }
        self.released = (epoch, id);
        self.frames_released += frames.len() as u64;
        for frame in frames {
            if let Some(cause) = frame.cause.filter(|cause| *cause > self.len()) {
                return Err(format!(
                    "node {id} released output caused by {cause}, committed is {}",
                    self.len()
                ));
            }
            // What the data path makes itself has no number.
            let last = self.last_sent.entry((id, life)).or_default();
            if frame.nth > 0 && frame.nth < *last {
                return Err(format!(
                    "node {id} released frame {} of its capsule after frame {last}",
                    frame.nth
                ));
            }
            *last = frame.nth.max(*last);
        }
        Ok(())
    }
}
