//! The control-plane thread as the daemon runs it: the shipped node, and the same order of the same steps.
//!
//! What belongs here mirrors `understudyd`'s `control.rs`: the mapping of snapshots and orders, the
//! application's supervision, the restart of everything. No networks, no faults.

use std::collections::VecDeque;

use understudy_fastpath::MS;
use understudy_fastpath::audit::Divergence;
use understudy_fastpath::command::{Command, ControlBody, DataRole, Event, Snapshot};
use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest, Wish};
use understudy_proto::{
    Config, DpCommand, Held, LocalFact, LogState, Node, Output, Path, Paths, Persisted,
    ServiceCommand, TimelineEvent, To,
};
use understudy_seal::Channel;
use understudy_wire::control::Control as Message;
use understudy_wire::pdu::{PDU_HEADER_LEN, PDU_TAG_LEN, PduKind, TARGET_ALL};
use understudy_wire::{Epoch, NodeId};

use crate::scenario::Mutation;

/// Longest sleep of the loop.
pub const TICK_NS: u64 = 2 * MS;
const STUCK_NS: u64 = 1_000 * MS;
const RESTART_DELAY_NS: u64 = 150 * MS;
/// A life shorter than this is a failure to start: the next one is delayed, ever longer.
const SHORT_LIFE_NS: u64 = 10_000 * MS;
const BACKOFF_FIRST_MS: u64 = 500;
const BACKOFF_LAST_MS: u64 = 30_000;
const READY_CHECK_NS: u64 = 20 * MS;
/// Orders the poll-mode thread may be behind.
pub const COMMANDS_MAX: usize = 1024;

/// What is going on with the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Started, not seen ready yet.
    Starting {
        /// When it was last looked at.
        checked_ns: u64,
    },
    /// Seen ready.
    Ready,
    /// Dead, or never there: a witness has none.
    Gone,
}

/// From one life to the next, if it ended by itself.
#[derive(Clone, Copy, Debug)]
pub struct HandedDown {
    /// How long it was delayed.
    pub backoff_ms: u64,
    /// What it can have acknowledged, if it knew.
    pub held: Option<Held>,
}

/// What the thread wants done outside of itself.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A datagram on the second path, to one or to all.
    Second(NodeId, Vec<u8>),
    /// Write this durably, in order.
    Persist(Persisted),
    /// Kill the application.
    KillApp,
    /// Ask the arbiter.
    Arbiter(ArbiterRequest),
    /// The process ends, to be started anew.
    Die(HandedDown),
    /// Something for the time line.
    Note(TimelineEvent),
    /// The audit found that the clone says other bytes.
    Diverged(Divergence),
    /// A switchover ended.
    Switchover(Result<NodeId, String>),
}

/// The capsule's facts that the thread sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct CapsuleFacts {
    /// The application has bound its port.
    pub ready: bool,
    /// The application has ended.
    pub exited: bool,
}

/// The queues between the two threads.
#[derive(Default)]
pub struct Queues {
    /// Orders to the data path.
    pub commands: VecDeque<Command>,
    /// Events from it.
    pub events: VecDeque<Event>,
    /// The newest state, once.
    pub snapshot: Option<Snapshot>,
}

/// The thread.
pub struct Control {
    /// The second path's end.
    channel: Channel,
    /// The shipped state machine.
    pub node: Node,
    /// The application as seen here.
    pub app: App,
    /// Datagrams received on the second path.
    pub datagrams: VecDeque<Vec<u8>>,
    /// Carrier changes.
    pub links: VecDeque<LocalFact>,
    /// Epochs that became durable.
    pub persisted: VecDeque<Epoch>,
    /// What the arbiter answered.
    pub answers: VecDeque<(ArbiterRequest, ArbiterAnswer)>,
    /// Wishes of the operator.
    pub switchovers: VecDeque<Option<NodeId>>,
    last: Option<Snapshot>,
    stuck_told: bool,
    restart_at_ns: Option<u64>,
    started_ns: u64,
    /// How long the life before was delayed, if it ended by itself; then how long this one was.
    backoff_ms: Option<u64>,
    held: Option<Held>,
    effects: Vec<Effect>,
    started: bool,
    mutation: Mutation,
}

impl Control {
    /// A thread that starts now.
    pub fn new(
        config: Config,
        channel: Channel,
        persisted: Persisted,
        now_ns: u64,
        backoff_ms: Option<u64>,
        mutation: Mutation,
    ) -> Control {
        let app = match config.witness {
            true => App::Gone,
            false => App::Starting { checked_ns: now_ns },
        };
        let mut node = Node::new(config, persisted, now_ns, now_ns).expect("valid settings");
        if mutation == Mutation::RecoveringVotes {
            node.handle_force_recovered(now_ns);
        }
        Control {
            channel,
            node,
            mutation,
            app,
            datagrams: VecDeque::new(),
            links: VecDeque::new(),
            persisted: VecDeque::new(),
            answers: VecDeque::new(),
            switchovers: VecDeque::new(),
            last: None,
            stuck_told: false,
            restart_at_ns: None,
            started_ns: now_ns,
            backoff_ms,
            held: None,
            effects: Vec::new(),
            started: false,
        }
    }

    /// When to wake at the latest, on the node's clock.
    pub fn due_ns(&self, now_ns: u64) -> u64 {
        self.node.poll_timeout().unwrap_or(u64::MAX).clamp(now_ns, now_ns + TICK_NS)
    }

    /// One round of the loop.
    pub fn wake(&mut self, now_ns: u64, q: &mut Queues, facts: CapsuleFacts) -> Vec<Effect> {
        if !self.started {
            self.started = true;
            self.take_links(now_ns, q);
        }
        self.take_from_dataplane(now_ns, q);
        while let Some(mut datagram) = self.datagrams.pop_front() {
            if let Ok(Some((header, body))) = self.channel.open_in_place(now_ns, &mut datagram)
                && header.kind == PduKind::Control
            {
                self.take_message(now_ns, Path::Second, header.node, header.epoch, body, q);
            }
        }
        while let Some(handshake) = self.channel.poll_handshake(now_ns) {
            self.effects.push(Effect::Second(handshake.target, handshake.pdu.to_vec()));
        }
        self.take_links(now_ns, q);
        while let Some(epoch) = self.persisted.pop_front() {
            self.node.handle_persisted(now_ns, epoch);
            self.carry_out(now_ns, q);
        }
        while let Some((request, answer)) = self.answers.pop_front() {
            self.node.handle_arbiter(now_ns, &request, answer);
            self.carry_out(now_ns, q);
        }
        self.watch_app(now_ns, q, facts);
        while let Some(to) = self.switchovers.pop_front() {
            self.node.handle_switchover(now_ns, to);
            self.carry_out(now_ns, q);
        }
        if self.node.poll_timeout().is_some_and(|due| due <= now_ns) {
            self.node.handle_timeout(now_ns);
            self.carry_out(now_ns, q);
        }
        if self.restart_at_ns.is_some_and(|at| now_ns >= at) {
            let backoff_ms = self.backoff_ms.unwrap_or(0);
            self.effects.push(Effect::Die(HandedDown { backoff_ms, held: self.held }));
        }
        std::mem::take(&mut self.effects)
    }

    fn take_from_dataplane(&mut self, now_ns: u64, q: &mut Queues) {
        while let Some(event) = q.events.pop_front() {
            match event {
                Event::Control { node, epoch, body } => {
                    self.take_message(now_ns, Path::Replica, node, epoch, &body, q);
                }
                Event::ServiceDying => self.application_gone(now_ns, q),
                Event::Member { .. } => {}
                Event::Diverged { divergence, .. } => {
                    self.effects.push(Effect::Diverged(divergence));
                }
                // No node of the simulation takes checkpoints.
                Event::Held(_) | Event::Resumed(_) => {}
                Event::Promised { epoch, snapshot } => {
                    let state = log_state(&snapshot);
                    self.last = Some(snapshot);
                    self.node.handle_promised(now_ns, epoch, &state);
                    self.carry_out(now_ns, q);
                }
            }
        }
        let newer = q
            .snapshot
            .take()
            .filter(|new| self.last.as_ref().is_none_or(|old| old.at_ns <= new.at_ns));
        if let Some(snapshot) = newer {
            self.stuck_told = false;
            let state = log_state(&snapshot);
            self.last = Some(snapshot);
            self.node.handle_log(now_ns, &state);
            self.carry_out(now_ns, q);
        } else if !self.stuck_told && self.is_stuck(now_ns) {
            self.stuck_told = true;
            self.node.handle_local(now_ns, LocalFact::DataplaneStuck);
            self.carry_out(now_ns, q);
        }
    }

    fn is_stuck(&self, now_ns: u64) -> bool {
        self.last.as_ref().is_some_and(|s| now_ns > s.at_ns + STUCK_NS)
    }

    fn take_message(
        &mut self,
        now_ns: u64,
        path: Path,
        node: NodeId,
        epoch: Epoch,
        body: &[u8],
        q: &mut Queues,
    ) {
        if let Ok(message) = Message::decode(body) {
            self.node.handle_message(now_ns, path, node, epoch, &message);
            self.carry_out(now_ns, q);
        }
    }

    fn take_links(&mut self, now_ns: u64, q: &mut Queues) {
        while let Some(fact) = self.links.pop_front() {
            if let LocalFact::ClientLink(up) = fact {
                q.commands.push_back(Command::ClientLink { up });
            }
            self.node.handle_local(now_ns, fact);
            self.carry_out(now_ns, q);
        }
    }

    fn watch_app(&mut self, now_ns: u64, q: &mut Queues, facts: CapsuleFacts) {
        if self.app == App::Gone {
            return;
        }
        if facts.exited {
            return self.application_gone(now_ns, q);
        }
        let App::Starting { checked_ns } = self.app else { return };
        if now_ns < checked_ns + READY_CHECK_NS {
            return;
        }
        self.app = App::Starting { checked_ns: now_ns };
        if facts.ready {
            self.app = App::Ready;
            q.commands.push_back(Command::Service { up: true });
            self.node.handle_local(now_ns, LocalFact::AppReady);
            self.carry_out(now_ns, q);
        }
    }

    fn application_gone(&mut self, now_ns: u64, q: &mut Queues) {
        if self.app == App::Gone {
            return;
        }
        self.app = App::Gone;
        q.commands.push_back(Command::Service { up: false });
        self.node.handle_local(now_ns, LocalFact::AppExited);
        self.carry_out(now_ns, q);
    }

    fn carry_out(&mut self, now_ns: u64, q: &mut Queues) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, paths, epoch, msg } => self.send(to, paths, epoch, &msg, q),
                Output::Persist { epoch, voted_for } => {
                    self.effects.push(Effect::Persist(Persisted { epoch, voted_for }));
                }
                Output::Arbiter(request) => {
                    let early = self.mutation == Mutation::EarlyAlone;
                    if early && request.wish == Wish::Seclude {
                        q.commands.push_back(Command::Alone { epoch: request.epoch, on: true });
                    }
                    self.effects.push(Effect::Arbiter(request));
                }
                Output::Dataplane(command) => self.order(command, q),
                Output::Service(ServiceCommand::Restart { held }) => {
                    self.held = held;
                    self.restart(now_ns, q);
                }
                Output::Event(event) => self.effects.push(Effect::Note(event)),
                Output::SwitchoverDone(result) => self.effects.push(Effect::Switchover(result)),
            }
        }
    }

    fn order(&mut self, command: DpCommand, q: &mut Queues) {
        let command = match (self.mutation, command, &self.last) {
            (Mutation::VoteWithoutPromise, DpCommand::Promise { epoch }, Some(last)) => {
                let snapshot = last.clone();
                return q.events.push_back(Event::Promised { epoch, snapshot });
            }
            (Mutation::UncutLog, DpCommand::Follow { epoch, primary, .. }, _) => {
                DpCommand::Follow { epoch, primary, cut: u64::MAX }
            }
            (_, command, _) => command,
        };
        q.commands.push_back(data_command(command));
    }

    fn send(&mut self, to: To, paths: Paths, epoch: Epoch, msg: &Message, q: &mut Queues) {
        let mut body = Vec::new();
        msg.encode(&mut body);
        let target = match to {
            To::All => TARGET_ALL,
            To::One(id) => id,
        };
        if paths != Paths::Second && q.commands.len() < COMMANDS_MAX {
            let body: ControlBody = body.iter().copied().collect();
            q.commands.push_back(Command::Control { target, epoch, body });
        }
        if paths == Paths::Replica {
            return;
        }
        let mut datagram = [&[0; PDU_HEADER_LEN][..], &body, &[0; PDU_TAG_LEN]].concat();
        let sealed = self.channel.seal_in_place(PduKind::Control, target, epoch, &mut datagram);
        sealed.expect("a control message is a short PDU");
        self.effects.push(Effect::Second(target, datagram));
    }

    /// A fresh start of everything: the whole process, a moment from now.
    fn restart(&mut self, now_ns: u64, q: &mut Queues) {
        if self.restart_at_ns.is_none() {
            q.commands.push_back(Command::Service { up: false });
            self.effects.push(Effect::KillApp);
            self.app = App::Gone;
            let backoff_ms = backoff_ms(now_ns - self.started_ns, self.backoff_ms);
            self.backoff_ms = Some(backoff_ms);
            self.restart_at_ns = Some(now_ns + RESTART_DELAY_NS + backoff_ms * MS);
        }
    }
}

/// How long to wait after a life that lasted `life_ns`; `last`: how long the one before it waited.
fn backoff_ms(life_ns: u64, last: Option<u64>) -> u64 {
    match last {
        _ if life_ns >= SHORT_LIFE_NS => 0,
        None => 0,
        Some(0) => BACKOFF_FIRST_MS,
        Some(ms) => (2 * ms).min(BACKOFF_LAST_MS),
    }
}

fn data_command(command: DpCommand) -> Command {
    match command {
        DpCommand::Promise { epoch } => Command::Promise { epoch },
        DpCommand::Follow { epoch, primary, cut } => Command::Follow { epoch, primary, cut },
        DpCommand::Lead { epoch, serve } => Command::Lead { epoch, serve },
        DpCommand::Alone { epoch, on } => Command::Alone { epoch, on },
        DpCommand::Drain => Command::Drain,
        DpCommand::Undrain => Command::Undrain,
        DpCommand::Fence { epoch } => Command::Fence { epoch },
        DpCommand::Announce => Command::Announce,
    }
}

fn log_state(s: &Snapshot) -> LogState {
    let (epoch, leading) = match s.role {
        DataRole::Follow(epoch) => (epoch, false),
        DataRole::Lead(epoch) => (epoch, true),
        DataRole::Idle | DataRole::Fenced => (0, false),
    };
    let history = s.held_history();
    LogState {
        epoch,
        leading,
        log_epoch: history.last().map_or(0, |e| e.epoch),
        log_start: s.log_start,
        position: s.held,
        committed: s.committed,
        applied: s.applied,
        history,
        alone: s.alone,
        gate_open: s.gate_open,
        lease_valid: s.lease_valid,
        drained: s.drained,
        last_data_rx_ns: s.data_heard_at_ns,
        clone_level: s.level,
        fit: s.fit,
        peer_acked: s.peers.iter().map(|p| (p.id, p.covered)).collect(),
    }
}
