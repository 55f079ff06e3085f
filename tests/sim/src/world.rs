//! The event loop: one queue, one clock, every machine and network in it.

mod arbiter;
mod capsule;
mod networks;
mod nodes;
mod report;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use understudy_fastpath::MS;
use understudy_fastpath::command::DataRole;
use understudy_fastpath::ports::PortRole;
use understudy_proto::arbiter::{ArbiterAnswer, Register};
use understudy_wire::NodeId;

use crate::arbiter::{Arbiter, Ask};
use crate::check::Truth;
use crate::client::Host;
use crate::control::COMMANDS_MAX;
use crate::director::Director;
use crate::frames::SimFrame;
use crate::machine::{GATE_FRAMES_MAX, Machine, NodeClock, RETAINED_FRAMES_MAX, Serving};
use crate::net::{Cuts, Plug, Switch, Way};
use crate::rng::Rng;
use crate::scenario::{Mutation, Profile, Scenario};

const US: u64 = 1_000;
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
    /// What the register holds comes to who asked.
    ArbiterReads(Ask),
    /// A write comes to the register, which must not have changed since that revision.
    ArbiterWrites(Ask, Register, u64),
    /// An answer comes.
    ArbiterAnswers(Ask, ArbiterAnswer),
    /// A process starts.
    Boot(NodeId),
    /// A timer of a client machine.
    Host(usize),
    /// The director's turn.
    Direct,
    /// Something that the director has arranged is due.
    Act,
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
    /// What waits between nodes, see [`Cuts::hold`].
    pub held: Vec<Event>,
    /// The register of a group of two.
    pub arbiter: Arbiter,
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
        let clock = |rng: &mut Rng| {
            let drift_ppm = rng.below(2 * scenario.drift_ppm) as i64 - scenario.drift_ppm as i64;
            NodeClock::new(1_000_000 * MS + rng.below(1 << 40), drift_ppm)
        };
        let machines = (1..=scenario.nodes).map(|id| Machine::new(id, clock(&mut rng))).collect();
        let load = (scenario.connections, scenario.datagrams);
        let hosts = (0..scenario.hosts)
            .map(|i| Host::new(i, i < scenario.v6_hosts, load, rng.fork()))
            .collect::<Vec<_>>();
        let mut world = World {
            now_ns: 0,
            machines,
            host_due: vec![u64::MAX; hosts.len()],
            hosts,
            cuts: Cuts::default(),
            held: Vec::new(),
            arbiter: Arbiter::default(),
            switch: Switch::default(),
            truth: Truth::new(scenario.group.holders()),
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
            Event::Replica(id, bytes) => self.on_replica(id, bytes),
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
            Event::ArbiterReads(ask) => self.on_arbiter_reads(ask),
            Event::ArbiterWrites(ask, new, revision) => self.on_arbiter_writes(ask, new, revision),
            Event::ArbiterAnswers(ask, answer) => self.on_arbiter_answers(ask, answer),
            Event::Boot(id) => self.boot(id),
            Event::Host(i) => {
                if self.host_due[i] <= self.now_ns {
                    self.host_due[i] = u64::MAX;
                    self.hosts[i].tick(self.now_ns);
                    self.after_host(i);
                }
            }
            Event::Direct => {
                self.direct(Director::turn);
                let at = self.now_ns + 10 * MS;
                self.push(at, Event::Direct);
            }
            Event::Act => self.direct(Director::act),
        }
    }

    fn direct(&mut self, turn: impl FnOnce(&mut Director, &mut World)) {
        let mut director = std::mem::take(&mut self.director);
        turn(&mut director, self);
        self.director = director;
    }

    /// The node that serves, if exactly one does.
    pub fn server(&self) -> Option<Serving> {
        let mut serving = self.machines.iter().filter_map(|m| m.serves(self.now_ns));
        let first = serving.next();
        first.filter(|_| serving.next().is_none())
    }

    /// Who could serve, or does, if exactly one node serves.
    pub fn whole(&self) -> usize {
        let Some(by) = self.server() else { return 0 };
        self.machines.iter().filter(|m| m.is_whole(self.now_ns, &by)).count()
    }

    /// The group runs: one node serves; or, where that takes more replicas than there are, one leads and a quorum
    /// holds all it has.
    pub fn runs(&self) -> bool {
        if self.server().is_some() || self.scenario.group.serves_with_quorum() {
            return self.server().is_some();
        }
        let states = self.machines.iter().filter_map(|m| m.life.as_ref());
        let states: Vec<_> = states.map(|l| l.dp.snapshot(0)).collect();
        let led = states.iter().filter_map(|s| match s.role {
            DataRole::Lead(epoch) => Some((epoch, s.log_end)),
            _ => None,
        });
        let Some((epoch, end)) = led.max() else { return false };
        let here = [DataRole::Lead(epoch), DataRole::Follow(epoch)];
        let holders = states.iter().filter(|s| here.contains(&s.role) && s.log_end >= end).count();
        holders >= self.scenario.group.quorum()
    }

    /// One node serves and all others could take over. With a log that runs over itself, who has
    /// lost what it held cannot come back: then a majority will do. And no node of two is out.
    pub fn is_settled(&self) -> bool {
        let wanted = match self.scenario.profile {
            Profile::Wrap => self.scenario.group.majority(),
            _ => self.machines.len(),
        };
        let named = !self.scenario.group.arbiter || self.arbiter.names(wanted);
        named && self.whole() >= wanted
    }

    /// Whether this bug is planted.
    pub fn has(&self, mutation: Mutation) -> bool {
        self.scenario.mutation == mutation
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mix = |h: u64, word: u64| (h ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let (words, rest) = bytes.as_chunks::<8>();
    let h = words.iter().fold(bytes.len() as u64, |h, w| mix(h, u64::from_le_bytes(*w)));
    rest.iter().fold(h, |h, b| mix(h, u64::from(*b)))
}
