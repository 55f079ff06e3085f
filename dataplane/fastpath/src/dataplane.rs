//! One poll-mode thread's data path: the three ports, the log, and the role it plays.

mod audited;
mod client_port;
mod covered;
mod hold;
mod host_port;
mod offline;
mod orders;
mod owed;
mod questions;
mod release;
mod replica_port;
mod role;
mod said;
mod view;

use std::collections::VecDeque;
use std::net::IpAddr;

use arrayvec::ArrayVec;
use understudy_log::{CaptureLog, LogError};
use understudy_seal::{Channel, OpenError};
use understudy_wire::control::CONTROL_LEN_MAX;
use understudy_wire::frame::{ETH_LEN, Ethernet, Mac, mac_word};
use understudy_wire::neighbor::{build_announcement, is_neighbor_discovery, parse_solicitation};
use understudy_wire::pdu::{
    Ack, DATA_HEADER_LEN, DataHeader, ETHERTYPE_REPLICA, Nak, PDU_HEADER_LEN, PDU_OVERHEAD_LEN,
    PDU_TAG_LEN, PduError, PduHeader, PduKind, TARGET_ALL, group_mac, in_frame,
};
use understudy_wire::record::{RecordKind, stored_len};
use understudy_wire::tcp::{ACK, FIN, FlowKey, RST, SYN, Segment, before, later, set_tsval};
use understudy_wire::{Epoch, NodeId, Position};

use crate::MS;
use crate::apply::{Apply, Context, Mode, OutputFate};
use crate::audit::{AuditConfig, Auditor};
use crate::command::{
    Barrier, Command, ControlBody, DataRole, Event, Resume, Snapshot, StoredCheckpoints, Tuning,
};
use crate::counters::Counters;
use crate::flows::FlowState;
use crate::gate::Gate;
use crate::kept::Kept;
use crate::neighbors::Neighbors;
use crate::ports::{BURST, Burst, Frame, Outbox, PortRole, Ports};
use crate::receiver::Receiver;
use crate::retained::Retained;
use crate::sender::{PEERS_MAX, Sender, SenderConfig};
use crate::waits::Waits;

/// Bursts taken from one port in one poll.
const BURSTS_PER_POLL: usize = 4;
/// Bursts of a clone's output taken at once at takeover.
const DRAIN_BURSTS_MAX: usize = 256;
/// Kept frames captured in one poll: more than may come meanwhile.
const KEPT_BUDGET: usize = 2 * BURSTS_PER_POLL * BURST;
/// Bursts let through the gate in one poll: a takeover may have thousands of frames for it.
const RELEASES_PER_POLL: usize = 4 * BURSTS_PER_POLL;
/// Records applied in one poll.
const APPLY_BUDGET: usize = 64;
/// PDUs sent in one poll.
const PDU_BUDGET: usize = 64;
/// Events the control plane may be behind.
const EVENTS_MAX: usize = 256;
/// Neighbours known, if there may be no more connections.
const NEIGHBORS_MIN: usize = 4096;
const _: () = assert!(PEERS_MAX <= understudy_seal::PEERS_MAX);
/// Bodies of full PDUs are a multiple of it: what is left over costs a cipher more than its length.
const SEAL_STEP_LEN: usize = 64;
/// Room in a frame for what the channel writes.
const HEADER_ROOM: [u8; PDU_HEADER_LEN] = [0; PDU_HEADER_LEN];
/// What is before the log bytes in a frame.
const DATA_HEAD_LEN: usize = ETH_LEN + PDU_HEADER_LEN + DATA_HEADER_LEN;
const TAG_ROOM: [u8; PDU_TAG_LEN] = [0; PDU_TAG_LEN];
/// At takeover a node waits less for its clone's output: the client's patience is what counts.
const FINISH_WAIT_NS: u64 = 100 * MS;

/// A clone this little behind is level: a takeover need not wait for it noticeably.
const LEVEL_BYTES: u64 = 256 << 10;
/// The clone's kernel has said all that it says to what it was given once it is silent for so long...
const QUIET_NS: u64 = MS;
/// ...or has gone on talking for so long.
const QUIET_WAIT_NS: u64 = 20 * MS;

/// What a data path rests on.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// This node.
    pub me: NodeId,
    /// The group.
    pub cluster: u64,
    /// The other nodes.
    pub peers: Vec<NodeId>,
    /// The service's virtual MAC.
    pub vmac: Mac,
    /// Its virtual addresses.
    pub vips: Vec<IpAddr>,
    /// The replica port's own MAC.
    pub replica_mac: Mac,
    /// Bytes of an Ethernet payload on the replica port.
    pub replica_mtu: usize,
    /// Replication and commit. `chunk_len` is derived from the MTU.
    pub sender: SenderConfig,
    /// Frames that may wait at the gate.
    pub gate_frames_max: usize,
    /// Frames retained for a takeover.
    pub retained_frames_max: usize,
    /// Client frames kept while nobody serves.
    pub kept_frames_max: usize,
    /// Connections a clone can carry.
    pub flows_max: usize,
    /// A replica waits this long for its clone's output before it calls it divergent.
    pub clone_wait_ns: u64,
    /// Digests of the application's output are noted, and compared; `None`: neither.
    pub audit: Option<AuditConfig>,
    /// No clone here, and no client or host port: the log is held for the others.
    pub witness: bool,
}

/// A reign of this node.
struct Reign {
    epoch: Epoch,
    /// Whether it may ever be level and open its gate.
    serve: bool,
    sender: Sender,
    /// Position after this reign's epoch record: nothing before it may leave under this reign.
    opened_at: Position,
    /// Everything before the reign has been applied; what the clone says to that is awaited since.
    applied_at_ns: Option<u64>,
    /// Everything before the reign has been applied, inherited output handed over.
    level: bool,
    draining: bool,
}

/// How long what the clone owes may hold up the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// A replica's: what comes later than that is divergence.
    Clone,
    /// A successor's: what comes later than that only comes later.
    Takeover,
}

enum Role {
    Idle,
    Follow(Box<Receiver>),
    /// Won, but the log has no room for the epoch record yet.
    Claim {
        epoch: Epoch,
        serve: bool,
        /// It was told to go on alone.
        alone: bool,
    },
    Lead(Box<Reign>),
    Fenced,
}

/// Output at the gate.
struct Waiting<F> {
    since_ns: u64,
    frame: F,
}

/// Another node on the replica network.
struct ReplicaNeighbor {
    node: NodeId,
    mac: Mac,
    /// When any PDU of it came last.
    heard_at_ns: u64,
}

/// The data path. All memory is taken in [`Dataplane::new`].
pub struct Dataplane<P: Ports> {
    config: DataplaneConfig,
    /// The virtual MAC as a number.
    vmac_word: u64,
    log: CaptureLog,
    /// Nothing of the replica port is believed that did not come out of it.
    channel: Channel,
    role: Role,
    promised: Epoch,
    committed: Position,
    apply: Apply,
    audit: Option<Box<Auditor>>,
    /// When a divergence was last told.
    diverged_at_ns: u64,
    /// End of the log before the notes at its end, and the end of these.
    notes_at_end: (Position, Position),
    said: said::Said,
    gate: Gate<Waiting<P::Frame>>,
    waits: Waits,
    retained: Retained<P::Frame>,
    kept: Kept<P::Frame>,
    owed: owed::Owed,
    neighbors: Neighbors,
    open_questions: questions::OpenQuestions,
    macs: ArrayVec<ReplicaNeighbor, PEERS_MAX>,
    client_out: Outbox<P::Frame>,
    replica_out: Outbox<P::Frame>,
    host_out: Outbox<P::Frame>,
    events: VecDeque<Event>,
    service_up: bool,
    service_dying: bool,
    /// When the host port was last used, either way, before this node served.
    host_used_at_ns: u64,
    hold: hold::Hold,
    cover: covered::Cover,
    /// Checkpoints that this node could bring back.
    stored: StoredCheckpoints,
    /// The application was seen alive since this burst was received.
    seen_alive: bool,
    client_link_up: bool,
    counters: Counters,
    last_stamp_ns: u64,
    /// The log has one clock, its first primary's; every later one goes on with it. What to add
    /// to this node's clock for it, as last known.
    log_clock_ahead_ns: i64,
}

impl<P: Ports> Dataplane<P> {
    /// A data path over an empty log, in no role. `channel`: this node's end of the replica port.
    pub fn new(mut config: DataplaneConfig, log: CaptureLog, channel: Channel) -> Dataplane<P> {
        let body_len = config.replica_mtu - PDU_OVERHEAD_LEN;
        config.sender.chunk_len = body_len / SEAL_STEP_LEN * SEAL_STEP_LEN - DATA_HEADER_LEN;
        Dataplane {
            apply: Apply::new(config.flows_max),
            audit: config
                .audit
                .filter(|_| !config.witness)
                .map(|audit| Box::new(Auditor::new(audit.seed, config.flows_max))),
            diverged_at_ns: 0,
            notes_at_end: (0, 0),
            said: said::Said::default(),
            gate: Gate::new(config.gate_frames_max),
            waits: Waits::default(),
            retained: Retained::new(config.retained_frames_max),
            kept: Kept::new(config.kept_frames_max),
            owed: owed::Owed::default(),
            neighbors: Neighbors::new(config.flows_max.max(NEIGHBORS_MIN)),
            open_questions: questions::OpenQuestions::new(),
            macs: ArrayVec::new(),
            client_out: Outbox::new(PortRole::Client),
            replica_out: Outbox::new(PortRole::Replica),
            host_out: Outbox::new(PortRole::Host),
            events: VecDeque::with_capacity(EVENTS_MAX),
            service_up: false,
            service_dying: false,
            host_used_at_ns: 0,
            hold: hold::Hold::Off,
            cover: covered::Cover::default(),
            stored: StoredCheckpoints::new(),
            seen_alive: false,
            client_link_up: true,
            counters: Counters::default(),
            last_stamp_ns: 0,
            log_clock_ahead_ns: 0,
            role: Role::Idle,
            promised: 0,
            committed: 0,
            vmac_word: mac_word(config.vmac),
            config,
            log,
            channel,
        }
    }

    /// The log.
    pub fn log(&self) -> &CaptureLog {
        &self.log
    }

    /// The counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The replica port's end.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What the control plane must hear next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// One round over all ports. Returns whether there was anything to do.
    pub fn poll(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = self.poll_replica_port(now_ns, ports);
        self.update_committed(now_ns);
        // Before clients: what the application has said waits for nothing that it has not got yet.
        busy |= self.poll_host_port(now_ns, ports);
        busy |= self.release(now_ns, ports);
        busy |= self.poll_client_port(now_ns, ports);
        busy |= self.poll_role(now_ns, ports);
        self.answer_open_questions(ports);
        // What this poll appended may be committed at once, or the gate be open now.
        busy |= self.release(now_ns, ports);
        self.report_divergence(now_ns);
        // First what somebody waits for: the primary for an acknowledgement, and for what it replicates while its
        // application works.
        self.replica_out.flush(ports);
        self.host_out.flush(ports);
        self.report_hold(now_ns);
        busy
    }
}
