//! Reigning and handing over.
//!
//! What belongs here: the gate and its announcement, the reasons to abdicate, the fence and the step-down notice,
//! the planned switchover.

use understudy_wire::{
    NodeId,
    control::{Control, StepDown, StepDownReason},
};

use super::{Lead, Node, Phase, Switchover, Timer};
use crate::io::{DpCommand, Output, TimelineKind, To};

const MS_NS: u64 = 1_000_000;
/// When to announce, counted from the opening of the gate.
const ANNOUNCE_AT_NS: [u64; 6] =
    [0, 10 * MS_NS, 50 * MS_NS, 200 * MS_NS, 1000 * MS_NS, 3000 * MS_NS];
/// How often a step-down notice is sent.
const STEP_DOWN_SENDS: u32 = 4;

impl Node {
    /// The dataplane reported while this node leads.
    pub(super) fn lead_log(&mut self, now_ns: u64) {
        let (epoch, log) = (self.epoch, &self.log);
        let Phase::Lead(lead) = &mut self.phase else { return };
        if !log.leading || log.epoch != epoch {
            return;
        }
        if log.lease_valid {
            lead.leased_once = true;
            lead.unleased_since_ns = None;
            lead.revalidate = false;
        } else {
            lead.unleased_since_ns.get_or_insert(now_ns);
            // There a reign does not end for want of a lease, and without its claim nobody would follow it.
            lead.revalidate &= !self.cfg.arbiter;
        }
        let opened = log.gate_open && !lead.gate_open;
        if opened {
            lead.gate_open = true;
            lead.gate_open_ns = now_ns;
            self.event(now_ns, TimelineKind::GateOpen, "the gate is open");
            self.on_announce(now_ns);
        }
        if !self.claimed && super::claim(self).is_some() {
            // Followers wait to hear of it.
            self.send_heartbeat(now_ns);
        }
        self.advance_switchover(now_ns);
        self.advance_caretaker(now_ns);
        self.check_duty(now_ns);
    }

    /// A caretaker goes when someone who can serve holds everything.
    fn advance_caretaker(&mut self, now_ns: u64) {
        if !matches!(&self.phase, Phase::Lead(Lead { caretaker: true, .. })) {
            return;
        }
        let silence_ns = self.cfg.suspect_after_ns;
        let level = |peer: &&super::Peer| {
            peer.epoch == self.epoch && self.log.peer_acked.contains(&(peer.id, self.log.position))
        };
        let heirs = self.peers.iter().filter(level);
        let heir = heirs.filter_map(|peer| peer.candidate_fitness(now_ns, silence_ns)).max();
        if let Some(fitness) = heir {
            self.abdicate(now_ns, StepDownReason::Switchover, Some(fitness.3.0));
        }
    }

    pub(super) fn on_announce(&mut self, now_ns: u64) {
        let Phase::Lead(Lead { gate_open: true, gate_open_ns, announced, .. }) = &mut self.phase
        else {
            return;
        };
        let first = *announced == 0;
        *announced += 1;
        let next_ns = ANNOUNCE_AT_NS.get(*announced).map(|after_ns| *gate_open_ns + after_ns);
        if let Some(next_ns) = next_ns {
            self.timers.set(Timer::Announce, next_ns.max(now_ns));
        }
        self.order(DpCommand::Announce);
        if first {
            self.event(now_ns, TimelineKind::Announce, "announced to the clients' network");
        }
    }

    /// Is there a reason not to lead any more?
    pub(super) fn check_duty(&mut self, now_ns: u64) {
        let needed = self.is_needed(now_ns);
        let Phase::Lead(lead) = &mut self.phase else { return };
        if needed {
            lead.needed_ns = now_ns;
        }
        let Phase::Lead(lead) = &self.phase else { return };
        let alone = self.peers.is_empty();
        let arbiter = self.cfg.arbiter;
        let overdue = lead.caretaker && now_ns - lead.since_ns > self.cfg.takeover_limit_ns;
        let reason = if !self.app_ready && !lead.caretaker {
            Some(StepDownReason::AppExited)
        } else if !alone && !arbiter && !self.replica_link {
            Some(StepDownReason::ReplicaLinkDown)
        } else if !alone
            && !lead.caretaker
            && !self.client_link
            && (self.successor(now_ns).is_some() || self.has_last_resort(now_ns))
        {
            Some(StepDownReason::ClientLinkDown)
        } else if overdue || !alone && !arbiter && self.is_out_of_patience(now_ns, lead) {
            // With an arbiter it is the register that says who may lead: without a lease nothing leaves, and the
            // reign goes on when the replica or the arbiter is back.
            Some(StepDownReason::LeaseLost)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.abdicate(now_ns, reason, None);
        }
    }

    /// Nothing leaves without a lease, and who abdicates has spent its clone: it is worth it only for a successor,
    /// which needs its time to grant what is missing. Followers that could not run for a moment are no reason.
    fn is_out_of_patience(&self, now_ns: u64, lead: &Lead) -> bool {
        let Some(since_ns) = lead.unleased_since_ns else { return false };
        now_ns - since_ns > self.cfg.takeover_limit_ns
            || now_ns - since_ns.max(lead.needed_ns) > self.cfg.unleased_limit_ns
    }

    /// It hears others, but nobody that could succeed it; or followers of a new reign which may first have to
    /// restart, and are heard in this epoch.
    fn is_needed(&self, now_ns: u64) -> bool {
        let Phase::Lead(lead) = &self.phase else { return false };
        let silence_ns = self.cfg.suspect_after_ns;
        let mut peers = self.peers.iter();
        let hears_any = peers.any(|peer| peer.alive(now_ns, silence_ns).is_some());
        let has_heir = self.successor(now_ns).is_some() || self.has_last_resort(now_ns);
        let is_awaited = !lead.leased_once && self.majority_in_epoch(now_ns);
        is_awaited || hears_any && !has_heir
    }

    fn majority_in_epoch(&self, now_ns: u64) -> bool {
        let silence_ns = self.cfg.suspect_after_ns;
        let here = |peer: &&super::Peer| {
            peer.epoch == self.epoch && peer.alive(now_ns, silence_ns).is_some()
        };
        self.heard_by_majority(now_ns)
            && self.peers.iter().filter(here).count() + 1 >= self.cfg.majority()
    }

    /// The fittest living node that could take over.
    fn successor(&self, now_ns: u64) -> Option<NodeId> {
        let silence_ns = self.cfg.suspect_after_ns;
        let fitness = |peer: &super::Peer| peer.candidate_fitness(now_ns, silence_ns);
        self.peers.iter().filter_map(fitness).max().map(|fitness| fitness.3.0)
    }

    /// A living node that would serve for want of a better one.
    fn has_last_resort(&self, now_ns: u64) -> bool {
        let silence_ns = self.cfg.suspect_after_ns;
        self.peers.iter().any(|peer| peer.last_resort_fitness(now_ns, silence_ns).is_some())
    }

    /// Gives up the reign: fence first. The promise behind the fence proves that it was carried out, and only then
    /// does anybody hear of it.
    pub(super) fn abdicate(&mut self, now_ns: u64, reason: StepDownReason, to: Option<NodeId>) {
        let epoch = self.epoch;
        // A caretaker's clone was fed nothing that is not history.
        let served = !matches!(&self.phase, Phase::Lead(Lead { caretaker: true, .. }));
        self.phase = Phase::Closing { reason, to };
        self.led = epoch;
        self.needs_restart |= served;
        self.claimed = false;
        self.timers.stop(Timer::Announce);
        if reason != StepDownReason::HigherEpoch && !self.peers.is_empty() {
            self.hold_down_until_ns = now_ns + self.cfg.hold_down_ns;
        }
        self.order(DpCommand::Fence { epoch });
        self.promise(epoch + 1);
        self.event(now_ns, TimelineKind::SteppedDown, format!("{reason:?}"));
        match self.switchover {
            Some(Switchover::Draining { .. }) if reason == StepDownReason::Switchover => {
                self.switchover = Some(Switchover::Handing);
                self.timers.set(Timer::Switchover, now_ns + self.cfg.switchover_limit_ns);
            }
            Some(_) => self.end_switchover(Err(format!("stepped down meanwhile: {reason:?}"))),
            None => {}
        }
    }

    /// The dataplane has carried out the fence.
    pub(super) fn on_fenced(&mut self, now_ns: u64) {
        let Phase::Closing { reason, to } = self.phase else { return };
        self.released = self.released.max(self.epoch);
        self.heir = to;
        self.event(now_ns, TimelineKind::Fenced, "nothing leaves any more");
        self.phase = Phase::Idle;
        self.direct = true;
        self.vacate(now_ns);
        if to.is_some() {
            self.schedule_stand(now_ns, self.cfg.election_timeout_ns);
        }
        let notice = StepDown { epoch: self.epoch, reason, position: self.log.position, to };
        self.step_down = Some((notice, STEP_DOWN_SENDS));
        self.on_step_down_timer(now_ns);
        self.send_heartbeat(now_ns);
    }

    pub(super) fn on_step_down_timer(&mut self, now_ns: u64) {
        let Some((notice, left)) = &mut self.step_down else { return };
        let notice = *notice;
        *left -= 1;
        if *left == 0 {
            self.step_down = None;
        } else {
            self.timers.set(Timer::StepDown, now_ns + self.cfg.heartbeat_interval_ns / 2);
        }
        self.send(To::All, Control::StepDown(notice));
    }

    pub(super) fn on_step_down(&mut self, now_ns: u64, notice: &StepDown) {
        self.note_released(now_ns, notice.epoch, notice.to);
    }

    pub(super) fn start_switchover(&mut self, now_ns: u64, to: Option<NodeId>) {
        let target = to.or_else(|| self.successor(now_ns));
        let refusal = match (&self.phase, target) {
            (Phase::Lead(_), _) if self.switchover.is_some() => "one is under way".to_owned(),
            (Phase::Lead(_), Some(to)) => self.unfit_because(now_ns, to).unwrap_or_default(),
            (Phase::Lead(_), None) => "no other node could take over".to_owned(),
            _ => "this node is not the primary".to_owned(),
        };
        match target {
            Some(to) if refusal.is_empty() => {
                self.switchover = Some(Switchover::Draining { to });
                self.timers.set(Timer::Switchover, now_ns + self.cfg.switchover_limit_ns);
                self.event(now_ns, TimelineKind::SwitchoverStarted, format!("to node {to}"));
                // The state now known is from before the drain; its successor decides.
                self.log.drained = false;
                self.order(DpCommand::Drain);
            }
            _ => self.outputs.push_back(Output::SwitchoverDone(Err(refusal))),
        }
    }

    /// Why `to` cannot take over.
    fn unfit_because(&self, now_ns: u64, to: NodeId) -> Option<String> {
        let Some(peer) = self.peers.iter().find(|peer| peer.id == to) else {
            return Some(format!("node {to} is not another voter"));
        };
        let Some(last) = peer.alive(now_ns, self.cfg.suspect_after_ns) else {
            return Some(format!("node {to} is not heard"));
        };
        if !last.flags.client_link_up {
            return Some(format!("the client port of node {to} has no link"));
        }
        if !last.flags.clone_ready || !last.flags.electable {
            return Some(format!("node {to} is not ready"));
        }
        None
    }

    fn advance_switchover(&mut self, now_ns: u64) {
        let Some(Switchover::Draining { to }) = self.switchover else { return };
        let acked = self.log.peer_acked.iter().find(|(id, _)| *id == to).map(|&(_, at)| at);
        if self.log.drained && acked == Some(self.log.position) {
            self.abdicate(now_ns, StepDownReason::Switchover, Some(to));
        }
    }

    pub(super) fn on_switchover_over(&mut self, now_ns: u64) {
        let Some(switchover) = self.switchover else { return };
        let why = match switchover {
            Switchover::Draining { to } => {
                self.order(DpCommand::Undrain);
                let acked = self.log.peer_acked.iter().find(|(id, _)| *id == to);
                let at = acked.map_or(0, |&(_, at)| at);
                let (end, drained) = (self.log.position, self.log.drained);
                format!("not drained in time (drained: {drained}, node {to} holds {at} of {end})")
            }
            Switchover::Handing => "fenced, but no new primary was heard in time".to_owned(),
        };
        self.event(now_ns, TimelineKind::SwitchoverStarted, format!("failed: {why}"));
        self.end_switchover(Err(why));
    }

    pub(super) fn end_switchover(&mut self, result: Result<NodeId, String>) {
        self.switchover = None;
        self.timers.stop(Timer::Switchover);
        self.outputs.push_back(Output::SwitchoverDone(result));
    }
}
