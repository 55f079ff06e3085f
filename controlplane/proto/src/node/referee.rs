//! Two nodes and the arbiter.
//!
//! What belongs here: when the arbiter is asked for what, what its answers mean, and serving alone. The rule that
//! the arbiter itself follows is in [`crate::arbiter`].
//!
//! A primary that is named alone needs neither lease nor acknowledgements. The order of steps is what makes that
//! safe: alone in the register first, then in the dataplane; shared in the dataplane first, then in the register.

use understudy_wire::control::StepDownReason;

use super::{ElectStage, Node, Phase, Timer, Votes};
use crate::{
    arbiter::{ArbiterAnswer, ArbiterRequest, Register, Wish},
    io::{DpCommand, Output, TimelineKind},
    view::ArbiterView,
};

/// How often the arbiter is asked when nothing hangs on it: to know that it can be reached.
const REFRESH_NS: u64 = 1_000_000_000;
/// How soon it is asked again after it was not reached.
const RETRY_NS: u64 = 100_000_000;
/// The shortest time alone, so that an unsteady replica does not cost a stall each time.
const ALONE_MIN_NS: u64 = 500_000_000;

/// What is known of the arbiter.
#[derive(Clone, Debug, Hash)]
pub(super) struct Referee {
    /// The request under way.
    asked: Option<ArbiterRequest>,
    /// What the register was last read to hold.
    register: Option<Register>,
    /// No write of this life can still be on its way to change that.
    certain: bool,
    /// Asked and answered since this node last helped the other one: the other one's writes cannot have changed it.
    current: bool,
    /// The request under way will make it so.
    asked_since: bool,
    /// Whether the last request was answered.
    reachable: Option<bool>,
    /// When it was last answered.
    answered_ns: u64,
    /// When it may be asked again after it was not reached.
    again_ns: u64,
    /// This life served alone since the other node was last named: the other one lacks something.
    pub(super) served_alone: bool,
}

impl Default for Referee {
    fn default() -> Self {
        Self {
            asked: None,
            register: None,
            certain: true,
            current: false,
            asked_since: false,
            reachable: None,
            answered_ns: 0,
            again_ns: 0,
            served_alone: false,
        }
    }
}

/// A primary's way into serving alone and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Alone {
    /// Acknowledgements and lease count.
    #[default]
    Off,
    /// Ordered, not yet reported.
    Entering,
    /// Since when.
    On { since_ns: u64 },
    /// Called off, not yet reported.
    Leaving,
}

impl Node {
    /// The arbiter's bit among the votes.
    pub(super) fn arbiter_vote(&self) -> usize {
        self.cfg.voters.len()
    }

    /// One more than the voters can give, where there is an arbiter that answers.
    pub(super) fn arbiter_counts(&self) -> usize {
        usize::from(self.cfg.arbiter && self.referee.reachable == Some(true))
    }

    /// The arbiter answered, or did not.
    pub fn handle_arbiter(&mut self, now_ns: u64, request: &ArbiterRequest, answer: ArbiterAnswer) {
        self.enter(now_ns);
        if self.referee.asked != Some(*request) {
            return;
        }
        self.referee.asked = None;
        self.note_reachable(now_ns, answer != ArbiterAnswer::Unreachable);
        match answer {
            ArbiterAnswer::Granted(register) => {
                self.note_register(Some(register), request.wish);
                self.on_granted(now_ns, request);
            }
            ArbiterAnswer::Refused(register) => {
                self.referee.again_ns = now_ns + RETRY_NS;
                self.note_register(register, request.wish);
                self.on_refused(now_ns, request);
            }
            ArbiterAnswer::Unreachable => {}
        }
        self.check_lost_state();
        self.check_named_alone(now_ns);
        self.advance_arbiter(now_ns);
    }

    fn note_reachable(&mut self, now_ns: u64, reachable: bool) {
        let referee = &mut self.referee;
        if reachable {
            referee.answered_ns = now_ns;
        } else {
            referee.again_ns = now_ns + RETRY_NS;
        }
        let before = referee.reachable.replace(reachable);
        if before != Some(reachable) {
            let kind = TimelineKind::Arbiter;
            let text =
                if reachable { "the arbiter answers" } else { "the arbiter does not answer" };
            self.event(now_ns, kind, text);
        }
    }

    /// A write that was answered voids all that may still be on their way: each depends on what it replaced. A mere
    /// reading does not.
    fn note_register(&mut self, register: Option<Register>, wish: Wish) {
        let referee = &mut self.referee;
        let wrote =
            wish != Wish::Probe && register.as_ref().is_some_and(|r| r.primary == self.cfg.me);
        referee.certain |= wrote;
        referee.current = referee.asked_since;
        referee.register = register;
    }

    /// This node votes for the other one, or follows it: from here on the other one may be named.
    pub(super) fn helps_another(&mut self) {
        let referee = &mut self.referee;
        referee.current = false;
        referee.asked_since = false;
        referee.served_alone = false;
    }

    fn on_granted(&mut self, now_ns: u64, request: &ArbiterRequest) {
        let arbiter = self.arbiter_vote();
        let epoch = request.epoch;
        match (&mut self.phase, request.wish) {
            (Phase::PreVote { epoch: e, granted }, Wish::Probe) if *e == epoch => {
                granted.add(arbiter);
                self.pre_votes_counted(now_ns);
            }
            (Phase::Elect { epoch: e, stage: ElectStage::Asking, granted }, Wish::Claim)
                if *e == epoch =>
            {
                granted.add(arbiter);
                self.votes_counted(now_ns);
            }
            (Phase::Lead(_), Wish::Seclude) if epoch == self.epoch => self.go_alone(now_ns),
            (Phase::Lead(_), Wish::Share) if epoch == self.epoch => {
                self.event(now_ns, TimelineKind::Shared, "the arbiter names both nodes");
            }
            _ => {}
        }
    }

    /// Someone else was named since: this reign is over, whatever it believes. A refusal in a campaign needs no
    /// answer: the other node may still vote.
    fn on_refused(&mut self, now_ns: u64, request: &ArbiterRequest) {
        let Phase::Lead(lead) = &mut self.phase else {
            if request.wish == Wish::Claim {
                self.event(now_ns, TimelineKind::ArbiterRefused, "the other node was named");
            }
            return;
        };
        if request.wish == Wish::Probe || request.epoch != self.epoch {
            return;
        }
        let newer = self.referee.register.as_ref().is_some_and(|r| r.epoch > self.epoch);
        if newer {
            self.event(now_ns, TimelineKind::ArbiterRefused, "the other node has taken over");
            self.abdicate(now_ns, StepDownReason::HigherEpoch, None);
        } else if !std::mem::replace(&mut lead.refused, true) {
            let text = "this node is not named: it cannot serve without the other one";
            self.event(now_ns, TimelineKind::ArbiterRefused, text);
        }
    }

    /// The register names this node alone, in its own epoch.
    pub(super) fn go_alone(&mut self, now_ns: u64) {
        if !self.cfg.alone_allowed {
            return;
        }
        let epoch = self.epoch;
        let Phase::Lead(lead) = &mut self.phase else { return };
        lead.alone = Alone::Entering;
        self.referee.served_alone = true;
        self.order(DpCommand::Alone { epoch, on: true });
        self.event(now_ns, TimelineKind::Alone, "named alone: serving without a replica");
    }

    /// What the dataplane reports of an order to be alone, or to be so no more.
    pub(super) fn alone_log(&mut self, now_ns: u64) {
        let alone = self.log.alone;
        let Phase::Lead(lead) = &mut self.phase else { return };
        lead.alone = match (lead.alone, alone) {
            (Alone::Entering, true) => Alone::On { since_ns: now_ns },
            (Alone::Leaving, false) => Alone::Off,
            (state, _) => state,
        };
        let Alone::On { since_ns } = lead.alone else { return };
        if now_ns >= since_ns + ALONE_MIN_NS && self.other_is_level(now_ns, LEVEL_BYTES) {
            let epoch = self.epoch;
            if let Phase::Lead(lead) = &mut self.phase {
                lead.alone = Alone::Leaving;
            }
            self.order(DpCommand::Alone { epoch, on: false });
        }
    }

    /// The other node follows, lacks at most `behind` bytes of what may have been released, and is whole.
    fn other_is_level(&self, now_ns: u64, behind: u64) -> bool {
        self.peers.iter().all(|peer| {
            let last = peer.alive(now_ns, self.cfg.suspect_after_ns);
            let whole = last.is_some_and(|last| !last.flags.recovering);
            let acked = self.log.peer_acked.iter().find(|(id, _)| *id == peer.id);
            whole
                && peer.epoch == self.epoch
                && acked.is_some_and(|&(_, at)| at + behind >= self.log.committed)
        })
    }

    /// Asks the arbiter for what is needed now, if anything, and arms the timer.
    pub(super) fn advance_arbiter(&mut self, now_ns: u64) {
        if !self.cfg.arbiter {
            return;
        }
        let again_ns = self.referee.again_ns;
        if self.referee.asked.is_none() {
            if now_ns < again_ns {
                return self.timers.set(Timer::Arbiter, again_ns);
            }
            if let Some(request) = self.wish(now_ns) {
                self.ask(request);
            }
        }
        let next_ns = (self.referee.answered_ns + REFRESH_NS).max(now_ns + RETRY_NS);
        self.timers.set(Timer::Arbiter, next_ns);
    }

    fn ask(&mut self, request: ArbiterRequest) {
        if request.wish != Wish::Probe {
            self.referee.certain = false;
            self.referee.served_alone &= request.wish != Wish::Share;
        }
        self.referee.asked = Some(request);
        self.referee.asked_since = true;
        self.outputs.push_back(Output::Arbiter(request));
    }

    fn wish(&self, now_ns: u64) -> Option<ArbiterRequest> {
        let stale =
            now_ns >= self.referee.answered_ns + REFRESH_NS || self.referee.reachable != Some(true);
        let arbiter = self.arbiter_vote();
        let refresh = |wish, epoch| stale.then_some(ArbiterRequest { wish, epoch });
        match &self.phase {
            Phase::PreVote { epoch, granted } if !granted.has(arbiter) => {
                Some(ArbiterRequest { wish: Wish::Probe, epoch: *epoch })
            }
            Phase::Elect { epoch, stage: ElectStage::Asking, granted } => {
                let other_may_vote = self.hears_another(now_ns) && now_ns < self.claim_at_ns;
                let claim = self.is_durable()
                    && !granted.has(arbiter)
                    && !other_may_vote
                    && !self.cannot_win(*granted);
                claim.then_some(ArbiterRequest { wish: Wish::Claim, epoch: *epoch })
            }
            Phase::Lead(_) => self.primary_wish(now_ns, stale),
            Phase::Closing { .. } => None,
            _ => refresh(Wish::Probe, self.epoch),
        }
    }

    fn primary_wish(&self, now_ns: u64, stale: bool) -> Option<ArbiterRequest> {
        let Phase::Lead(lead) = &self.phase else { return None };
        let epoch = self.epoch;
        let reported = self.log.leading && self.log.epoch == epoch;
        let refresh = stale.then_some(ArbiterRequest { wish: Wish::Probe, epoch });
        let seclude = ArbiterRequest { wish: Wish::Seclude, epoch };
        let fresh = !lead.leased_once && lead.alone == Alone::Off;
        if lead.by_claim && fresh && self.cfg.alone_allowed && !lead.refused {
            // The other node did not vote: no reason to wait for it.
            return Some(seclude);
        }
        if !reported || lead.alone != Alone::Off || self.log.alone {
            return refresh;
        }
        if self.log.lease_valid && self.other_is_level(now_ns, 0) {
            let shared = self.referee.register.as_ref().is_some_and(|r| {
                r.epoch == epoch && r.primary == self.cfg.me && r.members.len() == 2
            });
            let due = !shared || !self.referee.certain || stale;
            return due.then_some(ArbiterRequest { wish: Wish::Share, epoch });
        }
        // A new reign's replica needs a moment to acknowledge anything.
        let grace_ns = if lead.leased_once { 0 } else { self.cfg.suspect_after_ns };
        let unleased = lead.unleased_since_ns.is_some_and(|since_ns| now_ns >= since_ns + grace_ns);
        if unleased && self.cfg.alone_allowed && !self.log.lease_valid {
            return Some(seclude);
        }
        refresh
    }

    fn hears_another(&self, now_ns: u64) -> bool {
        let silence_ns = self.cfg.suspect_after_ns;
        self.peers.iter().any(|peer| peer.alive(now_ns, silence_ns).is_some())
    }

    fn cannot_win(&self, granted: Votes) -> bool {
        granted.count() >= self.cfg.majority()
    }

    /// Whoever is named has taken part in the epoch that names it, and whoever claims in that epoch; both have
    /// persisted it. If this node has not, its state was lost, and with it what it held.
    fn check_lost_state(&mut self) {
        let me = self.cfg.me;
        let Some(register) = &self.referee.register else { return };
        let named = if register.members.contains(&me) { register.since } else { 0 };
        let claimed = if register.primary == me { register.epoch } else { 0 };
        if named.max(claimed) > self.epoch && !self.recovering {
            self.lost_epoch = named.max(claimed);
            self.recovering = true;
            self.recover_at = None;
        }
    }

    /// Nothing is left anywhere if this node alone was named, has lost its log, and helped nobody else since. It may
    /// lead then, from nothing; it stays recovering until it does, so that it helps no other with an older log.
    fn check_named_alone(&mut self, now_ns: u64) {
        let idle = matches!(self.phase, Phase::Idle) && !self.restarting && self.log.position == 0;
        if !self.recovering || !idle || !self.named_alone() {
            return;
        }
        if std::mem::replace(&mut self.start_anew, true) {
            return;
        }
        let text = "the only node that was named has lost its log: start anew";
        self.event(now_ns, TimelineKind::AllLost, text);
        self.schedule_stand(now_ns, 0);
    }

    /// The register names this node and no other, and this node has helped no other since.
    pub(super) fn named_alone(&self) -> bool {
        let me = self.cfg.me;
        self.referee.certain
            && self.referee.current
            && self.referee.register.as_ref().is_some_and(|r| {
                r.members == [me] && (self.epoch <= r.epoch || self.voted_for == Some(me))
            })
    }

    pub(super) fn arbiter_view(&self) -> Option<ArbiterView> {
        self.cfg.arbiter.then(|| ArbiterView {
            reachable: self.referee.reachable,
            register: self.referee.register.clone(),
            alone: self.log.alone,
        })
    }
}

/// The other node may lack this much when being alone ends: the rest goes through while output waits.
const LEVEL_BYTES: u64 = 64 << 10;
