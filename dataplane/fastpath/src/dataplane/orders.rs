//! What the control plane orders.

use super::*;

impl<P: Ports> Dataplane<P> {
    /// Carries out an order.
    pub fn command(&mut self, now_ns: u64, command: Command, ports: &mut P) {
        match command {
            Command::Promise { epoch } => self.promise(now_ns, epoch),
            Command::Follow { epoch, primary, cut } => self.follow(now_ns, epoch, primary, cut),
            Command::Lead { epoch, serve } => {
                self.keep_log_clock(now_ns);
                self.promised = self.promised.max(epoch);
                self.drop_output();
                self.keep_uncovered(now_ns, ports);
                self.log.truncate_to(self.log.boundary().min(self.log.held()));
                self.committed = self.committed.min(self.log.end());
                self.role = Role::Claim { epoch, serve, alone: false };
                self.claim(now_ns);
            }
            Command::Hold => self.hold(),
            Command::Release => self.hold = hold::Hold::Off,
            Command::Resume(resume) => {
                let resumed = self.resume(now_ns, resume);
                self.push_event(Event::Resumed(resumed));
            }
            Command::Checkpointed(checkpoint) => self.checkpointed(now_ns, checkpoint),
            Command::Stored(stored) => self.set_stored(stored),
            Command::Drain => self.set_draining(true),
            Command::Undrain => self.set_draining(false),
            Command::Fence { epoch } => {
                self.promised = self.promised.max(epoch);
                self.fence();
            }
            Command::Alone { epoch, on } => self.go_alone(epoch, on),
            Command::Announce => self.announce(now_ns, ports),
            Command::Service { up } => self.service_up = up,
            Command::ClientLink { up } => self.client_link_up = up,
            Command::Control { target, epoch, body } => {
                self.send_pdu(ports, PduKind::Control, target, epoch, &[&body]);
            }
            Command::Keys(keyring) => self.channel.set_keys(&keyring),
            Command::Tune(tuning) => self.tune(tuning),
        }
    }

    /// For this reign and those to come.
    fn tune(&mut self, tuning: Tuning) {
        self.config.clone_wait_ns = tuning.clone_wait_ns;
        self.config.sender.evict_after_ns = tuning.evict_after_ns;
        if let Some(audit) = &mut self.config.audit {
            audit.heal = tuning.heal;
        }
        if let Role::Lead(reign) = &mut self.role {
            reign.sender.set_evict_after(tuning.evict_after_ns);
        }
    }

    pub(super) fn promise(&mut self, now_ns: u64, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
        let reign_over = match &mut self.role {
            Role::Follow(r) => {
                r.acknowledging &= r.epoch >= self.promised;
                false
            }
            Role::Lead(r) => r.epoch < self.promised,
            Role::Claim { epoch, .. } => *epoch < self.promised,
            Role::Idle | Role::Fenced => false,
        };
        if reign_over {
            self.fence();
        }
        let snapshot = self.snapshot(now_ns);
        self.push_event(Event::Promised { epoch, snapshot });
    }

    pub(super) fn follow(&mut self, now_ns: u64, epoch: Epoch, primary: NodeId, cut: Position) {
        if epoch < self.promised {
            return;
        }
        self.keep_log_clock(now_ns);
        self.promised = epoch;
        self.drop_output();
        // Of what it does not hold in full it did not tell, reigns included: `cut` knows nothing of it.
        self.log.truncate_to(cut.min(self.log.held()));
        self.committed = self.committed.min(self.log.end());
        self.role = Role::Follow(Box::new(Receiver::new(epoch, primary, self.committed)));
    }

    pub(super) fn fence(&mut self) {
        self.drop_output();
        self.role = Role::Fenced;
    }

    /// What one reign held back, or the device did not take, no later one may send.
    fn drop_output(&mut self) {
        self.said.clear();
        self.counters.gate_fenced += (self.gate.clear() + self.client_out.clear()) as u64;
    }

    fn go_alone(&mut self, epoch: Epoch, on: bool) {
        match &mut self.role {
            Role::Lead(reign) if reign.epoch == epoch => reign.sender.set_alone(on),
            Role::Claim { epoch: claimed, alone, .. } if *claimed == epoch => *alone = on,
            _ => {}
        }
    }

    pub(super) fn set_draining(&mut self, draining: bool) {
        if let Role::Lead(reign) = &mut self.role {
            reign.draining = draining;
        }
    }

    pub(super) fn claim(&mut self, now_ns: u64) {
        let Role::Claim { epoch, serve, alone } = self.role else { return };
        let start = self.log.end();
        let (floor, stamp_ns) = (self.own_floor(), self.stamp(now_ns));
        let Ok(opened_at) = self.log.append_epoch(epoch, self.config.me, stamp_ns, floor) else {
            return;
        };
        self.notes_at_end = (0, 0);
        let heard = self.config.peers.iter().map(|&id| {
            let neighbor = self.macs.iter().find(|n| n.node == id);
            (id, neighbor.map_or(0, |n| n.heard_at_ns))
        });
        let mut sender = Sender::new(self.config.sender, heard, start, now_ns, &mut self.counters);
        sender.set_alone(alone);
        self.role = Role::Lead(Box::new(Reign {
            epoch,
            serve,
            sender,
            opened_at,
            applied_at_ns: None,
            level: false,
            draining: false,
        }));
    }

    pub(super) fn announce(&mut self, now_ns: u64, ports: &mut P) {
        // The thread may have stood still since it read the time.
        if !self.gate_open(ports.clock_ns().max(now_ns)) {
            return;
        }
        for i in 0..self.config.vips.len() {
            let built = build_announcement(self.config.vips[i], self.config.vmac);
            if let Some(frame) = built.and_then(|bytes| ports.alloc(&[&bytes])) {
                self.client_out.push(ports, frame);
            }
        }
        self.client_out.flush(ports);
    }
}
