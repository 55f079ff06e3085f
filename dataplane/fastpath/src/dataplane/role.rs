//! What a role does in each poll: apply, acknowledge, replicate, take over.

use super::*;

impl<P: Ports> Dataplane<P> {
    pub(super) fn poll_role(&mut self, now_ns: u64, ports: &mut P) -> bool {
        match &mut self.role {
            Role::Claim { serve, .. } => {
                let serve = *serve;
                self.claim(now_ns);
                let limit = if serve { self.log.boundary() } else { self.committed };
                self.apply_until(now_ns, Mode::Clone, limit, Patience::Takeover, ports)
            }
            Role::Follow(receiver) => {
                self.committed = self.committed.max(receiver.committed().min(self.log.end()));
                self.prove_checkpoints();
                if !self.service_up {
                    self.learn_neighbors();
                }
                let busy =
                    self.apply_until(now_ns, Mode::Clone, self.committed, Patience::Clone, ports);
                self.acknowledge(now_ns, ports) || busy
            }
            Role::Lead(_) => self.poll_reign(now_ns, ports),
            Role::Idle | Role::Fenced => {
                self.apply_until(now_ns, Mode::Clone, self.committed, Patience::Clone, ports)
            }
        }
    }

    pub(super) fn acknowledge(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let applied = self.apply.cursor();
        let Role::Follow(receiver) = &mut self.role else { return false };
        let (epoch, primary) = (receiver.epoch, receiver.primary);
        let ack = receiver.poll_ack(now_ns, &self.log, applied);
        let nak = receiver.poll_nak(now_ns, &self.log);
        if let Some(ack) = &ack {
            self.send_pdu(ports, PduKind::Ack, primary, epoch, &[&ack.encode()]);
        }
        if let Some(nak) = &nak {
            self.counters.naks_sent += 1;
            self.send_pdu(ports, PduKind::Nak, primary, epoch, &[&nak.encode()]);
        }
        ack.is_some() || nak.is_some()
    }

    pub(super) fn poll_reign(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = self.replicate(now_ns, ports);
        let Role::Lead(reign) = &self.role else { return busy };
        let (level, draining, opened_at) = (reign.level, reign.draining, reign.opened_at);
        let serve = reign.serve;
        if serve {
            busy |= self.capture_kept(now_ns, ports);
        }
        if !level {
            // A caretaker's clone stays a clone: what is not committed may turn out not to be history.
            let limit = if serve { opened_at } else { self.committed };
            busy |= self.apply_until(now_ns, Mode::Clone, limit, Patience::Takeover, ports);
            if serve && self.apply.cursor() == opened_at && self.is_quiet(now_ns) {
                self.take_over(now_ns, ports);
            }
        } else if draining && !self.is_held() {
            self.with_apply(now_ns, Patience::Takeover, ports, |a, cx| a.scan_pending(cx));
        } else {
            let end = self.log.end();
            busy |= self.apply_until(now_ns, Mode::Primary, end, Patience::Takeover, ports);
            self.write_notes(now_ns);
        }
        self.answer_repeated_syns(now_ns, ports);
        busy
    }

    /// The clone has answered what it was given, and said what the old primary had: from here on what it
    /// says is new. What it says of the past (that a connection is closed, say) no client must hear.
    fn is_quiet(&mut self, now_ns: u64) -> bool {
        if !self.service_up || self.is_held() {
            return false;
        }
        let Role::Lead(reign) = &mut self.role else { return false };
        let since_ns = *reign.applied_at_ns.get_or_insert(now_ns);
        if self.apply.owes_until(now_ns, since_ns, FINISH_WAIT_NS).is_some_and(|at| now_ns < at) {
            return false;
        }
        let quiet = now_ns >= self.host_used_at_ns + QUIET_NS;
        quiet || now_ns >= since_ns + QUIET_WAIT_NS
    }

    /// What of the log is committed by now.
    pub(super) fn update_committed(&mut self, now_ns: u64) {
        if let Role::Lead(reign) = &mut self.role {
            reign.sender.update(now_ns, self.log.end(), &mut self.counters);
        }
    }

    pub(super) fn replicate(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        self.update_committed(now_ns);
        let mut ahead = 0;
        for _ in 0..PDU_BUDGET {
            let Role::Lead(reign) = &mut self.role else { break };
            let epoch = reign.epoch;
            let next = reign.sender.next(now_ns, &self.log, &mut self.counters);
            let Some(mut out) = next else { break };
            out.header.sent_at_ns = self.log_clock_ns(now_ns);
            busy = true;
            let Some(bytes) = self.log.bytes(out.header.position, out.to) else { continue };
            let mut head = [0; DATA_HEAD_LEN];
            head[..ETH_LEN].copy_from_slice(&self.pdu_eth(out.target));
            head[ETH_LEN + PDU_HEADER_LEN..].copy_from_slice(&out.header.encode());
            let frame = ports.alloc(&[&head, bytes, &TAG_ROOM]);
            // As much as this poll sends the next one may append; it comes while this is sealed.
            self.log.prefetch(ahead, bytes.len());
            ahead += bytes.len() as u64;
            self.seal_and_send(ports, frame, PduKind::Data, out.target, epoch);
        }
        busy
    }

    /// The clone is level with the log: from here on its output is the service's.
    pub(super) fn take_over(&mut self, now_ns: u64, ports: &mut P) {
        self.drain_clone_output(now_ns, ports);
        let log_now_ns = self.log_clock_ns(now_ns);
        self.apply.serve(now_ns, log_now_ns);
        if let Some(audit) = &mut self.audit {
            audit.serve(now_ns, self.log.end());
        }
        let Role::Lead(reign) = &mut self.role else { return };
        reign.level = true;
        let tag = reign.opened_at;
        self.resend_synacks(now_ns, tag, ports);
        self.send_owed(now_ns, tag, ports);
        while self.gate.room() > 0 {
            let Some(frame) = self.retained.pop_wanted(now_ns, self.apply.flows()) else { break };
            self.gate.push(tag, Waiting { since_ns: now_ns, frame });
            self.counters.retained_sent += 1;
        }
        self.counters.retained_dropped += self.retained.clear(self.apply.flows());
        for at in self.apply.take_unanswered_syns() {
            self.with_apply(now_ns, Patience::Takeover, ports, |_, cx| {
                let log = cx.log;
                log.record(at).map(|r| cx.deliver(r.payload))
            });
        }
    }

    /// What clients sent while nobody served, in the order in which it came.
    fn capture_kept(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let floor = self.floor(now_ns);
        for n in 0..KEPT_BUDGET {
            let Some(frame) = self.kept.pop() else { return n > 0 };
            self.counters.kept_applied += 1;
            self.capture(now_ns, frame, floor, ports);
        }
        true
    }

    /// Handshakes that wait for the client's ACK: it may never have got the SYN-ACK.
    pub(super) fn resend_synacks(&mut self, now_ns: u64, tag: Position, ports: &mut P) {
        let half_open = self.apply.flows().iter().filter(|f| f.state == FlowState::HalfOpen);
        for flow in half_open {
            let record = self.log.record(flow.synack_at);
            if let Some(frame) = record.and_then(|r| ports.alloc(&[r.payload])) {
                self.gate.push(tag, Waiting { since_ns: now_ns, frame });
            }
        }
    }

    /// Clients that repeat the SYN of an inherited handshake get its SYN-ACK again.
    pub(super) fn answer_repeated_syns(&mut self, now_ns: u64, ports: &mut P) {
        let tag = self.cause_end();
        for at in self.apply.take_synacks_due() {
            let record = self.log.record(at);
            if let Some(frame) = record.and_then(|r| ports.alloc(&[r.payload])) {
                self.gate.push(tag, Waiting { since_ns: now_ns, frame });
            }
        }
    }

    pub(super) fn apply_until(
        &mut self,
        now_ns: u64,
        mode: Mode,
        limit: Position,
        patience: Patience,
        ports: &mut P,
    ) -> bool {
        if !self.service_up || self.is_held() {
            return false;
        }
        let from = self.apply.cursor();
        let given = self.counters.delivered_frames;
        let busy =
            self.with_apply(now_ns, patience, ports, |a, cx| a.run(cx, mode, limit, APPLY_BUDGET));
        if self.counters.delivered_frames > given {
            self.host_used_at_ns = now_ns;
        }
        if mode == Mode::Clone {
            self.observe_neighbors(from);
        }
        if patience == Patience::Clone && self.log.is_corrupt() {
            self.apply.mark_unfit();
        }
        busy
    }

    pub(super) fn observe_neighbors(&mut self, mut at: Position) {
        while at < self.apply.cursor() {
            let Some(record) = self.log.record(at) else { break };
            if record.header.kind == RecordKind::ClientFrame {
                self.neighbors.observe(record.payload);
            }
            at = record.next;
        }
    }

    pub(super) fn with_apply<R>(
        &mut self,
        now_ns: u64,
        patience: Patience,
        ports: &mut P,
        f: impl FnOnce(&mut Apply, &mut Context<'_, P>) -> R,
    ) -> R {
        let log_now_ns = self.log_clock_ns(now_ns);
        let mut cx = Context {
            now_ns,
            log_now_ns,
            wait_ns_max: match patience {
                Patience::Clone => self.config.clone_wait_ns,
                Patience::Takeover => FINISH_WAIT_NS,
            },
            expiry_is_divergence: patience == Patience::Clone,
            log: &self.log,
            ports,
            host: &mut self.host_out,
            counters: &mut self.counters,
            audit: self.audit.as_deref_mut(),
        };
        f(&mut self.apply, &mut cx)
    }
}
