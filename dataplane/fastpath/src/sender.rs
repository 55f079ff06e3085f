//! The primary's side of replication: what to send, what is committed, how long the lease runs.
//!
//! Byte ranges of the log go to the group once; a replica that misses something
//! asks (NAK) and gets it again from the log. Acknowledgements count only in the
//! sender's epoch: that is what makes a deposed primary mute.

use arrayvec::ArrayVec;
use understudy_log::CaptureLog;
use understudy_wire::pdu::{Ack, DataHeader, Nak, TARGET_ALL};
use understudy_wire::{NodeId, Position};

use crate::MS;
use crate::counters::Counters;

/// Replicas of a group at most.
pub const PEERS_MAX: usize = 15;
/// How far replication runs ahead of what the commit set acknowledged.
const WINDOW_BYTES: u64 = 2 << 20;
/// What one NAK fetches at most; the next gap is asked for again.
const RETRANSMIT_BYTES_MAX: u64 = 64 << 10;
/// A NAK for the same position within this time is the same NAK.
const NAK_HOLDOFF_NS: u64 = MS;

/// Which replicas must hold the cause before output leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitPolicy {
    /// None: output leaves at once.
    None,
    /// One replica.
    Any,
    /// A majority of the group, the primary counted.
    Quorum,
    /// Every replica that is in the set, and never less than a quorum.
    All,
}

/// What the sender rests on.
#[derive(Clone, Copy, Debug)]
pub struct SenderConfig {
    /// When output may leave.
    pub policy: CommitPolicy,
    /// Voters in the group, this node included.
    pub voters: usize,
    /// How long an acknowledgement lets output leave, counted from what it acknowledges.
    pub lease_ns: u64,
    /// Silence after which a replica leaves the set that `All` counts.
    pub evict_after_ns: u64,
    /// Longest silence of the sender.
    pub heartbeat_interval_ns: u64,
    /// Log bytes in one PDU.
    pub chunk_len: usize,
}

/// A replica as the primary sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which node.
    pub id: NodeId,
    /// It holds everything before this, in this epoch.
    pub acked: Position,
    /// It has given its clone everything before this.
    pub applied: Position,
    /// Our own send time that it acknowledged last.
    pub echo_ns: u64,
    /// When it last acknowledged anything; 0: never in this epoch.
    pub heard_at_ns: u64,
    /// Whether `All` counts it.
    pub in_set: bool,
    retransmit: (Position, Position),
    nak: (Position, u64),
}

/// A DATA PDU to be sent: header and the range of the log it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// One replica (a retransmission) or [`TARGET_ALL`].
    pub target: NodeId,
    /// Its fixed part.
    pub header: DataHeader,
    /// End of the log bytes; they begin at `header.position`.
    pub to: Position,
}

/// The primary's replication state for one reign.
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
}

impl Sender {
    /// A reign whose replicas may hold anything up to `start`; all of them are asked anew.
    pub fn new(config: SenderConfig, peers: &[NodeId], start: Position, now_ns: u64) -> Sender {
        let peer = |&id: &NodeId| Peer {
            id,
            acked: 0,
            applied: 0,
            echo_ns: 0,
            heard_at_ns: 0,
            in_set: true,
            retransmit: (0, 0),
            nak: (0, 0),
        };
        let mut sender = Sender {
            config,
            peers: peers.iter().take(PEERS_MAX).map(peer).collect(),
            start,
            sent: start,
            committed: 0,
            committed_told: 0,
            lease_until_ns: 0,
            heartbeat_due_ns: now_ns,
            started_ns: now_ns,
        };
        if config.voters <= 1 {
            sender.lease_until_ns = u64::MAX;
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

    /// Whether a majority acknowledged recently enough that no other primary can exist.
    pub fn lease_valid(&self, now_ns: u64) -> bool {
        now_ns < self.lease_until_ns
    }

    /// When the lease runs out, on this node's clock.
    pub fn lease_until_ns(&self) -> u64 {
        self.lease_until_ns
    }

    /// Takes an acknowledgement. False: from a node that is not in the group.
    pub fn on_ack(&mut self, now_ns: u64, from: NodeId, ack: &Ack) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == from) else { return false };
        // Never beyond what was sent, whatever it claims.
        peer.acked = peer.acked.max(ack.position.min(self.sent));
        peer.applied = peer.applied.max(ack.applied.min(self.sent));
        peer.echo_ns = peer.echo_ns.max(ack.echo_ns.min(now_ns));
        peer.heard_at_ns = now_ns;
        peer.in_set = true;
        self.renew_lease();
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
        let sent = self.sent;
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == from) else { return false };
        let same = peer.nak.0 == nak.position && now_ns < peer.nak.1 + NAK_HOLDOFF_NS;
        let busy = peer.retransmit.0 < peer.retransmit.1;
        if same || busy {
            return true;
        }
        peer.nak = (nak.position, now_ns);
        if nak.position < log.start() {
            c.naks_beyond_log += 1;
            return true;
        }
        let length = nak.length.min(RETRANSMIT_BYTES_MAX);
        peer.retransmit = (nak.position.min(sent), (nak.position + length).min(sent));
        true
    }

    /// Recomputes what is committed; call once per poll, after acknowledgements and appends.
    pub fn update(&mut self, now_ns: u64, log_end: Position) {
        let silent_since = now_ns.saturating_sub(self.config.evict_after_ns);
        for p in &mut self.peers {
            if p.heard_at_ns.max(self.started_ns) < silent_since {
                p.in_set = false;
            }
        }
        self.committed = self.committed.max(self.commit_point(log_end));
    }

    fn commit_point(&self, log_end: Position) -> Position {
        let others = self.config.voters.saturating_sub(1);
        // Replicas that make a majority together with this node.
        let majority = self.config.voters / 2;
        match self.config.policy {
            _ if others == 0 => log_end,
            CommitPolicy::None => log_end,
            CommitPolicy::Any => self.held_by(1, |p| p.acked),
            CommitPolicy::Quorum => self.held_by(majority, |p| p.acked),
            CommitPolicy::All => {
                let all = self.peers.iter().filter(|p| p.in_set).map(|p| p.acked).min();
                all.unwrap_or(0).min(self.held_by(majority, |p| p.acked))
            }
        }
    }

    /// The highest value that `count` replicas reach.
    fn held_by(&self, count: usize, value: impl Fn(&Peer) -> u64) -> u64 {
        let mut values: ArrayVec<u64, PEERS_MAX> = self.peers.iter().map(value).collect();
        values.sort_unstable_by(|a, b| b.cmp(a));
        count.checked_sub(1).and_then(|i| values.get(i)).copied().unwrap_or(0)
    }

    fn renew_lease(&mut self) {
        let echo = self.held_by(self.config.voters / 2, |p| p.echo_ns);
        if echo > 0 {
            self.lease_until_ns = self.lease_until_ns.max(echo + self.config.lease_ns);
        }
    }

    /// The next PDU to send, until `None`.
    pub fn next(&mut self, now_ns: u64, log: &CaptureLog, c: &mut Counters) -> Option<Outgoing> {
        self.next_retransmission(now_ns, log, c)
            .or_else(|| self.next_new(now_ns, log, c))
            .or_else(|| self.next_sign_of_life(now_ns, log))
    }

    fn next_retransmission(
        &mut self,
        now_ns: u64,
        log: &CaptureLog,
        c: &mut Counters,
    ) -> Option<Outgoing> {
        let chunk = self.config.chunk_len as u64;
        let peer = self.peers.iter_mut().find(|p| p.retransmit.0 < p.retransmit.1)?;
        let (from, until) = peer.retransmit;
        let to = until.min(from + chunk);
        peer.retransmit.0 = to;
        let target = peer.id;
        if from < log.start() {
            peer.retransmit = (0, 0);
            c.naks_beyond_log += 1;
            return None;
        }
        c.data_retransmitted += 1;
        Some(self.outgoing(target, from, to, now_ns, log))
    }

    fn next_new(&mut self, now_ns: u64, log: &CaptureLog, c: &mut Counters) -> Option<Outgoing> {
        if self.sent >= log.end() || self.peers.is_empty() {
            self.sent = self.sent.max(log.end());
            return None;
        }
        let majority = (self.config.voters / 2).max(1);
        let acked = self.held_by(majority, |p| p.acked);
        let window_end = acked.max(self.start).max(log.start()) + WINDOW_BYTES;
        // What slid out of the log unsent is the laggard's problem, not the window's.
        let from = self.sent.max(log.start());
        if from >= window_end {
            c.window_stalls += 1;
            return None;
        }
        let to = log.end().min(from + self.config.chunk_len as u64);
        self.sent = to;
        c.data_sent += 1;
        Some(self.outgoing(TARGET_ALL, from, to, now_ns, log))
    }

    fn next_sign_of_life(&mut self, now_ns: u64, log: &CaptureLog) -> Option<Outgoing> {
        let due = now_ns >= self.heartbeat_due_ns || self.committed > self.committed_told;
        (due && !self.peers.is_empty())
            .then(|| self.outgoing(TARGET_ALL, self.sent, self.sent, now_ns, log))
    }

    fn outgoing(
        &mut self,
        target: NodeId,
        from: Position,
        to: Position,
        now_ns: u64,
        log: &CaptureLog,
    ) -> Outgoing {
        if target == TARGET_ALL {
            self.heartbeat_due_ns = now_ns + self.config.heartbeat_interval_ns;
            self.committed_told = self.committed;
        }
        let header = DataHeader {
            position: from,
            end: self.sent.max(to),
            committed: self.committed.min(self.sent.max(to)),
            log_start: log.start().min(self.sent.max(to)),
            sent_at_ns: now_ns,
        };
        Outgoing { target, header, to }
    }

    /// The log must be kept from here: for every replica that lives, and always for a majority.
    /// One that is silent for a lease does not hold up the clients: if the log runs past it, it
    /// must join anew.
    pub fn floor(&self, now_ns: u64) -> Position {
        let alive = self.peers.iter().filter(|p| now_ns < p.heard_at_ns + self.config.lease_ns);
        let alive = alive.map(|p| p.acked).min().unwrap_or(Position::MAX);
        let unheard_at_start = |p: &Peer| if p.heard_at_ns == 0 { self.start } else { p.acked };
        match self.config.voters / 2 {
            0 => alive,
            majority => alive.min(self.held_by(majority, unheard_at_start)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_wire::record::RecordKind;

    fn config(policy: CommitPolicy, voters: usize) -> SenderConfig {
        SenderConfig {
            policy,
            voters,
            lease_ns: 100,
            evict_after_ns: 1000,
            heartbeat_interval_ns: 10,
            chunk_len: 64,
        }
    }

    fn setup(policy: CommitPolicy, voters: usize) -> (Sender, CaptureLog, Counters) {
        let mut log = CaptureLog::new(1 << 16).unwrap();
        for _ in 0..10 {
            log.append(RecordKind::ClientFrame, 0, &[1; 84], 0).unwrap();
        }
        let peers: Vec<NodeId> = (2..=voters as u16).collect();
        (Sender::new(config(policy, voters), &peers, 0, 0), log, Counters::default())
    }

    fn send_all(s: &mut Sender, log: &CaptureLog, c: &mut Counters) -> Vec<Outgoing> {
        std::iter::from_fn(|| s.next(0, log, c)).take(1000).collect()
    }

    fn ack(position: Position, echo_ns: u64) -> Ack {
        Ack { position, echo_ns, ..Ack::default() }
    }

    #[test]
    fn policies_count_replicas() {
        for (policy, voters, want) in [
            (CommitPolicy::None, 5, 1040),
            (CommitPolicy::Any, 3, 300),
            (CommitPolicy::Quorum, 3, 300),
            (CommitPolicy::Quorum, 5, 200),
            (CommitPolicy::All, 3, 200),
            (CommitPolicy::All, 5, 0),
        ] {
            let (mut s, log, mut c) = setup(policy, voters);
            send_all(&mut s, &log, &mut c);
            s.on_ack(1, 2, &ack(300, 1));
            s.on_ack(1, 3, &ack(200, 1));
            s.update(1, log.end());
            assert_eq!(s.committed(), want, "{policy:?} of {voters}");
        }
    }

    #[test]
    fn all_goes_on_without_an_evicted_replica_but_not_without_a_quorum() {
        let (mut s, log, mut c) = setup(CommitPolicy::All, 3);
        send_all(&mut s, &log, &mut c);
        s.on_ack(900, 2, &ack(500, 1));
        s.update(1001, log.end());
        assert_eq!(s.committed(), 500);
        s.update(5000, log.end());
        assert!(s.peers().iter().all(|p| !p.in_set));
        assert_eq!(s.committed(), 500);
    }

    #[test]
    fn an_ack_beyond_what_was_sent_commits_nothing_unsent() {
        let (mut s, log, mut c) = setup(CommitPolicy::Any, 3);
        s.next(0, &log, &mut c);
        s.on_ack(1, 2, &ack(u64::MAX >> 3, 1));
        s.update(1, log.end());
        assert_eq!(s.committed(), 64);
        assert!(!s.on_ack(1, 99, &ack(1000, 1)));
    }

    #[test]
    fn the_lease_counts_from_what_a_majority_acknowledged() {
        let (mut s, log, mut c) = setup(CommitPolicy::None, 5);
        send_all(&mut s, &log, &mut c);
        assert!(!s.lease_valid(1));
        s.on_ack(60, 2, &ack(0, 50));
        assert!(!s.lease_valid(60));
        s.on_ack(60, 3, &ack(0, 40));
        assert!(s.lease_valid(139) && !s.lease_valid(140));
    }

    #[test]
    fn a_silent_replica_does_not_pin_the_log_but_a_majority_does() {
        let (mut s, log, mut c) = setup(CommitPolicy::Quorum, 3);
        send_all(&mut s, &log, &mut c);
        assert_eq!(s.floor(1), 0, "nobody has been heard: everything since the start");
        s.on_ack(10, 2, &ack(500, 1));
        s.on_ack(10, 3, &ack(300, 1));
        assert_eq!(s.floor(20), 300);
        s.on_ack(150, 2, &ack(600, 1));
        assert_eq!(s.floor(160), 600, "3 is silent for a lease");
        assert_eq!(s.floor(900), 600, "so are both: what is not held by a majority stays");
    }

    #[test]
    fn a_nak_is_served_once_from_the_log() {
        let (mut s, log, mut c) = setup(CommitPolicy::Any, 3);
        send_all(&mut s, &log, &mut c);
        let nak = Nak { position: 100, length: 100 };
        assert!(s.on_nak(5, 3, &nak, &log, &mut c));
        assert!(s.on_nak(6, 3, &nak, &log, &mut c));
        let out = send_all(&mut s, &log, &mut c);
        let again: Vec<_> = out.iter().filter(|o| o.target == 3).collect();
        assert_eq!(again.len(), 2);
        assert_eq!((again[0].header.position, again[1].to), (100, 200));
    }

    #[test]
    fn idle_sends_a_sign_of_life_and_tells_commits_at_once() {
        let (mut s, log, mut c) = setup(CommitPolicy::Any, 3);
        send_all(&mut s, &log, &mut c);
        assert!(s.next(9, &log, &mut c).is_none());
        assert!(s.next(10, &log, &mut c).is_some_and(|o| o.header.position == o.to));
        s.on_ack(11, 2, &ack(500, 10));
        s.update(11, log.end());
        assert!(s.next(11, &log, &mut c).is_some_and(|o| o.header.committed == 500));
        assert!(s.next(11, &log, &mut c).is_none());
    }
}
