//! Standing for election.
//!
//! What belongs here: who may stand and when, the pre-vote, the candidacy, winning and losing.

use std::cmp::Reverse;

use understudy_wire::{
    Epoch, NodeId,
    control::{Ballot, Candidacy, Control},
};

use super::status::Obstacle;
use super::{ElectStage, Lead, Node, Peer, Phase, Timer, Votes, referee::Alone};
use crate::{
    io::{DpCommand, Path, TimelineKind, To},
    peers::Fitness,
};

impl Node {
    pub(super) fn clone_ready(&self) -> bool {
        self.app_ready && self.log.clone_level && self.log.fit && !self.cfg.witness
    }

    /// May stand now.
    pub(super) fn eligible(&self, now_ns: u64) -> bool {
        self.obstacles(now_ns).is_empty()
    }

    /// As `eligible`; or it is only impaired, and nobody better lives.
    pub(super) fn may_stand(&self, now_ns: u64) -> bool {
        let obstacles = self.obstacles(now_ns);
        let silence_ns = self.cfg.suspect_after_ns;
        let better = |peer: &Peer| peer.candidate_fitness(now_ns, silence_ns).is_some();
        obstacles.iter().all(|obstacle| *obstacle == Obstacle::Impaired)
            && (obstacles.is_empty() || !self.peers.iter().any(better))
    }

    pub(super) fn hears_majority(&self, now_ns: u64) -> bool {
        let fresh = |age_ns: Option<u64>| age_ns.is_some_and(|a| a <= self.cfg.suspect_after_ns);
        let heard =
            self.peers.iter().filter(|peer| fresh(peer.path_age_ns(now_ns, Path::Replica))).count();
        heard + 1 + self.arbiter_counts() >= self.cfg.majority()
    }

    /// A majority says that it hears this node on the replica port. Who is mute there could win by the second path
    /// and then replicate to nobody.
    pub(super) fn heard_by_majority(&self, now_ns: u64) -> bool {
        let silence_ns = self.cfg.suspect_after_ns;
        let hears_me = |peer: &&Peer| {
            peer.alive(now_ns, silence_ns).is_some_and(|last| {
                last.heard.iter().any(|heard| heard.node == self.cfg.me && heard.on_replica)
            })
        };
        let heard_by = self.peers.iter().filter(hears_me).count();
        heard_by + 1 + self.arbiter_counts() >= self.cfg.majority()
    }

    /// May not serve, but holds what everyone who may serve lacks, or who would once it holds that: then nobody
    /// could win. It leads for as long as it takes to hand the log over.
    pub(super) fn is_caretaker(&self, now_ns: u64) -> bool {
        let obstacles = self.obstacles(now_ns);
        if obstacles.is_empty() || !obstacles.iter().all(|obstacle| obstacle.is_of_service()) {
            return false;
        }
        let silence_ns = self.cfg.suspect_after_ns;
        let held = self.vote_floor();
        // Its own clone is sooner there than one that begins anew.
        let may_soon = obstacles[..] == [Obstacle::HoldDown];
        let mut heirs = 0;
        for peer in &self.peers {
            let Some(last) = peer.alive(now_ns, silence_ns) else { continue };
            if (last.log_epoch, last.position) > (self.log.log_epoch, self.log.position) {
                return false;
            }
            if peer.candidate_fitness(now_ns, silence_ns).is_some() {
                if (last.log_epoch, last.position) >= held {
                    return false;
                }
                heirs += 1;
            } else if last.flags.recovering && last.flags.client_link_up && !may_soon {
                heirs += 1;
            }
        }
        heirs > 0
    }

    pub(super) fn fitness(&self) -> Fitness {
        (self.log.log_epoch, self.log.position, self.cfg.priority, Reverse(self.cfg.me))
    }

    /// How many living nodes would make a better primary.
    fn rank(&self, now_ns: u64) -> u64 {
        let silence_ns = self.cfg.suspect_after_ns;
        let fitter = |fitness: Fitness| fitness > self.fitness();
        let fitness = |peer: &Peer| match self.impaired {
            false => peer.candidate_fitness(now_ns, silence_ns),
            true => peer.last_resort_fitness(now_ns, silence_ns),
        };
        self.peers.iter().filter(|peer| fitness(peer).is_some_and(fitter)).count() as u64
    }

    /// Arranges the next look at whether to stand: the fittest after `floor_ns`, others after a turn per rank and a
    /// random part, and one that may not stand looks again later.
    pub(super) fn schedule_stand(&mut self, now_ns: u64, floor_ns: u64) {
        self.stand_ranked = self.may_stand(now_ns);
        let stagger_ns = self.cfg.stagger_ns;
        let interval_ns = self.cfg.heartbeat_interval_ns;
        let delay_ns = match self.rank(now_ns) {
            _ if !self.stand_ranked && self.is_caretaker(now_ns) => {
                2 * interval_ns + self.rng.below(interval_ns)
            }
            _ if !self.stand_ranked => self.cfg.suspect_after_ns / 2,
            0 => 0,
            rank => rank * stagger_ns + self.rng.below(stagger_ns),
        };
        self.timers.set(Timer::Stand, now_ns + floor_ns + delay_ns);
    }

    pub(super) fn on_stand(&mut self, now_ns: u64) {
        self.booting = false;
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        if self.ballot.is_some() {
            // A vote for another is under way.
            return self.schedule_stand(now_ns, self.cfg.election_timeout_ns);
        }
        self.check_all_lost(now_ns);
        self.check_hopeless(now_ns);
        self.caretaking = self.is_caretaker(now_ns);
        if !self.may_stand(now_ns) && !self.caretaking {
            return self.schedule_stand(now_ns, 0);
        }
        if !self.stand_ranked && !self.caretaking {
            // Became eligible just now: wait for its turn, and at least once.
            self.schedule_stand(now_ns, 0);
            if self.timers.get(Timer::Stand).is_some_and(|at_ns| at_ns > now_ns) {
                return;
            }
        }
        if self.sticky(now_ns) {
            let wait_ns = self.lease_over_ns() - now_ns;
            return self.schedule_stand(now_ns, wait_ns);
        }
        self.timers.stop(Timer::Stand);
        self.suspected_ns = now_ns;
        self.start_campaign(now_ns);
    }

    /// A group of one waits for nobody.
    pub(super) fn check_alone(&mut self, now_ns: u64) {
        let idle = matches!(self.phase, Phase::Idle);
        if idle && self.peers.is_empty() && self.may_stand(now_ns) {
            self.caretaking = false;
            self.start_campaign(now_ns);
        }
    }

    fn next_epoch(&self) -> Epoch {
        self.epoch.max(self.seen_epoch).saturating_add(1).max(self.promise_asked)
    }

    fn start_campaign(&mut self, now_ns: u64) {
        let epoch = self.next_epoch();
        if self.direct || self.peers.is_empty() {
            self.direct = false;
            return self.start_election(now_ns, epoch);
        }
        let mut granted = Votes::default();
        granted.add(self.voter(self.cfg.me).expect("validated: this node votes"));
        self.phase = Phase::PreVote { epoch, granted };
        self.event(now_ns, TimelineKind::PreVoteStarted, format!("for epoch {epoch}"));
        self.arm_campaign(now_ns);
        let candidacy = self.candidacy(epoch);
        self.send(To::All, Control::PreVote(candidacy));
    }

    fn arm_campaign(&mut self, now_ns: u64) {
        let random_ns = self.rng.below(self.cfg.stagger_ns);
        self.timers.set(Timer::Campaign, now_ns + self.cfg.election_timeout_ns + random_ns);
        self.timers.set(Timer::Repeat, now_ns + self.cfg.heartbeat_interval_ns);
    }

    fn candidacy(&self, epoch: Epoch) -> Candidacy {
        Candidacy {
            epoch,
            log_epoch: self.log.log_epoch,
            position: self.log.position,
            priority: self.cfg.priority,
            released: self.released,
            led: self.led,
        }
    }

    pub(super) fn on_pre_vote_reply(&mut self, now_ns: u64, from: NodeId, ballot: &Ballot) {
        let Some(voter) = self.voter(from) else { return };
        let Phase::PreVote { epoch, granted } = &mut self.phase else { return };
        if !ballot.granted || ballot.epoch != *epoch {
            return;
        }
        granted.add(voter);
        self.pre_votes_counted(now_ns);
    }

    pub(super) fn pre_votes_counted(&mut self, now_ns: u64) {
        if let Phase::PreVote { epoch, granted } = self.phase
            && granted.count() >= self.cfg.majority()
        {
            self.start_election(now_ns, epoch);
        }
    }

    fn start_election(&mut self, now_ns: u64, epoch: Epoch) {
        if epoch <= self.epoch || epoch < self.promise_asked {
            return self.campaign_lost(now_ns, "a higher epoch appeared");
        }
        self.ballot = None;
        self.phase =
            Phase::Elect { epoch, stage: ElectStage::Promising, granted: Votes::default() };
        self.arm_campaign(now_ns);
        self.promise(epoch);
    }

    /// The log is exact now: take the candidacy on.
    pub(super) fn candidacy_promised(&mut self, _now_ns: u64, promised: Epoch) {
        let me = self.cfg.me;
        let Phase::Elect { epoch, stage, .. } = &mut self.phase else { return };
        if *stage != ElectStage::Promising || *epoch != promised || promised <= self.epoch {
            return;
        }
        *stage = ElectStage::Waiting;
        self.adopt(promised, Some(me));
    }

    /// Asks for votes once the old primary's lease must be over, and votes for itself once its candidacy is durable:
    /// the others' disks and its own write at the same time.
    pub(super) fn advance_candidacy(&mut self, now_ns: u64) {
        let Phase::Elect { stage, .. } = self.phase else { return };
        if stage == ElectStage::Waiting {
            if self.sticky(now_ns) {
                let at_ns = self.lease_over_ns();
                return self.timers.set(Timer::VoteHold, at_ns);
            }
            self.ask_for_votes(now_ns);
        }
        self.vote_for_itself(now_ns);
    }

    fn ask_for_votes(&mut self, now_ns: u64) {
        let Phase::Elect { epoch, stage, .. } = &mut self.phase else { return };
        let epoch = *epoch;
        *stage = ElectStage::Asking;
        self.event(now_ns, TimelineKind::VoteStarted, format!("for epoch {epoch}"));
        let candidacy = self.candidacy(epoch);
        self.send(To::All, Control::Vote(candidacy));
        self.claim_at_ns = now_ns + 2 * self.cfg.heartbeat_interval_ns;
    }

    /// The vote without which this node does not win: if it forgot its candidacy it might help another one.
    fn vote_for_itself(&mut self, now_ns: u64) {
        let me = self.voter(self.cfg.me).expect("validated: this node votes");
        let is_durable = self.is_durable();
        let Phase::Elect { stage: ElectStage::Asking, granted, .. } = &mut self.phase else {
            return;
        };
        if is_durable && !granted.has(me) {
            granted.add(me);
            self.votes_counted(now_ns);
            self.advance_arbiter(now_ns);
        }
    }

    pub(super) fn on_vote_reply(&mut self, now_ns: u64, from: NodeId, ballot: &Ballot) {
        let Some(voter) = self.voter(from) else { return };
        let Phase::Elect { epoch, stage: ElectStage::Asking, granted } = &mut self.phase else {
            return;
        };
        if !ballot.granted || ballot.epoch != *epoch {
            return;
        }
        granted.add(voter);
        self.votes_counted(now_ns);
    }

    pub(super) fn votes_counted(&mut self, now_ns: u64) {
        let Phase::Elect { epoch, stage: ElectStage::Asking, granted } = self.phase else { return };
        // A promise beyond the candidacy (a vote for someone newer under way) ends it.
        if granted.count() >= self.cfg.majority()
            && self.voter(self.cfg.me).is_some_and(|me| granted.has(me))
            && self.promise_asked == epoch
            && (self.app_ready || self.caretaking)
        {
            self.win(now_ns);
        }
    }

    pub(super) fn on_repeat(&mut self, now_ns: u64) {
        let (epoch, granted, asking) = match self.phase {
            Phase::PreVote { epoch, granted } => (epoch, granted, false),
            Phase::Elect { epoch, stage: ElectStage::Asking, granted } => (epoch, granted, true),
            Phase::Elect { epoch, .. } => (epoch, Votes(u32::MAX), true),
            _ => return,
        };
        self.timers.set(Timer::Repeat, now_ns + self.cfg.heartbeat_interval_ns);
        let candidacy = self.candidacy(epoch);
        for index in 0..self.cfg.voters.len() {
            let id = self.cfg.voters[index];
            if id != self.cfg.me && !granted.has(index) {
                let msg =
                    if asking { Control::Vote(candidacy) } else { Control::PreVote(candidacy) };
                self.send(To::One(id), msg);
            }
        }
    }

    pub(super) fn on_campaign_over(&mut self, now_ns: u64) {
        if matches!(self.phase, Phase::PreVote { .. } | Phase::Elect { .. }) {
            self.campaign_lost(now_ns, "no majority in time");
        }
    }

    pub(super) fn campaign_lost(&mut self, now_ns: u64, why: &str) {
        self.event(now_ns, TimelineKind::ElectionLost, why);
        let suspected_ns = self.suspected_ns;
        self.vacate(now_ns);
        self.suspected_ns = suspected_ns;
        let random_ns = self.rng.below(2 * self.cfg.stagger_ns);
        self.schedule_stand(now_ns, random_ns);
    }

    fn win(&mut self, now_ns: u64) {
        let epoch = self.epoch;
        let arbiter = self.arbiter_vote();
        let by_claim = matches!(self.phase, Phase::Elect { granted, .. } if granted.has(arbiter))
            && !self.caretaking;
        self.phase = Phase::Lead(Lead {
            since_ns: now_ns,
            leased_once: false,
            unleased_since_ns: Some(now_ns),
            needed_ns: now_ns,
            gate_open: false,
            gate_open_ns: 0,
            announced: 0,
            revalidate: false,
            caretaker: self.caretaking,
            by_claim,
            alone: Alone::Off,
            refused: false,
        });
        for timer in [Timer::Campaign, Timer::Repeat, Timer::Stand, Timer::Detector] {
            self.timers.stop(timer);
        }
        self.live = None;
        self.reign = None;
        if std::mem::take(&mut self.start_anew) {
            self.recovered(now_ns, TimelineKind::Recovered, "there is nothing to hold");
        }
        self.booting = false;
        self.needs_restart &= self.caretaking;
        self.led = 0;
        self.joined = epoch;
        self.step_down = None;
        self.timers.stop(Timer::StepDown);
        self.event(now_ns, TimelineKind::ElectionWon, format!("epoch {epoch}"));
        self.order(DpCommand::Lead { epoch, serve: !self.caretaking });
        if self.caretaking {
            let text = "this node cannot serve; it hands its log to one that can";
            self.event(now_ns, TimelineKind::Caretaker, text);
        }
        self.send_heartbeat(now_ns);
        self.advance_arbiter(now_ns);
    }
}
