//! The arbiter of a group of two: a register behind a network that loses requests and answers.
//!
//! What belongs here: what a real keeper does (read, decide, write if unchanged), and how it goes wrong.

use understudy_proto::View;
use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest, Register, Step, Wish, step};
use understudy_wire::NodeId;

use super::{Cluster, Event, MS};

/// How long a node waits for an answer.
const TIMEOUT_NS: u64 = 150 * MS;
const BOTH: [NodeId; 2] = [1, 2];

/// A request, told apart from equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub serial: u64,
    pub request: ArbiterRequest,
}

/// The keeper of the register.
#[derive(Default)]
pub struct Arbiter {
    pub register: Option<Register>,
    pub revision: u64,
    /// Nodes that cannot reach it.
    pub cut: Vec<NodeId>,
    asked: u64,
    /// The request that each node waits for.
    waiting: [u64; 2],
    /// Mutation: it says yes to everybody.
    pub gullible: bool,
}

impl Arbiter {
    /// The first answer to a request is the only one.
    pub fn is_first(&mut self, id: NodeId, ask: Ask) -> bool {
        let waiting = &mut self.waiting[usize::from(id) - 1];
        let first = *waiting == ask.serial;
        if first {
            *waiting = 0;
        }
        first
    }

    /// The other node is named, runs, and has lost nothing.
    pub fn other_holds_all(&self, id: NodeId, views: &[View]) -> bool {
        let named = |view: &View| {
            self.register.as_ref().is_some_and(|r| r.members.contains(&view.me))
                && !view.recovering
                && view.role != super::Role::Fenced
        };
        views.iter().any(|view| view.me != id && named(view))
    }
}

impl Cluster {
    /// Two nodes and an arbiter.
    pub fn pair(seed: u64) -> Self {
        let mut cluster = Self::new(seed, 2, super::Mutation::None);
        cluster.arbiter = Some(Arbiter::default());
        cluster
    }

    /// Cuts a node off from the arbiter.
    pub fn cut_arbiter(&mut self, id: NodeId) {
        self.note(format!("the arbiter is out of reach of {id}"));
        self.arbiter.as_mut().expect("has one").cut.push(id);
    }

    fn arbiter_lost(&mut self, id: NodeId) -> bool {
        let cut = self.arbiter.as_ref().is_some_and(|arbiter| arbiter.cut.contains(&id));
        cut || self.faults && self.rng.chance(5)
    }

    pub(super) fn arbiter_fault(&mut self) {
        let id = 1 + self.rng.below(2) as NodeId;
        self.cut_arbiter(id);
        if self.rng.chance(40) {
            self.cut_arbiter(3 - id);
        }
    }

    pub(super) fn ask_arbiter(&mut self, id: NodeId, life: u32, request: ArbiterRequest) {
        self.note(format!("{id} asks the arbiter: {request:?}"));
        // The one answer that always comes; the node ignores it once it has another.
        let answer = ArbiterAnswer::Unreachable;
        let arbiter = self.arbiter.as_mut().expect("has one");
        arbiter.asked += 1;
        let ask = Ask { serial: arbiter.asked, request };
        arbiter.waiting[usize::from(id) - 1] = ask.serial;
        self.push(self.now_ns + TIMEOUT_NS, id, Event::Arbiter { life, ask, answer });
        if !self.arbiter_lost(id) {
            let at_ns = self.now_ns + self.arbiter_delay_ns();
            self.push(at_ns, id, Event::ArbiterReads { life, ask });
        }
    }

    fn arbiter_delay_ns(&mut self) -> u64 {
        let slow = self.faults && self.rng.chance(10);
        100_000 + self.rng.below(if slow { 400 * MS } else { 2 * MS })
    }

    pub(super) fn on_arbiter_reads(&mut self, id: NodeId, life: u32, ask: Ask) {
        let arbiter = self.arbiter.as_ref().expect("has one");
        if arbiter.waiting[usize::from(id) - 1] != ask.serial {
            // Answered: it may still write what was decided before, but decides nothing any more.
            return;
        }
        let revision = arbiter.revision;
        let mut decided = step(arbiter.register.as_ref(), id, &BOTH, &ask.request);
        if arbiter.gullible
            && let Step::Answer(ArbiterAnswer::Refused(Some(_))) = decided
        {
            let (epoch, members) = (ask.request.epoch, vec![id]);
            decided = Step::Write(Register { epoch, primary: id, members, since: epoch });
        }
        let at_ns = self.now_ns + self.arbiter_delay_ns();
        match decided {
            Step::Answer(answer) => self.arbiter_answers(id, life, ask, answer),
            Step::Write(new) => {
                self.push(at_ns, id, Event::ArbiterWrites { life, ask, new, revision });
            }
        }
    }

    pub(super) fn on_arbiter_writes(
        &mut self,
        id: NodeId,
        life: u32,
        ask: Ask,
        new: Register,
        revision: u64,
    ) {
        let arbiter = self.arbiter.as_mut().expect("has one");
        if arbiter.revision != revision {
            return self.on_arbiter_reads(id, life, ask);
        }
        arbiter.revision += 1;
        if life != self.machines[usize::from(id) - 1].life && ask.request.wish == Wish::Seclude {
            // Whoever is named alone and dies may have served alone: the other one is out, whatever it holds.
            self.may_lose = true;
        }
        let arbiter = self.arbiter.as_mut().expect("has one");
        arbiter.register = Some(new.clone());
        self.note(format!("the register holds {new:?}"));
        self.arbiter_answers(id, life, ask, ArbiterAnswer::Granted(new));
    }

    fn arbiter_answers(&mut self, id: NodeId, life: u32, ask: Ask, answer: ArbiterAnswer) {
        if !self.arbiter_lost(id) {
            let at_ns = self.now_ns + self.arbiter_delay_ns();
            self.push(at_ns, id, Event::Arbiter { life, ask, answer });
        }
    }
}
