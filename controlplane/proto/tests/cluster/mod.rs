//! A seeded cluster in one process: nodes, dataplanes, two networks, faults, and what must always hold.
//!
//! What belongs here: the event loop, the faults and the invariants. The scenarios are in `simulation.rs`.

mod arbiter;
mod dataplane;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use arbiter::Ask;
use dataplane::{Dataplane, Pdu, Record};
use understudy_proto::arbiter::{ArbiterAnswer, Register};
use understudy_proto::{
    Config, DpCommand, LocalFact, LogState, Node, Output, Path, Paths, Persisted, ServiceCommand,
    TimelineKind, To, View,
};
use understudy_wire::{
    Epoch, NodeId,
    control::{Control, Role},
};

pub const MS: u64 = 1_000_000;
const HEARTBEAT_NS: u64 = 10 * MS;
const SUSPECT_NS: u64 = 50 * MS;
const LEASE_NS: u64 = 40 * MS;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Ways in which the model breaks a contract, to see that the invariants notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    #[default]
    None,
    /// Dataplanes acknowledge whoever asks, whatever they promised.
    BrokenPromises,
    /// Nothing is persisted across a crash.
    ForgottenState,
    /// The lease outlives the detection.
    LongLease,
    /// Candidates claim a log that nobody can beat.
    BoastingCandidates,
}

enum Event {
    Timer {
        life: u32,
    },
    Message {
        from: NodeId,
        path: Path,
        epoch: Epoch,
        bytes: Vec<u8>,
    },
    Persisted {
        life: u32,
        state: Persisted,
    },
    Report {
        life: u32,
        promised: Option<Epoch>,
        state: Box<LogState>,
    },
    Fact {
        life: u32,
        fact: LocalFact,
    },
    Order {
        life: u32,
        command: DpCommand,
    },
    Pdu {
        from: NodeId,
        pdu: Pdu,
    },
    DpTick {
        life: u32,
    },
    Reset {
        life: u32,
    },
    Start,
    ClientFrame,
    Fault,
    /// The arbiter's keeper reads the register for a request.
    ArbiterReads {
        life: u32,
        ask: Ask,
    },
    /// It writes what it decided, if nobody wrote since `revision`.
    ArbiterWrites {
        life: u32,
        ask: Ask,
        new: Register,
        revision: u64,
    },
    Arbiter {
        life: u32,
        ask: Ask,
        answer: ArbiterAnswer,
    },
}

/// Heap entry; the sequence number keeps equal times in order.
struct Entry(u64, u64, NodeId, Event);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// One machine.
struct Machine {
    id: NodeId,
    node: Option<Node>,
    dp: Dataplane,
    disk: Persisted,
    life: u32,
    clock_offset_ns: u64,
    paused_until_ns: u64,
    dp_paused_until_ns: u64,
    timer_ns: u64,
    orders_at_ns: u64,
    reports_at_ns: u64,
    disk_at_ns: u64,
    /// Its application ended, and its service did not begin anew since.
    clone_gone: bool,
}

/// The whole.
pub struct Cluster {
    pub rng: Rng,
    pub now_ns: u64,
    pub trace: Vec<String>,
    pub mutation: Mutation,
    /// A majority crashed: losing what was committed is allowed once.
    pub may_lose: bool,
    /// What reigns up to this one left behind is history no more.
    lost_through: Epoch,
    pub events: BTreeMap<TimelineKind2, u64>,
    pub committed_total: u64,
    pub switchovers: Vec<Result<NodeId, String>>,
    /// Two nodes with an arbiter.
    pub arbiter: Option<arbiter::Arbiter>,
    faults: bool,
    loss_percent: u64,
    machines: Vec<Machine>,
    queue: BinaryHeap<Reverse<Entry>>,
    seq: u64,
    cut: Vec<(Path, NodeId, NodeId)>,
    leaders: BTreeMap<Epoch, NodeId>,
    truth: Vec<Record>,
    checked: Vec<usize>,
    value: u64,
}

/// `TimelineKind` by name, for counting.
pub type TimelineKind2 = String;

impl Cluster {
    pub fn new(seed: u64, size: u16, mutation: Mutation) -> Self {
        let mut rng = Rng(seed);
        let majority = usize::from(size) / 2 + 1;
        let lease_ns = if mutation == Mutation::LongLease { 10 * SUSPECT_NS } else { LEASE_NS };
        let machine = |id: NodeId, rng: &mut Rng| Machine {
            id,
            node: None,
            dp: Dataplane::new(id, majority, lease_ns, mutation == Mutation::BrokenPromises),
            disk: Persisted::default(),
            life: 0,
            clock_offset_ns: 1_000_000_000 + rng.below(1_000_000_000_000),
            paused_until_ns: 0,
            dp_paused_until_ns: 0,
            timer_ns: 0,
            orders_at_ns: 0,
            reports_at_ns: 0,
            disk_at_ns: 0,
            clone_gone: false,
        };
        let machines = (1..=size).map(|id| machine(id, &mut rng)).collect();
        let mut cluster = Self {
            rng,
            now_ns: 0,
            trace: Vec::new(),
            mutation,
            may_lose: false,
            lost_through: 0,
            events: BTreeMap::new(),
            committed_total: 0,
            switchovers: Vec::new(),
            arbiter: None,
            faults: false,
            loss_percent: 0,
            machines,
            queue: BinaryHeap::new(),
            seq: 0,
            cut: Vec::new(),
            leaders: BTreeMap::new(),
            truth: Vec::new(),
            checked: vec![0; usize::from(size)],
            value: 1,
        };
        for id in 1..=size {
            let at_ns = cluster.rng.below(20 * MS);
            cluster.push(at_ns, id, Event::Start);
        }
        cluster.push(5 * MS, 1, Event::ClientFrame);
        cluster
    }

    pub fn size(&self) -> u16 {
        self.machines.len() as u16
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine {
        &mut self.machines[usize::from(id) - 1]
    }

    fn push(&mut self, at_ns: u64, id: NodeId, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Entry(at_ns, self.seq, id, event)));
    }

    fn note(&mut self, text: String) {
        if std::env::var_os("SEED").is_some() {
            println!("{:>12.3} ms {text}", self.now_ns as f64 / 1e6);
        }
        if self.trace.len() < 100_000 {
            self.trace.push(text);
        }
    }

    /// Lets faults happen for a while, then stops and heals everything.
    pub fn torment(&mut self, for_ns: u64) {
        self.faults = true;
        self.loss_percent = self.rng.below(20);
        let at_ns = self.now_ns + MS;
        self.push(at_ns, 1, Event::Fault);
        self.run(for_ns);
        self.heal();
    }

    pub fn heal(&mut self) {
        self.note("heal".into());
        self.faults = false;
        self.loss_percent = 0;
        self.cut.clear();
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.cut.clear();
        }
    }

    pub fn run(&mut self, for_ns: u64) {
        let until_ns = self.now_ns + for_ns;
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.0 <= until_ns) {
            let Some(Reverse(Entry(at_ns, seq, id, event))) = self.queue.pop() else { break };
            self.now_ns = at_ns;
            self.step(id, seq, event);
            self.check_gates();
        }
        self.now_ns = until_ns;
    }

    /// A primary with an open gate whom all others follow.
    pub fn settled(&self) -> Option<NodeId> {
        let views = self.views();
        let lead = self.machines.iter().find(|machine| {
            machine.dp.can_transmit(self.now_ns + machine.clock_offset_ns) && machine.node.is_some()
        })?;
        let with = |view: &View| view.primary == Some(lead.id) && !view.recovering;
        (views.len() == self.machines.len() && views.iter().all(with)).then_some(lead.id)
    }

    pub fn views(&self) -> Vec<View> {
        let view = |machine: &Machine| {
            machine.node.as_ref().map(|node| node.view(self.now_ns + machine.clock_offset_ns))
        };
        self.machines.iter().filter_map(view).collect()
    }

    pub fn primary(&self) -> Option<NodeId> {
        self.views().iter().find(|view| view.role == Role::Primary).map(|view| view.me)
    }

    pub fn switchover(&mut self, to: Option<NodeId>) {
        if let Some(id) = self.primary() {
            self.with_node(id, |node, now_ns| node.handle_switchover(now_ns, to));
        }
    }

    pub fn fact(&mut self, id: NodeId, fact: LocalFact) {
        self.note(format!("fact {fact:?} at {id}"));
        self.machine(id).clone_gone |= fact == LocalFact::AppExited;
        self.with_node(id, |node, now_ns| node.handle_local(now_ns, fact));
    }

    /// Cuts every path of a node in both directions.
    pub fn isolate(&mut self, id: NodeId) {
        for other in (1..=self.size()).filter(|&other| other != id) {
            for path in [Path::Replica, Path::Second] {
                self.cut.push((path, id, other));
                self.cut.push((path, other, id));
            }
        }
    }

    pub fn crash(&mut self, id: NodeId, down_ns: u64) {
        self.note(format!("crash of {id}"));
        let forgets = self.mutation == Mutation::ForgottenState;
        let machine = self.machine(id);
        machine.life += 1;
        machine.node = None;
        if forgets {
            machine.disk = Persisted::default();
        }
        let dp = &machine.dp;
        machine.dp = Dataplane::new(id, dp.majority, dp.lease_ns, dp.breaks_promises);
        self.checked[usize::from(id) - 1] = 0;
        let at_ns = self.now_ns + down_ns;
        self.push(at_ns, id, Event::Start);
    }

    fn start(&mut self, id: NodeId) {
        let size = self.size();
        let (now_ns, seed) = (self.now_ns, self.rng.next());
        let pair = self.arbiter.is_some();
        let machine = self.machine(id);
        let local_ns = now_ns + machine.clock_offset_ns;
        let mut cfg = Config::new(id, (1..=size).collect(), HEARTBEAT_NS, SUSPECT_NS, LEASE_NS);
        cfg.priority = 200 - id as u8;
        cfg.incarnation = local_ns;
        cfg.takeover_limit_ns = 2000 * MS;
        (cfg.arbiter, cfg.alone_allowed) = (pair, pair);
        machine.life += 1;
        machine.timer_ns = 0;
        machine.clone_gone = false;
        machine.orders_at_ns = now_ns;
        machine.reports_at_ns = now_ns;
        machine.disk_at_ns = now_ns;
        machine.node = Some(Node::new(cfg, machine.disk, local_ns, seed).expect("valid settings"));
        let (life, text) = (machine.life, format!("start of {id} with {:?}", machine.disk));
        self.note(text);
        for fact in [LocalFact::ClientLink(true), LocalFact::ReplicaLink(true)] {
            self.push(now_ns, id, Event::Fact { life, fact });
        }
        let ready_ns = now_ns + self.rng.below(30 * MS);
        self.push(ready_ns, id, Event::Fact { life, fact: LocalFact::AppReady });
        self.push(now_ns, id, Event::DpTick { life });
        self.with_node(id, |_, _| {});
    }

    fn step(&mut self, id: NodeId, seq: u64, event: Event) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let (life, held_ns) = match &event {
            Event::Order { life, .. } | Event::DpTick { life } => {
                (Some(*life), machine.dp_paused_until_ns)
            }
            Event::Pdu { .. } => (None, machine.dp_paused_until_ns),
            Event::Timer { life }
            | Event::Persisted { life, .. }
            | Event::Report { life, .. }
            | Event::Reset { life }
            | Event::Arbiter { life, .. }
            | Event::Fact { life, .. } => (Some(*life), machine.paused_until_ns),
            Event::Message { .. } => (None, machine.paused_until_ns),
            Event::ArbiterReads { .. } | Event::ArbiterWrites { .. } => (None, 0),
            Event::Start | Event::ClientFrame | Event::Fault => (None, 0),
        };
        if life.is_some_and(|life| life != machine.life) {
            return;
        }
        if held_ns > now_ns {
            // In its old order: what waits on a disk or in a queue does not overtake.
            return self.queue.push(Reverse(Entry(held_ns, seq, id, event)));
        }
        self.dispatch(id, event);
    }

    fn dispatch(&mut self, id: NodeId, event: Event) {
        match event {
            Event::Start if self.machine(id).node.is_none() => self.start(id),
            Event::Start => {}
            Event::Timer { .. } => self.with_node(id, |node, now_ns| {
                if node.poll_timeout().is_some_and(|at_ns| at_ns <= now_ns) {
                    node.handle_timeout(now_ns);
                }
            }),
            Event::Message { from, path, epoch, bytes } => {
                let msg = Control::decode(&bytes).expect("what was sent decodes");
                self.with_node(id, |node, now_ns| {
                    node.handle_message(now_ns, path, from, epoch, &msg);
                });
            }
            Event::Persisted { state, .. } => {
                self.machine(id).disk = state;
                self.with_node(id, |node, now_ns| node.handle_persisted(now_ns, state.epoch));
            }
            Event::Report { promised, state, .. } => {
                self.with_node(id, |node, now_ns| match promised {
                    Some(epoch) => node.handle_promised(now_ns, epoch, &state),
                    None => node.handle_log(now_ns, &state),
                });
            }
            Event::Fact { fact, .. } => {
                self.with_node(id, |node, now_ns| node.handle_local(now_ns, fact));
            }
            Event::Order { command, .. } => self.on_order(id, command),
            Event::Pdu { from, pdu } => {
                let local_ns = self.local_ns(id);
                let machine = self.machine(id);
                if machine.node.is_some()
                    && let Some(answer) = machine.dp.receive(local_ns, from, &pdu)
                {
                    self.send_pdu(id, from, answer);
                }
            }
            Event::DpTick { life } => self.on_dp_tick(id, life),
            Event::Reset { life } => self.on_reset(id, life),
            Event::ClientFrame => self.on_client_frame(),
            Event::Fault => self.on_fault(),
            Event::ArbiterReads { life, ask } => self.on_arbiter_reads(id, life, ask),
            Event::ArbiterWrites { life, ask, new, revision } => {
                self.on_arbiter_writes(id, life, ask, new, revision);
            }
            Event::Arbiter { ask, answer, .. } => {
                let first = self.arbiter.as_mut().is_some_and(|arbiter| arbiter.is_first(id, ask));
                if first {
                    self.with_node(id, |node, now_ns| {
                        node.handle_arbiter(now_ns, &ask.request, answer);
                    });
                }
            }
        }
    }

    fn local_ns(&mut self, id: NodeId) -> u64 {
        let now_ns = self.now_ns;
        now_ns + self.machine(id).clock_offset_ns
    }

    /// Calls into a node and carries its outputs out.
    fn with_node(&mut self, id: NodeId, call: impl FnOnce(&mut Node, u64)) {
        let local_ns = self.local_ns(id);
        let machine = self.machine(id);
        let Some(node) = machine.node.as_mut() else { return };
        call(node, local_ns);
        let mut outputs = Vec::new();
        while let Some(output) = node.poll_output() {
            outputs.push(output);
        }
        let (offset_ns, life) = (machine.clock_offset_ns, machine.life);
        let timer_ns = node.poll_timeout().map(|at_ns| at_ns.saturating_sub(offset_ns));
        let timer_ns = timer_ns.map(|at_ns| at_ns.max(self.now_ns));
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let armed = |at_ns: &u64| machine.timer_ns <= now_ns || *at_ns < machine.timer_ns;
        if let Some(at_ns) = timer_ns.filter(armed) {
            machine.timer_ns = at_ns;
            self.push(at_ns, id, Event::Timer { life });
        }
        for output in outputs {
            self.carry_out(id, life, output);
        }
    }

    fn carry_out(&mut self, id: NodeId, life: u32, output: Output) {
        match output {
            Output::Arbiter(request) => self.ask_arbiter(id, life, request),
            Output::Send { to, paths, epoch, msg } => self.send_message(id, to, paths, epoch, msg),
            Output::Persist { epoch, voted_for } => {
                let at_ns = self.now_ns + self.rng.below(3 * MS);
                let machine = self.machine(id);
                machine.disk_at_ns = machine.disk_at_ns.max(at_ns);
                let at_ns = machine.disk_at_ns;
                let state = Persisted { epoch, voted_for };
                self.push(at_ns, id, Event::Persisted { life, state });
            }
            Output::Dataplane(command) => {
                let at_ns = self.now_ns + self.rng.below(MS);
                let machine = self.machine(id);
                machine.orders_at_ns = machine.orders_at_ns.max(at_ns);
                let at_ns = machine.orders_at_ns;
                self.note(format!("node {id} orders {command:?}"));
                self.push(at_ns, id, Event::Order { life, command });
            }
            Output::Service(ServiceCommand::Restart { .. }) => {
                let at_ns = self.now_ns + self.rng.below(50 * MS);
                self.push(at_ns, id, Event::Reset { life });
            }
            Output::Event(event) => {
                if event.kind == TimelineKind::AllLost {
                    assert!(self.may_lose, "node {id} declares that all is lost");
                    self.truth.clear();
                    self.lost_through = event.epoch;
                    self.checked.fill(0);
                }
                let (kind, epoch, text) = (event.kind, event.epoch, &event.text);
                self.note(format!("node {id} epoch {epoch} {kind:?}: {text}"));
                *self.events.entry(format!("{kind:?}")).or_default() += 1;
            }
            Output::SwitchoverDone(result) => {
                self.note(format!("node {id} switchover {result:?}"));
                self.switchovers.push(result);
            }
        }
    }

    fn send_message(&mut self, from: NodeId, to: To, paths: Paths, epoch: Epoch, msg: Control) {
        let msg = match msg {
            Control::Vote(mut vote) if self.mutation == Mutation::BoastingCandidates => {
                vote.log_epoch = u64::MAX;
                Control::Vote(vote)
            }
            Control::PreVote(mut vote) if self.mutation == Mutation::BoastingCandidates => {
                vote.log_epoch = u64::MAX;
                Control::PreVote(vote)
            }
            msg => msg,
        };
        let mut bytes = Vec::new();
        msg.encode(&mut bytes);
        for id in (1..=self.size()).filter(|&id| id != from) {
            if to != To::All && to != To::One(id) {
                continue;
            }
            for path in [Path::Replica, Path::Second] {
                let only = if path == Path::Replica { Paths::Replica } else { Paths::Second };
                if paths == Paths::Both || paths == only {
                    for at_ns in self.arrivals(path, from, id) {
                        let bytes = bytes.clone();
                        self.push(at_ns, id, Event::Message { from, path, epoch, bytes });
                    }
                }
            }
        }
    }

    /// When copies of something sent now arrive; none if it is lost.
    fn arrivals(&mut self, path: Path, from: NodeId, to: NodeId) -> Vec<u64> {
        if self.cut.contains(&(path, from, to)) || self.rng.chance(self.loss_percent) {
            return Vec::new();
        }
        let copies = if self.faults && self.rng.chance(3) { 2 } else { 1 };
        let slow = self.faults && self.rng.chance(2);
        let spread_ns = if slow { 120 * MS } else { MS };
        (0..copies).map(|_| self.now_ns + 50_000 + self.rng.below(spread_ns)).collect()
    }

    fn send_pdu(&mut self, from: NodeId, to: NodeId, pdu: Pdu) {
        for at_ns in self.arrivals(Path::Replica, from, to) {
            self.push(at_ns, to, Event::Pdu { from, pdu: pdu.clone() });
        }
    }

    fn report(&mut self, id: NodeId, promised: Option<Epoch>) {
        let (local_ns, at_ns) = (self.local_ns(id), self.now_ns + self.rng.below(MS));
        let machine = self.machine(id);
        machine.reports_at_ns = machine.reports_at_ns.max(at_ns);
        let (at_ns, life) = (machine.reports_at_ns, machine.life);
        let state = Box::new(machine.dp.state(local_ns));
        self.push(at_ns, id, Event::Report { life, promised, state });
    }

    fn on_order(&mut self, id: NodeId, command: DpCommand) {
        if let DpCommand::Lead { epoch, .. } = command {
            let first = *self.leaders.entry(epoch).or_insert(id);
            assert_eq!(first, id, "two leaders of epoch {epoch}");
            // The order may come late: only what older epochs committed must be there.
            let older = self.truth.partition_point(|record| record.epoch < epoch);
            let held = &self.machines[usize::from(id) - 1].dp.log;
            let whole = held.starts_with(&self.truth[..older]);
            assert!(whole, "node {id} leads epoch {epoch} without all that was committed");
        }
        let promised = self.machine(id).dp.order(command);
        if matches!(command, DpCommand::Follow { .. } | DpCommand::Lead { .. }) {
            self.checked[usize::from(id) - 1] = 0;
        }
        self.report(id, promised);
    }

    fn on_dp_tick(&mut self, id: NodeId, life: u32) {
        let local_ns = self.local_ns(id);
        self.machine(id).dp.settle(local_ns);
        self.check_committed(id);
        for peer in (1..=self.size()).filter(|&peer| peer != id) {
            if let Some(pdu) = self.machine(id).dp.poll(local_ns, peer) {
                self.send_pdu(id, peer, pdu);
            }
        }
        self.report(id, None);
        let at_ns = self.now_ns + 2 * MS;
        self.push(at_ns, id, Event::DpTick { life });
    }

    fn on_reset(&mut self, id: NodeId, life: u32) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        machine.dp.reset();
        machine.clone_gone = false;
        // The reset's confirmation comes behind the reports that were under way.
        let at_ns = machine.reports_at_ns.max(machine.orders_at_ns).max(now_ns);
        machine.reports_at_ns = at_ns;
        self.checked[usize::from(id) - 1] = 0;
        self.push(at_ns, id, Event::Fact { life, fact: LocalFact::ServiceFresh });
        let ready_ns = at_ns + 1 + self.rng.below(50 * MS);
        self.push(ready_ns, id, Event::Fact { life, fact: LocalFact::AppReady });
    }

    fn on_client_frame(&mut self) {
        self.value += 1;
        let value = self.value;
        for machine in &mut self.machines {
            if machine.dp_paused_until_ns <= self.now_ns {
                machine.dp.client_frame(value * 10 + u64::from(machine.id));
            }
        }
        let at_ns = self.now_ns + MS + self.rng.below(6 * MS);
        self.push(at_ns, 1, Event::ClientFrame);
    }

    /// Not more than a minority may be without its log at a time.
    fn may_lose_log(&self, id: NodeId) -> bool {
        if let Some(arbiter) = &self.arbiter {
            let other = &self.machines[2 - usize::from(id)];
            return !other.clone_gone && arbiter.other_holds_all(id, &self.views());
        }
        let gone =
            |view: &View| view.not_ready_because.iter().any(|why| why.contains("application"));
        // One that was deposed is about to empty its log.
        let whole = |view: &&View| !view.recovering && !gone(view) && view.role != Role::Fenced;
        let whole = self.views().iter().filter(whole).count();
        whole > self.machines.len() / 2 + 1
    }

    fn on_fault(&mut self) {
        if !self.faults {
            return;
        }
        let size = u64::from(self.size());
        let id = 1 + self.rng.below(size) as NodeId;
        let for_ns = MS + self.rng.below(200 * MS);
        match self.rng.below(16) {
            0 | 1 if self.may_lose_log(id) => self.crash(id, for_ns),
            2 if self.may_lose_log(id) => self.fact(id, LocalFact::AppExited),
            3 => {
                self.note(format!("pause of {id} for {} ms", for_ns / MS));
                let until_ns = self.now_ns + for_ns;
                let both = self.rng.chance(50);
                let machine = self.machine(id);
                // Never shortened: what is held until a moment would be overtaken.
                machine.dp_paused_until_ns = machine.dp_paused_until_ns.max(until_ns);
                let until_ns = if both { until_ns } else { 0 };
                machine.paused_until_ns = machine.paused_until_ns.max(until_ns);
            }
            4 => {
                self.note(format!("control pause of {id} for {} ms", for_ns / MS));
                let until_ns = self.now_ns + for_ns;
                let machine = self.machine(id);
                machine.paused_until_ns = machine.paused_until_ns.max(until_ns);
            }
            5 => self.isolate(id),
            6 | 7 => {
                let other = 1 + self.rng.below(size) as NodeId;
                let path = if self.rng.chance(70) { Path::Replica } else { Path::Second };
                self.note(format!("cut {path:?} {id} -> {other}"));
                self.cut.push((path, id, other));
            }
            8..=10 => {
                self.note("paths restored".into());
                self.cut.clear();
                if let Some(arbiter) = &mut self.arbiter {
                    arbiter.cut.clear();
                }
            }
            11 => self.switchover(None),
            12 => {
                let up = self.rng.chance(60);
                self.fact(id, LocalFact::ClientLink(up));
            }
            13 | 14 if self.arbiter.is_some() => self.arbiter_fault(),
            // Never mended at the end: an impaired node serves for want of a better one.
            14 => {
                let impaired = self.rng.chance(60);
                self.fact(id, LocalFact::Impaired(impaired));
            }
            _ => self.loss_percent = self.rng.below(25),
        }
        let at_ns = self.now_ns + MS + self.rng.below(80 * MS);
        self.push(at_ns, 1, Event::Fault);
    }

    /// What a primary commits must be what was committed before, and more.
    fn check_committed(&mut self, id: NodeId) {
        let index = usize::from(id) - 1;
        let dp = &self.machines[index].dp;
        if !dp.leading || dp.epoch <= self.lost_through {
            return;
        }
        for at in self.checked[index]..dp.committed {
            let record = dp.log[at];
            match self.truth.get(at) {
                Some(known) => {
                    assert_eq!(*known, record, "node {id} lost what was committed at {at}");
                }
                None => {
                    self.truth.push(record);
                    self.committed_total += 1;
                }
            }
        }
        self.checked[index] = self.checked[index].max(dp.committed);
    }

    /// Who may transmit now.
    pub fn open(&self) -> Vec<NodeId> {
        let open =
            |machine: &&Machine| machine.dp.can_transmit(self.now_ns + machine.clock_offset_ns);
        self.machines.iter().filter(open).map(|m| m.id).collect()
    }

    fn check_gates(&self) {
        let open = self.open();
        assert!(open.len() <= 1, "nodes {open:?} may transmit at the same time");
    }
}
