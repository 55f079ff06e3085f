//! What a failed run tells people.

use super::*;

impl World {
    /// For people: what every node is up to.
    pub fn describe(&mut self) {
        for i in 0..self.machines.len() {
            let m = &self.machines[i];
            let local_ns = m.clock.local(self.now_ns);
            let text = match &m.life {
                None => "down".to_string(),
                Some(l) => {
                    let v = l.control.node.view(local_ns);
                    let s = l.dp.snapshot(local_ns);
                    format!(
                        "{:?}/{:?} epoch {} primary {:?} recovering {} app {:?} log {}..{} committed {} \
                         applied {} fit {} gate {} lease {} flows {} sockets {} because {:?}",
                        v.role,
                        s.role,
                        v.epoch,
                        v.primary,
                        v.recovering,
                        l.control.app,
                        s.log_start,
                        s.log_end,
                        s.committed,
                        s.applied,
                        s.fit,
                        s.gate_open,
                        s.lease_valid,
                        s.flows,
                        l.kernel.sockets(),
                        v.not_ready_because
                    )
                }
            };
            let id = m.id;
            self.note(format!("node {id}: {text}"));
            if let Some(l) = &self.machines[i].life {
                let c = l.dp.counters();
                let counts: Vec<String> =
                    c.iter().filter(|(_, n)| *n > 0).map(|(k, n)| format!("{k}={n}")).collect();
                self.note(format!("node {id}: {}", counts.join(" ")));
            }
        }
    }
}
