//! The configuration of a capture-only node: it has `[capture]` and no service.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::types::{Config, DpdkConfig, IdleConfig, LogConfig, MetricsConfig};
use crate::{ConfigError, locate, read, validate};

/// Longest frame that is kept whole, in bytes: what fits in a record of the log.
pub const FRAME_BYTES_MAX: u16 = 16_368;
/// Links of one node.
pub const DEVICES_MAX: usize = 8;

/// A capture-only node's whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureNode {
    /// What is captured, and where to.
    pub capture: CaptureConfig,
    /// How DPDK is started.
    #[serde(default)]
    pub dpdk: DpdkConfig,
    /// What the poll-mode thread does without work.
    #[serde(default)]
    pub idle: IdleConfig,
    /// The capture log in memory.
    #[serde(default)]
    pub log: LogConfig,
    /// The daemon's files.
    pub control: CaptureControl,
    /// What watches the node; without it nothing listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsConfig>,
}

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureConfig {
    /// Name of the node, 1..=64 characters.
    pub node: String,
    /// PCI addresses or DPDK devargs of the links.
    pub devices: Vec<String>,
    /// Where segments are.
    pub directory: PathBuf,
    /// Longest frame that is received, without its check sequence.
    #[serde(default = "frame_bytes_max_default")]
    pub frame_bytes_max: u16,
    /// Bytes kept of a frame; 0: all.
    #[serde(default)]
    pub snap_len: u32,
    /// tcpdump's filter, run in the data path; empty: everything.
    #[serde(default)]
    pub filter: String,
    /// Whether the device's time is used where it has one.
    #[serde(default = "yes")]
    pub device_time: bool,
    /// Size of a segment.
    #[serde(default = "segment_mb_default")]
    pub segment_mb: u32,
    /// Size of a block, the least that a query reads.
    #[serde(default = "block_kb_default")]
    pub block_kb: u32,
    /// Size of all segments.
    #[serde(default = "keep_mb_default")]
    pub keep_mb: u64,
    /// Age of what is kept; 0: any.
    #[serde(default)]
    pub keep_minutes: u64,
    /// Longest time until a record is written.
    #[serde(default = "flush_ms_default")]
    pub flush_ms: u64,
    /// Past the page cache.
    #[serde(default)]
    pub direct: bool,
}

/// `[control]` of a capture-only node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureControl {
    /// Unix socket of the CLI, an absolute path of at most 107 bytes.
    pub socket: PathBuf,
}

fn frame_bytes_max_default() -> u16 {
    1518
}
fn yes() -> bool {
    true
}
fn segment_mb_default() -> u32 {
    64
}
fn block_kb_default() -> u32 {
    512
}
fn keep_mb_default() -> u64 {
    4096
}
fn flush_ms_default() -> u64 {
    200
}

/// A configuration file of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFile {
    /// Of a node with a service, or a witness.
    Service(Box<Config>),
    /// Of a capture-only node.
    Capture(Box<CaptureNode>),
}

impl NodeFile {
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

    fn parsed(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let document = crate::document(text, path)?;
        let document = document.get_ref();
        if !document.contains_key("capture") {
            return Config::parse(text, path).map(|config| Self::Service(Box::new(config)));
        }
        let source = locate::Source { text, path, document };
        if document.contains_key("service") {
            return Err(source.invalid(
                &["capture"],
                "a node with a service captures what its clients send without it (understudy \
                 capture); a node that captures a link has no [service]"
                    .into(),
            ));
        }
        let node: CaptureNode =
            toml::from_str(text).map_err(|e| locate::describe(&e, text, path, Some(document)))?;
        validate::capture::capture(&node, &source)?;
        Ok(Self::Capture(Box::new(node)))
    }

    /// The daemon's unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        match self {
            Self::Service(config) => &config.control.socket,
            Self::Capture(node) => &node.control.socket,
        }
    }
}
