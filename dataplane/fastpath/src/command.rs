//! What the control plane asks of the data path, and what it is told.

use arrayvec::ArrayVec;
use understudy_seal::{ChannelView, Keyring};
use understudy_wire::control::{CONTROL_LEN_MAX, EpochStart, History};
use understudy_wire::record::CheckpointRecord;
use understudy_wire::tcp::FlowKey;
use understudy_wire::{Epoch, NodeId, Position};

use crate::audit::Divergence;
use crate::counters::Counters;
use crate::flows::FlowSeed;
use crate::sender::{MemberChange, PEERS_MAX, Peer};
use crate::waits::Waits;

/// A control message's bytes.
pub type ControlBody = ArrayVec<u8, CONTROL_LEN_MAX>;

/// Orders, carried out in the order given.
#[expect(clippy::large_enum_variant, reason = "moved through queues without allocation")]
#[derive(Clone, Debug)]
pub enum Command {
    /// Acknowledge no epoch below this any more; answered by [`Event::Promised`].
    Promise {
        /// The epoch to come.
        epoch: Epoch,
    },
    /// Be a replica of this reign.
    Follow {
        /// The reign.
        epoch: Epoch,
        /// Who reigns.
        primary: NodeId,
        /// Our log is its history up to here.
        cut: Position,
    },
    /// Reign: open the stream with an epoch record, finish applying, open the gate.
    Lead {
        /// The reign.
        epoch: Epoch,
        /// False: only replicate what the log holds; nothing of the clients is taken, the gate stays shut.
        serve: bool,
    },
    /// Planned switchover: log and replicate client frames, deliver none.
    Drain,
    /// The switchover is off: deliver again.
    Undrain,
    /// Nothing leaves any more.
    Fence {
        /// The reign that is over.
        epoch: Epoch,
    },
    /// Commit without any other node, or stop doing so; ignored in any other reign. Whoever orders
    /// it knows that nobody else can lead.
    Alone {
        /// The reign that goes on alone.
        epoch: Epoch,
        /// From now on, or no longer.
        on: bool,
    },
    /// Send gratuitous ARP and unsolicited NA once.
    Announce,
    /// For a checkpoint: deliver nothing to the application until released; answered by
    /// [`Event::Held`]. Frames are captured, replicated and committed meanwhile, output leaves.
    Hold,
    /// Deliver again, from where it was held.
    Release,
    /// The capsule holds an application restored from a checkpoint: feed it from the barrier on.
    /// Answered by [`Event::Resumed`].
    Resume(Box<Resume>),
    /// The checkpoint for which the application was held is whole: output that it covers leaves
    /// when the replicas store it too. Without meaning unless commit is by checkpoint.
    Checkpointed(CheckpointRecord),
    /// The checkpoints that this node stores whole, all of them.
    Stored(StoredCheckpoints),
    /// The application in the capsule is ready to be fed, or is gone.
    Service {
        /// Ready.
        up: bool,
    },
    /// The client port's carrier.
    ClientLink {
        /// There is one.
        up: bool,
    },
    /// Send a control message on the replica port.
    Control {
        /// One node or [`understudy_wire::pdu::TARGET_ALL`].
        target: NodeId,
        /// The control plane's epoch, for the header.
        epoch: Epoch,
        /// The message.
        body: ControlBody,
    },
    /// Seal and open with these keys from now on, and with no others.
    Keys(Keyring),
    /// Go on with other settings.
    Tune(Tuning),
}

/// What may change while the data path runs; each as in [`crate::dataplane::DataplaneConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a replica waits for its clone's output.
    pub clone_wait_ns: u64,
    /// Silence, or age of what it lacks, after which a replica leaves the commit set.
    pub evict_after_ns: u64,
    /// A clone that differs is unfit; otherwise that is only reported.
    pub heal: bool,
}

/// What the control plane must hear, in order.
#[expect(clippy::large_enum_variant, reason = "moved through queues without allocation")]
#[derive(Clone, Debug)]
pub enum Event {
    /// A control message came on the replica port.
    Control {
        /// Sender.
        node: NodeId,
        /// Its epoch.
        epoch: Epoch,
        /// The message.
        body: ControlBody,
    },
    /// The application is dying; nothing of its end has left, and nothing will.
    ServiceDying,
    /// A promise is kept from now on; what the log holds at this moment.
    Promised {
        /// The epoch promised to.
        epoch: Epoch,
        /// The exact state at this moment.
        snapshot: Snapshot,
    },
    /// Everything before the barrier has been given to the capsule, and nothing else will be until
    /// [`Command::Release`].
    Held(Barrier),
    /// Whether a restored application is fed from its barrier on; false: the log here has left that
    /// behind, or this node is no replica now.
    Resumed(bool),
    /// The audit has found that this node's application says other bytes than the primary's.
    Diverged {
        /// Where.
        divergence: Divergence,
        /// The clone is unfit for it; otherwise it is only reported.
        unfit: bool,
    },
    /// A replica left the commit set, entered it, or can no longer be served from the log.
    Member {
        /// The reign.
        epoch: Epoch,
        /// The replica.
        node: NodeId,
        /// What happened.
        change: MemberChange,
    },
}

/// Where an application stands still for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The application has been given everything before it and nothing after it.
    pub position: Position,
    /// Frames from here on may not have reached the application's kernel in full, or belong to `handshakes`: the
    /// log that a restored clone needs begins here. Not after `position`.
    pub floor: Position,
    /// The log's clock at the barrier.
    pub at_ns: u64,
    /// Reigns of the log before `position`, newest last.
    pub history: History,
    /// Connections whose handshake was under way, of which the application's kernel knows nothing yet.
    pub handshakes: Vec<Handshake>,
}

/// A connection that begins in the log, and its application has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Both ends.
    pub key: FlowKey,
    /// The client's SYN: what these ends said before was of another connection.
    pub from: Position,
}

/// Checkpoints that a node names as stored, at most.
pub const STORED_MAX: usize = 16;

/// The checkpoints that a node stores.
pub type StoredCheckpoints = ArrayVec<StoredCheckpoint, STORED_MAX>;

/// A checkpoint that is stored whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Which.
    pub checkpoint: CheckpointRecord,
    /// The newest reign before its barrier.
    pub reign: EpochStart,
}

/// An application that was restored from a checkpoint.
#[derive(Clone, Debug)]
pub struct Resume {
    /// Where it was taken.
    pub barrier: Barrier,
    /// Its connections.
    pub flows: Vec<FlowSeed>,
    /// Connections whose handshake the log holds, from the floor on, but the application had not
    /// accepted: they are adopted.
    pub pending: Vec<Handshake>,
    /// Segments that it had sent and clients had not acknowledged; where they go is not filled in.
    pub owed: Vec<Vec<u8>>,
}

/// The data path's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataRole {
    /// No reign yet.
    Idle,
    /// Replica of this reign.
    Follow(Epoch),
    /// Primary of this reign.
    Lead(Epoch),
    /// Was primary; mute.
    Fenced,
}

/// The state that the control plane decides by, copied out now and then.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub at_ns: u64,
    /// Role.
    pub role: DataRole,
    /// Newest reigns in the log.
    pub history: History,
    /// Oldest position held.
    pub log_start: Position,
    /// End of the log.
    pub log_end: Position,
    /// What is held in full: up to `log_end`, or to the first checkpoint that is not stored here.
    pub held: Position,
    /// The log's capacity in bytes.
    pub log_capacity: u64,
    /// Committed, as known here.
    pub committed: Position,
    /// Given to the application.
    pub applied: Position,
    /// Output may leave.
    pub gate_open: bool,
    /// A majority acknowledged within the lease.
    pub lease_valid: bool,
    /// It commits without any other node.
    pub alone: bool,
    /// Replicas without which nothing leaves, as configured.
    pub replicas_required: usize,
    /// Drained: nothing is delivered and all output has left.
    pub drained: bool,
    /// What is committed is applied, or nearly all of it.
    pub level: bool,
    /// The clone has followed so far.
    pub fit: bool,
    /// When the primary's newest DATA PDU came; 0: never.
    pub data_heard_at_ns: u64,
    /// Oldest position the primary holds, as a replica knows it.
    pub primary_log_start: Position,
    /// Frames waiting at the gate.
    pub gate_waiting: usize,
    /// Of these, those that no checkpoint taken so far covers; 0 unless commit is by checkpoint.
    pub gate_uncovered: usize,
    /// How long frames have waited there.
    pub gate_waits: Waits,
    /// The newest checkpoint that covers output is not stored by enough replicas yet.
    pub cover_pending: bool,
    /// The newest checkpoint that the log speaks of and this node stores.
    pub checkpoint_held: Option<CheckpointRecord>,
    /// The newest that enough nodes store.
    pub checkpoint_committed: Option<CheckpointRecord>,
    /// The newest that the log speaks of, if this node lacks it.
    pub checkpoint_lacking: Option<CheckpointRecord>,
    /// Connections inherited or cloned.
    pub flows: usize,
    /// Frames retained for a takeover.
    pub retained: usize,
    /// The replicas, as the primary sees them.
    pub peers: ArrayVec<Peer, PEERS_MAX>,
    /// Counts.
    pub counters: Counters,
    /// The replica port's keys and peers.
    pub channel: ChannelView,
}

impl Snapshot {
    /// The reigns of what is held in full.
    pub fn held_history(&self) -> History {
        self.history.iter().copied().filter(|e| e.start < self.held).collect()
    }
}
