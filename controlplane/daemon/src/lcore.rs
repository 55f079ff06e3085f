//! The poll-mode thread: EAL, the ports, the loop, and its queues to the control plane.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use anyhow::Context;
use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use tracing::{info, warn};
use understudy_config::{AuditMode, CommitPolicy, Config, DpdkConfig, IdleConfig};
use understudy_dpdk::Eal;
use understudy_fastpath::MS;
use understudy_fastpath::audit::AuditConfig;
use understudy_fastpath::command::{Command, Event, Snapshot, Tuning};
use understudy_fastpath::dataplane::{Dataplane, DataplaneConfig};
use understudy_fastpath::sender::{self, SenderConfig};
use understudy_linux::adopt::{Adopter, FlowKey};
use understudy_linux::capsule::DeathProbe;
use understudy_linux::slice;
use understudy_linux::wake::Waker;
use understudy_log::{CaptureLog, LogView};
use understudy_seal::{Channel, entropy};
use understudy_wire::frame::Mac;

use crate::idle::Rest;
use crate::node_capsule::FLOWS_MAX;
use crate::ports::{CapsuleLink, DeviceCounts, DpdkPorts, NodeClock, PortLinks};

/// Orders the poll-mode thread may be behind.
const COMMANDS_MAX: usize = 1024;
const EVENTS_MAX: usize = 256;
/// Applications that were started since the poll-mode thread last asked; only the newest counts.
const PROBES_MAX: usize = 4;
const ADOPTED_MAX: usize = FLOWS_MAX as usize;
const SNAPSHOT_INTERVAL_NS: u64 = MS / 4;
/// Counting free packet buffers walks the caches of all cores.
const BUFFERS_INTERVAL_NS: u64 = 100 * MS;
/// Drivers are asked for their links this often.
const LINKS_INTERVAL_NS: u64 = 5 * MS;
/// Frames that wait are packet buffers. At most a half of the pool waits, at a primary's gate or retained by a
/// clone, whose frames move to the gate when it takes over: with no buffer left nothing is received, and what
/// waits would wait for ever. No more than all connections have use for one.
const WAITING_FRAMES_MAX: usize = FLOWS_MAX as usize;
/// As large a part of that is kept of client frames, for the moment without a primary.
const KEPT_SHARE: usize = 2;

/// The queues between the two threads; neither ever waits for the other.
struct Queues {
    /// Wakes the control plane: something came that it waits for.
    waker: Waker,
    /// Wakes the poll-mode thread: there is an order.
    order_waker: Waker,
    commands: ArrayQueue<Command>,
    events: ArrayQueue<Event>,
    snapshot: ArrayQueue<Snapshot>,
    devices: ArrayQueue<DeviceCounts>,
    links: ArrayQueue<PortLinks>,
    adopted: Arc<ArrayQueue<FlowKey>>,
    probes: Arc<ArrayQueue<DeathProbe>>,
    idle: ArrayQueue<IdleConfig>,
    /// Packet buffers that are free, and all of them; 0 until they are counted.
    buffers: (AtomicU32, AtomicU32),
    /// Longest time between two turns of the poll loop since the control plane last took it.
    gap_ns: AtomicU64,
    quit: AtomicBool,
    finished: AtomicBool,
}

/// The poll-mode thread's end.
pub struct DataplaneEnd(Arc<Queues>);

/// The control plane's end.
pub struct ControlEnd(Arc<Queues>);

/// Both ends of the queues.
pub fn link() -> anyhow::Result<(DataplaneEnd, ControlEnd)> {
    let queues = Arc::new(Queues {
        waker: Waker::new()?,
        order_waker: Waker::new()?,
        commands: ArrayQueue::new(COMMANDS_MAX),
        events: ArrayQueue::new(EVENTS_MAX),
        snapshot: ArrayQueue::new(1),
        devices: ArrayQueue::new(1),
        links: ArrayQueue::new(1),
        adopted: Arc::new(ArrayQueue::new(ADOPTED_MAX)),
        probes: Arc::new(ArrayQueue::new(PROBES_MAX)),
        idle: ArrayQueue::new(1),
        buffers: (AtomicU32::new(0), AtomicU32::new(0)),
        gap_ns: AtomicU64::new(0),
        quit: AtomicBool::new(false),
        finished: AtomicBool::new(false),
    });
    Ok((DataplaneEnd(Arc::clone(&queues)), ControlEnd(queues)))
}

impl ControlEnd {
    /// Gives an order; false when the poll-mode thread is too far behind.
    pub fn order(&self, command: Command) -> bool {
        let taken = self.0.commands.push(command).is_ok();
        self.0.order_waker.wake();
        taken
    }

    /// Whether so many orders would be taken now.
    pub fn has_room(&self, orders: usize) -> bool {
        self.0.commands.len() + orders <= COMMANDS_MAX
    }

    /// What to do without work, from a moment later on.
    pub fn set_idle(&self, idle: IdleConfig) {
        let _ = self.0.idle.force_push(idle);
    }

    /// Is woken by events, and what else the control plane waits for.
    pub fn waker(&self) -> &Waker {
        &self.0.waker
    }

    /// The next event.
    pub fn event(&self) -> Option<Event> {
        self.0.events.pop()
    }

    /// The newest state, once.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.0.snapshot.pop()
    }

    /// What the devices counted, once.
    pub fn devices(&self) -> Option<DeviceCounts> {
        self.0.devices.pop()
    }

    /// The links that only drivers know of, when they have changed.
    pub fn links(&self) -> Option<PortLinks> {
        self.0.links.pop()
    }

    /// The next connection that was adopted.
    pub fn adopted(&self) -> Option<FlowKey> {
        self.0.adopted.pop()
    }

    /// An application runs, instead of the one before: how to see its death.
    pub fn watch_application(&self, probe: DeathProbe) {
        let _ = self.0.probes.force_push(probe);
    }

    /// Packet buffers that are free, and all of them.
    pub fn buffers(&self) -> Option<(u64, u64)> {
        let (free, all) = &self.0.buffers;
        let all = all.load(Ordering::Relaxed);
        (all > 0).then(|| (free.load(Ordering::Relaxed).into(), all.into()))
    }

    /// The longest time between two turns of the poll loop since this was last asked.
    pub fn take_gap_ns(&self) -> u64 {
        self.0.gap_ns.swap(0, Ordering::Relaxed)
    }

    /// Makes the poll-mode thread return.
    pub fn quit(&self) {
        self.0.quit.store(true, Ordering::Release);
    }

    /// Whether the poll-mode thread has returned.
    pub fn is_finished(&self) -> bool {
        self.0.finished.load(Ordering::Acquire)
    }
}

impl Drop for ControlEnd {
    /// Without a control plane, for whatever reason, there is nothing to poll for.
    fn drop(&mut self) {
        self.quit();
    }
}

impl DataplaneEnd {
    /// The poll-mode thread is done.
    pub fn finished(&self) {
        self.0.finished.store(true, Ordering::Release);
    }
}

/// What the control plane gets once the data path is up.
pub struct Up {
    pub clock: NodeClock,
    /// The log, for readers.
    pub log: LogView,
}

/// Runs the data path on this thread until told to quit. Says when all is up.
pub fn run(
    config: &Config,
    adopter: Option<Adopter>,
    channel: Channel,
    end: &DataplaneEnd,
    start: &Sender<Up>,
) -> anyhow::Result<()> {
    let _eal = Eal::init(&service_eal_args(config)).context("cannot initialise DPDK")?;
    let clock = NodeClock::new();
    let log = CaptureLog::new(config.log.size_bytes() as usize)?;
    info!(huge_pages = log.is_huge(), bytes = log.capacity(), "capture log ready");
    let view = log.view()?;
    let capsule = adopter.map(|adopter| CapsuleLink {
        adopter,
        adopted: Arc::clone(&end.0.adopted),
        probes: Arc::clone(&end.0.probes),
        probe: RefCell::new(None),
    });
    let mut ports = DpdkPorts::open(config, clock.clone(), capsule)?;
    let seed = entropy().context("cannot choose the audit's digest")?;
    let plan = dataplane_config(config, ports.replica_mac(), seed);
    let mut dataplane = Dataplane::new(plan, log, channel);
    if start.send(Up { clock: clock.clone(), log: view }).is_err() {
        anyhow::bail!("the control plane is gone");
    }
    ask_short_slices();
    poll_loop(&mut dataplane, &mut ports, &clock, end, &config.idle);
    end.finished();
    Ok(())
}

fn poll_loop(
    dataplane: &mut Dataplane<DpdkPorts>,
    ports: &mut DpdkPorts,
    clock: &NodeClock,
    end: &DataplaneEnd,
    idle: &IdleConfig,
) {
    let queues = &end.0;
    let arrivals = ports.arrivals(queues.order_waker.clone());
    let mut rest = Rest::new(idle.clone(), arrivals);
    let (mut published_at_ns, mut counted_at_ns, mut links_at_ns) = (0, 0, 0);
    let mut links = PortLinks::default();
    let mut turn_ns = clock.now_ns();
    let mut was_open = false;
    while !queues.quit.load(Ordering::Acquire) {
        let now_ns = clock.now_ns();
        // Only this thread raises it; the other one takes it away.
        if now_ns - turn_ns > queues.gap_ns.load(Ordering::Relaxed) {
            queues.gap_ns.store(now_ns - turn_ns, Ordering::Relaxed);
        }
        turn_ns = now_ns;
        let mut commanded = false;
        while let Some(command) = queues.commands.pop() {
            dataplane.command(now_ns, command, ports);
            commanded = true;
        }
        let busy = dataplane.poll(now_ns, ports) | commanded;
        let mut told = false;
        while !queues.events.is_full()
            && let Some(event) = dataplane.poll_event()
        {
            let _ = queues.events.push(event);
            told = true;
        }
        // A takeover waits for this news, and so do clients.
        let is_open = dataplane.gate_open(now_ns);
        let opened = is_open && !was_open;
        was_open = is_open;
        if opened || commanded || now_ns >= published_at_ns + SNAPSHOT_INTERVAL_NS {
            published_at_ns = now_ns;
            queues.snapshot.force_push(dataplane.snapshot(now_ns));
            if let Some(idle) = queues.idle.pop() {
                rest.set(idle);
            }
            queues.devices.force_push(ports.counts());
        }
        if opened || told {
            queues.waker.wake();
        }
        if now_ns >= counted_at_ns + BUFFERS_INTERVAL_NS {
            counted_at_ns = now_ns;
            let (free, all) = ports.buffers();
            queues.buffers.0.store(free, Ordering::Relaxed);
            queues.buffers.1.store(all, Ordering::Relaxed);
        }
        if now_ns >= links_at_ns + LINKS_INTERVAL_NS {
            links_at_ns = now_ns;
            let before = std::mem::replace(&mut links, ports.links());
            if links != before {
                queues.links.force_push(links);
                queues.waker.wake();
            }
        }
        rest.after(now_ns, busy);
    }
}

/// For the calling thread, whom others wait for: where CPUs are shared, it goes first when it wakes.
pub fn ask_short_slices() {
    if let Err(error) = slice::ask(slice::SHORTEST) {
        warn!("this thread may have to wait for a CPU: {error}");
    }
}

fn service_eal_args(config: &Config) -> Vec<String> {
    let devices = [&config.ports.client.device, &config.ports.replica.device];
    eal_args(&config.dpdk, &config.me().name, devices.into_iter())
}

/// How EAL is started for a node with these devices.
pub fn eal_args<'a>(
    dpdk: &DpdkConfig,
    node: &str,
    mut devices: impl Iterator<Item = &'a String>,
) -> Vec<String> {
    let mut args: Vec<String> = ["--no-telemetry", "--log-level=error", "--lcores", &dpdk.lcores]
        .map(String::from)
        .to_vec();
    if dpdk.memory_mb == 0 {
        let prefix = format!("--file-prefix=understudy-{node}-{}", std::process::id());
        args.extend(["--no-huge".into(), "-m".into(), "256".into(), "--no-shconf".into(), prefix]);
    } else {
        args.extend(["--in-memory".into(), "-m".into(), dpdk.memory_mb.to_string()]);
    }
    if devices.all(|d| d.starts_with("net_")) {
        args.push("--no-pci".into());
    }
    args
}

/// What of a configuration the data path takes while it runs.
pub fn tuning(config: &Config) -> Tuning {
    Tuning {
        clone_wait_ns: config.service.clone_wait_ms * MS,
        evict_after_ns: config.commit.evict_after_ms * MS,
        heal: config.service.audit == AuditMode::Heal,
    }
}

/// Of a data path that only feeds an application offline: nobody else, and no audit of its own.
pub fn replay_config(config: &Config) -> DataplaneConfig {
    DataplaneConfig { peers: Vec::new(), audit: None, ..dataplane_config(config, [0; 6], [0; 32]) }
}

fn dataplane_config(config: &Config, replica_mac: Mac, entropy: [u8; 32]) -> DataplaneConfig {
    let waiting_frames_max = WAITING_FRAMES_MAX.min(config.dpdk.mbufs as usize / 2);
    let (seed, _) = entropy.split_first_chunk().expect("a seed is shorter");
    let audit = |heal| AuditConfig { seed: *seed, heal };
    DataplaneConfig {
        me: config.me().id,
        cluster: config.cluster_id(),
        peers: config.peers().map(|p| p.id).collect(),
        vmac: config.vmac(),
        vips: config.vips().map(|(ip, _)| ip).collect(),
        replica_mac,
        replica_mtu: usize::from(config.ports.replica.mtu),
        sender: SenderConfig {
            policy: match config.commit.policy {
                CommitPolicy::None => sender::CommitPolicy::None,
                CommitPolicy::Any => sender::CommitPolicy::Any,
                CommitPolicy::Quorum => sender::CommitPolicy::Quorum,
                CommitPolicy::All => sender::CommitPolicy::All,
                CommitPolicy::Checkpoint => sender::CommitPolicy::Checkpoint,
            },
            voters: config.nodes.len(),
            min_replicas: config.commit_min(),
            lease_ns: config.detect.lease_ms * MS,
            evict_after_ns: config.commit.evict_after_ms * MS,
            heartbeat_interval_ns: config.detect.heartbeat_interval_ms * MS,
            chunk_len: 0,
        },
        gate_frames_max: waiting_frames_max,
        retained_frames_max: waiting_frames_max,
        kept_frames_max: waiting_frames_max / KEPT_SHARE,
        flows_max: if config.is_witness() { 0 } else { FLOWS_MAX as usize },
        clone_wait_ns: config.service.clone_wait_ms * MS,
        audit: match config.service.audit {
            // What a replay says otherwise nobody has heard.
            _ if config.commit.policy == CommitPolicy::Checkpoint => None,
            AuditMode::Heal => Some(audit(true)),
            AuditMode::Report => Some(audit(false)),
            AuditMode::Off => None,
        },
        witness: config.is_witness(),
    }
}
