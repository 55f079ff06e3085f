//! The state copied out for the control plane.

use super::*;

impl<P: Ports> Dataplane<P> {
    pub(super) fn push_event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.counters.control_in_dropped += 1;
        }
        self.events.push_back(event);
    }

    /// Tells what happened to the replicas of this reign.
    pub(super) fn tell_members(&mut self) {
        let Role::Lead(reign) = &mut self.role else { return };
        if !reign.sender.has_changes() {
            return;
        }
        let (epoch, changes) = (reign.epoch, reign.sender.take_changes());
        for (node, change) in changes {
            self.push_event(Event::Member { epoch, node, change });
        }
    }

    /// The state for the control plane.
    pub fn snapshot(&self, now_ns: u64) -> Snapshot {
        let (role, lease_valid, draining) = match &self.role {
            Role::Idle => (DataRole::Idle, false, false),
            Role::Follow(r) => (DataRole::Follow(r.epoch), false, false),
            Role::Claim { epoch, .. } => (DataRole::Lead(*epoch), false, false),
            Role::Lead(r) => (DataRole::Lead(r.epoch), r.sender.lease_valid(now_ns), r.draining),
            Role::Fenced => (DataRole::Fenced, false, false),
        };
        let (heard, primary_log_start) = match &self.role {
            Role::Follow(r) => (r.heard_at_ns(), r.primary_log_start()),
            _ => (0, 0),
        };
        let peers = match &self.role {
            Role::Lead(r) => r.sender.peers().iter().copied().collect(),
            _ => ArrayVec::new(),
        };
        Snapshot {
            at_ns: now_ns,
            role,
            history: self.log.history().clone(),
            log_start: self.log.start(),
            log_end: self.log.end(),
            held: self.log.held(),
            log_capacity: self.log.capacity(),
            committed: self.committed,
            applied: self.apply.consumed(),
            gate_open: self.gate_open(now_ns),
            lease_valid,
            alone: matches!(&self.role, Role::Lead(r) if r.sender.is_alone()),
            replicas_required: self.config.sender.required(),
            drained: draining && self.is_drained(),
            level: self.is_level(),
            fit: self.apply.is_fit() && !self.log.is_corrupt(),
            data_heard_at_ns: heard,
            primary_log_start,
            gate_waiting: self.gate.len(),
            gate_uncovered: self.uncovered_output(),
            gate_waits: self.waits,
            cover_pending: self.cover_pending(),
            checkpoint_held: self.log.newest_checkpoint(0..self.log.held()),
            checkpoint_committed: self.log.newest_checkpoint(0..self.committed),
            checkpoint_lacking: self.log.newest_checkpoint(self.log.held()..self.log.end()),
            flows: self.apply.flows().len(),
            retained: self.retained.len(),
            peers,
            counters: self.counters,
            channel: self.channel.view(),
        }
    }

    /// Nothing more will leave. What no checkpoint covers was never said: whoever takes over says it
    /// its own way.
    fn is_drained(&self) -> bool {
        let said = !self.cover_pending() && !self.is_held();
        let gate = self.gate.is_empty() || self.commits_by_checkpoint() && said;
        gate && self.client_out.room() == BURST
    }

    /// A takeover need not wait for the clone. One that was restored is not level before the log
    /// reaches its barrier: what is in it may turn out not to be history.
    fn is_level(&self) -> bool {
        let may_be_applied = self.committed.min(self.log.boundary());
        self.apply.cursor() + LEVEL_BYTES >= may_be_applied
            && self.apply.consumed() <= self.log.boundary()
    }
}
