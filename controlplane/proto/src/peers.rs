//! What a node knows of the others from their heartbeats.
//!
//! What belongs here: liveness per path, the newest heartbeat, and who is fitter than whom. No decisions.

use std::cmp::Reverse;

use understudy_wire::{
    Epoch, NodeId, Position,
    control::{Heartbeat, Role},
};

use crate::io::Path;

/// Fitness: a more complete log first, then priority, then the lowest id.
pub(crate) type Fitness = (Epoch, Position, u8, Reverse<NodeId>);

/// What came over one path.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Seen {
    last_ns: Option<u64>,
    newest: (u64, u64),
}

/// One of the other voters.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    /// From the newest header.
    pub(crate) epoch: Epoch,
    /// The newest heartbeat.
    pub(crate) last: Option<Heartbeat>,
    paths: [Seen; 2],
}

impl Peer {
    pub(crate) fn new(id: NodeId) -> Self {
        Self { id, epoch: 0, last: None, paths: [Seen::default(); 2] }
    }

    /// Notes a heartbeat; `true` if it is the newest of either path. An old one that the network held back says
    /// nothing about the present, so it does not count as life.
    pub(crate) fn note(
        &mut self,
        now_ns: u64,
        path: Path,
        heartbeat: &Heartbeat,
        silence_ns: u64,
    ) -> bool {
        let key = (heartbeat.incarnation, heartbeat.seq);
        let silent = self.age_ns(now_ns).is_none_or(|age_ns| age_ns > silence_ns);
        let seen = &mut self.paths[path as usize];
        let restarted = silent && heartbeat.incarnation != seen.newest.0;
        if key <= seen.newest && seen.last_ns.is_some() && !restarted {
            return false;
        }
        *seen = Seen { last_ns: Some(now_ns), newest: key };
        let newest = self.last.as_ref().map(|last| (last.incarnation, last.seq));
        newest.is_none_or(|newest| key > newest) || restarted
    }

    /// Time since a heartbeat came over this path.
    pub(crate) fn path_age_ns(&self, now_ns: u64, path: Path) -> Option<u64> {
        self.paths[path as usize].last_ns.map(|last_ns| now_ns.saturating_sub(last_ns))
    }

    /// Time since a heartbeat came over any path.
    pub(crate) fn age_ns(&self, now_ns: u64) -> Option<u64> {
        let ages = [Path::Replica, Path::Second].map(|path| self.path_age_ns(now_ns, path));
        ages.into_iter().flatten().min()
    }

    /// The newest heartbeat, if it came within the silence allowed.
    pub(crate) fn alive(&self, now_ns: u64, silence_ns: u64) -> Option<&Heartbeat> {
        self.age_ns(now_ns).filter(|&age_ns| age_ns < silence_ns).and(self.last.as_ref())
    }

    /// Its fitness, if it says that it would stand.
    pub(crate) fn candidate_fitness(&self, now_ns: u64, silence_ns: u64) -> Option<Fitness> {
        let last = self.alive(now_ns, silence_ns)?;
        let may = last.flags.electable && !matches!(last.role, Role::Primary | Role::Closing);
        may.then_some((last.log_epoch, last.position, last.priority, Reverse(self.id)))
    }

    /// Its fitness, if it says that it would stand for want of a better one.
    pub(crate) fn last_resort_fitness(&self, now_ns: u64, silence_ns: u64) -> Option<Fitness> {
        let last = self.alive(now_ns, silence_ns)?;
        let may = last.flags.last_resort && !matches!(last.role, Role::Primary | Role::Closing);
        may.then_some((last.log_epoch, last.position, last.priority, Reverse(self.id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(incarnation: u64, seq: u64) -> Heartbeat {
        Heartbeat { incarnation, seq, ..Heartbeat::default() }
    }

    #[test]
    fn an_old_heartbeat_is_no_sign_of_life() {
        let mut peer = Peer::new(2);
        assert!(peer.note(10, Path::Replica, &beat(1, 5), 50));
        peer.last = Some(beat(1, 5));
        assert!(!peer.note(40, Path::Replica, &beat(1, 4), 50));
        assert_eq!(peer.age_ns(40), Some(30));
        assert!(!peer.note(40, Path::Second, &beat(1, 5), 50), "no news, but the path lives");
        assert_eq!(peer.path_age_ns(40, Path::Second), Some(0));
    }

    #[test]
    fn a_silent_peer_may_return_with_a_lower_incarnation() {
        let mut peer = Peer::new(2);
        assert!(peer.note(10, Path::Replica, &beat(9, 5), 50));
        peer.last = Some(beat(9, 5));
        assert!(!peer.note(20, Path::Replica, &beat(3, 1), 50));
        assert!(peer.note(100, Path::Replica, &beat(3, 1), 50));
    }
}
