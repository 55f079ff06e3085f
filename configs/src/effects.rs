//! Of every field of [`crate::types`]: when a change of it counts. A field that is missing here does
//! not compile.

use crate::capture::{CaptureConfig, CaptureControl, CaptureNode};
use crate::effect::effects;
use crate::supervise::{
    ApplicationWatch, ClockWatch, CoreWatch, CpuWatch, DiskWatch, HealthWatch, LagWatch,
    LinksWatch, MemoryWatch, PathsWatch, SuperviseConfig,
};
use crate::types::{
    ArbiterConfig, CheckpointConfig, ClientPort, ClusterConfig, CommitConfig, Config,
    ControlConfig, DetectConfig, DpdkConfig, HostPort, IdleConfig, LogConfig, MetricsConfig,
    NodeConfig, PortsConfig, ReplicaPort, ServiceConfig,
};

/// Why what DPDK is given waits for a restart.
const AT_START: &str = "it is only used when the daemon starts";
/// Why what checkpoints and the log take for granted is the group's.
const SAME_APPLICATION: &str = "clones are fed one log and restored from each other's checkpoints, so their application must be the same";
/// Why the three times are the group's.
const LEASE: &str =
    "a primary's lease must end before any other node suspects it, so all nodes change it together";

effects!(Config {
    cluster: Table(ClusterConfig::FIELDS),
    nodes: Named(NodeConfig::FIELDS),
    service: Table(ServiceConfig::FIELDS),
    ports: Table(PortsConfig::FIELDS),
    dpdk: Table(DpdkConfig::FIELDS),
    idle: Table(IdleConfig::FIELDS),
    log: Table(LogConfig::FIELDS),
    commit: Table(CommitConfig::FIELDS),
    detect: Table(DetectConfig::FIELDS),
    checkpoint: Table(CheckpointConfig::FIELDS),
    supervise: Table(SuperviseConfig::FIELDS),
    arbiter: Table(ArbiterConfig::FIELDS),
    control: Table(ControlConfig::FIELDS),
    metrics: Table(MetricsConfig::FIELDS),
});

effects!(CaptureNode {
    capture: Table(CaptureConfig::FIELDS),
    dpdk: Table(DpdkConfig::FIELDS),
    idle: Table(IdleConfig::FIELDS),
    log: Table(LogConfig::FIELDS),
    control: Table(CaptureControl::FIELDS),
    metrics: Table(MetricsConfig::FIELDS),
});

/// Why what decides about a frame waits for a restart.
const IN_SEGMENTS: &str = "a segment says at its beginning what its frames were captured with";

effects!(CaptureConfig {
    node: Restart(IN_SEGMENTS),
    devices: Restart(AT_START),
    directory: Restart("its segments are this daemon's until it ends"),
    frame_bytes_max: Restart(AT_START),
    snap_len: Restart(IN_SEGMENTS),
    filter: Restart(IN_SEGMENTS),
    device_time: Restart(AT_START),
    segment_mb: Restart("a segment's index is made for its size when it begins"),
    block_kb: Restart(AT_START),
    keep_mb: Live,
    keep_minutes: Live,
    flush_ms: Live,
    direct: Restart(AT_START),
});

effects!(CaptureControl { socket: Restart(AT_START) });

effects!(ArbiterConfig {
    etcd: Group("both nodes must ask one register"),
    timeout_ms: Restart(AT_START),
    ca_file: Restart(AT_START),
    cert_file: Restart(AT_START),
    key_file: Restart(AT_START),
});

effects!(ClusterConfig {
    name: Group("nodes of different clusters do not hear each other"),
    node: Group("another node has another vote and another log"),
    key_file: Live,
});

effects!(NodeConfig {
    name: Group("another group has other majorities"),
    id: Group("votes and acknowledgements are counted by it"),
    role: Group("whether it can serve decides who may lead"),
    priority: Live,
    address: Restart("the second path is opened when the daemon starts"),
});

effects!(ServiceConfig {
    name: Restart(AT_START),
    vrid: Group("the group answers under one virtual MAC"),
    vip: Group("the group answers under one virtual address"),
    gateway: Restart("the capsule is made when the daemon starts"),
    ports: Restart("the application is started with the daemon"),
    command: Group(SAME_APPLICATION),
    work_dir: Group(SAME_APPLICATION),
    env: Group(SAME_APPLICATION),
    ready_timeout_ms: Live,
    clone: Restart("the clone is made when the daemon starts"),
    clone_wait_ms: Live,
    audit: LiveAmong(
        &["heal", "report"],
        "digests are kept from the log's beginning, or not at all"
    ),
    state_dirs: Group(SAME_APPLICATION),
});

effects!(PortsConfig {
    client: Table(ClientPort::FIELDS),
    replica: Table(ReplicaPort::FIELDS),
    host: Table(HostPort::FIELDS),
});

effects!(ClientPort { device: Restart(AT_START), rx_queues: Restart(AT_START) });

effects!(MetricsConfig { listen: Restart(AT_START), allow_remote: Restart(AT_START) });

effects!(ReplicaPort { device: Restart(AT_START), mtu: Restart(AT_START) });

effects!(HostPort { mtu: Restart(AT_START) });

effects!(DpdkConfig {
    lcores: Restart(AT_START),
    memory_mb: Restart(AT_START),
    mbufs: Restart(AT_START),
});

effects!(IdleConfig { spin_us: Live, pause_us: Live, sleep_us: Live });

effects!(LogConfig { size_mb: Restart("the log's memory is taken when the daemon starts") });

effects!(CommitConfig {
    policy: RestartAmong(
        &["none", "any", "quorum", "all"],
        "what a reign has promised its clients holds to its end",
    ),
    min: Restart("what a reign has promised its clients holds to its end"),
    evict_after_ms: Live,
    checkpoint_interval_ms: Live,
});

effects!(DetectConfig {
    heartbeat_interval_ms: Group(LEASE),
    suspect_after_ms: Group(LEASE),
    lease_ms: Group(LEASE),
});

effects!(CheckpointConfig {
    method: Group(SAME_APPLICATION),
    snapshot_command: Restart(AT_START),
    restore_command: Restart(AT_START),
    ready_command: Restart(AT_START),
    command_timeout_ms: Restart(AT_START),
    keep: Live,
    interval_s: Live,
    log_fill_percent: Live,
    connections: Live,
    transfer_mb_s: Live,
});

effects!(ControlConfig {
    socket: Restart(AT_START),
    state_dir: Restart("it holds this node's vote: stop the daemon and move the directory with it"),
    log_level: Live,
});

effects!(SuperviseConfig {
    failover_interval_s: Live,
    checkpoint: Live,
    application: Table(ApplicationWatch::FIELDS),
    health: Table(HealthWatch::FIELDS),
    links: Table(LinksWatch::FIELDS),
    paths: Table(PathsWatch::FIELDS),
    lag: Table(LagWatch::FIELDS),
    disk: Table(DiskWatch::FIELDS),
    memory: Table(MemoryWatch::FIELDS),
    core: Table(CoreWatch::FIELDS),
    clock: Table(ClockWatch::FIELDS),
    cpu: Table(CpuWatch::FIELDS),
});

/// What all resources have, and what one has besides.
macro_rules! watched {
    ($type:ident: $($field:ident),*) => {
        effects!($type {
            $($field: Live,)*
            policy: Live,
            interval_ms: Live,
            fall: Live,
            rise: Live,
        });
    };
}

watched!(ApplicationWatch: );
watched!(HealthWatch: check, command, timeout_ms);
watched!(LinksWatch: );
watched!(PathsWatch: silent_ms);
watched!(LagWatch: log_percent);
watched!(DiskWatch: free_mb, timeout_ms);
watched!(MemoryWatch: buffers_percent);
watched!(CoreWatch: stuck_ms);
watched!(ClockWatch: step_ms, drift_ppm);
watched!(CpuWatch: gap_ms);
