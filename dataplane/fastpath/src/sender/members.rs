//! Who is in the commit set: out by silence or by lag, in again only when caught up.

use arrayvec::ArrayVec;
use understudy_wire::{NodeId, Position};

use super::{PEERS_MAX, Peer, Sender};
use crate::MS;
use crate::counters::Counters;

/// A replica this little behind what was sent has caught up.
pub const CAUGHT_UP_BYTES: u64 = 256 << 10;
/// Marks in the time after which a replica is evicted.
const MARKS_PER_EVICTION: u64 = 8;
const MARKS_MAX: usize = MARKS_PER_EVICTION as usize + 4;
/// A shorter pause of this node is no pause.
const PAUSE_NS_MIN: u64 = 10 * MS;
/// Each replica can leave, enter and fall off the log once between two polls.
const CHANGES_MAX: usize = 3 * PEERS_MAX;

/// Why a replica is not in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictCause {
    /// It was not heard when the reign began, and has not acknowledged anything in it.
    Absent,
    /// It acknowledged nothing for so long.
    Silent,
    /// It lives, but has not reached what was sent so long ago.
    Lagging,
}

/// That a replica is not in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Eviction {
    /// Why.
    pub cause: EvictCause,
    /// How far it was behind what was sent.
    pub lag_bytes: u64,
    /// For how long: its silence, or the age of the oldest bytes that it lacked.
    pub lag_ns: u64,
}

/// What happened to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberChange {
    /// It left the commit set.
    Evicted(Eviction),
    /// It entered the commit set.
    Admitted,
    /// It asks for what the log no longer holds: it must join anew.
    FellOffLog {
        /// What it asks for.
        position: Position,
        /// Where the log begins.
        log_start: Position,
    },
}

/// Changes not yet told.
pub type Changes = ArrayVec<(NodeId, MemberChange), CHANGES_MAX>;

/// What was sent when: tells how old the bytes are that a replica lacks.
#[derive(Clone, Default, Hash)]
pub struct Marks(ArrayVec<(u64, Position), MARKS_MAX>);

impl Marks {
    /// Notes how far was sent, a few times in `span_ns`.
    fn note(&mut self, now_ns: u64, sent: Position, span_ns: u64) {
        if self.0.last().is_some_and(|(at, _)| now_ns < at + span_ns / MARKS_PER_EVICTION) {
            return;
        }
        if self.0.is_full() {
            self.0.remove(0);
        }
        self.0.push((now_ns, sent));
    }

    /// What had certainly been sent `span_ns` ago; 0 if that is not known.
    fn sent_before(&self, now_ns: u64, span_ns: u64) -> Position {
        let old = |(at, _): &&(u64, Position)| at.saturating_add(span_ns) <= now_ns;
        self.0.iter().rev().find(old).map_or(0, |(_, sent)| *sent)
    }

    /// When bytes beyond a position had certainly been sent.
    fn sent_beyond(&self, position: Position) -> Option<u64> {
        self.0.iter().find(|(_, sent)| *sent > position).map(|(at, _)| *at)
    }

    /// The sender itself stood still for so long.
    fn shift(&mut self, by_ns: u64) {
        self.0.iter_mut().for_each(|(at, _)| *at += by_ns);
    }
}

impl Sender {
    /// Other patience from now on. What was sent so long ago may not be known at first: then nobody
    /// leaves for it.
    pub fn set_evict_after(&mut self, evict_after_ns: u64) {
        self.config.evict_after_ns = evict_after_ns;
    }

    /// Evicts and admits; call once per poll, after acknowledgements.
    pub(super) fn update_members(&mut self, now_ns: u64, c: &mut Counters) {
        let limit_ns = self.config.evict_after_ns;
        let stood_still_ns = now_ns.saturating_sub(self.updated_at_ns);
        if stood_still_ns > (limit_ns / 4).max(PAUSE_NS_MIN) {
            // Nobody can acknowledge what was not sent: our own pause is no replica's fault.
            self.marks.shift(stood_still_ns);
            self.resumed_at_ns = now_ns;
        }
        self.updated_at_ns = now_ns;
        self.marks.note(now_ns, self.sent, limit_ns);
        for i in 0..self.peers.len() {
            match self.peers[i].eviction {
                None => {
                    if let Some(eviction) = self.must_leave(now_ns, &self.peers[i]) {
                        self.evict(i, eviction, c);
                    }
                }
                Some(_) if self.may_enter(now_ns, &self.peers[i]) => {
                    self.peers[i].eviction = None;
                    c.commit_set_admitted += 1;
                    self.tell(self.peers[i].id, MemberChange::Admitted);
                }
                Some(_) => {}
            }
        }
    }

    fn must_leave(&self, now_ns: u64, peer: &Peer) -> Option<Eviction> {
        let lag_bytes = self.sent.saturating_sub(peer.acked);
        // Until its first acknowledgement in this reign it has a lease's time.
        let patience_ns = match peer.heard_at_ns {
            0 => self.config.lease_ns.min(self.config.evict_after_ns),
            _ => self.config.evict_after_ns,
        };
        let since_ns = peer.heard_at_ns.max(self.started_ns).max(self.resumed_at_ns);
        let silence_ns = now_ns.saturating_sub(since_ns);
        if silence_ns > patience_ns {
            return Some(Eviction { cause: EvictCause::Silent, lag_bytes, lag_ns: silence_ns });
        }
        if peer.acked >= self.marks.sent_before(now_ns, self.config.evict_after_ns) {
            return None;
        }
        let lag_ns = self.marks.sent_beyond(peer.acked).map_or(0, |at| now_ns.saturating_sub(at));
        Some(Eviction { cause: EvictCause::Lagging, lag_bytes, lag_ns })
    }

    /// It acknowledges, lacks nothing older than half the limit, and would hold up nobody.
    fn may_enter(&self, now_ns: u64, peer: &Peer) -> bool {
        let limit_ns = self.config.evict_after_ns;
        let heard = peer.heard_at_ns > 0 && now_ns < peer.heard_at_ns + limit_ns;
        let recent = self.marks.sent_before(now_ns, limit_ns / 2);
        let holds_committed = peer.acked >= self.committed.max(self.start);
        let caught_up = peer.acked + CAUGHT_UP_BYTES >= self.sent || holds_committed;
        heard && peer.acked >= recent && caught_up
    }

    pub(super) fn evict(&mut self, index: usize, eviction: Eviction, c: &mut Counters) {
        match eviction.cause {
            EvictCause::Lagging => c.commit_set_evicted_lagging += 1,
            EvictCause::Absent | EvictCause::Silent => c.commit_set_evicted_silent += 1,
        }
        self.peers[index].eviction = Some(eviction);
        self.tell(self.peers[index].id, MemberChange::Evicted(eviction));
    }

    pub(super) fn tell(&mut self, id: NodeId, change: MemberChange) {
        // There is room for what one poll can bring; whoever does not read loses the newest.
        let _ = self.changes.try_push((id, change));
    }
}
