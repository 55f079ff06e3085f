//! The primary's side of replication: what to send, what is committed, how long the lease runs.
//!
//! Byte ranges of the log go to the group once; a replica that misses something
//! asks (NAK) and gets it again from the log. Acknowledgements count only in the
//! sender's epoch: that is what makes a deposed primary mute.
//!
//! New bytes go as fast as the slowest replica that the policy waits for; whoever is
//! slower than that asks for what it missed, and is served in turn, never first.

mod members;
mod resend;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use understudy_log::CaptureLog;
use understudy_wire::pdu::{Ack, DataHeader, Nak, TARGET_ALL};
use understudy_wire::{NodeId, Position};

use crate::counters::Counters;
pub use members::{CAUGHT_UP_BYTES, EvictCause, Eviction, MemberChange};
use members::{Changes, Marks};
pub use resend::RESEND_BYTES_MAX;
use resend::Resend;

/// Replicas of a group at most.
pub const PEERS_MAX: usize = 15;
/// How far replication runs ahead of what the slowest replica that counts acknowledged.
pub const WINDOW_BYTES: u64 = 2 << 20;
const _: () = assert!(RESEND_BYTES_MAX < WINDOW_BYTES && CAUGHT_UP_BYTES < WINDOW_BYTES);

/// Which replicas must hold the cause before output leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitPolicy {
    /// None: output leaves at once.
    None,
    /// One replica.
    Any,
    /// A majority of the group, the primary counted.
    Quorum,
    /// Every replica that is in the set, and never less than a quorum.
    All,
    /// A majority, and it stores a checkpoint of the application that had said what leaves.
    Checkpoint,
}

/// What the sender rests on.
#[derive(Clone, Copy, Debug, Hash)]
pub struct SenderConfig {
    /// When output may leave.
    pub policy: CommitPolicy,
    /// Voters in the group, this node included.
    pub voters: usize,
    /// Replicas that must hold the cause whatever was evicted; never fewer than make a majority,
    /// unless it is 0 and the reign goes on alone. Without meaning for [`CommitPolicy::None`].
    pub min_replicas: usize,
    /// How long an acknowledgement lets output leave, counted from what it acknowledges.
    pub lease_ns: u64,
    /// Silence, or age of what it lacks, after which a replica leaves the commit set.
    pub evict_after_ns: u64,
    /// Longest silence of the sender.
    pub heartbeat_interval_ns: u64,
    /// Log bytes in one PDU.
    pub chunk_len: usize,
}

impl SenderConfig {
    /// Replicas that make a majority together with this node.
    fn majority(&self) -> usize {
        self.voters / 2
    }

    /// Replicas without which nothing leaves.
    pub fn required(&self) -> usize {
        match self.policy {
            CommitPolicy::None => 0,
            CommitPolicy::Any => self.min_replicas.max(1).min(self.voters - 1),
            CommitPolicy::Quorum | CommitPolicy::All | CommitPolicy::Checkpoint => {
                self.min_replicas.max(self.majority())
            }
        }
    }
}

/// A replica as the primary sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Which node.
    pub id: NodeId,
    /// It holds everything before this, in this epoch.
    pub acked: Position,
    /// And the checkpoints that the log speaks of before this: what counts for commit.
    pub covered: Position,
    /// It has given its clone everything before this.
    pub applied: Position,
    /// Our own send time that it acknowledged last.
    pub echo_ns: u64,
    /// When it last acknowledged anything; 0: never in this epoch.
    pub heard_at_ns: u64,
    /// Why it is not in the commit set; `None`: it is.
    pub eviction: Option<Eviction>,
    fell_off_log: bool,
    resend: Resend,
}

impl Peer {
    /// Whether the policy counts it.
    pub fn in_set(&self) -> bool {
        self.eviction.is_none()
    }
}

/// A DATA PDU to be sent: header and the range of the log it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outgoing {
    /// One replica (a retransmission) or [`TARGET_ALL`].
    pub target: NodeId,
    /// Its fixed part.
    pub header: DataHeader,
    /// End of the log bytes; they begin at `header.position`.
    pub to: Position,
}

/// The primary's replication state for one reign.
#[derive(Clone, Hash)]
pub struct Sender {
    config: SenderConfig,
    peers: ArrayVec<Peer, PEERS_MAX>,
    start: Position,
    sent: Position,
    committed: Position,
    committed_told: Position,
    lease_until_ns: u64,
    heartbeat_due_ns: u64,
    started_ns: u64,
    updated_at_ns: u64,
    resumed_at_ns: u64,
    marks: Marks,
    changes: Changes,
    alone: bool,
    /// Committed by this node alone up to here.
    alone_to: Position,
    /// Who is served next when several ask.
    resend_turn: usize,
    resent_last: bool,
}

impl Sender {
    /// A reign whose replicas may hold anything up to `start`; all of them are asked anew.
    /// `peers`: who, and when each was last heard on the replica port (0: never). Whoever was not
    /// heard within a lease enters the commit set at its first acknowledgement, not before:
    /// nobody waits for the primary that has just died.
    pub fn new(
        config: SenderConfig,
        peers: impl IntoIterator<Item = (NodeId, u64)>,
        start: Position,
        now_ns: u64,
        c: &mut Counters,
    ) -> Sender {
        let mut sender = Sender {
            config,
            peers: ArrayVec::new(),
            start,
            sent: start,
            committed: 0,
            committed_told: 0,
            lease_until_ns: if config.voters <= 1 { u64::MAX } else { 0 },
            heartbeat_due_ns: now_ns,
            started_ns: now_ns,
            updated_at_ns: now_ns,
            resumed_at_ns: now_ns,
            marks: Marks::default(),
            changes: Changes::new(),
            alone: false,
            alone_to: 0,
            resend_turn: 0,
            resent_last: false,
        };
        for (index, (id, heard_at_ns)) in peers.into_iter().take(PEERS_MAX).enumerate() {
            sender.peers.push(Peer {
                id,
                acked: 0,
                covered: 0,
                applied: 0,
                echo_ns: 0,
                heard_at_ns: 0,
                eviction: None,
                fell_off_log: false,
                resend: Resend::default(),
            });
            if heard_at_ns == 0 || now_ns > heard_at_ns + config.lease_ns {
                let lag_ns = if heard_at_ns == 0 { 0 } else { now_ns - heard_at_ns };
                let absent = Eviction { cause: EvictCause::Absent, lag_bytes: 0, lag_ns };
                sender.evict(index, absent, c);
            }
        }
        sender
    }

    /// The replicas.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Everything before it is committed in this epoch.
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// Goes on without any acknowledgement, or stops doing so. Whoever orders it knows that no
    /// other primary can exist. Ignored where the configuration wants a replica in any case.
    pub fn set_alone(&mut self, alone: bool) {
        self.alone = alone && self.config.min_replicas == 0;
    }

    /// Whether it commits by itself.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether anything happened to the replicas since that was asked last.
    #[inline]
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What happened to the replicas since this was asked last: a long list to move, and mostly empty.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether a majority acknowledged recently enough that no other primary can exist.
    pub fn lease_valid(&self, now_ns: u64) -> bool {
        self.alone || now_ns < self.lease_until_ns
    }

    /// Takes an acknowledgement. False: from a node that is not in the group.
    pub fn on_ack(&mut self, now_ns: u64, from: NodeId, ack: &Ack) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == from) else { return false };
        // Never beyond what was sent, whatever it claims.
        peer.acked = peer.acked.max(ack.position.min(self.sent));
        peer.covered = peer.covered.max(ack.covered.min(self.sent));
        peer.applied = peer.applied.max(ack.applied.min(self.sent));
        peer.echo_ns = peer.echo_ns.max(ack.echo_ns.min(now_ns));
        peer.heard_at_ns = now_ns;
        let echo_ns = self.held_by(self.config.majority(), |p| p.echo_ns);
        if echo_ns > 0 {
            self.lease_until_ns = self.lease_until_ns.max(echo_ns + self.config.lease_ns);
        }
        true
    }

    /// Takes a NAK. False: from a node that is not in the group.
    pub fn on_nak(
        &mut self,
        now_ns: u64,
        from: NodeId,
        nak: &Nak,
        log: &CaptureLog,
        c: &mut Counters,
    ) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == from) else { return false };
        if nak.position >= log.start() {
            peer.fell_off_log = false;
            c.naks_repeated += u64::from(!peer.resend.ask(now_ns, nak, self.sent));
            return true;
        }
        c.naks_beyond_log += 1;
        if !std::mem::replace(&mut peer.fell_off_log, true) {
            // Every sign of life tells it where the log begins; this one goes at once.
            self.heartbeat_due_ns = now_ns;
            let (position, log_start) = (nak.position, log.start());
            self.tell(from, MemberChange::FellOffLog { position, log_start });
        }
        true
    }

    /// Recomputes the commit set and what is committed; call in each poll after acknowledgements, and after
    /// appends, which are committed at once if nobody else needs to hold them.
    pub fn update(&mut self, now_ns: u64, log_end: Position, c: &mut Counters) {
        self.update_members(now_ns, c);
        self.committed = self.committed.max(self.commit_point(log_end));
        if self.alone {
            self.alone_to = self.committed;
        }
    }

    fn commit_point(&self, log_end: Position) -> Position {
        if self.alone || self.config.voters <= 1 || self.config.policy == CommitPolicy::None {
            return log_end;
        }
        let required = self.held_by(self.config.required(), |p| p.covered);
        match self.config.policy {
            CommitPolicy::All => required.min(self.slowest_in_set().unwrap_or(0)),
            _ => required,
        }
    }

    fn slowest_in_set(&self) -> Option<Position> {
        self.peers.iter().filter(|p| p.in_set()).map(|p| p.covered).min()
    }

    /// The highest value that `count` replicas reach.
    fn held_by(&self, count: usize, value: impl Fn(&Peer) -> u64) -> u64 {
        let values = || self.peers.iter().map(&value);
        let reach = |limit: u64| values().filter(|&v| v >= limit).count();
        match count {
            0 => 0,
            1 => values().max().unwrap_or(0),
            // Every value that so many reach, the highest of them; a group is small.
            _ => values().filter(|&v| reach(v) >= count).max().unwrap_or(0),
        }
    }

    /// The next PDU to send, until `None`.
    #[inline]
    pub fn next(&mut self, now_ns: u64, log: &CaptureLog, c: &mut Counters) -> Option<Outgoing> {
        if self.peers.iter().any(|peer| !peer.resend.is_empty()) {
            return self.next_in_turn(now_ns, log, c);
        }
        self.resent_last = false;
        self.next_new(now_ns, log, c).or_else(|| self.next_sign_of_life(now_ns, log))
    }

    /// New bytes for all and old ones for one take turns; the lease's clock waits for neither.
    #[inline(never)]
    fn next_in_turn(
        &mut self,
        now_ns: u64,
        log: &CaptureLog,
        c: &mut Counters,
    ) -> Option<Outgoing> {
        let life_due = now_ns >= self.heartbeat_due_ns;
        let resend_first = !self.resent_last && !life_due;
        let out = match resend_first {
            true => {
                self.next_retransmission(now_ns, log, c).or_else(|| self.next_new(now_ns, log, c))
            }
            false => self
                .next_new(now_ns, log, c)
                .or_else(|| life_due.then(|| self.next_sign_of_life(now_ns, log)).flatten())
                .or_else(|| self.next_retransmission(now_ns, log, c)),
        };
        self.resent_last = out.is_some_and(|o| o.target != TARGET_ALL);
        out.or_else(|| self.next_sign_of_life(now_ns, log))
    }

    fn next_retransmission(
        &mut self,
        now_ns: u64,
        log: &CaptureLog,
        c: &mut Counters,
    ) -> Option<Outgoing> {
        let (count, chunk) = (self.peers.len(), self.config.chunk_len as u64);
        for i in (0..count).map(|k| (self.resend_turn + k) % count) {
            let peer = &mut self.peers[i];
            let Some((from, to)) = peer.resend.take(now_ns, chunk) else { continue };
            if from < log.start() {
                // It asks again, and is told.
                peer.resend.clear();
                continue;
            }
            let target = peer.id;
            self.resend_turn = i + 1;
            c.data_retransmitted += 1;
            return Some(self.outgoing(target, from, to, now_ns, log));
        }
        None
    }

    #[inline]
    fn next_new(&mut self, now_ns: u64, log: &CaptureLog, c: &mut Counters) -> Option<Outgoing> {
        if self.sent >= log.end() || self.peers.is_empty() {
            self.sent = self.sent.max(log.end());
            return None;
        }
        // What slid out of the log unsent is the laggard's problem, not the window's.
        let from = self.sent.max(log.start());
        if from >= self.window_end(log.start()) {
            c.window_stalls += 1;
            return None;
        }
        let to = log.end().min(from + self.config.chunk_len as u64);
        self.sent = to;
        c.data_sent += 1;
        Some(self.outgoing(TARGET_ALL, from, to, now_ns, log))
    }

    /// The slowest replica that the policy waits for sets the pace.
    #[inline]
    fn window_end(&self, log_start: Position) -> Position {
        if self.alone {
            return Position::MAX;
        }
        let majority = self.config.majority().max(1);
        let in_set = self.peers.iter().filter(|p| p.in_set()).count();
        let counted = match self.config.policy {
            CommitPolicy::All => in_set,
            _ => self.config.required().max(majority).min(in_set),
        };
        let pace = match counted {
            0 => self.held_by(majority, |p| p.acked),
            _ => self.held_by(counted, |p| if p.in_set() { p.acked } else { 0 }),
        };
        pace.max(self.start).max(log_start) + WINDOW_BYTES
    }

    fn next_sign_of_life(&mut self, now_ns: u64, log: &CaptureLog) -> Option<Outgoing> {
        let due =
            now_ns >= self.heartbeat_due_ns || self.committed.min(self.sent) > self.committed_told;
        (due && !self.peers.is_empty())
            .then(|| self.outgoing(TARGET_ALL, self.sent, self.sent, now_ns, log))
    }

    #[inline]
    fn outgoing(
        &mut self,
        target: NodeId,
        from: Position,
        to: Position,
        now_ns: u64,
        log: &CaptureLog,
    ) -> Outgoing {
        let end = self.sent.max(to);
        let header = DataHeader {
            position: from,
            end,
            committed: self.committed.min(end),
            log_start: log.start().min(end),
            sent_at_ns: now_ns,
        };
        if target == TARGET_ALL {
            self.heartbeat_due_ns = now_ns + self.config.heartbeat_interval_ns;
            self.committed_told = header.committed;
        }
        Outgoing { target, header, to }
    }

    /// The log must be kept from here: for every member of the commit set that lives, and always
    /// for a majority. Who is silent for a lease, or out of the set, does not hold up the
    /// clients: it is served while the log lasts, and if that runs past it, it must join anew.
    pub fn floor(&self, now_ns: u64) -> Position {
        let lives = |p: &&Peer| p.in_set() && now_ns < p.heard_at_ns + self.config.lease_ns;
        let alive = self.peers.iter().filter(lives).map(|p| p.acked).min();
        let alive = alive.unwrap_or(Position::MAX);
        let held = |p: &Peer| if p.heard_at_ns == 0 { self.start } else { p.acked };
        match self.config.majority() {
            0 => alive,
            _ if self.alone => alive,
            majority => alive.min(self.held_by(majority, |p| held(p).max(self.alone_to))),
        }
    }
}
