//! The configuration's types, one to one with the file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::supervise::SuperviseConfig;

/// A node's whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The group, and which of its nodes this machine is.
    pub cluster: ClusterConfig,
    /// Every node of the group.
    pub nodes: Vec<NodeConfig>,
    /// The protected application and its address.
    pub service: ServiceConfig,
    /// The three ports.
    pub ports: PortsConfig,
    /// How DPDK is started.
    #[serde(default)]
    pub dpdk: DpdkConfig,
    /// What the poll-mode thread does without work.
    #[serde(default)]
    pub idle: IdleConfig,
    /// The capture log.
    #[serde(default)]
    pub log: LogConfig,
    /// When output may leave.
    #[serde(default)]
    pub commit: CommitConfig,
    /// Failure detection.
    #[serde(default)]
    pub detect: DetectConfig,
    /// Checkpoints of the application.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// What is watched beside the other nodes, and what is done when it is bad.
    #[serde(default)]
    pub supervise: SuperviseConfig,
    /// What a group of two asks who may lead without the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arbiter: Option<ArbiterConfig>,
    /// The daemon's files.
    pub control: ControlConfig,
    /// What watches the node; without it nothing listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsConfig>,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where `/metrics` and the status page are served over HTTP.
    #[serde(deserialize_with = "socket_address")]
    pub listen: SocketAddr,
    /// Whether that may be an address that others reach.
    #[serde(default)]
    pub allow_remote: bool,
}

/// `[arbiter]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArbiterConfig {
    /// Addresses of members of one etcd cluster, `http://` or `https://`.
    pub etcd: Vec<String>,
    /// How long one question may take, over all of them.
    #[serde(default = "arbiter_timeout_default")]
    pub timeout_ms: u64,
    /// PEM: who may have signed etcd's certificate; without it, the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM: this node's certificate, where etcd asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM: the private key of `cert_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

fn arbiter_timeout_default() -> u64 {
    1000
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Name of the cluster, 1..=64 characters.
    pub name: String,
    /// Which of the nodes this machine is.
    pub node: String,
    /// The keys that seal what nodes say to each other; a group of one needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// `[[nodes]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Name, unique, 1..=64 characters.
    pub name: String,
    /// Number in every PDU, unique, 1..=65534.
    pub id: u16,
    /// What it holds.
    #[serde(default)]
    pub role: NodeRole,
    /// Preference among equally complete logs, the highest wins.
    #[serde(default = "priority_default")]
    pub priority: u8,
    /// The second path: UDP address of the control plane.
    #[serde(deserialize_with = "socket_address")]
    pub address: SocketAddr,
}

/// What a node holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// A clone of the service and the log.
    #[default]
    Data,
    /// The log: it votes and acknowledges, and never serves.
    Witness,
}

fn priority_default() -> u8 {
    100
}

fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is not ADDRESS:PORT, such as \"192.0.2.1:7400\" or \"[2001:db8::1]:7400\""
        ))
    })
}

/// `[service]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Name, 1..=64 characters.
    pub name: String,
    /// Virtual router id, 1..=255: the last byte of the virtual MAC.
    pub vrid: u8,
    /// Virtual addresses: one IPv4, one IPv6, or both.
    pub vip: Vec<Prefix>,
    /// Routers to clients beyond the prefixes, at most one per family.
    #[serde(default, deserialize_with = "addresses")]
    pub gateway: Vec<IpAddr>,
    /// What must be bound before the clone is ready.
    pub ports: Vec<PortSpec>,
    /// The application and its arguments; the first is an absolute path.
    pub command: Vec<String>,
    /// The application's working directory.
    pub work_dir: PathBuf,
    /// Extra environment of the application.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long the application may take until all `ports` are bound.
    #[serde(default = "ready_timeout_ms_default")]
    pub ready_timeout_ms: u64,
    /// What a replica does with the log.
    #[serde(default)]
    pub clone: CloneMode,
    /// How late a clone may be with what clients have already had from the primary.
    #[serde(default = "clone_wait_ms_default")]
    pub clone_wait_ms: u64,
    /// What is done about clones that say other bytes than the primary.
    #[serde(default)]
    pub audit: AuditMode,
    /// Directories whose contents are part of the application's state, in every checkpoint.
    #[serde(default)]
    pub state_dirs: Vec<PathBuf>,
}

fn ready_timeout_ms_default() -> u64 {
    30_000
}

fn clone_wait_ms_default() -> u64 {
    5_000
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    // A type of its own, so that an error is located at the entry.
    struct Address(IpAddr);
    impl<'de> Deserialize<'de> for Address {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            text.parse().map(Self).map_err(|_| {
                serde::de::Error::custom(format!(
                    "{text:?} is not an IPv4 or IPv6 address, such as \"192.0.2.1\""
                ))
            })
        }
    }
    Ok(Vec::<Address>::deserialize(deserializer)?.into_iter().map(|a| a.0).collect())
}

/// An address with the length of its network's prefix: `192.0.2.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network, 1..=32 or 1..=128.
    pub length: u8,
}

impl Prefix {
    /// Whether `other` is in this network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        self.bits().is_some_and(|(a, host)| match (self.address, other) {
            (IpAddr::V4(_), IpAddr::V4(b)) => (a ^ u128::from(u32::from(b))) & !host == 0,
            (IpAddr::V6(_), IpAddr::V6(b)) => (a ^ u128::from(b)) & !host == 0,
            _ => false,
        })
    }

    /// The address as a number and the mask of its host part.
    pub(crate) fn bits(&self) -> Option<(u128, u128)> {
        let (address, width) = match self.address {
            IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
            IpAddr::V6(a) => (u128::from(a), 128),
        };
        let host_bits = u32::checked_sub(width, u32::from(self.length))?;
        let host = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
        Some((address, host))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, length)| {
            Some((address.parse::<IpAddr>().ok()?, decimal(length)?))
        });
        match parsed {
            Some((address, length)) => {
                let most = if address.is_ipv4() { 32 } else { 128 };
                match u8::try_from(length) {
                    Ok(length) if (1..=most).contains(&length) => Ok(Self { address, length }),
                    _ => Err(format!("{text:?} has prefix length {length}, 1..={most} is allowed")),
                }
            }
            None => Err(format!(
                "{text:?} is not ADDRESS/LENGTH, such as \"192.0.2.1/24\" or \"2001:db8::1/64\""
            )),
        }
    }
}

/// Digits only: `str::parse` would take a sign.
pub(crate) fn decimal(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port the application binds: `tcp/6379`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSpec {
    /// TCP or UDP.
    pub proto: Proto,
    /// Port, 1..=65535.
    pub port: u16,
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.proto, self.port)
    }
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .and_then(|(proto, port)| {
                let proto = match proto {
                    "tcp" => Proto::Tcp,
                    "udp" => Proto::Udp,
                    _ => return None,
                };
                let port = u16::try_from(decimal(port)?).ok().filter(|&p| p != 0)?;
                Some(Self { proto, port })
            })
            .ok_or_else(|| {
                format!(
                    "{text:?} is not a port, \"tcp/1\"..=\"tcp/65535\" or \"udp/...\" is allowed"
                )
            })
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_as_text!(Prefix);
serde_as_text!(PortSpec);

/// `[ports]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortsConfig {
    /// Towards the clients.
    pub client: ClientPort,
    /// Towards the other nodes.
    pub replica: ReplicaPort,
    /// Towards the application.
    #[serde(default)]
    pub host: HostPort,
}

/// `[ports.client]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPort {
    /// PCI address or DPDK devargs.
    pub device: String,
    /// Receive queues, 1..=16, as many as the device is made with.
    #[serde(default = "rx_queues_default")]
    pub rx_queues: u16,
}

fn rx_queues_default() -> u16 {
    1
}

/// `[ports.replica]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaPort {
    /// PCI address or DPDK devargs.
    pub device: String,
    /// Bytes of an Ethernet payload, 1280..=1500.
    #[serde(default = "mtu_default")]
    pub mtu: u16,
}

fn mtu_default() -> u16 {
    1500
}

/// `[ports.host]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostPort {
    /// Bytes of an Ethernet payload, 1280..=1500.
    pub mtu: u16,
}

impl Default for HostPort {
    fn default() -> Self {
        Self { mtu: mtu_default() }
    }
}

/// `[dpdk]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpdkConfig {
    /// EAL `--lcores`.
    pub lcores: String,
    /// Huge-page memory for packet buffers in MB; 0 runs without huge pages.
    pub memory_mb: u32,
    /// Packet buffers in the pool.
    pub mbufs: u32,
}

impl Default for DpdkConfig {
    fn default() -> Self {
        Self { lcores: "0@0-1".to_owned(), memory_mb: 128, mbufs: 32_768 }
    }
}

/// `[idle]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdleConfig {
    /// Spin this long first.
    pub spin_us: u64,
    /// Then yield the CPU this long.
    pub pause_us: u64,
    /// Then sleep this long at a time, or until a frame comes where the driver can tell; 0 spins forever.
    pub sleep_us: u64,
}

impl Default for IdleConfig {
    fn default() -> Self {
        Self { spin_us: 0, pause_us: 200, sleep_us: 100 }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Memory of the capture log, a power of two of 1..=65536 MB.
    pub size_mb: u32,
}

impl LogConfig {
    /// The size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.size_mb) * 1024 * 1024
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { size_mb: 64 }
    }
}

/// Who must hold the cause of an output before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitPolicy {
    /// Nobody else.
    None,
    /// One replica.
    Any,
    /// A majority of the group, this node counted.
    Quorum,
    /// Every replica of the set.
    All,
    /// A majority, and it stores a checkpoint of the application that had said it.
    Checkpoint,
}

impl fmt::Display for CommitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Any => "any",
            Self::Quorum => "quorum",
            Self::All => "all",
            Self::Checkpoint => "checkpoint",
        })
    }
}

/// `[commit]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommitConfig {
    /// Who must hold the cause of an output before it leaves.
    pub policy: CommitPolicy,
    /// Replicas that must hold it at least, whatever was evicted; see [`Config::commit_min`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u16>,
    /// Silence or lag after which a replica leaves the commit set.
    pub evict_after_ms: u64,
    /// With policy "checkpoint": from one checkpoint's begin to the next one's, at least.
    pub checkpoint_interval_ms: u64,
}

impl Default for CommitConfig {
    fn default() -> Self {
        Self {
            policy: CommitPolicy::Quorum,
            min: None,
            evict_after_ms: 2_000,
            checkpoint_interval_ms: 100,
        }
    }
}

/// `[detect]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectConfig {
    /// Time between heartbeats on each path.
    pub heartbeat_interval_ms: u64,
    /// Silence on all paths for this long is suspicion.
    pub suspect_after_ms: u64,
    /// A primary not acknowledged by a majority for this long sends nothing.
    pub lease_ms: u64,
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self { heartbeat_interval_ms: 10, suspect_after_ms: 200, lease_ms: 120 }
    }
}

/// What a replica does with the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloneMode {
    /// The application runs there too, and is given the log as it arrives.
    #[default]
    Hot,
    /// The application is restored from a checkpoint at takeover, and given the log from there on.
    Warm,
}

/// What is done about clones whose output differs from the primary's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditMode {
    /// Such a clone is not ready, and is made anew from a checkpoint.
    #[default]
    Heal,
    /// It is counted and told, and stays ready.
    Report,
    /// Nothing is noted and nothing compared.
    Off,
}

/// How an application is saved and brought back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointMethod {
    /// By CRIU, as a whole.
    #[default]
    Criu,
    /// By commands of the operator's, and its connections by socket images.
    Hooks,
}

impl CheckpointMethod {
    /// As in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Criu => "criu",
            Self::Hooks => "hooks",
        }
    }
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How the application is saved and brought back.
    pub method: CheckpointMethod,
    /// With method "hooks": saves what the application knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshot_command: Vec<String>,
    /// With method "hooks": puts what was saved in place, before the application starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restore_command: Vec<String>,
    /// With method "hooks": waits until the application that was started has what was saved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ready_command: Vec<String>,
    /// How long either command may take.
    pub command_timeout_ms: u64,
    /// Generations that a node keeps.
    pub keep: usize,
    /// Time between two checkpoints; 0: only when asked for.
    pub interval_s: u64,
    /// A checkpoint is taken when so much of the log was written since the last; 0: never for that.
    pub log_fill_percent: u64,
    /// A checkpoint is taken after so many new connections; 0: never for that.
    pub connections: u64,
    /// What other nodes are sent at most, in MiB a second; 0: no limit.
    pub transfer_mb_s: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            method: CheckpointMethod::Criu,
            snapshot_command: Vec::new(),
            restore_command: Vec::new(),
            ready_command: Vec::new(),
            command_timeout_ms: 10_000,
            keep: 3,
            interval_s: 0,
            log_fill_percent: 0,
            connections: 0,
            transfer_mb_s: 100,
        }
    }
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Unix socket of the CLI, an absolute path of at most 107 bytes.
    pub socket: PathBuf,
    /// Directory of the persisted epoch and vote.
    pub state_dir: PathBuf,
    /// The least severe messages that are logged.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// How much the daemon says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What did not work.
    Error,
    /// And what may not.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And all else.
    Trace,
}

impl LogLevel {
    /// As in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
