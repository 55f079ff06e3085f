//! Letting committed output leave.

use super::*;

impl<P: Ports> Dataplane<P> {
    /// Output may leave: everything of the log was applied, and the reign's opening is committed
    /// and leased.
    pub fn gate_open(&self, now_ns: u64) -> bool {
        match &self.role {
            Role::Lead(r) => {
                r.level && r.sender.lease_valid(now_ns) && r.sender.committed() >= r.opened_at
            }
            _ => false,
        }
    }

    /// Sends committed output, the lease checked against the clock at every burst.
    pub(super) fn release(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let Role::Lead(reign) = &self.role else { return false };
        let committed = reign.sender.committed();
        self.tell_members();
        self.committed = self.committed.max(committed);
        let mut busy = false;
        for _ in 0..RELEASES_PER_POLL {
            if self.gate.is_empty() && self.client_out.is_empty() {
                break;
            }
            let leaves_ns = ports.clock_ns().max(now_ns);
            if !self.client_link_up || !self.gate_open(leaves_ns) {
                let level = matches!(&self.role, Role::Lead(r) if r.level);
                self.counters.lease_holds += u64::from(level && !self.gate.is_empty());
                break;
            }
            let before = self.counters.gate_released;
            while self.client_out.room() > 0 {
                let Some(waiting) = self.pop_released(committed) else { break };
                self.waits.record(leaves_ns.saturating_sub(waiting.since_ns));
                self.client_out.push(ports, waiting.frame);
                self.counters.gate_released += 1;
            }
            self.client_out.flush(ports);
            busy |= self.counters.gate_released > before;
            if self.counters.gate_released == before || self.client_out.room() < BURST {
                break;
            }
        }
        busy
    }
}
