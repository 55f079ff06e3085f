//! Following a primary, and becoming whole again.
//!
//! What belongs here: joining a reign, restarting the service for it, and when a lost log no longer matters.

use understudy_wire::{
    NodeId, Position,
    control::{Heard, Heartbeat, Reign, Role},
};

use super::{Known, Node, Phase, StepDownReason, Switchover, Timer};
use crate::{
    io::{DpCommand, TimelineKind},
    join,
    peers::Peer,
};

/// Proof that the primary whose heartbeat arrived still lives: after a pause of this node it may be long dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Echo {
    /// Not asked for.
    #[default]
    None,
    /// This node calls itself by a new life, and waits for a heartbeat that names it.
    Awaited,
    /// The primary lived after this node asked.
    Heard,
}

/// Which life of which node was heard.
fn life(heard: &Heard) -> (NodeId, u64) {
    (heard.node, heard.incarnation)
}

impl Node {
    /// A primary described its reign.
    pub(super) fn on_reign(&mut self, now_ns: u64, m: &Heartbeat, reign: &Reign) {
        if reign.epoch < self.epoch.max(self.promise_asked) || reign.epoch <= self.released {
            return;
        }
        if matches!(self.phase, Phase::Lead(_)) {
            if reign.epoch == self.epoch {
                return;
            }
            self.abdicate(now_ns, StepDownReason::HigherEpoch, None);
            if reign.epoch < self.promise_asked {
                return;
            }
        }
        let (epoch, primary) = (reign.epoch, reign.primary);
        self.heard_primary(now_ns, epoch, primary);
        if self.echo == Echo::Awaited && epoch == self.epoch && self.heard_by(m) {
            self.echo = Echo::Heard;
        }
        let history = reign.history.clone();
        self.reign = Some(Known { epoch, primary, history, log_start: m.log_start });
        match self.phase {
            Phase::Follow if self.joined == epoch => {}
            Phase::Join { .. } if self.epoch == epoch && self.promise_asked == epoch => {
                self.advance_join(now_ns);
            }
            Phase::Idle | Phase::PreVote { .. } if self.joined == epoch => self.resume(),
            _ => self.start_join(now_ns),
        }
        self.note_recovery_target(m);
    }

    /// The primary that was suspected lives.
    fn resume(&mut self) {
        self.phase = Phase::Follow;
        self.direct = false;
        for timer in [Timer::Stand, Timer::Campaign, Timer::Repeat] {
            self.timers.stop(timer);
        }
    }

    fn start_join(&mut self, now_ns: u64) {
        let Some(epoch) = self.reign.as_ref().map(|reign| reign.epoch) else { return };
        self.resume();
        self.ballot = None;
        self.timers.stop(Timer::VoteHold);
        self.phase = Phase::Join { promised: false };
        self.recover_at = None;
        self.start_anew = false;
        self.echo = Echo::None;
        self.helps_another();
        if epoch > self.epoch {
            self.adopt(epoch, None);
        }
        self.promise(epoch);
        self.advance_join(now_ns);
    }

    /// Joins once the epoch is durable, the log exact, and the clone not of another history.
    pub(super) fn advance_join(&mut self, now_ns: u64) {
        if !matches!(self.phase, Phase::Join { promised: true })
            || self.restarting
            || !self.is_durable()
        {
            return;
        }
        let Some(reign) = self.reign.clone().filter(|reign| reign.epoch == self.epoch) else {
            return;
        };
        let position = self.log.position;
        let cut = join::cut(&self.log.history, position, &reign.history);
        let gone = self.needs_restart.then_some("the clone served another reign, or is gone");
        let consumed = (cut < self.log.applied).then_some("the clone consumed what is not history");
        if let Some(why) = gone.or(consumed) {
            return self.restart_for(now_ns, why);
        }
        if reign.log_start > position.min(cut) {
            return;
        }
        let (epoch, primary) = (reign.epoch, reign.primary);
        let cut = if position == 0 { 0 } else { cut };
        self.phase = Phase::Follow;
        self.joined = epoch;
        self.all_lost = false;
        self.led = 0;
        self.order(DpCommand::Follow { epoch, primary, cut });
        let text = format!("primary {primary} from position {}", position.min(cut));
        self.event(now_ns, TimelineKind::FollowNew, text);
        if matches!(self.switchover, Some(Switchover::Handing)) {
            self.end_switchover(Ok(primary));
        }
    }

    /// Gives up clone and log for a primary that holds everything: not for one that may be dead.
    fn restart_for(&mut self, now_ns: u64, why: &str) {
        match self.echo {
            Echo::None => {
                self.echo = Echo::Awaited;
                self.incarnation += 1;
                self.send_heartbeat(now_ns);
            }
            Echo::Awaited => {}
            Echo::Heard => self.restart_service(now_ns, true, why),
        }
    }

    /// The sender of this heartbeat has heard of this node as it is now.
    fn heard_by(&self, m: &Heartbeat) -> bool {
        let me = (self.cfg.me, self.incarnation);
        m.heard.iter().any(|heard| life(heard) == me)
    }

    /// The position that the primary's log does not reach back to, before this node joins it or
    /// since it fell behind.
    pub(super) fn cannot_join_at(&self) -> Option<Position> {
        let reign = self.reign.as_ref().filter(|_| !self.restarting)?;
        let position = self.log.position;
        let at = match self.phase {
            Phase::Join { promised: true } => {
                position.min(join::cut(&self.log.history, position, &reign.history))
            }
            Phase::Follow if self.log.epoch == reign.epoch => position,
            _ => return None,
        };
        (reign.log_start > at).then_some(at)
    }

    pub(super) fn on_service_fresh(&mut self, now_ns: u64) {
        if self.restarting {
            self.restarting = false;
            // Until now the old log may still have been acknowledged; what is heard of this life from here on is
            // about the new one.
            self.incarnation += 1;
            self.recover_at = None;
            self.advance(now_ns);
            self.check_all_lost(now_ns);
        }
    }

    pub(super) fn on_app_exited(&mut self, now_ns: u64) {
        self.app_ready = false;
        if self.restarting || matches!(self.phase, Phase::Lead(_)) {
            return;
        }
        self.needs_restart = true;
        // The clone is gone. Its log is worth keeping unless the primary can send it all again.
        let from_zero = self.reign.as_ref().is_some_and(|reign| reign.log_start == 0);
        if matches!(self.phase, Phase::Follow) && from_zero {
            self.restart_service(now_ns, false, "the clone's application is gone");
            self.phase = Phase::Join { promised: true };
        } else if matches!(self.phase, Phase::PreVote { .. } | Phase::Elect { .. }) {
            self.campaign_lost(now_ns, "the application is gone");
        } else if self.recovering && self.log.position == 0 && matches!(self.phase, Phase::Idle) {
            self.restart_service(
                now_ns,
                false,
                "the application is gone, and there is no log to keep",
            );
        } else {
            self.check_hopeless(now_ns);
        }
    }

    /// Whatever this node acknowledged in an earlier life was in the primary's log when the primary heard of this
    /// life, so holding that much makes it whole.
    fn note_recovery_target(&mut self, m: &Heartbeat) {
        if self.recovering && self.recover_at.is_none() && self.heard_by(m) {
            self.recover_at = Some(m.position);
        }
    }

    /// The dataplane reported while this node follows.
    pub(super) fn follow_log(&mut self, now_ns: u64) {
        let Some(target) = self.recover_at else { return };
        let following = matches!(self.phase, Phase::Follow)
            && self.log.epoch == self.epoch
            && !self.log.leading;
        if self.recovering && following && self.log.position >= target {
            let text = format!("holds position {} of {target}", self.log.position);
            self.recovered(now_ns, TimelineKind::Recovered, &text);
        }
    }

    pub(super) fn recovered(&mut self, now_ns: u64, kind: TimelineKind, text: &str) {
        self.recovering = false;
        self.floor = None;
        self.lost_epoch = 0;
        self.recover_at = None;
        self.event(now_ns, kind, text);
    }

    /// Nothing is left anywhere if every voter says that it lost its log (or never had one), and has heard exactly
    /// these lives of all the others while it said so: then no life that holds something is missing from the count.
    pub(super) fn check_all_lost(&mut self, now_ns: u64) {
        if !self.recovering || self.restarting || !matches!(self.phase, Phase::Idle) {
            return;
        }
        let me = (self.cfg.me, self.incarnation);
        let silence_ns = self.cfg.suspect_after_ns;
        let alive =
            |peer: &Peer| peer.alive(now_ns, silence_ns).map(|last| (peer.id, last.incarnation));
        let Some(lives) = self.peers.iter().map(alive).collect::<Option<Vec<_>>>() else { return };
        let agrees = |peer: &Peer| {
            let Some(last) = &peer.last else { return false };
            let nothing = last.position == 0 && last.log_epoch == 0 && last.role == Role::Replica;
            (last.flags.recovering || last.flags.all_lost || nothing)
                && lives
                    .iter()
                    .chain([&me])
                    .filter(|(node, _)| *node != peer.id)
                    .all(|one| last.heard.iter().any(|heard| life(heard) == *one))
        };
        if self.peers.iter().all(agrees) {
            self.all_lost = true;
            self.recovered(now_ns, TimelineKind::AllLost, "every voter lost its log: start anew");
            self.send_heartbeat(now_ns);
            self.schedule_stand(now_ns, 0);
        }
    }

    /// The clone is dead here, and every other voter has lost its clone or its log: nothing can take this service
    /// over, so it starts anew.
    pub(super) fn check_hopeless(&mut self, now_ns: u64) {
        let silence_ns = self.cfg.suspect_after_ns;
        let lost = |peer: &Peer| {
            let last = peer.alive(now_ns, silence_ns);
            last.is_some_and(|last| last.flags.recovering || last.flags.clone_gone)
                || last.is_none() && self.referee.served_alone && self.named_alone()
        };
        if !self.app_ready
            && self.needs_restart
            && !self.restarting
            && matches!(self.phase, Phase::Idle)
            && self.peers.iter().all(lost)
        {
            // Behind its own fence nothing is added to the log any more: what it held is known.
            let exact = self.led > 0;
            self.restart_service(now_ns, exact, "nothing is left that could take over");
        }
    }
}
