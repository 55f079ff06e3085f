//! Checkpoints: standing still for one, and feeding an application that was restored from one.

use super::*;
use crate::command::Handshake;

/// A handshake takes at most so long: a SYN-ACK that was lost is repeated after one second, three, and seven.
const HANDSHAKE_NS: u64 = 10_000 * MS;

/// Whether the application is given anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is.
    Off,
    /// It is not, but frames given before may still wait for the device.
    Asked,
    /// It is not, and all that was given before has left for the capsule.
    On,
}

impl<P: Ports> Dataplane<P> {
    pub(super) fn hold(&mut self) {
        self.hold = Hold::Asked;
    }

    pub(super) fn is_held(&self) -> bool {
        self.hold != Hold::Off
    }

    pub(super) fn report_hold(&mut self, now_ns: u64) {
        if self.hold != Hold::Asked || !self.host_out.is_empty() {
            return;
        }
        self.hold = Hold::On;
        self.mark_output();
        let position = self.apply.cursor();
        let mut history = self.log.history().clone();
        history.retain(|e| e.start < position);
        let at_ns = self.log_clock_ns(now_ns);
        let handshakes = self.handshakes_since(at_ns.saturating_sub(HANDSHAKE_NS));
        let begins = handshakes.iter().map(|h| h.from);
        let floor = begins.chain([self.apply.floor()]).min().unwrap_or(position);
        let barrier = Barrier { position, floor, at_ns, history, handshakes };
        self.push_event(Event::Held(barrier));
    }

    /// Those under way whose SYN the log holds and that is no older: who has been silent for longer, as whoever
    /// scans ports, must not make a checkpoint need an old log.
    fn handshakes_since(&self, oldest_ns: u64) -> Vec<Handshake> {
        let is_young = |h: &Handshake| {
            self.log.record(h.from).is_some_and(|syn| syn.header.timestamp_ns >= oldest_ns)
        };
        self.apply.handshakes().filter(is_young).collect()
    }

    /// The clone is another one from now on. What the log holds of the reign stays; if that ends
    /// before the floor, the checkpoint stands for all that is missing. A node that has been elected
    /// may change its clone until that serves, for one that its own log covers.
    pub(super) fn resume(&mut self, now_ns: u64, mut resume: Box<Resume>) -> bool {
        let floor = resume.barrier.floor;
        let allowed = match &self.role {
            Role::Idle | Role::Follow(_) => true,
            Role::Claim { serve, .. } => *serve && resume.barrier.position <= self.log.end(),
            Role::Lead(r) => !r.level && resume.barrier.position <= r.opened_at,
            Role::Fenced => false,
        };
        if floor < self.log.start() || !allowed {
            return false;
        }
        if floor > self.log.end() {
            self.log.begin_at(floor, &resume.barrier.history);
            self.committed = floor;
            if let Role::Follow(r) = &mut self.role {
                **r = Receiver::new(r.epoch, r.primary, floor);
            }
        }
        // The clone that said it is gone, and the next one says it again.
        self.retained.clear(self.apply.flows());
        if let Some(audit) = &mut self.audit {
            audit.clear();
            for seed in &resume.flows {
                audit.go_on(now_ns, &seed.key, seed.snd_nxt, &mut self.counters);
            }
        }
        self.apply.resume(now_ns, &resume);
        self.owe(std::mem::take(&mut resume.owed));
        true
    }
}
