//! The configuration of an Understudy node: types, validation, examples.
//!
//! One TOML file per node. `configs/trio/a.toml` documents every field; the
//! types here mirror it one to one. Unknown keys are refused, and every error
//! names the file, the line and the column, and says what is allowed.
//!
//! ```no_run
//! let config = understudy_config::Config::load("configs/trio/a.toml")?;
//! println!("node {} of cluster {:016x}", config.me().name, config.cluster_id());
//! # Ok::<(), understudy_config::ConfigError>(())
//! ```
#![forbid(unsafe_code)]

mod capture;
mod effect;
mod effects;
mod error;
mod locate;
mod plan;
mod supervise;
mod types;
mod validate;

pub use capture::{
    CaptureConfig, CaptureControl, CaptureNode, DEVICES_MAX, FRAME_BYTES_MAX, NodeFile,
};
pub use effect::{Effect, FieldEffect, fields};
pub use error::ConfigError;
pub use plan::{Change, Plan};
pub use supervise::{
    ApplicationWatch, ClockWatch, CoreWatch, CpuWatch, DiskWatch, HealthCheck, HealthWatch,
    LagWatch, LinksWatch, MemoryWatch, PathsWatch, Policy, SuperviseConfig, Watch,
};
pub use types::{
    ArbiterConfig, AuditMode, CheckpointConfig, CheckpointMethod, ClientPort, CloneMode,
    ClusterConfig, CommitConfig, CommitPolicy, Config, ControlConfig, DetectConfig, DpdkConfig,
    HostPort, IdleConfig, LogConfig, LogLevel, MetricsConfig, NodeConfig, NodeRole, PortSpec,
    PortsConfig, Prefix, Proto, ReplicaPort, ServiceConfig,
};

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

/// Longest configuration file that is read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most nodes a group may have.
pub const NODES_MAX: usize = 16;
/// Longest name of a cluster, node or service, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest path of a unix socket in bytes (`sun_path` less its terminating zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The text of a configuration file.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::at(
            path,
            (1, 1),
            format!("the file is too long, at most {FILE_BYTES_MAX} bytes are allowed"),
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        let at = locate::line_column(&valid, valid.len());
        ConfigError::at(path, at, "this is not UTF-8, only UTF-8 text is allowed".into())
    })
}

/// Each value with its place in the text.
fn document<'t>(
    text: &'t str,
    path: &Path,
) -> Result<toml::Spanned<toml::de::DeTable<'t>>, ConfigError> {
    toml::de::DeTable::parse(text).map_err(|e| locate::describe(&e, text, path, None))
}

impl Config {
    /// Reads, parses and validates a node's file.
    ///
    /// # Errors
    /// The first thing wrong with the file, in one sentence.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::parsed(&read(path)?, path)
    }

    /// Parses and validates `text`; `path` is only named in errors.
    ///
    /// # Errors
    /// The first thing wrong with the text, in one sentence.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::parsed(text, path.as_ref())
    }

    // Not generic: what reads TOML is compiled here, and not again in each crate that calls it.
    fn parsed(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let document = document(text, path)?;
        let config: Self = toml::from_str(text)
            .map_err(|e| locate::describe(&e, text, path, Some(document.get_ref())))?;
        validate::validate(&config, &locate::Source { text, path, document: document.get_ref() })?;
        Ok(config)
    }

    /// The text of a file that says the same, defaults included.
    ///
    /// # Errors
    /// If a value was not validated and cannot be written.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// The number of the cluster on the wire: FNV-1a, 64 bits, of its name.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        fnv1a_64(self.cluster.name.as_bytes())
    }

    /// This node's entry in `nodes`.
    ///
    /// # Panics
    /// If the value was not made by [`Config::load`] or [`Config::parse`] and
    /// `cluster.node` is in none of `nodes`.
    #[must_use]
    pub fn me(&self) -> &NodeConfig {
        self.node(&self.cluster.node).expect("validated: cluster.node is one of nodes")
    }

    /// Whether this node votes and holds the log, and no clone.
    ///
    /// # Panics
    /// As [`Config::me`].
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.me().role == NodeRole::Witness
    }

    /// The entry of the node called `name`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// Every node but this one, in the order of the file.
    pub fn peers(&self) -> impl Iterator<Item = &NodeConfig> {
        self.nodes.iter().filter(|n| n.name != self.cluster.node)
    }

    /// How many votes elect a primary: a majority of the configured nodes.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// The fewest replicas that `commit.min` may ask for: what makes a majority with this node, or none where an
    /// arbiter proves that nobody else can lead.
    #[must_use]
    pub fn commit_min_least(&self) -> usize {
        if self.arbiter.is_some() { 0 } else { self.nodes.len() / 2 }
    }

    /// Replicas that must hold the cause of an output before it leaves, whatever was evicted:
    /// `commit.min` or its default, the fewest allowed. Without meaning for policy "none".
    #[must_use]
    pub fn commit_min(&self) -> usize {
        self.commit.min.map_or(self.commit_min_least(), usize::from)
    }

    /// The virtual MAC of an IPv4 virtual router: `00:00:5e:00:01:<vrid>`.
    #[must_use]
    pub fn vmac_v4(&self) -> [u8; 6] {
        [0x00, 0x00, 0x5e, 0x00, 0x01, self.service.vrid]
    }

    /// The virtual MAC of an IPv6 virtual router: `00:00:5e:00:02:<vrid>`.
    #[must_use]
    pub fn vmac_v6(&self) -> [u8; 6] {
        [0x00, 0x00, 0x5e, 0x00, 0x02, self.service.vrid]
    }

    /// The one MAC the service uses on its interface: [`Config::vmac_v4`] if it
    /// has an IPv4 address, else [`Config::vmac_v6`].
    #[must_use]
    pub fn vmac(&self) -> [u8; 6] {
        if self.vip_v4().is_some() { self.vmac_v4() } else { self.vmac_v6() }
    }

    /// The service's virtual addresses with their prefix lengths.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.service.vip.iter().map(|p| (p.address, p.length))
    }

    /// The service's IPv4 address, if it has one.
    #[must_use]
    pub fn vip_v4(&self) -> Option<Prefix> {
        self.service.vip.iter().copied().find(|p| p.address.is_ipv4())
    }

    /// The service's IPv6 address, if it has one.
    #[must_use]
    pub fn vip_v6(&self) -> Option<Prefix> {
        self.service.vip.iter().copied().find(|p| p.address.is_ipv6())
    }

    /// The kernel interface below the client port (`iface=` in its devargs); a witness has no
    /// client port.
    #[must_use]
    pub fn client_interface(&self) -> Option<&str> {
        interface(&self.ports.client.device).filter(|_| !self.is_witness())
    }

    /// The kernel interface below the replica port (`iface=` in its devargs).
    #[must_use]
    pub fn replica_interface(&self) -> Option<&str> {
        interface(&self.ports.replica.device)
    }
}

/// The value of `iface=` in DPDK devargs.
#[must_use]
pub fn interface(device: &str) -> Option<&str> {
    device.split(',').skip(1).find_map(|arg| arg.strip_prefix("iface="))
}

fn fnv1a_64(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    #[test]
    fn fnv_reference_values() {
        assert_eq!(super::fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(super::fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn interface_of_devargs() {
        assert_eq!(super::interface("net_af_packet_cl,iface=us-cl,blocksz=1"), Some("us-cl"));
        assert_eq!(super::interface("0000:01:00.0"), None);
        assert_eq!(super::interface("iface=x"), None);
    }
}
