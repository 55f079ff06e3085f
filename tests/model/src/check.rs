//! What must always hold, and what must be reached for that to mean anything.
//!
//! What belongs here: the history that no single state shows, and the properties over both.

use stateright::Property;
use understudy_fastpath::sender::EvictCause;
use understudy_wire::{Epoch, NodeId, Position};

use crate::Group;
use crate::plane::{Role, history};
use crate::world::World;

/// What was seen on the way to a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Witnessed {
    /// Who led which epoch.
    leaders: Vec<(Epoch, NodeId)>,
    /// Everything that was ever committed.
    committed: Vec<u8>,
    /// Output caused by everything before this has left.
    released: Position,
    /// What was broken in the step just taken.
    broken: u8,
}

/// The promises that a step can break.
#[derive(Clone, Copy)]
enum Promise {
    OneLeader = 1,
    LeaderHoldsAll = 2,
    SameHistory = 4,
    HeldByMajority = 8,
    NothingLost = 16,
}

impl Witnessed {
    /// Before each step.
    pub fn begin(&mut self) {
        self.broken = 0;
    }

    fn breaks(&mut self, promise: Promise) {
        self.broken |= promise as u8;
    }

    fn kept(&self, promise: Promise) -> bool {
        self.broken & promise as u8 == 0
    }
}

impl World {
    pub(crate) fn witness_leader(&mut self, epoch: Epoch, id: NodeId) {
        // It may win late: only what older epochs committed must be there.
        let newer = history(&self.witnessed.committed);
        let newer = newer.iter().find(|entry| entry.epoch >= epoch);
        let older = newer.map_or(self.witnessed.committed.len(), |entry| entry.start as usize);
        let whole = self.machine(id).plane.bytes.starts_with(&self.witnessed.committed[..older]);
        if !whole {
            self.witnessed.breaks(Promise::LeaderHoldsAll);
        }
        match self.witnessed.leaders.iter().find(|(led, _)| *led == epoch) {
            Some((_, who)) if *who != id => self.witnessed.breaks(Promise::OneLeader),
            Some(_) => {}
            None => self.witnessed.leaders.push((epoch, id)),
        }
    }

    pub(crate) fn witness_commit(&mut self, id: NodeId) {
        let plane = &self.machine(id).plane;
        let certain = match &plane.role {
            // What older epochs left is committed with the first record of this one.
            Role::Lead(r) if r.sender.committed() >= r.opened_at => r.sender.committed(),
            _ => return,
        };
        let bytes = plane.bytes[..certain as usize].to_vec();
        let known = &self.witnessed.committed;
        if bytes.len() > known.len() {
            if !bytes.starts_with(known) {
                self.witnessed.breaks(Promise::SameHistory);
            }
            self.witnessed.committed = bytes;
        } else if !known.starts_with(&bytes) {
            self.witnessed.breaks(Promise::SameHistory);
        }
    }

    pub(crate) fn witness_release(&mut self, id: NodeId, position: Position) {
        let plane = &self.machine(id).plane;
        let cause = plane.bytes[..position as usize].to_vec();
        let alone = matches!(&plane.role, Role::Lead(r) if r.sender.is_alone());
        if !self.witnessed.committed.starts_with(&cause) {
            self.witnessed.breaks(Promise::SameHistory);
        }
        // One that lost its log since may have held it: what it votes for is what then counts.
        let holds = |m: &&std::sync::Arc<crate::machine::Machine>| {
            m.plane.bytes.starts_with(&cause) || m.life > 1 || m.node.is_none()
        };
        let holders = self.machines.iter().filter(holds).count();
        if !alone && holders < self.machines.len() / 2 + 1 {
            self.witnessed.breaks(Promise::HeldByMajority);
        }
        self.witnessed.released = self.witnessed.released.max(position);
    }

    pub(crate) fn witness_all_lost(&mut self, id: NodeId) {
        // Whoever serves alone, by its operator's leave, takes everything with it.
        let alone = self.arbiter.register.as_ref().is_some_and(|r| r.members == [id]);
        if self.witnessed.released > 0 && !alone {
            self.witnessed.breaks(Promise::NothingLost);
        }
        self.witnessed.committed.clear();
        self.witnessed.released = 0;
    }

    /// Nodes that could put a frame on the clients' network at this moment.
    fn transmitters(&self) -> impl Iterator<Item = &crate::machine::Machine> {
        self.machines.iter().map(AsRef::as_ref).filter(|m| m.may_transmit(self.now_ns))
    }

    /// Some reign in which `wanted` holds.
    fn reigns(&self, wanted: impl Fn(&crate::plane::Reign) -> bool) -> bool {
        self.machines.iter().any(|m| matches!(&m.plane.role, Role::Lead(r) if wanted(r)))
    }

    /// A replica's log that agrees with what was committed as far as it calls it committed.
    fn replicas_agree(&self) -> bool {
        self.machines.iter().filter(|m| m.follows()).all(|m| {
            let certain = &m.plane.bytes[..m.plane.committed as usize];
            let known = &self.witnessed.committed;
            let common = certain.len().min(known.len());
            certain[..common] == known[..common]
        })
    }
}

/// The properties of a group with these bounds.
pub fn properties(group: &Group) -> Vec<Property<Group>> {
    let mut all = vec![
        Property::<Group>::always("one node transmits at a time", |_, w| {
            w.transmitters().count() <= 1
        }),
        Property::<Group>::always("one leader an epoch", |_, w| {
            w.witnessed.kept(Promise::OneLeader)
        }),
        Property::<Group>::always("a leader holds all that was committed", |_, w| {
            w.witnessed.kept(Promise::LeaderHoldsAll)
        }),
        Property::<Group>::always("committed logs agree", |_, w| {
            w.witnessed.kept(Promise::SameHistory) && w.replicas_agree()
        }),
        Property::<Group>::always("what was released is held by a majority", |_, w| {
            w.witnessed.kept(Promise::HeldByMajority)
        }),
        Property::<Group>::always("nothing released is declared lost", |_, w| {
            w.witnessed.kept(Promise::NothingLost)
        }),
        Property::<Group>::sometimes("a node serves", |_, w| w.transmitters().count() == 1),
    ];
    let scope = &group.scope;
    if scope.frames > 0 {
        all.push(Property::<Group>::sometimes("output is released", |_, w| {
            w.witnessed.released > 0
        }));
    }
    if !scope.cold {
        all.push(Property::<Group>::sometimes("another node takes over", |_, w| {
            w.witnessed.leaders.len() > 1 && w.transmitters().any(|m| m.plane.promised() > 1)
        }));
    }
    if scope.frames > 0 && !scope.cold {
        all.push(Property::<Group>::sometimes("a later reign commits a client's frame", |_, w| {
            w.reigns(|r| r.epoch > 1 && r.sender.committed() > r.opened_at)
        }));
    }
    if scope.crashes > 0 && !scope.cold {
        all.push(Property::<Group>::sometimes(
            "a node that lost its log is whole again",
            |_, w| w.machines.iter().any(|m| m.life > 1 && m.follows() && m.is_whole(w.now_ns)),
        ));
    }
    if scope.crashes > 0 && scope.evicts() {
        all.push(Property::<Group>::sometimes("commits go on without a silent replica", |_, w| {
            w.reigns(|r| {
                let silent = |p: &understudy_fastpath::sender::Peer| {
                    p.eviction.is_some_and(|e| e.cause == EvictCause::Silent)
                };
                r.sender.peers().iter().any(|p| silent(p) && p.acked < r.sender.committed())
            })
        }));
    }
    if scope.nodes == 2 {
        all.push(Property::<Group>::sometimes("a node serves alone", |_, w| {
            w.transmitters().any(|m| matches!(&m.plane.role, Role::Lead(r) if r.sender.is_alone()))
        }));
    }
    all
}
