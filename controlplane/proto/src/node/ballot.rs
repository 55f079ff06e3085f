//! Voting for another.
//!
//! What belongs here: what a voter grants, and the order promise, persist, wait, reply.

use understudy_wire::{
    Epoch, NodeId, Position,
    control::{Ballot, Candidacy, Control},
};

use super::{Node, PendingVote, Phase, Timer};
use crate::io::{TimelineKind, To};

impl Node {
    /// A node that lost its log may have acknowledged what the candidate lacks. The one exception needs no memory:
    /// whoever led the newest epoch this node can have acknowledged in, and still has its log, holds it all.
    fn may_vote(&self, candidacy: &Candidacy) -> bool {
        let led_it_all = candidacy.led > 0 && candidacy.led >= self.lost_epoch;
        self.floor.is_some() || !self.restarting && (!self.recovering || led_it_all)
    }

    /// What a candidate's log must reach: all that this node can have helped to commit.
    pub(super) fn vote_floor(&self) -> (Epoch, Position) {
        let held = self.own_floor();
        self.floor.map_or(held, |floor| floor.max(held))
    }

    /// Of a reign that this node led, only the committed part counts, or what came before if nothing was committed:
    /// the primary alone decides what its reign committed, and it has stopped.
    fn own_floor(&self) -> (Epoch, Position) {
        let log = &self.log;
        let mut newest_first = log.history.iter().rev();
        let newest = newest_first.next().filter(|newest| newest.epoch == log.log_epoch);
        match newest {
            Some(newest) if self.led > 0 && self.led == log.log_epoch => {
                let before = newest_first.next().map_or(0, |entry| entry.epoch);
                let committed = log.committed > newest.start;
                if committed { (log.log_epoch, log.committed) } else { (before, newest.start) }
            }
            _ => (log.log_epoch, log.position),
        }
    }

    fn covers_own_log(&self, candidacy: &Candidacy) -> bool {
        (candidacy.log_epoch, candidacy.position) >= self.vote_floor()
    }

    fn grants_pre_vote(&self, now_ns: u64, from: NodeId, candidacy: &Candidacy) -> bool {
        let idle = matches!(self.phase, Phase::Idle | Phase::PreVote { .. } | Phase::Elect { .. });
        let follows = matches!(self.phase, Phase::Follow | Phase::Join { .. });
        let fitness =
            (candidacy.log_epoch, candidacy.position, candidacy.priority, std::cmp::Reverse(from));
        // Bounded in time, so that a fitter node which cannot win does not stand in the way.
        let own_turn = idle
            && now_ns < self.suspected_ns + self.cfg.suspect_after_ns
            && self.may_stand(now_ns)
            && self.fitness() > fitness;
        (idle || follows)
            && candidacy.epoch > self.epoch
            && candidacy.epoch >= self.promise_asked
            && self.may_vote(candidacy)
            && !self.sticky(now_ns)
            && self.covers_own_log(candidacy)
            && !own_turn
    }

    pub(super) fn on_pre_vote(&mut self, now_ns: u64, from: NodeId, candidacy: &Candidacy) {
        // Whoever stands already is the one to wait for.
        self.note_released(now_ns, candidacy.released, Some(from));
        let granted = self.grants_pre_vote(now_ns, from, candidacy);
        let ballot = Ballot { epoch: candidacy.epoch, granted };
        self.send(To::One(from), Control::PreVoteReply(ballot));
    }

    pub(super) fn on_vote(&mut self, now_ns: u64, from: NodeId, candidacy: &Candidacy) {
        // Whoever stands already is the one to wait for.
        self.note_released(now_ns, candidacy.released, Some(from));
        let epoch = candidacy.epoch;
        if self.ballot.as_ref().is_some_and(|b| b.candidate == from && b.candidacy.epoch == epoch) {
            return;
        }
        if epoch == self.epoch
            && self.voted_for == Some(from)
            && self.is_durable()
            && self.covers_own_log(candidacy)
        {
            // The reply was lost; or the candidate died before its candidacy was on its disk, and stands in the same
            // epoch again, perhaps with less.
            return self.send(To::One(from), Control::VoteReply(Ballot { epoch, granted: true }));
        }
        let free = epoch > self.epoch
            && epoch >= self.promise_asked
            && self.ballot.as_ref().is_none_or(|b| b.candidacy.epoch < epoch)
            && !matches!(self.phase, Phase::Lead(_));
        let grants = free
            && self.may_vote(candidacy)
            && !self.sticky(now_ns)
            && self.covers_own_log(candidacy);
        if !grants {
            return self.send(To::One(from), Control::VoteReply(Ballot { epoch, granted: false }));
        }
        self.ballot = Some(PendingVote { candidate: from, candidacy: *candidacy, promised: false });
        self.promise(epoch);
    }

    /// The log is exact now, and acknowledges no older epoch: compare once more, then persist.
    pub(super) fn vote_promised(&mut self, now_ns: u64, epoch: Epoch) {
        let Some(ballot) = self.ballot.clone() else { return };
        if ballot.candidacy.epoch != epoch || ballot.promised || epoch <= self.epoch {
            return;
        }
        let candidate = ballot.candidate;
        let grants = self.may_vote(&ballot.candidacy) && self.covers_own_log(&ballot.candidacy);
        self.adopt(epoch, grants.then_some(candidate));
        if grants {
            self.ballot = Some(PendingVote { promised: true, ..ballot });
        } else {
            self.ballot = None;
            let no = Ballot { epoch, granted: false };
            self.send(To::One(candidate), Control::VoteReply(no));
        }
        self.vacate(now_ns);
        if grants {
            // Give the candidate its time. It may win and be slow to be heard: whoever stands then asks first.
            self.direct = false;
            self.schedule_stand(now_ns, self.cfg.election_timeout_ns);
        }
    }

    /// Sends the vote once it is durable and the old primary's lease must be over.
    pub(super) fn advance_vote(&mut self, now_ns: u64) {
        let Some(ballot) = &self.ballot else { return };
        if !ballot.promised {
            return;
        }
        let (candidate, epoch) = (ballot.candidate, ballot.candidacy.epoch);
        if epoch != self.epoch || self.voted_for != Some(candidate) {
            self.ballot = None;
            return;
        }
        if !self.is_durable() {
            return;
        }
        if self.sticky(now_ns) {
            let at_ns = self.lease_over_ns();
            return self.timers.set(Timer::VoteHold, at_ns);
        }
        self.ballot = None;
        self.event(now_ns, TimelineKind::Voted, format!("for node {candidate}"));
        self.send(To::One(candidate), Control::VoteReply(Ballot { epoch, granted: true }));
    }
}
