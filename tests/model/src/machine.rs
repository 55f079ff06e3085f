//! One node: the shipped control plane, its data path, its disk.
//!
//! What belongs here: what a daemon does between the two, in the daemon's order. No network.

use std::collections::VecDeque;
use std::sync::Arc;

use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest};
use understudy_proto::{
    Config, DpCommand, Held, LocalFact, Node, Output, Path, Persisted, ServiceCommand,
    TimelineKind, To,
};
use understudy_wire::control::{Ballot, Control};
use understudy_wire::pdu::TARGET_ALL;
use understudy_wire::{Epoch, NodeId, Position};

use crate::plane::{Plane, Role, is_sign_of_life};
use crate::scope::{Planted, Scope};
use crate::world::{Flying, Message, digest};

/// What a machine does to the rest of the world.
#[expect(clippy::large_enum_variant, reason = "taken apart at once")]
pub enum Effect {
    /// A message to one node (0: to all); true if it is an answer that comes as promptly as its question.
    Send(NodeId, Message, bool),
    /// It begins a reign.
    Leads(Epoch),
    /// It may have committed more.
    Committed,
    /// Output caused by everything before this left.
    Released(Position),
    /// It says that nothing is left anywhere.
    AllLost,
}

/// One node.
#[derive(Clone, Hash)]
pub struct Machine {
    /// Who.
    pub id: NodeId,
    /// 64 bits of the rest; 0 while it is being changed.
    pub digest: u64,
    /// The shipped state machine; `None` while the node is down.
    pub node: Option<Node>,
    /// The data path.
    pub plane: Plane,
    /// What a new life finds.
    pub disk: Persisted,
    /// Writes under way, oldest first.
    pub writing: VecDeque<Persisted>,
    /// It gave itself up and is about to start anew.
    pub dying: bool,
    /// What it had by then, if it knew: for the next life.
    pub held: Option<Held>,
    /// It stands still.
    pub paused: bool,
    /// What waits for it meanwhile.
    pub mailbox: Vec<Arc<Flying>>,
    /// The request that the arbiter has not answered.
    pub asking: Option<ArbiterRequest>,
    /// How often it started.
    pub life: u64,
    /// How far its clock is behind everybody's: only if that is planted.
    pub lag_ns: u64,
}

impl Machine {
    /// One that is down and never ran.
    pub fn new(id: NodeId, scope: &Scope) -> Machine {
        Machine {
            id,
            digest: 0,
            node: None,
            plane: Plane::new(scope.voters().into_iter().filter(|&peer| peer != id)),
            disk: Persisted::default(),
            writing: VecDeque::new(),
            dying: false,
            held: None,
            paused: false,
            mailbox: Vec::new(),
            asking: None,
            life: 0,
            lag_ns: 0,
        }
    }

    /// It is up and does not stand still.
    pub fn runs(&self) -> bool {
        self.node.is_some() && !self.paused
    }

    /// It is a replica of someone.
    pub fn follows(&self) -> bool {
        matches!(self.plane.role, Role::Follow(_))
    }

    /// It would log a client's frame.
    pub fn takes_frames(&self) -> bool {
        self.runs() && matches!(self.plane.role, Role::Lead(_))
    }

    /// Could put a frame on the clients' network.
    pub fn may_transmit(&self, now_ns: u64) -> bool {
        self.node.is_some() && self.plane.gate_open(now_ns - self.lag_ns)
    }

    /// It counts whatever it may have lost in an earlier life.
    pub fn is_whole(&self, now_ns: u64) -> bool {
        self.node.as_ref().is_some_and(|node| !node.view(now_ns).recovering)
    }

    /// Dies.
    pub fn crash(&mut self) {
        self.plane = self.plane.emptied();
        (self.digest, self.node, self.asking) = (0, None, None);
        (self.dying, self.held, self.paused) = (false, None, false);
        self.writing.clear();
        self.mailbox.clear();
    }

    /// Takes the digest of what a step changed.
    pub fn seal(&mut self) {
        // A clone holds no space for outputs: there are none, and millions of states are kept.
        self.node = self.node.clone();
        self.digest = digest(self).max(1);
    }

    /// Begins a life; `held`: what the one before handed down.
    pub fn start(
        &mut self,
        scope: &Scope,
        now_ns: u64,
        held: Option<Held>,
        effects: &mut Vec<Effect>,
    ) {
        self.life += 1;
        let config = Config { held, ..scope.node(self.id, self.life) };
        let node = Node::new(config, self.disk, now_ns, u64::from(self.id));
        self.node = Some(node.expect("the settings agree"));
        for fact in [LocalFact::ClientLink(true), LocalFact::ReplicaLink(true), LocalFact::AppReady]
        {
            self.tell(scope, now_ns, effects, |node| node.handle_local(now_ns, fact));
        }
        self.wake(scope, now_ns, effects);
    }

    /// Stands still from now on.
    pub fn pause(&mut self) {
        (self.digest, self.paused) = (0, true);
    }

    /// Goes on; returns what waited for it.
    pub fn resume(&mut self) -> Vec<Arc<Flying>> {
        (self.digest, self.paused) = (0, false);
        std::mem::take(&mut self.mailbox)
    }

    /// The oldest write is done.
    pub fn persisted(&mut self, scope: &Scope, now_ns: u64, effects: &mut Vec<Effect>) {
        let Some(state) = self.writing.pop_front() else { return };
        if scope.planted != Planted::ForgottenVote {
            self.disk = state;
        }
        self.tell(scope, now_ns, effects, |node| node.handle_persisted(now_ns, state.epoch));
    }

    /// The arbiter answered, or did not.
    pub fn answered(
        &mut self,
        scope: &Scope,
        now_ns: u64,
        answer: ArbiterAnswer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(request) = self.asking.take() else { return };
        self.tell(scope, now_ns, effects, |node| node.handle_arbiter(now_ns, &request, answer));
    }

    /// One round of both threads.
    pub fn wake(&mut self, scope: &Scope, now_ns: u64, effects: &mut Vec<Effect>) {
        let Some(node) = &self.node else { return };
        if node.poll_timeout().is_some_and(|at_ns| at_ns <= now_ns) {
            self.tell(scope, now_ns, effects, |node| node.handle_timeout(now_ns));
        }
        self.poll_plane(scope, now_ns, effects);
    }

    /// A message arrived.
    pub fn receive(
        &mut self,
        scope: &Scope,
        now_ns: u64,
        flying: &Flying,
        effects: &mut Vec<Effect>,
    ) {
        if self.node.is_none() {
            return;
        }
        match &flying.message {
            Message::Control(epoch, msg) => {
                self.plane.note_heard(now_ns, flying.from);
                for path in [Path::Replica, Path::Second] {
                    self.tell(scope, now_ns, effects, |node| {
                        node.handle_message(now_ns, path, flying.from, *epoch, msg);
                    });
                }
            }
            Message::Pdu(epoch, pdu) => {
                let prompt = is_sign_of_life(pdu);
                for (to, epoch, answer) in self.plane.receive(now_ns, flying.from, *epoch, pdu) {
                    effects.push(Effect::Send(to, Message::Pdu(epoch, answer), prompt));
                }
                self.poll_plane(scope, now_ns, effects);
            }
        }
    }

    /// The data path's round, and its report.
    pub fn poll_plane(&mut self, scope: &Scope, now_ns: u64, effects: &mut Vec<Effect>) {
        for (to, epoch, pdu) in self.plane.poll(now_ns) {
            effects.push(Effect::Send(to, Message::Pdu(epoch, pdu), false));
        }
        let released = self.plane.release(now_ns);
        effects.push(Effect::Committed);
        effects.extend(released.map(Effect::Released));
        let state = self.plane.state(now_ns);
        self.tell(scope, now_ns, effects, |node| node.handle_log(now_ns, &state));
    }

    /// Calls the node and does what it wants.
    fn tell(
        &mut self,
        scope: &Scope,
        now_ns: u64,
        effects: &mut Vec<Effect>,
        call: impl FnOnce(&mut Node),
    ) {
        let Some(node) = &mut self.node else { return };
        node.reseed(u64::from(self.id));
        call(node);
        let mut begun = false;
        while let Some(output) = self.node.as_mut().and_then(Node::poll_output) {
            begun |= self.carry_out(scope, now_ns, output, effects);
        }
        if begun {
            self.poll_plane(scope, now_ns, effects);
        }
    }

    /// True if a reign began.
    fn carry_out(
        &mut self,
        scope: &Scope,
        now_ns: u64,
        output: Output,
        effects: &mut Vec<Effect>,
    ) -> bool {
        match output {
            Output::Send { to, epoch, msg, .. } => {
                if scope.planted == Planted::VoteQuorum {
                    self.count_a_vote_too_many(scope, now_ns, &msg);
                }
                let to = if let To::One(id) = to { id } else { TARGET_ALL };
                effects.push(Effect::Send(to, Message::Control(epoch, msg), false));
            }
            Output::Persist { epoch, voted_for } => {
                self.writing.push_back(Persisted { epoch, voted_for });
            }
            Output::Dataplane(command) => return self.order(scope, now_ns, command, effects),
            Output::Service(ServiceCommand::Restart { held }) => {
                (self.dying, self.held) = (true, held);
            }
            Output::Arbiter(request) => self.asking = Some(request),
            Output::Event(event) => {
                if event.kind == TimelineKind::AllLost {
                    effects.push(Effect::AllLost);
                }
            }
            Output::SwitchoverDone(_) => {}
        }
        false
    }

    fn order(
        &mut self,
        scope: &Scope,
        now_ns: u64,
        command: DpCommand,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let skipped = scope.planted == Planted::SkippedPromise;
        let promised = match command {
            DpCommand::Promise { epoch } if skipped => Some(epoch),
            _ => self.plane.order(now_ns, self.id, scope.sender(), command),
        };
        if let Some(epoch) = promised
            && let Some(node) = &mut self.node
        {
            let state = self.plane.state(now_ns);
            node.handle_promised(now_ns, epoch, &state);
        }
        let DpCommand::Lead { epoch, .. } = command else { return false };
        effects.push(Effect::Leads(epoch));
        true
    }

    /// Planted: with three voters, a candidate that needs one vote less has enough with its own.
    fn count_a_vote_too_many(&mut self, scope: &Scope, now_ns: u64, asked: &Control) {
        let (epoch, answer): (Epoch, fn(Ballot) -> Control) = match asked {
            Control::PreVote(candidacy) => (candidacy.epoch, Control::PreVoteReply),
            Control::Vote(candidacy) => (candidacy.epoch, Control::VoteReply),
            _ => return,
        };
        let nobody = self.id % scope.nodes + 1;
        let ballot = answer(Ballot { epoch, granted: true });
        if let Some(node) = &mut self.node {
            node.handle_message(now_ns, Path::Replica, nobody, 0, &ballot);
        }
    }
}
