//! Between the nodes and the arbiter: requests, writes and answers that come late or not at all.

use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest, Register, Step, step};

use super::*;
use crate::arbiter::Ask;
use crate::net::arrivals;

const BOTH: [NodeId; 2] = [1, 2];
/// How long a node waits for an answer.
const TIMEOUT_NS: u64 = 150 * MS;

impl World {
    /// A node's thread asks; one answer always comes, if only that nobody answered in time.
    pub(super) fn ask_arbiter(&mut self, id: NodeId, life: u64, request: ArbiterRequest) {
        let ask = self.arbiter.ask((id, life), request);
        let late = self.now_ns + TIMEOUT_NS;
        self.push(late, Event::ArbiterAnswers(ask, ArbiterAnswer::Unreachable));
        self.pass(id, Event::ArbiterReads(ask));
    }

    /// One way between a node and the arbiter.
    fn pass(&mut self, id: NodeId, event: Event) {
        let way = Way::Arbiter(id);
        if self.cuts.is_held(way) && matches!(event, Event::ArbiterWrites(..)) {
            self.held.push(event);
        } else if !self.cuts.is_cut(way) {
            for at in arrivals(&mut self.rng, &self.scenario.arbiter, self.now_ns) {
                self.push(at, event.clone());
            }
        }
    }

    /// What was read has come to the node's thread, which decides.
    pub(super) fn on_arbiter_reads(&mut self, ask: Ask) {
        let (id, life) = ask.by;
        let machine = self.machine(id);
        let lives = machine.lives == life && machine.life.is_some();
        if !lives || !self.arbiter.is_awaited(&ask) {
            return;
        }
        match step(self.arbiter.register.as_ref(), id, &BOTH, &ask.request) {
            Step::Answer(answer) => self.pass(id, Event::ArbiterAnswers(ask, answer)),
            Step::Write(new) => {
                let revision = self.arbiter.revision();
                self.pass(id, Event::ArbiterWrites(ask, new, revision));
            }
        }
    }

    /// A write arrives, be it late, be it of a dead node.
    pub(super) fn on_arbiter_writes(&mut self, ask: Ask, new: Register, revision: u64) {
        let blind = self.has(Mutation::BlindWrites);
        let revision = if blind { self.arbiter.revision() } else { revision };
        if !self.arbiter.write(revision, &new) {
            return self.on_arbiter_reads(ask);
        }
        self.note(format!("the register holds {new:?}, by {:?}", ask.by));
        *self.notes.entry(format!("Register{:?}", ask.request.wish)).or_default() += 1;
        self.pass(ask.by.0, Event::ArbiterAnswers(ask, ArbiterAnswer::Granted(new)));
    }

    pub(super) fn on_arbiter_answers(&mut self, ask: Ask, answer: ArbiterAnswer) {
        let (id, life) = ask.by;
        if !self.arbiter.answer(&ask) {
            return;
        }
        let machine = self.machine(id);
        let current = machine.lives == life;
        if let Some(life) = machine.life.as_mut().filter(|_| current) {
            life.control.answers.push_back((ask.request, answer));
            self.hurry_wake(id);
        }
    }
}
