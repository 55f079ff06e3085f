//! A node: the shipped data path and control plane, the capsule, the disk, the clock.

use std::collections::VecDeque;

use understudy_fastpath::audit::AuditConfig;
use understudy_fastpath::command::{Command, DataRole, Snapshot};
use understudy_fastpath::dataplane::{Dataplane, DataplaneConfig};
use understudy_fastpath::sender::{CommitPolicy, SenderConfig};
use understudy_fastpath::{MS, ports::PortRole};
use understudy_log::CaptureLog;
use understudy_proto::{Config, LocalFact, Persisted};
use understudy_seal::Path;
use understudy_wire::audit::Seed;
use understudy_wire::control::Role;
use understudy_wire::record::RecordKind;
use understudy_wire::{NodeId, Position};

use crate::control::{App, CapsuleFacts, Control, HandedDown, Queues};
use crate::disk::Disk;
use crate::frames::{CLUSTER, SimFrame, VIP4, VIP6, VMAC, channel, replica_mac};
use crate::kernel::{Kernel, KernelConfig};
use crate::ports::SimPorts;
use crate::rng::Rng;
use crate::scenario::{Mutation, Scenario};

/// Frames that may wait at the gate.
pub const GATE_FRAMES_MAX: usize = 8192;
/// Frames retained for a takeover.
pub const RETAINED_FRAMES_MAX: usize = 4096;
const KEPT_FRAMES_MAX: usize = 512;
const EVENTS_MAX: usize = 256;
const SNAPSHOT_INTERVAL_NS: u64 = MS;
/// How much slower a clock runs that almost stands still.
const SLOW: u64 = 20;

/// A node's monotonic clock, which runs at a rate of its own.
#[derive(Clone, Copy, Debug)]
pub struct NodeClock {
    base: u64,
    since: u64,
    /// What it counts in a million true nanoseconds.
    rate: u64,
    slow: bool,
}

impl NodeClock {
    /// A clock that shows `base` at time 0 and is `drift_ppm` too fast.
    pub fn new(base: u64, drift_ppm: i64) -> NodeClock {
        let rate = 1_000_000u64.saturating_add_signed(drift_ppm);
        NodeClock { base, since: 0, rate, slow: false }
    }

    /// What it counts in a million true nanoseconds.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// What it shows.
    pub fn local(&self, now_ns: u64) -> u64 {
        let passed = scaled(now_ns.saturating_sub(self.since), self.rate, 1_000_000);
        self.base + if self.slow { passed / SLOW } else { passed }
    }

    /// When it will show `local`, if it runs as it should.
    pub fn global(&self, local: u64, now_ns: u64) -> u64 {
        now_ns + scaled(local.saturating_sub(self.local(now_ns)), 1_000_000, self.rate)
    }

    /// Makes it almost stand still, or run again.
    pub fn set_slow(&mut self, now_ns: u64, slow: bool) {
        if self.slow != slow {
            (self.base, self.since, self.slow) = (self.local(now_ns), now_ns, slow);
        }
    }
}

fn scaled(ns: u64, by: u64, of: u64) -> u64 {
    (u128::from(ns) * u128::from(by)).div_ceil(u128::from(of)) as u64
}

/// One life of a node's process.
pub struct Life {
    /// The poll-mode thread.
    pub dp: Dataplane<SimPorts>,
    /// Its ports.
    pub ports: SimPorts,
    /// The capsule.
    pub kernel: Kernel,
    /// The control-plane thread.
    pub control: Control,
    /// Between the two threads.
    pub queues: Queues,
    /// When the application will be ready; `None` once it is dead.
    pub ready_at: Option<u64>,
    /// The application died by itself.
    pub exited: bool,
    /// Writes under way: when each is durable.
    pub writes: VecDeque<(u64, Persisted)>,
    /// When the poll-mode thread runs next.
    pub poll_due: u64,
    /// When it ran last.
    pub polled_at: u64,
    /// When the control-plane thread runs next.
    pub wake_due: u64,
    /// When the kernel's next timer is.
    pub kernel_due: u64,
    /// When the last frame to and from the host port arrives.
    pub host_last: [u64; 2],
    /// Rounds of the poll-mode thread since there was something to do.
    pub idle_rounds: u32,
    published_at: u64,
    /// Records looked at until there, and the end of the last of them that was given to the
    /// application.
    fed: (Position, Position),
}

/// What one round of the poll-mode thread brought forth.
pub struct Round {
    /// Left the client port, and the role in which it did.
    pub client: Vec<(DataRole, Vec<SimFrame>)>,
    /// Left the replica port.
    pub replica: Vec<SimFrame>,
    /// Left the host port.
    pub host: Vec<SimFrame>,
    /// There was something to do.
    pub busy: bool,
    /// What the application has been given, with what left the host port.
    pub fed: Position,
    /// The state after it.
    pub snapshot: Snapshot,
}

impl Life {
    /// A process that starts.
    pub fn new(
        scenario: &Scenario,
        id: NodeId,
        (disk, handed_down): (Persisted, Option<HandedDown>),
        (clock, local_ns): (NodeClock, u64),
        mut rng: Rng,
    ) -> Life {
        let seed = (u128::from(rng.bits()) << 64 | u128::from(rng.bits())).to_le_bytes();
        let config = dataplane_config(scenario, id, seed);
        let log = CaptureLog::new(scenario.log_len).expect("memory for a log");
        let kernel = KernelConfig {
            rcv_buf: scenario.rcv_buf,
            service_ns_max: scenario.service_ns_max,
            slow_service_ns_max: scenario.slow_service_ns_max,
            adoption_loss_ppm: scenario.adoption_loss_ppm,
            clock,
            poisoned: scenario.mutation.poisons() && id == 2,
        };
        let held = handed_down.and_then(|h| h.held);
        let settings = Config { held, ..proto_config(scenario, id, local_ns) };
        let mut ports = SimPorts::new(rng.fork(), scenario.trouble_ppm);
        ports.unordered = scenario.mutation == Mutation::UnorderedRelease;
        Life {
            dp: Dataplane::new(config, log, channel(id, scenario.nodes, Path::Replica, &mut rng)),
            ports,
            kernel: Kernel::new(kernel, rng.fork()),
            control: Control::new(
                settings,
                channel(id, scenario.nodes, Path::Second, &mut rng),
                disk,
                local_ns,
                handed_down.map(|h| h.backoff_ms),
                scenario.mutation,
            ),
            queues: Queues::default(),
            ready_at: None,
            exited: false,
            writes: VecDeque::new(),
            poll_due: 0,
            polled_at: 0,
            wake_due: 0,
            kernel_due: u64::MAX,
            host_last: [0; 2],
            idle_rounds: 0,
            published_at: 0,
            fed: (0, 0),
        }
    }

    /// The position with which the application has been given all that it has: notes behind it are
    /// not given to anybody.
    fn fed(&mut self, applied: Position) -> Position {
        let log = self.dp.log();
        if applied < self.fed.0 || self.fed.0 < log.start() {
            self.fed = (applied, applied);
        }
        while self.fed.0 < applied
            && let Some(record) = log.record(self.fed.0)
        {
            let given = !matches!(record.header.kind, RecordKind::Audit | RecordKind::Said);
            self.fed = (record.next, if given { record.next } else { self.fed.1 });
        }
        self.fed.1
    }

    /// One round of the poll-mode thread. `read_ns`: what it took the time for when it began.
    pub fn poll(&mut self, read_ns: u64, clock_ns: u64, mutation: Mutation) -> Round {
        self.ports.clock_ns = clock_ns;
        let mut client = Vec::new();
        while let Some(command) = self.queues.commands.pop_front() {
            let dropped =
                mutation == Mutation::NoAnnouncement && matches!(command, Command::Announce);
            if !dropped {
                self.dp.command(read_ns, command, &mut self.ports);
                let sent = self.ports.take_sent(PortRole::Client);
                if !sent.is_empty() {
                    client.push((self.dp.snapshot(read_ns).role, sent));
                }
            }
        }
        let busy = self.dp.poll(read_ns, &mut self.ports);
        while self.queues.events.len() < EVENTS_MAX
            && let Some(event) = self.dp.poll_event()
        {
            self.queues.events.push_back(event);
        }
        let snapshot = self.dp.snapshot(read_ns);
        client.push((snapshot.role, self.ports.take_sent(PortRole::Client)));
        if read_ns >= self.published_at + SNAPSHOT_INTERVAL_NS {
            self.published_at = read_ns;
            self.queues.snapshot = Some(snapshot.clone());
        }
        Round {
            client,
            replica: self.ports.take_sent(PortRole::Replica),
            host: self.ports.take_sent(PortRole::Host),
            busy: busy || self.ports.has_input(),
            fed: self.fed(snapshot.applied),
            snapshot,
        }
    }

    /// What the control plane sees of the capsule.
    pub fn facts(&self, now_ns: u64) -> CapsuleFacts {
        let ready = self.ready_at.is_some_and(|at| at <= now_ns);
        CapsuleFacts { ready: ready && !self.exited, exited: self.exited }
    }
}

/// What is slow about a machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slowness {
    /// More time for each write; `u64::MAX`: it is never done.
    pub disk_ns: u64,
    /// At least so long between two rounds of the poll-mode thread.
    pub loop_ns: u64,
    /// More time for each frame to and from the capsule.
    pub capsule_ns: u64,
}

/// The node that serves.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Which one.
    pub id: NodeId,
    /// In which reign.
    pub epoch: u64,
    /// The oldest position it holds.
    pub log_start: u64,
}

/// A machine that may or may not run a process.
pub struct Machine {
    /// Which node.
    pub id: NodeId,
    /// Its clock.
    pub clock: NodeClock,
    /// The same clock as the poll-mode thread reads it.
    pub data_clock: NodeClock,
    /// What survives.
    pub disk: Disk,
    /// What is slow about it.
    pub slow: Slowness,
    /// The capsule of the life before, if a planted bug keeps it.
    pub kept: Option<Kernel>,
    /// Counts its processes.
    pub lives: u64,
    /// The process.
    pub life: Option<Life>,
    /// By the process that ended by itself; nothing after a crash.
    pub handed_down: Option<HandedDown>,
    /// The data path of the process before, for what it had held.
    pub ghost: Option<Dataplane<SimPorts>>,
    /// The client port's carrier.
    pub client_carrier: bool,
    /// The replica port's carrier.
    pub replica_carrier: bool,
    /// The poll-mode thread stands still: since when, until when.
    pub poll_stall: (u64, u64),
    /// The control-plane thread stands still until then.
    pub wake_stall: u64,
}

impl Machine {
    /// A machine that is off.
    pub fn new(id: NodeId, clock: NodeClock) -> Machine {
        Machine {
            id,
            clock,
            data_clock: clock,
            disk: Disk::default(),
            slow: Slowness::default(),
            kept: None,
            lives: 0,
            life: None,
            handed_down: None,
            ghost: None,
            client_carrier: true,
            replica_carrier: true,
            poll_stall: (0, 0),
            wake_stall: 0,
        }
    }

    /// Starts a process. False: the daemon refuses to, what it persisted is damaged.
    pub fn boot(&mut self, scenario: &Scenario, now_ns: u64, rng: &mut Rng) -> bool {
        let ignored = scenario.mutation == Mutation::DamageIgnored;
        let Some(found) = self.disk.load().or(ignored.then(Persisted::default)) else {
            return false;
        };
        self.lives += 1;
        let mut life = Life::new(
            scenario,
            self.id,
            (found, self.handed_down.take()),
            (self.clock, self.clock.local(now_ns)),
            rng.fork(),
        );
        let ready_at = now_ns + rng.below(60 * MS);
        life.ready_at = Some(ready_at).filter(|_| scenario.group.witness != Some(self.id));
        if let Some(kernel) = self.kept.take() {
            life.kernel = kernel;
        }
        life.control.links.push_back(LocalFact::ClientLink(self.client_carrier));
        life.control.links.push_back(LocalFact::ReplicaLink(self.replica_carrier));
        self.life = Some(life);
        self.poll_stall = (0, 0);
        self.wake_stall = 0;
        true
    }

    /// The process is gone; a write under way is done, or torn, or not begun.
    pub fn crash(&mut self, scenario: &Scenario, rng: &mut Rng) {
        let Some(mut life) = self.life.take() else { return };
        while let Some((_, state)) = life.writes.pop_front() {
            if !self.disk.interrupted(&state, rng) {
                break;
            }
        }
        if scenario.mutation == Mutation::LostVote {
            self.disk.wipe();
        }
        if scenario.mutation == Mutation::KeptClone {
            self.kept = Some(life.kernel);
        }
        self.ghost = Some(life.dp);
    }

    /// Power is lost, and the disk had not written what it said it had.
    pub fn tear(&mut self, scenario: &Scenario, rng: &mut Rng) {
        let newest = self.life.as_ref().and_then(|l| l.writes.back()).map(|(_, state)| *state);
        self.crash(scenario, rng);
        if let Some(state) = newest.or_else(|| self.disk.load()) {
            self.disk.lie(&state, rng);
        }
    }

    /// Whether this node leads with an open gate.
    pub fn serves(&self, now_ns: u64) -> Option<Serving> {
        let life = self.life.as_ref()?;
        let s = life.dp.snapshot(self.clock.local(now_ns));
        match s.role {
            DataRole::Lead(epoch) if s.gate_open => {
                Some(Serving { id: self.id, epoch, log_start: s.log_start })
            }
            _ => None,
        }
    }

    /// Whether this node follows the one that serves and could take over.
    pub fn is_whole(&self, now_ns: u64, by: &Serving) -> bool {
        let Some(life) = &self.life else { return false };
        let local_ns = self.clock.local(now_ns);
        let view = life.control.node.view(local_ns);
        let s = life.dp.snapshot(local_ns);
        // A witness has neither application nor clone.
        let witness = view.role == Role::Witness;
        let ready = (witness || life.control.app == App::Ready) && !view.recovering;
        let level = witness || s.fit && s.level;
        let placed = if self.id == by.id {
            s.role == DataRole::Lead(by.epoch)
        } else {
            let holds = s.log_end >= by.log_start;
            s.role == DataRole::Follow(by.epoch) && level && holds
        };
        ready && placed && view.primary == Some(by.id)
    }
}

fn proto_config(scenario: &Scenario, id: NodeId, incarnation: u64) -> Config {
    let mut config = Config::new(
        id,
        (1..=scenario.nodes).collect(),
        scenario.heartbeat_ns,
        scenario.suspect_ns,
        scenario.lease_ns,
    );
    config.priority = 200 - id as u8;
    config.incarnation = incarnation;
    config.witness = scenario.group.witness == Some(id);
    config.arbiter = scenario.group.arbiter;
    config.alone_allowed = scenario.group.alone_allowed();
    config
}

fn dataplane_config(scenario: &Scenario, id: NodeId, seed: Seed) -> DataplaneConfig {
    let lease_ns = match scenario.mutation {
        Mutation::LongLease => scenario.suspect_ns * 20,
        Mutation::NoLease => 1 << 60,
        _ => scenario.lease_ns,
    };
    let policy = match scenario.mutation {
        Mutation::NoCommit => CommitPolicy::None,
        _ if scenario.commit_all => CommitPolicy::All,
        _ => CommitPolicy::Quorum,
    };
    let witness = scenario.group.witness == Some(id);
    let min_replicas = match scenario.mutation {
        Mutation::IgnoredMin => scenario.group.min_replicas.min(usize::from(scenario.nodes) / 2),
        _ => scenario.group.min_replicas,
    };
    DataplaneConfig {
        me: id,
        cluster: CLUSTER,
        peers: (1..=scenario.nodes).filter(|n| *n != id).collect(),
        vmac: VMAC,
        vips: vec![VIP4, VIP6],
        replica_mac: replica_mac(id),
        replica_mtu: 1500,
        sender: SenderConfig {
            policy,
            voters: usize::from(scenario.nodes),
            min_replicas,
            lease_ns,
            evict_after_ns: scenario.evict_after_ns,
            heartbeat_interval_ns: scenario.heartbeat_ns,
            chunk_len: 0,
        },
        gate_frames_max: GATE_FRAMES_MAX,
        retained_frames_max: RETAINED_FRAMES_MAX,
        kept_frames_max: KEPT_FRAMES_MAX,
        flows_max: if witness { 0 } else { 1024 },
        clone_wait_ns: 5_000 * MS,
        audit: (scenario.mutation != Mutation::UnseenPoison)
            .then_some(AuditConfig { seed, heal: true }),
        witness,
    }
}
