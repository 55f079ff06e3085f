//! The group as one value: machines, messages under way, faults left, and what was promised to clients.
//!
//! What belongs here: the state and the steps it can take. What is right and wrong is in `check`.
//!
//! How the space stays finite without leaving out what matters:
//! - Time goes in ticks, and everything between two ticks is at the same instant. Absolute times are part of a state:
//!   the ticks are bounded, so a state at another time is another state anyway.
//! - A heartbeat, and a data path's sign of life, arrives at once unless its link is cut or its receiver stands still
//!   (then it waits, as in a socket's buffer). Everything else (votes, log bytes, acknowledgements) may come in any
//!   order, late by whole ticks, twice, or never.
//! - Orders to the data path and its reports are carried out at once; a write to disk is not.
//! - Randomness is an input: a node draws from the same seed in every step, so equal states have equal futures.
//! - A state is compared by a 64-bit digest of all of the above.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use understudy_proto::Held;
use understudy_proto::arbiter::Register;
use understudy_wire::control::Control;
use understudy_wire::{Epoch, NodeId};

use crate::check::Witnessed;
use crate::machine::{Effect, Machine};
use crate::plane::{Pdu, is_sign_of_life};
use crate::scope::{Planted, START_NS, Scope, TICK_NS};

/// Messages that wait for a node that stands still.
const MAILBOX_MAX: usize = 16;

/// What one node sends another.
#[expect(clippy::large_enum_variant, reason = "most messages are of the larger kind")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Of the control plane.
    Control(Epoch, Control),
    /// Of the data path.
    Pdu(Epoch, Pdu),
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flying {
    /// Who sent it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Message,
    /// When.
    pub sent_ns: u64,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time passes; nodes notice in the order that begins with this one.
    Tick(NodeId),
    /// A message arrives.
    Deliver(usize),
    /// A message arrives, and will once more.
    Duplicate(usize),
    /// A node's oldest write is on its disk.
    Persisted(NodeId),
    /// A node dies with all it did not persist.
    Crash(NodeId),
    /// A node that is down, or has given itself up, starts.
    Start(NodeId),
    /// A node stands still.
    Pause(NodeId),
    /// It goes on.
    Resume(NodeId),
    /// Nothing comes from or to a node.
    Isolate(NodeId),
    /// All links work.
    Heal,
    /// A client's frame reaches a node that leads.
    Frame(NodeId),
    /// The arbiter reads a node's request.
    ArbiterRead(NodeId),
    /// The arbiter carries a node's write out, if nobody wrote since it read.
    ArbiterWrite(NodeId),
    /// A node stops waiting for the arbiter; a write of it may still come.
    ArbiterSilent(NodeId),
}

/// Faults and inputs that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// Ticks.
    pub ticks: u8,
    crashes: u8,
    pauses: u8,
    cuts: u8,
    frames: u8,
    duplicates: u8,
    late: u8,
}

/// A write on its way to the arbiter's register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    from: NodeId,
    /// Nobody wrote since the register was read for it.
    fresh: bool,
    new: Register,
    /// Somebody waits for the answer.
    awaited: bool,
}

/// The arbiter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Arbiter {
    /// What it keeps.
    pub register: Option<Register>,
    writes: Vec<Write>,
}

/// The whole.
#[derive(Clone)]
pub struct World {
    /// Now, on every clock.
    pub now_ns: u64,
    /// Node `id` at `id - 1`.
    pub machines: Vec<Arc<Machine>>,
    /// Messages under way, sorted.
    pub net: Vec<Arc<Flying>>,
    /// Who is cut off.
    pub isolated: Option<NodeId>,
    /// What else may happen.
    pub left: Left,
    /// The arbiter.
    pub arbiter: Arbiter,
    /// What was seen of leaders, commits and releases.
    pub witnessed: Witnessed,
    frame: u8,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.now_ns.hash(state);
        for machine in &self.machines {
            state.write_u64(machine.digest);
        }
        self.net.hash(state);
        (self.isolated, self.left, self.frame).hash(state);
        self.arbiter.hash(state);
        self.witnessed.hash(state);
    }
}

/// Digests are compared, as the explorer does.
impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        digest(self) == digest(other)
    }
}

/// 64 bits of anything.
pub fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl World {
    /// The beginning of an exploration.
    pub fn new(scope: &Scope) -> World {
        let machines = scope.voters().into_iter().map(|id| Arc::new(Machine::new(id, scope)));
        let mut world = World {
            now_ns: START_NS,
            machines: machines.collect(),
            net: Vec::new(),
            isolated: None,
            left: Left::default(),
            arbiter: Arbiter::default(),
            witnessed: Witnessed::default(),
            frame: 0,
        };
        for id in scope.voters() {
            world.start(scope, id, None);
        }
        if !scope.cold {
            world.settle(scope);
        }
        world.left = Left {
            ticks: scope.ticks,
            crashes: scope.crashes,
            pauses: scope.pauses,
            cuts: scope.cuts,
            frames: scope.frames,
            duplicates: scope.duplicates,
            late: scope.late,
        };
        world.seal();
        world
    }

    /// Everything goes well until somebody serves and everybody follows.
    fn settle(&mut self, scope: &Scope) {
        for _ in 0..60 {
            loop {
                let ids = scope.voters();
                let pending = ids.iter().find(|id| !self.machine(**id).writing.is_empty());
                let asking = ids.iter().find(|id| self.machine(**id).asking.is_some());
                if let Some(&id) = pending {
                    self.persisted(scope, id);
                } else if let Some(write) = self.arbiter.writes.first() {
                    self.arbiter_write(scope, write.from);
                } else if let Some(&id) = asking {
                    self.arbiter_read(scope, id);
                } else if self.net.is_empty() {
                    break;
                } else {
                    self.deliver(scope, 0);
                }
            }
            if self.is_settled() {
                return;
            }
            self.tick(scope, 1);
        }
        panic!("no reign without faults: the bounds of {} cannot work", scope.name);
    }

    fn is_settled(&self) -> bool {
        let leads = |m: &&Arc<Machine>| m.plane.gate_open(self.now_ns);
        let follows = |m: &&Arc<Machine>| m.follows() && m.plane.committed > 0;
        let leaders = self.machines.iter().filter(leads).count();
        let shared = self.arbiter.register.as_ref().is_none_or(|r| r.members.len() == 2);
        let arbiter = self.machines.len() > 2 || self.arbiter.register.is_some();
        leaders == 1
            && self.machines.iter().filter(follows).count() + 1 == self.machines.len()
            && shared
            && arbiter
    }

    /// A machine.
    pub fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[usize::from(id) - 1]
    }

    fn machine_mut(&mut self, id: NodeId) -> &mut Machine {
        Arc::make_mut(&mut self.machines[usize::from(id) - 1])
    }

    /// Digests of what a step changed.
    fn seal(&mut self) {
        for machine in &mut self.machines {
            if machine.digest == 0 {
                Arc::make_mut(machine).seal();
            }
        }
    }

    /// Everything that can happen next.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        if self.left.ticks == 0 {
            return;
        }
        for (index, flying) in self.net.iter().enumerate() {
            if self.machine(flying.to).runs() {
                actions.push(Action::Deliver(index));
                if self.left.duplicates > 0 {
                    actions.push(Action::Duplicate(index));
                }
            }
        }
        for machine in &self.machines {
            self.faults(machine, actions);
            self.arbitration(machine, actions);
        }
        if self.isolated.is_some() {
            actions.push(Action::Heal);
        }
        let written = self.machines.iter().all(|m| m.writing.is_empty() || !m.runs());
        let fresh = self.fresh();
        if written && fresh == 0 {
            self.changes_at_rest(actions);
        }
        if written && fresh <= usize::from(self.left.late) {
            actions.push(Action::Tick(1));
        }
    }

    /// Messages that can still arrive within the tick they were sent in.
    fn fresh(&self) -> usize {
        let fresh = |f: &&Arc<Flying>| f.sent_ns == self.now_ns && self.machine(f.to).runs();
        self.net.iter().filter(fresh).count()
    }

    /// What can happen to a machine at any moment.
    fn faults(&self, machine: &Machine, actions: &mut Vec<Action>) {
        let id = machine.id;
        if machine.runs() && !machine.writing.is_empty() {
            actions.push(Action::Persisted(id));
        }
        if machine.runs() && self.left.crashes > 0 {
            actions.push(Action::Crash(id));
        }
        if machine.runs() && self.left.pauses > 0 && self.machines.iter().all(|m| !m.paused) {
            actions.push(Action::Pause(id));
        }
        if self.left.cuts > 0 && self.isolated.is_none() {
            actions.push(Action::Isolate(id));
        }
    }

    /// What happens only while nothing is under way. Another moment within the same tick would be another order of
    /// things that do not concern each other, or the loss of a message, which is an action of its own.
    fn changes_at_rest(&self, actions: &mut Vec<Action>) {
        for machine in &self.machines {
            let id = machine.id;
            if machine.node.is_none() || machine.dying && machine.runs() {
                actions.push(Action::Start(id));
            }
            if machine.paused {
                actions.push(Action::Resume(id));
            }
            if self.left.frames > 0 && machine.takes_frames() {
                actions.push(Action::Frame(id));
            }
        }
    }

    fn arbitration(&self, machine: &Machine, actions: &mut Vec<Action>) {
        let id = machine.id;
        let writes = self.arbiter.writes.iter().filter(|w| w.from == id);
        let (awaited, late): (Vec<_>, Vec<_>) = writes.partition(|w| w.awaited);
        if !(awaited.is_empty() && late.is_empty()) {
            actions.push(Action::ArbiterWrite(id));
        }
        if machine.runs() && machine.asking.is_some() {
            if awaited.is_empty() {
                actions.push(Action::ArbiterRead(id));
            }
            if self.left.late > 0 {
                actions.push(Action::ArbiterSilent(id));
            }
        }
    }

    /// The state after something happened.
    pub fn step(&self, scope: &Scope, action: &Action) -> World {
        let mut next = self.clone();
        next.witnessed.begin();
        match *action {
            Action::Tick(first) => {
                next.left.ticks -= 1;
                next.left.late -= next.fresh() as u8;
                next.tick(scope, first);
            }
            Action::Deliver(index) => next.deliver(scope, index),
            Action::Duplicate(index) => {
                next.left.duplicates -= 1;
                let flying = next.net[index].clone();
                next.arrive(scope, &flying);
            }
            Action::Persisted(id) => next.persisted(scope, id),
            Action::Crash(id) => {
                next.left.crashes -= 1;
                next.arbiter.forget(id);
                next.machine_mut(id).crash();
            }
            Action::Start(id) => {
                next.arbiter.forget(id);
                let held = next.machine_mut(id).held;
                next.machine_mut(id).crash();
                next.start(scope, id, held);
            }
            Action::Pause(id) => {
                next.left.pauses -= 1;
                next.machine_mut(id).pause();
            }
            Action::Resume(id) => next.resume(scope, id),
            Action::Isolate(id) => {
                next.left.cuts -= 1;
                next.isolated = Some(id);
            }
            Action::Heal => next.isolated = None,
            Action::Frame(id) => next.client_frame(scope, id),
            Action::ArbiterRead(id) => next.arbiter_read(scope, id),
            Action::ArbiterWrite(id) => next.arbiter_write(scope, id),
            Action::ArbiterSilent(id) => {
                next.left.late -= 1;
                next.arbiter_silent(scope, id);
            }
        }
        next.seal();
        next
    }

    fn start(&mut self, scope: &Scope, id: NodeId, held: Option<Held>) {
        self.at(scope, id, |machine, now_ns, effects| machine.start(scope, now_ns, held, effects));
    }

    fn persisted(&mut self, scope: &Scope, id: NodeId) {
        self.at(scope, id, |machine, now_ns, effects| machine.persisted(scope, now_ns, effects));
    }

    fn tick(&mut self, scope: &Scope, first: NodeId) {
        self.now_ns += TICK_NS;
        let oldest_ns = self.now_ns - u64::from(scope.delay_ticks) * TICK_NS;
        let machines = &self.machines;
        self.net.retain(|flying| {
            flying.sent_ns >= oldest_ns || machines[usize::from(flying.to) - 1].paused
        });
        if scope.planted == Planted::StoppedClock {
            for machine in self.machines.iter_mut().filter(|m| m.paused) {
                let machine = Arc::make_mut(machine);
                (machine.digest, machine.lag_ns) = (0, machine.lag_ns + TICK_NS);
            }
        }
        for k in 0..scope.nodes {
            let id = (first - 1 + k) % scope.nodes + 1;
            if self.machine(id).runs() {
                self.at(scope, id, |machine, now_ns, effects| {
                    machine.wake(scope, now_ns, effects);
                });
            }
        }
    }

    fn resume(&mut self, scope: &Scope, id: NodeId) {
        let mailbox = self.machine_mut(id).resume();
        // The data path looks at its clock before anything else; what waited in the buffers comes next.
        self.at(scope, id, |machine, now_ns, effects| machine.poll_plane(scope, now_ns, effects));
        for flying in mailbox {
            self.arrive(scope, &flying);
        }
        self.at(scope, id, |machine, now_ns, effects| machine.wake(scope, now_ns, effects));
    }

    fn client_frame(&mut self, scope: &Scope, id: NodeId) {
        self.left.frames -= 1;
        self.frame += 1;
        let value = self.frame;
        self.at(scope, id, |machine, now_ns, effects| {
            machine.plane.client_frame(value);
            machine.poll_plane(scope, now_ns, effects);
        });
    }

    fn deliver(&mut self, scope: &Scope, index: usize) {
        let flying = self.net.remove(index);
        self.arrive(scope, &flying);
    }

    fn arrive(&mut self, scope: &Scope, flying: &Flying) {
        self.at(scope, flying.to, |machine, now_ns, effects| {
            machine.receive(scope, now_ns, flying, effects);
        });
    }

    /// Calls into a machine, then carries out what it wants of the others, until nothing arrives at once any more.
    fn at(
        &mut self,
        scope: &Scope,
        id: NodeId,
        call: impl FnOnce(&mut Machine, u64, &mut Vec<Effect>),
    ) {
        let mut effects = Vec::new();
        let now_ns = self.now_ns;
        let machine = self.machine_mut(id);
        machine.digest = 0;
        call(machine, now_ns - machine.lag_ns, &mut effects);
        let mut at_once = VecDeque::new();
        self.carry_out(scope, id, effects, &mut at_once);
        for _ in 0..200 {
            let Some(flying) = at_once.pop_front() else { return };
            let mut effects = Vec::new();
            let machine = self.machine_mut(flying.to);
            machine.digest = 0;
            machine.receive(scope, now_ns - machine.lag_ns, &flying, &mut effects);
            self.carry_out(scope, flying.to, effects, &mut at_once);
        }
        panic!("signs of life cause each other without end");
    }

    fn carry_out(
        &mut self,
        scope: &Scope,
        from: NodeId,
        effects: Vec<Effect>,
        at_once: &mut VecDeque<Flying>,
    ) {
        for effect in effects {
            match effect {
                Effect::Send(to, message, reply_at_once) => {
                    for id in scope.voters() {
                        if id != from && (to == 0 || to == id) {
                            let message = message.clone();
                            self.send(scope, from, id, message, reply_at_once, at_once);
                        }
                    }
                }
                Effect::Leads(epoch) => self.witness_leader(epoch, from),
                Effect::Committed => self.witness_commit(from),
                Effect::Released(position) => self.witness_release(from, position),
                Effect::AllLost => self.witness_all_lost(from),
            }
        }
    }

    fn send(
        &mut self,
        scope: &Scope,
        from: NodeId,
        to: NodeId,
        message: Message,
        reply_at_once: bool,
        at_once: &mut VecDeque<Flying>,
    ) {
        let receiver = self.machine(to);
        if receiver.node.is_none() || self.isolated.is_some_and(|cut| cut == from || cut == to) {
            return;
        }
        let immediate = match &message {
            Message::Control(_, Control::Heartbeat(_)) => true,
            Message::Control(..) => false,
            Message::Pdu(_, pdu) => reply_at_once || is_sign_of_life(pdu),
        };
        let flying = Flying { from, to, message, sent_ns: self.now_ns };
        if immediate && receiver.paused {
            let mailbox = &mut self.machine_mut(to).mailbox;
            mailbox.push(Arc::new(flying));
            if mailbox.len() > MAILBOX_MAX {
                mailbox.remove(0);
            }
            self.machine_mut(to).digest = 0;
        } else if immediate {
            at_once.push_back(flying);
        } else {
            // The same message again replaces the one under way: one of the two arrives.
            self.net.retain(|f| (f.from, f.to, &f.message) != (from, to, &flying.message));
            if self.net.len() < scope.in_flight {
                let flying = Arc::new(flying);
                let key = |f: &Flying| (f.sent_ns, f.from, f.to, digest(&f.message));
                let at = self.net.partition_point(|f| key(f) < key(&flying));
                self.net.insert(at, flying);
            }
        }
    }
}

impl Arbiter {
    /// Nobody waits for the writes of a node that died.
    fn forget(&mut self, id: NodeId) {
        self.writes.iter_mut().filter(|w| w.from == id).for_each(|w| w.awaited = false);
    }
}

mod register {
    use understudy_proto::arbiter::{ArbiterAnswer, Step, step};

    use super::*;

    impl World {
        /// A request is read, and the register; a write is prepared on what was read.
        pub(super) fn arbiter_read(&mut self, scope: &Scope, id: NodeId) {
            let Some(request) = self.machine(id).asking else { return };
            match step(self.arbiter.register.as_ref(), id, &scope.voters(), &request) {
                Step::Answer(answer) => self.answer(scope, id, answer),
                Step::Write(new) => {
                    self.arbiter.writes.push(Write { from: id, fresh: true, new, awaited: true });
                }
            }
        }

        /// The oldest write of a node reaches the register.
        pub(super) fn arbiter_write(&mut self, scope: &Scope, id: NodeId) {
            let writes = &mut self.arbiter.writes;
            let Some(index) = writes.iter().position(|w| w.from == id) else { return };
            let write = writes.remove(index);
            let blind = scope.planted == Planted::BlindWrite;
            if write.fresh || blind {
                self.arbiter.register = Some(write.new.clone());
                self.arbiter.writes.iter_mut().for_each(|w| w.fresh = false);
                // One that nobody waits for and that can no longer succeed is none.
                self.arbiter.writes.retain(|w| w.awaited || blind);
                if write.awaited {
                    self.answer(scope, id, ArbiterAnswer::Granted(write.new));
                }
            } else if write.awaited {
                self.arbiter_read(scope, id);
            }
        }

        pub(super) fn arbiter_silent(&mut self, scope: &Scope, id: NodeId) {
            self.arbiter.forget(id);
            self.answer(scope, id, ArbiterAnswer::Unreachable);
        }

        fn answer(&mut self, scope: &Scope, id: NodeId, answer: ArbiterAnswer) {
            self.at(scope, id, |machine, now_ns, effects| {
                machine.answered(scope, now_ns, answer, effects);
            });
        }
    }
}
