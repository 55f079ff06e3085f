//! What is asked and answered.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    ApiError, CaptureStatus, ClientFilter, ConnImages, Events, Fault, Plan, Takeover,
    TimelineEvent, Verdict, Waits,
};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", from = "StrictRequest")]
pub enum Request {
    /// The state of the node.
    Status,
    /// The service's connections.
    Conns,
    /// The service's connections in full; the application stands still for a moment.
    ConnImages {
        /// Which clients' only.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<ClientFilter>,
    },
    /// Hand the service over with the primary's consent.
    Switchover {
        /// The node that takes over; the fittest one if not given.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Give the service away, if it is here, and serve nobody until [`Request::Undrain`].
    Drain,
    /// Be able to take over again.
    Undrain,
    /// Which keys seal and open, and under which the other nodes were seen.
    KeyStatus,
    /// Read the key file again.
    KeyReload,
    /// Take a checkpoint of the application on this node.
    Checkpoint,
    /// What a configuration file would change.
    Plan {
        /// Its absolute path; the daemon's own if not given.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
    /// Read the daemon's own file again and go on with what it says: all of it, or nothing.
    Reload,
    /// What has happened on this node.
    Events {
        /// Only what has a higher sequence number.
        #[serde(skip_serializing_if = "Option::is_none")]
        since_seq: Option<u64>,
        /// Only what is not older, ns since 1970.
        #[serde(skip_serializing_if = "Option::is_none")]
        since_ns: Option<u64>,
        /// With nothing to tell, wait so long for something; at most [`crate::EVENTS_WAIT_MS_MAX`].
        wait_ms: u64,
    },
    /// Send a range of the capture log: the answer is followed by [`crate::stream`].
    Capture {
        /// From the first record that is not older, ns since 1970; from now on if not given.
        #[serde(skip_serializing_if = "Option::is_none")]
        from_ns: Option<u64>,
        /// Up to the last record that is not younger.
        #[serde(skip_serializing_if = "Option::is_none")]
        to_ns: Option<u64>,
        /// Go on with what comes, instead of ending where the log ends now.
        follow: bool,
        /// tcpdump's filter: what cannot match need not be sent, but may be.
        #[serde(skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
    },
}

/// serde lets a unit variant have any fields, an empty one none.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
enum StrictRequest {
    Status {},
    Conns {},
    ConnImages {
        #[serde(default)]
        client: Option<ClientFilter>,
    },
    Switchover {
        #[serde(default)]
        to: Option<String>,
    },
    Drain {},
    Undrain {},
    KeyStatus {},
    KeyReload {},
    Checkpoint {},
    Plan {
        #[serde(default)]
        file: Option<String>,
    },
    Reload {},
    Events {
        #[serde(default)]
        since_seq: Option<u64>,
        #[serde(default)]
        since_ns: Option<u64>,
        #[serde(default)]
        wait_ms: u64,
    },
    Capture {
        #[serde(default)]
        from_ns: Option<u64>,
        #[serde(default)]
        to_ns: Option<u64>,
        #[serde(default)]
        follow: bool,
        #[serde(default)]
        filter: Option<String>,
    },
}

impl From<StrictRequest> for Request {
    fn from(strict: StrictRequest) -> Self {
        match strict {
            StrictRequest::Status {} => Self::Status,
            StrictRequest::Conns {} => Self::Conns,
            StrictRequest::ConnImages { client } => Self::ConnImages { client },
            StrictRequest::Switchover { to } => Self::Switchover { to },
            StrictRequest::Drain {} => Self::Drain,
            StrictRequest::Undrain {} => Self::Undrain,
            StrictRequest::KeyStatus {} => Self::KeyStatus,
            StrictRequest::KeyReload {} => Self::KeyReload,
            StrictRequest::Checkpoint {} => Self::Checkpoint,
            StrictRequest::Plan { file } => Self::Plan { file },
            StrictRequest::Reload {} => Self::Reload,
            StrictRequest::Events { since_seq, since_ns, wait_ms } => {
                Self::Events { since_seq, since_ns, wait_ms }
            }
            StrictRequest::Capture { from_ns, to_ns, follow, filter } => {
                Self::Capture { from_ns, to_ns, follow, filter }
            }
        }
    }
}

impl Request {
    /// The name of the request on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Conns => "conns",
            Self::ConnImages { .. } => "conn_images",
            Self::Switchover { .. } => "switchover",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::KeyStatus => "key_status",
            Self::KeyReload => "key_reload",
            Self::Checkpoint => "checkpoint",
            Self::Plan { .. } => "plan",
            Self::Reload => "reload",
            Self::Events { .. } => "events",
            Self::Capture { .. } => "capture",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Conns`].
    Conns(Conns),
    /// To [`Request::ConnImages`].
    ConnImages(ConnImages),
    /// To [`Request::Switchover`].
    Switchover(SwitchoverDone),
    /// To [`Request::Drain`] and [`Request::Undrain`].
    Drained(Drained),
    /// To [`Request::KeyStatus`], and to [`Request::KeyReload`] with the keys that count from now on.
    Keys(Keys),
    /// To [`Request::Checkpoint`].
    Checkpoint(Checkpoint),
    /// To [`Request::Plan`], and to [`Request::Reload`] with what was changed.
    Plan(Plan),
    /// To [`Request::Events`].
    Events(Events),
    /// To [`Request::Capture`].
    Capturing(Capturing),
    /// To [`Request::Status`], of a capture-only node.
    CaptureStatus(Box<CaptureStatus>),
    /// To any request.
    Error(ApiError),
}

impl Response {
    /// Whether this answers `request`; an error answers any.
    #[must_use]
    pub fn answers(&self, request: &Request) -> bool {
        match self {
            Self::Status(_) | Self::CaptureStatus(_) => matches!(request, Request::Status),
            Self::Conns(_) => matches!(request, Request::Conns),
            Self::ConnImages(_) => matches!(request, Request::ConnImages { .. }),
            Self::Switchover(_) => matches!(request, Request::Switchover { .. }),
            Self::Drained(_) => matches!(request, Request::Drain | Request::Undrain),
            Self::Keys(_) => matches!(request, Request::KeyStatus | Request::KeyReload),
            Self::Checkpoint(_) => matches!(request, Request::Checkpoint),
            Self::Plan(_) => matches!(request, Request::Plan { .. } | Request::Reload),
            Self::Events(_) => matches!(request, Request::Events { .. }),
            Self::Capturing(_) => matches!(request, Request::Capture { .. }),
            Self::Error(_) => true,
        }
    }
}

impl From<Status> for Response {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<Conns> for Response {
    fn from(conns: Conns) -> Self {
        Self::Conns(conns)
    }
}

impl From<ConnImages> for Response {
    fn from(images: ConnImages) -> Self {
        Self::ConnImages(images)
    }
}

impl From<SwitchoverDone> for Response {
    fn from(done: SwitchoverDone) -> Self {
        Self::Switchover(done)
    }
}

impl From<Drained> for Response {
    fn from(drained: Drained) -> Self {
        Self::Drained(drained)
    }
}

impl From<Keys> for Response {
    fn from(keys: Keys) -> Self {
        Self::Keys(keys)
    }
}

impl From<Checkpoint> for Response {
    fn from(checkpoint: Checkpoint) -> Self {
        Self::Checkpoint(checkpoint)
    }
}

impl From<Plan> for Response {
    fn from(plan: Plan) -> Self {
        Self::Plan(plan)
    }
}

impl From<Events> for Response {
    fn from(events: Events) -> Self {
        Self::Events(events)
    }
}

impl From<Capturing> for Response {
    fn from(capturing: Capturing) -> Self {
        Self::Capturing(capturing)
    }
}

impl From<CaptureStatus> for Response {
    fn from(status: CaptureStatus) -> Self {
        Self::CaptureStatus(Box::new(status))
    }
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// What a node is in its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Serves.
    Primary,
    /// Holds a clone and follows.
    Replica,
    /// Stands for election.
    Candidate,
    /// Has stopped itself; sends nothing.
    Fenced,
    /// Has not joined the group yet.
    #[default]
    Starting,
    /// Completes its log or its clone.
    Recovering,
    /// Votes and holds the log, has no clone.
    Witness,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Candidate => "candidate",
            Self::Fenced => "fenced",
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Witness => "witness",
        })
    }
}

/// The state of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// Number of the node in PDUs.
    pub node_id: u16,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Time since the daemon started.
    pub uptime_ms: u64,
    /// What the node is now.
    pub role: Role,
    /// The epoch the node is in.
    pub epoch: u64,
    /// Name of the primary of that epoch, if known.
    pub primary: Option<String>,
    /// For a replica: the clone is ready to take over. For the primary: it serves.
    pub ready: bool,
    /// An operator has taken the node out of service.
    #[serde(default)]
    pub drained: bool,
    /// Why `ready` is false; empty if it is true.
    pub not_ready_because: Vec<String>,
    /// Whether the service would survive the loss of any one node, as this node sees it.
    #[serde(default)]
    pub verdict: Verdict,
    /// Why `verdict` is exposed; empty if it is protected.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The protected application.
    pub service: Service,
    /// Positions in the capture log.
    pub log: LogPositions,
    /// The output gate.
    pub gate: Gate,
    /// The external arbiter, if the group has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arbiter: Option<Arbiter>,
    /// Checkpoints of the application; `None` on a witness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Checkpoints>,
    /// Supervised resources that are bad.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Everything else that is counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// What happened since the daemon started, newest last; at most [`crate::TIMELINE_EVENTS_MAX`].
    /// [`Request::Events`] tells more, and what was before.
    pub timeline: Vec<TimelineEvent>,
    /// The changes of the primary that it tells of, newest last.
    #[serde(default)]
    pub takeovers: Vec<Takeover>,
}

/// The protected application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name of the service.
    pub name: String,
    /// Virtual addresses with prefix length.
    pub vip: Vec<String>,
    /// Virtual MAC, such as `00:00:5e:00:01:33`.
    pub vmac: String,
    /// Process id of the application.
    pub app_pid: Option<u32>,
    /// Whether the application runs.
    pub app_running: bool,
}

/// Positions (byte offsets) in the capture log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPositions {
    /// Oldest position still in the log.
    pub start: u64,
    /// End of the log.
    pub end: u64,
    /// Highest position the commit policy's set has acknowledged.
    pub committed: u64,
    /// Delivered to the application up to here.
    pub applied: u64,
    /// Memory of the log.
    pub capacity_bytes: u64,
}

/// The output gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Whether output may leave at all.
    pub open: bool,
    /// The commit policy.
    pub policy: String,
    /// Replicas that must hold the cause of an output, whatever was evicted.
    pub replicas_required: u64,
    /// Replicas in the commit set.
    pub replicas_in_set: u64,
    /// Whether it goes on without any replica, since nobody else can lead.
    pub alone: bool,
    /// Frames that wait for their cause to be committed.
    pub waiting_frames: u64,
    /// Of these, frames that no checkpoint covers yet; 0 unless commit is by checkpoint.
    #[serde(default)]
    pub uncovered_frames: u64,
    /// Frames that have left.
    pub released: u64,
    /// Of these, frames that did not wait.
    pub released_zero_wait: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// How long those that have left had waited.
    #[serde(default)]
    pub waits: Waits,
}

/// The external arbiter of a group of two, as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arbiter {
    /// Whether it answered last; `None` before its first answer.
    pub reachable: Option<bool>,
    /// What it was last read to hold.
    pub register: Option<Register>,
    /// Whether this node serves without the other one.
    pub alone: bool,
}

/// Who may lead without the other node's consent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The epoch it was written in.
    pub epoch: u64,
    /// Name of the node that wrote it.
    pub primary: String,
    /// Names of the nodes that hold everything committed.
    pub members: Vec<String>,
    /// The epoch in which these were named.
    pub since: u64,
}

/// Checkpoints that this node has taken of its application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// How many since the daemon started.
    pub taken: u64,
    /// Whether one is being taken.
    pub under_way: bool,
    /// The newest of them.
    pub newest: Option<Checkpoint>,
    /// Time since it was taken.
    pub age_ms: Option<u64>,
    /// Why the last attempt failed; `None` if it did not.
    pub failed_because: Option<String>,
    /// How often the application was brought back from one since the daemon started.
    pub restored: u64,
    /// The restoration that is under way or is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restoring: Option<Restoring>,
}

/// A node that needs a checkpoint to be whole again, on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// What it does.
    pub stage: String,
    /// Since it found that it needs one.
    pub since_ms: u64,
    /// Bytes of the checkpoint that are here.
    pub bytes_done: u64,
    /// Bytes of the checkpoint; 0 until known.
    pub bytes_total: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failed_because: Option<String>,
}

/// A checkpoint of the application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its number on this node.
    pub generation: u64,
    /// When, since 1970.
    pub unix_ns: u64,
    /// The application has in it everything before this position of the log.
    pub position: u64,
    /// Who restores it needs the log from here on.
    pub floor: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// How long the application stood still.
    pub frozen_us: u64,
    /// How long the application was given nothing.
    pub held_us: u64,
    /// From the order to a checkpoint that is on disk.
    pub took_ms: u64,
    /// Connections that the application had not accepted, or that only began; the log brings them again.
    pub pending: u64,
}

/// A capture that begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capturing {
    /// Name of the node.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// Names of the group's nodes, by their numbers, which epoch records hold.
    pub nodes: BTreeMap<u16, String>,
    /// What the client port is, in DPDK's words.
    pub device: String,
    /// Of a capture-only node: its links' devices, by the number that records have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Of a capture-only node: the filter in its data path, if any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_filter: String,
    /// What stamps the frames.
    pub clock: String,
    /// Oldest position in the log.
    pub log_start: u64,
    /// End of the log.
    pub log_end: u64,
}

/// Another node, as this one sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name of the node.
    pub name: String,
    /// Number of the node.
    pub id: u16,
    /// What it last said it is; `None` if it was never heard.
    pub role: Option<Role>,
    /// Whether it was heard on any path within the detection time.
    pub alive: bool,
    /// Time since it was heard on the replica port; `None` if never.
    pub replica_path_ms: Option<u64>,
    /// Time since it was heard on the second path; `None` if never.
    pub second_path_ms: Option<u64>,
    /// Its epoch.
    pub epoch: u64,
    /// End of its log.
    pub position: u64,
    /// Its clone has applied this much.
    pub applied: u64,
    /// How far its log is behind the primary's.
    pub lag_bytes: u64,
    /// Whether it is in the commit set.
    pub in_commit_set: bool,
    /// Why the primary evicted it from the commit set; `None` while it is in, or unknown here.
    pub evicted_because: Option<String>,
    /// Whether its clone is ready to take over.
    pub clone_ready: bool,
    /// Whether it would stand in an election: nothing else keeps it from serving either.
    #[serde(default)]
    pub electable: bool,
}

/// The service's connections on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conns {
    /// What the node is now.
    pub role: Role,
    /// The connections.
    pub conns: Vec<Conn>,
    /// Whether there are more than the answer could hold.
    pub truncated: bool,
}

/// A connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conn {
    /// Address and port of the client.
    pub client: String,
    /// Address and port of the service.
    pub server: String,
    /// `tcp` or `udp`.
    pub proto: String,
    /// State of the socket.
    pub state: String,
    /// Whether the socket was adopted from the log, not made by a handshake here.
    pub adopted: bool,
    /// Bytes received and not yet read.
    pub rqueue: u64,
    /// Bytes written and not yet acknowledged.
    pub wqueue: u64,
    /// Smoothed round-trip time, if measured.
    pub rtt_us: Option<u64>,
    /// Bytes received from the client.
    pub bytes_received: u64,
    /// Bytes the client has acknowledged.
    pub bytes_acked: u64,
    /// Segments sent again.
    pub retrans: u64,
}

/// A switchover that took place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverDone {
    /// The primary before.
    pub from: String,
    /// The primary now.
    pub to: String,
    /// Its epoch.
    pub epoch: u64,
    /// From consent to the gate's opening.
    pub took_ms: u64,
}

/// Whether a node serves nobody because an operator wants it so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Name of the node.
    pub node: String,
    /// Whether it serves nobody from now on.
    pub drained: bool,
    /// Whether it was the primary.
    pub was_primary: bool,
    /// How it gave the service away, if it was here.
    pub switchover: Option<SwitchoverDone>,
}

/// The keys that seal what nodes say to each other. A key is shown by its id, four hexadecimal
/// digits that are in every PDU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The key that seals.
    pub seals: String,
    /// The keys that open, the one that seals first.
    pub opens: Vec<String>,
    /// The replica port and the second path.
    pub paths: Vec<KeyPath>,
}

/// One of the paths between nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPath {
    /// `replica` or `second`.
    pub path: String,
    /// The other nodes.
    pub peers: Vec<KeyPeer>,
    /// What was opened, and what was refused and why.
    pub counters: BTreeMap<String, u64>,
}

/// Another node, as a path sees its sealing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPeer {
    /// Name of the node.
    pub name: String,
    /// Whether it has proved that it lives: what it says is heard.
    pub known: bool,
    /// The key under which it spoke last; `None` if it was never heard.
    pub key: Option<String>,
}
