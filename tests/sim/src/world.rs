//! The event loop: one queue, one clock, every machine and network in it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use understudy_fastpath::MS;
use understudy_fastpath::command::DataRole;
use understudy_fastpath::ports::PortRole;
use understudy_proto::TimelineKind;
use understudy_wire::NodeId;
use understudy_wire::frame::Ethernet;
use understudy_wire::pdu::{PduHeader, PduKind, TARGET_ALL, in_frame};
use understudy_wire::tcp::Segment;

use crate::check::{Held, Truth};
use crate::client::Host;
use crate::control::{COMMANDS_MAX, Effect};
use crate::director::Director;
use crate::frames::{CLUSTER, SimFrame, replica_mac};
use crate::machine::{GATE_FRAMES_MAX, Machine, NodeClock, RETAINED_FRAMES_MAX, Round};
use crate::net::{Cuts, Plug, Switch, Way, arrivals};
use crate::rng::Rng;
use crate::scenario::{Mutation, Profile, Scenario};
use crate::tamper;

const US: u64 = 1_000;
/// How long the poll-mode thread rests when there is nothing to do.
const REST_NS_MAX: u64 = 400 * US;
const TRACE_MAX: usize = 60;
/// A run that has not ended by then is stuck.
pub const RUN_NS_MAX: u64 = 180_000 * MS;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The poll-mode thread's turn.
    Poll(NodeId, u64),
    /// The control-plane thread's turn.
    Wake(NodeId, u64),
    /// A frame at a replica port.
    Replica(NodeId, Vec<u8>),
    /// A datagram on the second path.
    Datagram(NodeId, Vec<u8>),
    /// A frame at the switch.
    AtSwitch(Plug, Vec<u8>),
    /// A frame at the end of a cable.
    AtPlug(Plug, Vec<u8>),
    /// A frame for the capsule, and the position it came with.
    ToKernel(NodeId, u64, Vec<u8>, u64),
    /// A frame of the capsule.
    FromKernel(NodeId, u64, SimFrame),
    /// A timer of the capsule's kernel.
    Kernel(NodeId, u64),
    /// A write is durable.
    Durable(NodeId, u64),
    /// A process starts.
    Boot(NodeId),
    /// A timer of a client machine.
    Host(usize),
    /// The director's turn.
    Direct,
}

struct Entry(u64, u64, Event);

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

/// The whole.
pub struct World {
    /// What this run is.
    pub scenario: Scenario,
    /// Time.
    pub now_ns: u64,
    /// The nodes.
    pub machines: Vec<Machine>,
    /// The client machines.
    pub hosts: Vec<Host>,
    /// What is cut.
    pub cuts: Cuts,
    /// The clients' switch.
    pub switch: Switch,
    /// The one history.
    pub truth: Truth,
    /// The world's own chance.
    pub rng: Rng,
    /// The first broken promise.
    pub violation: Option<String>,
    /// The last things that happened.
    pub trace: VecDeque<String>,
    /// Print everything.
    pub verbose: bool,
    /// Depends on every event of the run.
    pub digest: u64,
    /// Events handled.
    pub steps: u64,
    /// Takeovers and the like, counted.
    pub notes: std::collections::BTreeMap<String, u64>,
    over: bool,
    host_due: Vec<u64>,
    queue: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    director: Director,
}

impl World {
    /// Everything off, about to be switched on.
    pub fn new(scenario: Scenario, mut rng: Rng, verbose: bool) -> World {
        let machines = (1..=scenario.nodes)
            .map(|id| Machine::new(id, NodeClock::new(1_000_000 * MS + rng.below(1 << 40))))
            .collect();
        let hosts = (0..scenario.hosts)
            .map(|i| Host::new(i, scenario.connections, rng.fork()))
            .collect::<Vec<_>>();
        let mut world = World {
            now_ns: 0,
            machines,
            host_due: vec![u64::MAX; hosts.len()],
            hosts,
            cuts: Cuts::default(),
            switch: Switch::default(),
            truth: Truth::new(scenario.majority()),
            director: Director::new(&scenario),
            scenario,
            rng,
            violation: None,
            trace: VecDeque::new(),
            verbose,
            digest: 0,
            steps: 0,
            notes: Default::default(),
            over: false,
            queue: BinaryHeap::new(),
            sequence: 0,
        };
        for id in 1..=world.scenario.nodes {
            let at = world.rng.below(20 * MS);
            world.push(at, Event::Boot(id));
        }
        for i in 0..world.hosts.len() {
            world.schedule_host(i);
        }
        world.push(MS, Event::Direct);
        world
    }

    /// Runs until the director is content, or a promise is broken.
    pub fn run(&mut self) {
        while self.violation.is_none() && !self.over && !self.director.is_done() {
            let Some(Reverse(Entry(at, _, event))) = self.queue.pop() else { break };
            self.now_ns = at;
            if at > RUN_NS_MAX {
                self.violate("the run does not end".into());
                break;
            }
            self.steps += 1;
            self.fold(&event);
            self.step(event);
        }
    }

    fn fold(&mut self, event: &Event) {
        let (kind, len) = match event {
            Event::Poll(id, _) => (1 + u64::from(*id), 0),
            Event::Wake(id, _) => (100 + u64::from(*id), 0),
            Event::Replica(id, b) => (200 + u64::from(*id), hash(b)),
            Event::Datagram(id, b) => (300 + u64::from(*id), hash(b)),
            Event::AtSwitch(_, b) => (400, hash(b)),
            Event::AtPlug(_, b) => (500, hash(b)),
            Event::ToKernel(id, _, b, _) => (600 + u64::from(*id), hash(b)),
            Event::FromKernel(id, _, f) => (700 + u64::from(*id), hash(&f.bytes)),
            _ => (800, 0),
        };
        for word in [self.now_ns, kind, len] {
            self.digest = (self.digest ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(5);
        }
    }

    /// Puts an event into the queue.
    pub fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Entry(at.max(self.now_ns), self.sequence, event)));
    }

    /// Remembers, and prints if asked.
    pub fn note(&mut self, text: impl Into<String>) {
        let line = format!("{:>12.3} ms  {}", self.now_ns as f64 / 1e6, text.into());
        if self.verbose {
            println!("{line}");
        }
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// A promise is broken.
    pub fn violate(&mut self, text: String) {
        self.note(format!("VIOLATION: {text}"));
        self.violation.get_or_insert(text);
    }

    /// A node.
    pub fn machine(&mut self, id: NodeId) -> &mut Machine {
        &mut self.machines[usize::from(id) - 1]
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Poll(id, life) => self.on_poll(id, life),
            Event::Wake(id, life) => self.on_wake(id, life),
            Event::Replica(id, bytes) => self.arrive(id, PortRole::Replica, SimFrame::new(bytes)),
            Event::Datagram(id, bytes) => {
                if let Some(life) = &mut self.machine(id).life {
                    life.control.datagrams.push_back(bytes);
                    self.hurry_wake(id);
                }
            }
            Event::AtSwitch(from, bytes) => self.on_switch(from, &bytes),
            Event::AtPlug(Plug::Node(id), bytes) => {
                self.arrive(id, PortRole::Client, SimFrame::new(bytes));
            }
            Event::AtPlug(Plug::Client(i), bytes) => {
                self.hosts[i].on_frame(self.now_ns, &bytes);
                self.after_host(i);
            }
            Event::ToKernel(id, life, bytes, fed) => self.on_kernel_frame(id, life, &bytes, fed),
            Event::FromKernel(id, life, frame) => {
                if self.machine(id).lives == life {
                    self.show(&format!("from kernel {id}"), &frame.bytes);
                    self.arrive(id, PortRole::Host, frame);
                }
            }
            Event::Kernel(id, life) => self.on_kernel_timer(id, life),
            Event::Durable(id, life) => self.on_durable(id, life),
            Event::Boot(id) => self.boot(id),
            Event::Host(i) => {
                if self.host_due[i] <= self.now_ns {
                    self.host_due[i] = u64::MAX;
                    self.hosts[i].tick(self.now_ns);
                    self.after_host(i);
                }
            }
            Event::Direct => {
                let mut director = std::mem::take(&mut self.director);
                director.turn(self);
                self.director = director;
                let at = self.now_ns + 10 * MS;
                self.push(at, Event::Direct);
            }
        }
    }

    // ---- nodes --------------------------------------------------------------

    fn boot(&mut self, id: NodeId) {
        let (now_ns, mut rng) = (self.now_ns, self.rng.fork());
        let scenario = self.scenario.clone();
        let machine = self.machine(id);
        if machine.life.is_some() {
            return;
        }
        machine.boot(&scenario, now_ns, &mut rng);
        let (life, disk) = (machine.lives, machine.disk);
        if let Some(l) = &mut machine.life {
            (l.poll_due, l.wake_due) = (now_ns, now_ns);
        }
        self.note(format!("node {id} starts, life {life}, persisted {disk:?}"));
        self.push(now_ns, Event::Poll(id, life));
        self.push(now_ns, Event::Wake(id, life));
    }

    /// A node's process is gone.
    pub fn crash(&mut self, id: NodeId) {
        let (scenario, mut rng) = (self.scenario.clone(), self.rng.fork());
        self.machine(id).crash(&scenario, &mut rng);
    }

    fn arrive(&mut self, id: NodeId, port: PortRole, frame: SimFrame) {
        let machine = self.machine(id);
        let up = match port {
            PortRole::Client => machine.client_carrier,
            PortRole::Replica => machine.replica_carrier,
            PortRole::Host => true,
        };
        if let Some(life) = machine.life.as_mut().filter(|_| up) {
            life.ports.arrive(port, frame);
            self.hurry_poll(id);
        }
    }

    fn hurry_poll(&mut self, id: NodeId) {
        let at = self.now_ns + 1 + self.rng.below(20 * US);
        let machine = self.machine(id);
        let lives = machine.lives;
        if let Some(life) = machine.life.as_mut().filter(|l| at < l.poll_due) {
            life.poll_due = at;
            self.push(at, Event::Poll(id, lives));
        }
    }

    fn hurry_wake(&mut self, id: NodeId) {
        let at = self.now_ns + 1 + self.rng.below(60 * US);
        let machine = self.machine(id);
        let lives = machine.lives;
        if let Some(life) = machine.life.as_mut().filter(|l| at < l.wake_due) {
            life.wake_due = at;
            self.push(at, Event::Wake(id, lives));
        }
    }

    fn on_poll(&mut self, id: NodeId, lives: u64) {
        let (now_ns, mutation) = (self.now_ns, self.scenario.mutation);
        let stale = self.rng.percent(50);
        let machine = self.machine(id);
        let Some(life) = machine.life.as_mut().filter(|l| l.poll_due <= now_ns) else { return };
        if machine.lives != lives {
            return;
        }
        let (since, until) = machine.poll_stall;
        if now_ns < until {
            life.poll_due = until;
            if until < u64::MAX {
                self.push(until, Event::Poll(id, lives));
            }
            return;
        }
        machine.poll_stall = (0, 0);
        // It may have stood still just after it had read the clock.
        let read_ns = if until > 0 && stale { since } else { now_ns };
        let (read_ns, clock_ns) =
            (machine.data_clock.local(read_ns), machine.data_clock.local(now_ns));
        life.poll_due = u64::MAX;
        let round = life.poll(read_ns, clock_ns, mutation);
        self.after_poll(id, round);
    }

    fn after_poll(&mut self, id: NodeId, round: Round) {
        let rest = if round.busy { 1 + self.rng.below(15 * US) } else { self.rest_ns() };
        let at = self.now_ns + rest;
        let machine = self.machine(id);
        let lives = machine.lives;
        if let Some(life) = &mut machine.life {
            life.poll_due = at;
        }
        self.push(at, Event::Poll(id, lives));
        self.judge(id, &round);
        let fed = round.snapshot.applied;
        self.deliver_to_kernel(id, lives, round.host, fed);
        for frame in round.replica {
            self.send_replica(id, frame.bytes);
        }
        for frame in round.client.into_iter().flat_map(|(_, frames)| frames) {
            self.send_client(Plug::Node(id), frame.bytes);
        }
    }

    fn rest_ns(&mut self) -> u64 {
        50 * US + self.rng.below(REST_NS_MAX)
    }

    fn judge(&mut self, id: NodeId, round: &Round) {
        let machines = &self.machines;
        let all: Vec<Held<'_>> = machines
            .iter()
            .map(|m| {
                let now = m.life.as_ref().map(|l| l.dp.log());
                Held { id: m.id, logs: [now, m.ghost.as_ref().map(|g| g.log())] }
            })
            .collect();
        let machine = &machines[usize::from(id) - 1];
        let Some(life) = &machine.life else { return };
        let s = &round.snapshot;
        let mut result = self.truth.observe(id, machine.lives, s, life.dp.log(), &all);
        for (role, frames) in &round.client {
            result = result.and_then(|()| self.truth.release(id, *role, frames));
        }
        let bounded = s.gate_waiting <= GATE_FRAMES_MAX
            && s.retained <= RETAINED_FRAMES_MAX
            && life.queues.commands.len() <= COMMANDS_MAX;
        if !bounded {
            result = Err(format!("node {id}: a bounded queue is over its bound"));
        }
        drop(all);
        if let Err(text) = result {
            self.violate(text);
        }
    }

    /// A paused node's threads may run again.
    pub fn resume(&mut self, id: NodeId) {
        self.hurry_poll(id);
        self.hurry_wake(id);
    }

    fn on_wake(&mut self, id: NodeId, lives: u64) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let Some(life) = machine.life.as_mut().filter(|l| l.wake_due <= now_ns) else { return };
        if machine.lives != lives {
            return;
        }
        if now_ns < machine.wake_stall {
            let at = machine.wake_stall;
            life.wake_due = at;
            if at < u64::MAX {
                self.push(at, Event::Wake(id, lives));
            }
            return;
        }
        let (local_ns, facts) = (machine.clock.local(now_ns), life.facts(now_ns));
        let effects = life.control.wake(local_ns, &mut life.queues, facts);
        let due = machine.clock.global(life.control.due_ns(local_ns), now_ns);
        let at = due.max(now_ns + US) + self.rng.below(50 * US);
        if let Some(life) = &mut self.machine(id).life {
            life.wake_due = at;
        }
        self.push(at, Event::Wake(id, lives));
        for effect in effects {
            self.carry_out(id, lives, effect);
        }
    }

    fn carry_out(&mut self, id: NodeId, lives: u64, effect: Effect) {
        match effect {
            Effect::Second(target, datagram) => self.send_second(id, target, &datagram),
            Effect::Persist(state) => {
                let wait = self.rng.range(50 * US, 4 * MS);
                let now_ns = self.now_ns;
                let Some(life) = &mut self.machine(id).life else { return };
                let at = life.writes.back().map_or(now_ns, |(at, _)| *at).max(now_ns) + wait;
                life.writes.push_back((at, state));
                self.push(at, Event::Durable(id, lives));
            }
            Effect::KillApp => self.kill_app(id),
            Effect::Die(backoff_ms) => {
                self.note(format!("node {id} starts anew"));
                self.crash(id);
                self.machine(id).backoff_ms = Some(backoff_ms);
                let at = self.now_ns + self.rng.range(10 * MS, 200 * MS);
                self.push(at, Event::Boot(id));
            }
            Effect::Note(event) => {
                *self.notes.entry(format!("{:?}", event.kind)).or_default() += 1;
                if event.kind == TimelineKind::AllLost {
                    self.on_all_lost();
                }
                let (kind, epoch, text) = (event.kind, event.epoch, &event.text);
                self.note(format!("node {id} epoch {epoch} {kind:?}: {text}"));
            }
            Effect::Switchover(result) => {
                let name = if result.is_ok() { "SwitchedOver" } else { "SwitchoverFailed" };
                *self.notes.entry(name.into()).or_default() += 1;
                self.note(format!("node {id} switchover: {result:?}"));
            }
        }
    }

    /// A group that starts from nothing has lost what it had. That ends a run in which more was
    /// broken than is tolerated, and breaks a promise in any other.
    fn on_all_lost(&mut self) {
        if self.scenario.profile == Profile::Chaos {
            self.over = true;
        } else {
            self.violate("every log was lost although no more was broken than is tolerated".into());
        }
    }

    fn on_durable(&mut self, id: NodeId, lives: u64) {
        let machine = self.machine(id);
        if machine.lives != lives {
            return;
        }
        let Some(life) = &mut machine.life else { return };
        if let Some((_, state)) = life.writes.pop_front() {
            machine.disk = state;
            life.control.persisted.push_back(state.epoch);
        }
    }

    // ---- capsule ------------------------------------------------------------

    fn kill_app(&mut self, id: NodeId) {
        let now_ns = self.now_ns;
        if let Some(life) = &mut self.machine(id).life {
            life.ready_at = None;
            life.ports.dying = true;
            life.kernel.kill(now_ns);
        }
        self.after_kernel(id);
    }

    /// The application dies by itself.
    pub fn exit_app(&mut self, id: NodeId) {
        if let Some(life) = &mut self.machine(id).life {
            life.exited = true;
        }
        self.kill_app(id);
        self.hurry_wake(id);
    }

    fn deliver_to_kernel(&mut self, id: NodeId, lives: u64, frames: Vec<SimFrame>, fed: u64) {
        for frame in frames {
            let wait = 2 * US + self.rng.below(10 * US);
            let now_ns = self.now_ns;
            let Some(life) = &mut self.machine(id).life else { return };
            life.host_last[0] = (now_ns + wait).max(life.host_last[0]);
            let at = life.host_last[0];
            self.push(at, Event::ToKernel(id, lives, frame.bytes, fed));
        }
    }

    fn on_kernel_frame(&mut self, id: NodeId, lives: u64, bytes: &[u8], fed: u64) {
        self.show(&format!("to kernel {id}"), bytes);
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let current = machine.lives == lives;
        let Some(life) = machine.life.as_mut().filter(|_| current) else { return };
        if life.ready_at.is_some_and(|at| at <= now_ns) {
            life.kernel.listen();
        }
        life.kernel.on_frame(now_ns, bytes, fed, &mut life.ports.prepared);
        self.after_kernel(id);
    }

    fn on_kernel_timer(&mut self, id: NodeId, lives: u64) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let current = machine.lives == lives;
        let Some(life) = machine.life.as_mut().filter(|l| current && l.kernel_due <= now_ns) else {
            return;
        };
        life.kernel_due = u64::MAX;
        life.kernel.tick(now_ns);
        self.after_kernel(id);
    }

    fn after_kernel(&mut self, id: NodeId) {
        let now_ns = self.now_ns;
        let mut rng = self.rng.fork();
        let machine = self.machine(id);
        let lives = machine.lives;
        let Some(life) = &mut machine.life else { return };
        let garbled = life.kernel.garbled.take();
        let mut sent = Vec::new();
        while let Some(frame) = life.kernel.poll_out() {
            let wait = 2 * US + rng.below(10 * US);
            life.host_last[1] = (now_ns + wait).max(life.host_last[1]);
            sent.push((life.host_last[1], frame));
        }
        let due = life.kernel.due_ns().unwrap_or(u64::MAX).max(now_ns + US);
        let sooner = due < life.kernel_due;
        if sooner {
            life.kernel_due = due;
        }
        if let Some(peer) = garbled {
            self.violate(format!("node {id}: its application got bytes {peer:?} never sent so"));
        }
        for (at, frame) in sent {
            self.push(at, Event::FromKernel(id, lives, frame));
        }
        if sooner {
            self.push(due, Event::Kernel(id, lives));
        }
    }

    // ---- networks -----------------------------------------------------------

    fn send_replica(&mut self, from: NodeId, bytes: Vec<u8>) {
        let Some(eth) = Ethernet::parse(&bytes) else { return };
        if !self.machine(from).replica_carrier {
            return;
        }
        let bytes = tamper::replica_frame(self, bytes);
        let all = eth.dst[0] & 1 == 1;
        for to in (1..=self.scenario.nodes).filter(|to| *to != from) {
            let cut = self.cuts.is_cut(Way::Replica(from, to));
            if cut || !(all || eth.dst == replica_mac(to)) {
                continue;
            }
            for at in arrivals(&mut self.rng, &self.scenario.replica, self.now_ns) {
                self.push(at, Event::Replica(to, bytes.clone()));
            }
        }
    }

    fn send_second(&mut self, from: NodeId, target: NodeId, datagram: &[u8]) {
        for to in (1..=self.scenario.nodes).filter(|to| *to != from) {
            let addressed = target == TARGET_ALL || target == to;
            if !addressed || self.cuts.is_cut(Way::Second(from, to)) {
                continue;
            }
            for at in arrivals(&mut self.rng, &self.scenario.second, self.now_ns) {
                self.push(at, Event::Datagram(to, datagram.to_vec()));
            }
        }
    }

    fn send_client(&mut self, from: Plug, bytes: Vec<u8>) {
        if let Plug::Node(id) = from
            && (!self.machine(id).client_carrier || self.cuts.is_cut(Way::FromNode(id)))
        {
            return;
        }
        for at in arrivals(&mut self.rng, &self.scenario.client, self.now_ns) {
            self.push(at, Event::AtSwitch(from, bytes.clone()));
        }
    }

    /// Prints a segment when everything is to be printed.
    fn show(&mut self, place: &str, bytes: &[u8]) {
        if !self.verbose {
            return;
        }
        let Some(s) = Segment::parse(bytes) else { return };
        println!(
            "{:>12.3} ms    {place} {}>{} flags {:02x} seq {} ack {} len {} wnd {} ts {:?}",
            self.now_ns as f64 / 1e6,
            s.src_port,
            s.dst_port,
            s.flags,
            s.seq,
            s.ack,
            s.payload_len,
            s.window,
            s.options.timestamps
        );
    }

    fn on_switch(&mut self, from: Plug, bytes: &[u8]) {
        self.show(&format!("{from:?}"), bytes);
        let nodes = (1..=self.scenario.nodes).map(Plug::Node);
        let plugs: Vec<Plug> = nodes.chain((0..self.hosts.len()).map(Plug::Client)).collect();
        for to in self.switch.forward(from, bytes, &plugs) {
            if let Plug::Node(id) = to
                && self.cuts.is_cut(Way::ToNode(id))
            {
                continue;
            }
            let at = self.now_ns + US + self.rng.below(5 * US);
            self.push(at, Event::AtPlug(to, bytes.to_vec()));
        }
    }

    fn after_host(&mut self, i: usize) {
        while let Some(bytes) = self.hosts[i].poll_out() {
            self.send_client(Plug::Client(i), bytes);
        }
        self.schedule_host(i);
        if let Some(text) = self.hosts[i].violation.take() {
            self.violate(text);
        }
    }

    /// Looks at a client machine's timers anew.
    pub fn schedule_host(&mut self, i: usize) {
        let due = self.hosts[i].due_ns().unwrap_or(u64::MAX).max(self.now_ns + US);
        if due < self.host_due[i] {
            self.host_due[i] = due;
            self.push(due, Event::Host(i));
        }
    }

    // ---- the whole ----------------------------------------------------------

    /// The node that serves, if exactly one does.
    pub fn server(&self) -> Option<(NodeId, u64)> {
        let serving: Vec<(NodeId, u64)> = self
            .machines
            .iter()
            .filter_map(|m| m.serves(self.now_ns).map(|epoch| (m.id, epoch)))
            .collect();
        (serving.len() == 1).then(|| serving[0])
    }

    /// One node serves and all others could take over.
    pub fn is_settled(&self) -> bool {
        let Some((leader, epoch)) = self.server() else { return false };
        self.machines.iter().all(|m| m.is_whole(self.now_ns, leader, epoch))
    }

    /// For people: what every node is up to.
    pub fn describe(&mut self) {
        for i in 0..self.machines.len() {
            let m = &self.machines[i];
            let local_ns = m.clock.local(self.now_ns);
            let text = match &m.life {
                None => "down".to_string(),
                Some(l) => {
                    let v = l.control.node.view(local_ns);
                    let s = l.dp.snapshot(local_ns);
                    format!(
                        "{:?}/{:?} epoch {} primary {:?} recovering {} app {:?} log {}..{} committed {} \
                         applied {} fit {} gate {} lease {} flows {} sockets {} because {:?}",
                        v.role,
                        s.role,
                        v.epoch,
                        v.primary,
                        v.recovering,
                        l.control.app,
                        s.log_start,
                        s.log_end,
                        s.committed,
                        s.applied,
                        s.fit,
                        s.gate_open,
                        s.lease_valid,
                        s.flows,
                        l.kernel.sockets(),
                        v.not_ready_because
                    )
                }
            };
            let id = m.id;
            self.note(format!("node {id}: {text}"));
            if let Some(l) = &self.machines[i].life {
                let c = l.dp.counters();
                let counts: Vec<String> =
                    c.iter().filter(|(_, n)| *n > 0).map(|(k, n)| format!("{k}={n}")).collect();
                self.note(format!("node {id}: {}", counts.join(" ")));
            }
        }
    }

    /// Whether a replication PDU of this kind is in a frame; for the tampering.
    pub fn pdu_kind(bytes: &[u8]) -> Option<PduKind> {
        PduHeader::decode(in_frame(bytes)?, CLUSTER).ok().map(|(h, ..)| h.kind)
    }

    /// Whether a node is a primary, gate open or not.
    pub fn leads(&self, id: NodeId) -> bool {
        let m = &self.machines[usize::from(id) - 1];
        let role = m.life.as_ref().map(|l| l.dp.snapshot(m.clock.local(self.now_ns)).role);
        matches!(role, Some(DataRole::Lead(_)))
    }

    /// Whether this bug is planted.
    pub fn has(&self, mutation: Mutation) -> bool {
        self.scenario.mutation == mutation
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}
