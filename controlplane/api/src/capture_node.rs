//! What a capture-only node says of itself.

use serde::{Deserialize, Serialize};

/// The state of a capture-only node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// Name of the node.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Time since the daemon started.
    pub uptime_ms: u64,
    /// The filter in the data path; empty for none.
    pub filter: String,
    /// What runs it: machine code, or an interpreter.
    pub filter_runs_as: String,
    /// Bytes kept of a frame; 0 for all.
    pub snap_len: u32,
    /// The links.
    pub links: Vec<LinkStatus>,
    /// Records in memory that are not written yet, in bytes.
    pub behind_bytes: u64,
    /// Memory of the log.
    pub log_bytes: u64,
    /// The segments.
    pub store: StoreStatus,
}

/// A link that is captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its device, in DPDK's words.
    pub device: String,
    /// What stamps its frames.
    pub clock: String,
    /// Whether it is up, as far as the device says.
    pub up: bool,
    /// Frames received.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames that the filter did not let pass.
    pub filtered: u64,
    /// Frames that were logged.
    pub captured: u64,
    /// Of these, frames that were cut.
    pub cut: u64,
    /// Frames that did not fit in the log.
    pub not_logged: u64,
    /// Frames that the device stamped.
    pub device_stamped: u64,
    /// Frames that the device had no room for, as far as it counts.
    pub missed: u64,
    /// Frames that were received with an error, as far as the device counts.
    pub errors: u64,
    /// Frames for which there was no packet buffer, as far as the device counts.
    pub no_buffer: u64,
}

/// What is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Where.
    pub directory: String,
    /// Segments there.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What they may be.
    pub keep_bytes: u64,
    /// Room on their disk beside them, if it says.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Time of the oldest record, ns since 1970.
    pub oldest_unix_ns: Option<u64>,
    /// Records written since the start.
    pub written_records: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Blocks written since the start.
    pub blocks: u64,
    /// Records that were overwritten in memory before they were written: the disk is too slow.
    pub lost_records: u64,
    /// Records that the disk did not take: full, or broken.
    pub unwritten_records: u64,
    /// Segments that were deleted.
    pub removed_segments: u64,
    /// Of these, because the disk was full.
    pub removed_for_space: u64,
    /// Segments that a dead daemon had left open.
    pub recovered_segments: u64,
    /// Bytes cut off them: no whole block.
    pub cut_bytes: u64,
    /// Files that were no segments and have another name now.
    pub damaged_files: u64,
    /// Segments that were left to the kernel to bring to the disk.
    pub unsynced_segments: u64,
    /// Attempts of all kinds that failed.
    pub failures: u64,
    /// Why the last did; `None` once it goes well again.
    pub failed_because: Option<String>,
}
