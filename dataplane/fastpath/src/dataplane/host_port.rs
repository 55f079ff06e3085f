//! The host port: the application's output, as primary and as clone.

use super::*;

impl<P: Ports> Dataplane<P> {
    pub(super) fn poll_host_port(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS_PER_POLL {
            let serving = matches!(&self.role, Role::Lead(r) if r.level);
            if serving && self.gate.room() < BURST {
                self.counters.gate_full += 1;
                break;
            }
            let mut burst = Burst::new();
            ports.rx(PortRole::Host, &mut burst);
            self.seen_alive = false;
            if burst.is_empty() {
                break;
            }
            // What is read is stamped now: the thread may have stood still since `now_ns`, and a
            // clone's TSval clock would seem ahead by as much.
            let read_ns = ports.clock_ns().max(now_ns);
            busy = true;
            self.host_used_at_ns = now_ns;
            let full = burst.len() == BURST;
            for frame in burst {
                if serving {
                    self.on_service_output(read_ns, frame, ports);
                } else {
                    self.on_clone_output(read_ns, frame, ports);
                }
            }
            if !full {
                break;
            }
        }
        busy
    }

    /// What the clone has sent until now and was not read yet is still a clone's output: sent
    /// after what was retained, its TSvals would go back.
    pub(super) fn drain_clone_output(&mut self, now_ns: u64, ports: &mut P) {
        for _ in 0..DRAIN_BURSTS_MAX {
            let mut burst = Burst::new();
            ports.rx(PortRole::Host, &mut burst);
            if burst.is_empty() {
                break;
            }
            let read_ns = ports.clock_ns().max(now_ns);
            for frame in burst {
                self.on_clone_output(read_ns, frame, ports);
            }
        }
    }

    /// The primary's output: note what a clone needs to know, then to the gate.
    pub(super) fn on_service_output(&mut self, now_ns: u64, mut frame: P::Frame, ports: &mut P) {
        if self.withhold(frame.bytes(), ports) {
            self.counters.death_withheld += 1;
            return;
        }
        if self.commits_by_checkpoint()
            && is_neighbor_discovery(frame.bytes())
            && self.gate_open(now_ns)
        {
            // Nothing of the application is in it: a checkpoint would only cost time.
            self.client_out.push(ports, frame);
            return;
        }
        let parsed = Segment::parse(frame.bytes());
        if let Some(segment) = &parsed {
            let (fate, shift) = self.apply.observe_output(now_ns, segment, &mut self.counters);
            if fate == OutputFate::Swallow {
                return;
            }
            if let Some((own, _)) = segment.options.timestamps.filter(|_| shift != 0) {
                set_tsval(frame.bytes_mut(), segment, own.wrapping_add(shift));
            }
            if segment.has(SYN | ACK) && !self.note_synack(now_ns, frame.bytes()) {
                // Without the note no clone could adopt: the kernel will answer again.
                return;
            }
            self.audit_output(now_ns, segment, frame.bytes());
            self.note_progress(now_ns, segment);
        }
        let tag = self.cause_end();
        self.counters.gate_in += 1;
        if let Role::Lead(r) = &self.role
            && r.sender.committed() >= tag
        {
            self.counters.gate_zero_wait += 1;
        }
        self.gate.push(tag, Waiting { since_ns: now_ns, frame });
    }

    /// A dying application's kernel closes its connections, and its other processes may have last
    /// words. Nothing of that may leave, since a clone goes on with them. Asked once a burst and
    /// only when something is said: it costs a system call.
    pub(super) fn withhold(&mut self, frame: &[u8], ports: &P) -> bool {
        if self.service_dying {
            return true;
        }
        let says = |s: Segment| s.payload_len > 0 || s.flags & (FIN | RST) != 0;
        if self.seen_alive || !Segment::parse(frame).is_some_and(says) {
            return false;
        }
        self.seen_alive = !ports.service_is_dying();
        if self.seen_alive {
            return false;
        }
        self.service_dying = true;
        self.push_event(Event::ServiceDying);
        true
    }

    pub(super) fn note_synack(&mut self, now_ns: u64, frame: &[u8]) -> bool {
        let (floor, stamp_ns) = (self.floor(now_ns), self.stamp(now_ns));
        let level = self.apply.cursor() == self.log.end();
        let noted = self.log.append(RecordKind::SynAck, stamp_ns, frame, floor).is_ok();
        self.counters.log_full += u64::from(!noted);
        self.counters.handshakes += u64::from(noted);
        if noted && level {
            self.apply.skip_to(self.log.end());
        }
        noted
    }

    /// A clone's output goes nowhere: it is followed, and kept for a takeover.
    pub(super) fn on_clone_output(&mut self, now_ns: u64, frame: P::Frame, ports: &mut P) {
        if let Some(question) = parse_solicitation(frame.bytes()) {
            self.answer_clone(&question, ports);
            return;
        }
        let segment = Segment::parse(frame.bytes());
        if let Some(segment) = segment.as_ref().filter(|_| self.apply.is_fit()) {
            self.audit_output(now_ns, segment, frame.bytes());
        }
        let fate = segment
            .map(|s| (s.seq_end(), self.apply.observe_output(now_ns, &s, &mut self.counters).0));
        match fate {
            Some((seq_end, OutputFate::Retain(flow))) => {
                let flows = self.apply.flows();
                self.counters.retained += 1;
                self.counters.retained_dropped += self.retained.push(flow, seq_end, frame, flows);
            }
            _ => self.counters.clone_muted += 1,
        }
    }
}
