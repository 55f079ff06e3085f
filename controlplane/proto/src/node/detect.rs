//! Is there a primary?
//!
//! What belongs here: silence, released reigns, our own lateness, and what they mean for stickiness.

use understudy_wire::{Epoch, NodeId};

use super::{Node, Phase, Timer};
use crate::io::TimelineKind;

impl Node {
    /// When a vote against the last living primary may be sent: what this node acknowledged may be its lease.
    pub(super) fn lease_over_ns(&self) -> u64 {
        let boot_ns = self.start_ns + self.cfg.suspect_after_ns;
        // A life before this one may have acknowledged something just now.
        let boot_ns = if self.lost_epoch > 0 && !self.peers.is_empty() { boot_ns } else { 0 };
        match &self.live {
            Some(live) if live.epoch <= self.released => 0,
            Some(live) => boot_ns.max(live.heard_ns + self.cfg.suspect_after_ns),
            None => boot_ns,
        }
    }

    /// A primary was heard so lately that nobody may be helped against it.
    pub(super) fn sticky(&self, now_ns: u64) -> bool {
        now_ns < self.lease_over_ns()
    }

    /// The primary was heard.
    pub(super) fn heard_primary(&mut self, now_ns: u64, epoch: Epoch, primary: NodeId) {
        let at_ns = now_ns + self.cfg.suspect_after_ns;
        self.live = Some(super::Live { epoch, primary, heard_ns: now_ns });
        self.booting = false;
        self.timers.set(Timer::Detector, at_ns);
    }

    pub(super) fn on_detector(&mut self, now_ns: u64) {
        let Some(live) = self.live else { return };
        if matches!(self.phase, Phase::Lead(_) | Phase::Closing { .. }) {
            return;
        }
        let due_ns = live.heard_ns + self.cfg.suspect_after_ns;
        if now_ns < due_ns {
            self.timers.set(Timer::Detector, due_ns);
            return;
        }
        if matches!(self.phase, Phase::Follow | Phase::Join { .. }) {
            let silence_us = (now_ns - live.heard_ns) / 1000;
            let text = format!("primary {} silent on all paths for {silence_us} us", live.primary);
            self.event(now_ns, TimelineKind::Suspicion, text);
            self.vacate(now_ns);
            // Let the others rank this node by what it holds now.
            self.send_heartbeat(now_ns);
        }
    }

    /// There is no primary any more.
    pub(super) fn vacate(&mut self, now_ns: u64) {
        self.phase = Phase::Idle;
        self.suspected_ns = now_ns;
        self.timers.stop(Timer::Detector);
        self.timers.stop(Timer::Campaign);
        self.timers.stop(Timer::Repeat);
        self.schedule_stand(now_ns, 0);
    }

    /// The primary of `epoch` is known to have fenced itself, and wishes `to` as its successor.
    pub(super) fn note_released(&mut self, now_ns: u64, epoch: Epoch, to: Option<NodeId>) {
        if epoch <= self.released {
            return;
        }
        self.released = epoch;
        self.heir = to;
        let Some(live) = self.live.filter(|live| live.epoch == epoch) else { return };
        if matches!(self.phase, Phase::Lead(_) | Phase::Closing { .. }) {
            return;
        }
        let text = format!("primary {} has fenced itself", live.primary);
        self.event(now_ns, TimelineKind::PeerSteppedDown, text);
        if matches!(self.phase, Phase::Elect { .. }) {
            return self.advance(now_ns);
        }
        self.direct = true;
        self.vacate(now_ns);
        match to {
            Some(to) if to == self.cfg.me => {
                self.stand_ranked = self.may_stand(now_ns);
                self.timers.set(Timer::Stand, now_ns);
            }
            // The named one first.
            Some(_) => self.schedule_stand(now_ns, self.cfg.election_timeout_ns),
            None => {}
        }
    }

    /// Our own loop was late: what we did not hear proves nothing, and what we believe may be over.
    pub(super) fn on_overrun(&mut self, now_ns: u64) {
        self.event(now_ns, TimelineKind::LoopOverran, "own loop late: nothing is claimed");
        if let Phase::Lead(lead) = &mut self.phase {
            lead.revalidate = true;
        }
        if matches!(self.phase, Phase::Follow | Phase::Join { .. })
            && let Some(live) = &mut self.live
        {
            live.heard_ns = now_ns;
            self.timers.set(Timer::Detector, now_ns + self.cfg.suspect_after_ns);
        }
        if matches!(self.phase, Phase::Idle) && !self.peers.is_empty() {
            self.schedule_stand(now_ns, self.cfg.heartbeat_interval_ns * 2);
        }
        // The heartbeat timer is what shows lateness; it starts anew.
        self.timers.set(Timer::Heartbeat, now_ns);
    }

    /// At the first start nobody waits longer than it takes to hear everybody.
    pub(super) fn check_boot(&mut self, now_ns: u64) {
        if !self.booting || !matches!(self.phase, Phase::Idle) || !self.eligible(now_ns) {
            return;
        }
        let silence_ns = self.cfg.suspect_after_ns;
        let all_ready =
            self.peers.iter().all(|peer| peer.candidate_fitness(now_ns, silence_ns).is_some());
        if all_ready {
            self.booting = false;
            self.schedule_stand(now_ns, 0);
        }
    }
}
