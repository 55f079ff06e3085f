//! The client port: what is for the service, its capture, its delivery.

use super::*;

impl<P: Ports> Dataplane<P> {
    pub(super) fn poll_client_port(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        let mut floor = 0;
        for _ in 0..BURSTS_PER_POLL {
            let mut burst = Burst::new();
            ports.rx(PortRole::Client, &mut burst);
            if burst.is_empty() {
                break;
            }
            if !busy {
                // Only what comes by the replica port raises it, but for this node's own clone.
                floor = self.floor(now_ns);
            }
            busy = true;
            let full = burst.len() == BURST;
            self.on_client_burst(now_ns, &mut burst, floor, ports);
            if !full {
                break;
            }
        }
        busy
    }

    /// Time for records: never backwards in the log.
    pub(super) fn stamp(&mut self, now_ns: u64) -> u64 {
        self.last_stamp_ns = self.last_stamp_ns.max(self.log_clock_ns(now_ns));
        self.last_stamp_ns
    }

    /// A moment of this node's clock on the log's.
    pub(super) fn log_clock_ns(&self, now_ns: u64) -> u64 {
        let ahead_ns = match &self.role {
            Role::Follow(r) => r.primary_ahead_ns().unwrap_or(self.log_clock_ahead_ns),
            _ => self.log_clock_ahead_ns,
        };
        now_ns.saturating_add_signed(ahead_ns)
    }

    /// Remembers the log's clock before the one who showed it is no longer followed: TCP
    /// timestamps are projected from stamps of earlier reigns, whatever the nodes' clocks show.
    pub(super) fn keep_log_clock(&mut self, now_ns: u64) {
        self.log_clock_ahead_ns = self.log_clock_ns(now_ns).wrapping_sub(now_ns) as i64;
    }

    fn on_client_burst(
        &mut self,
        now_ns: u64,
        burst: &mut Burst<P::Frame>,
        floor: Position,
        ports: &mut P,
    ) {
        if !self.learn_all_to_service(burst) {
            let came = burst.len();
            burst.retain(|frame| self.learn_for_service(frame.bytes()));
            self.counters.not_for_service += (came - burst.len()) as u64;
        }
        match self.role {
            Role::Lead(ref r) if r.serve && !self.goes_behind_kept() => {
                self.capture_burst(now_ns, burst, floor, ports);
            }
            Role::Fenced => burst.iter().for_each(|frame| self.forward(frame.bytes(), ports)),
            _ => burst.drain(..).for_each(|frame| self.keep(now_ns, frame)),
        }
    }

    /// What came before this node served is captured a little at a time, and first; unless that would
    /// cost a frame.
    fn goes_behind_kept(&self) -> bool {
        !self.kept.is_empty() && self.kept.room() >= BURST
    }

    /// No primary takes it now; the next one will, if that is this node.
    pub(super) fn keep(&mut self, now_ns: u64, frame: P::Frame) {
        self.counters.kept_frames += 1;
        self.counters.kept_dropped += self.kept.push(now_ns, frame);
    }

    /// A deposed primary: the switch still sends clients here. The others get what comes, or
    /// each client would wait for its retransmission timer.
    fn forward(&mut self, frame: &[u8], ports: &mut P) {
        if PDU_OVERHEAD_LEN + frame.len() > self.config.replica_mtu {
            self.counters.forward_too_long += 1;
            return;
        }
        self.counters.forwarded += 1;
        self.send_pdu(ports, PduKind::Frame, TARGET_ALL, self.promised, &[frame]);
    }

    /// To the virtual MAC, and not from it.
    #[inline]
    fn is_to_service(&self, frame: &[u8]) -> bool {
        let differs = |word: u64| (word ^ self.vmac_word) << 16 != 0;
        Ethernet::words(frame).is_some_and(|[dst, src]| !differs(dst) && differs(src))
    }

    /// Whether all are to the service; the senders' addresses are learned up to the first that is not.
    // The loop wants the registers for itself.
    #[inline(never)]
    fn learn_all_to_service(&mut self, burst: &[P::Frame]) -> bool {
        burst.iter().map(Frame::bytes).all(|frame| {
            let is_to_service = self.is_to_service(frame);
            if is_to_service {
                self.neighbors.observe(frame);
            }
            is_to_service
        })
    }

    /// Whether it is for the service; then its sender's address is learned.
    pub(super) fn learn_for_service(&mut self, frame: &[u8]) -> bool {
        let is_for_service = self.is_for_service(frame);
        if is_for_service {
            self.neighbors.observe(frame);
        }
        is_for_service
    }

    /// To the virtual MAC, or asking for a virtual address.
    fn is_for_service(&self, frame: &[u8]) -> bool {
        let asked = || {
            Ethernet::parse(frame).is_some_and(|eth| eth.src != self.config.vmac)
                && parse_solicitation(frame).is_some_and(|q| self.config.vips.contains(&q.target))
        };
        self.is_to_service(frame) || asked()
    }

    /// The primary's way of client frames: log once, deliver. What is the same for all of a burst is
    /// done once. `floor`: a recent one.
    fn capture_burst(
        &mut self,
        now_ns: u64,
        burst: &mut Burst<P::Frame>,
        floor: Position,
        ports: &mut P,
    ) {
        for frame in burst.iter() {
            if self.said.is_empty() {
                break;
            }
            self.note_causes(now_ns, frame.bytes(), floor);
        }
        let (stamp_ns, frames) = (self.stamp(now_ns), burst.iter().map(Frame::bytes));
        let appended = self.log.append_burst(RecordKind::ClientFrame, stamp_ns, frames, floor);
        let Ok((mut at, bytes)) = appended else {
            // Some may fit.
            burst.drain(..).for_each(|frame| self.capture(now_ns, frame, floor, ports));
            return;
        };
        self.counters.captured_frames += burst.len() as u64;
        self.counters.captured_bytes += bytes;
        // Otherwise the applier reaches them in their order.
        if !self.delivers_directly() || self.apply.cursor() != at {
            return;
        }
        let delivered = burst.len() as u64;
        if self.apply.flows().is_empty() && self.host_out.try_push_all(ports, burst) {
            self.counters.delivered_frames += delivered;
            self.apply.skip_to(self.log.end());
            return;
        }
        for frame in burst.drain(..) {
            if self.apply.cursor() != at {
                break;
            }
            at += stored_len(frame.bytes().len()) as u64;
            self.deliver_direct(now_ns, frame, at, ports);
        }
    }

    /// What is captured goes to the application at once, if all before it has.
    fn delivers_directly(&self) -> bool {
        !self.is_held() && matches!(&self.role, Role::Lead(r) if r.level && !r.draining)
    }

    /// As [`Dataplane::capture_burst`], of one frame. `floor`: a recent one.
    pub(super) fn capture(&mut self, now_ns: u64, frame: P::Frame, floor: Position, ports: &mut P) {
        if !self.said.is_empty() {
            self.note_causes(now_ns, frame.bytes(), floor);
        }
        let stamp_ns = self.stamp(now_ns);
        let (kind, bytes) = (RecordKind::ClientFrame, frame.bytes());
        let appended = match self.log.append(kind, stamp_ns, bytes, floor) {
            Err(LogError::Full) => self.log.append(kind, stamp_ns, bytes, self.floor(now_ns)),
            other => other,
        };
        let at = match appended {
            Ok(at) => at,
            Err(LogError::TooLong) => {
                self.counters.frame_too_long += 1;
                return;
            }
            Err(_) => {
                self.counters.log_full += 1;
                self.apply.yield_room(self.log.end(), &mut self.counters);
                return;
            }
        };
        self.counters.captured_frames += 1;
        self.counters.captured_bytes += frame.bytes().len() as u64;
        if self.delivers_directly() && self.apply.cursor() == at {
            self.deliver_direct(now_ns, frame, self.log.end(), ports);
        }
    }

    /// Delivers the frame whose record is at the cursor and ends at `next`.
    fn deliver_direct(&mut self, now_ns: u64, frame: P::Frame, next: Position, ports: &mut P) {
        let inherited =
            self.with_apply(now_ns, Patience::Takeover, ports, |a, cx| a.take_if_inherited(cx));
        if !inherited {
            if !self.host_out.push(ports, frame) {
                // A clone will get it, so this application must: the applier tries again.
                self.counters.host_tx_dropped += 1;
                return;
            }
            self.counters.delivered_frames += 1;
        }
        self.apply.skip_to(next);
    }

    /// What the log must keep.
    pub(super) fn floor(&self, now_ns: u64) -> Position {
        match &self.role {
            Role::Lead(r) => self.own_floor().min(r.sender.floor(now_ns)),
            _ => self.own_floor(),
        }
    }

    /// What it must keep for this node's clone; without one, what may yet be needed to commit.
    pub(super) fn own_floor(&self) -> Position {
        if self.config.witness { self.committed } else { self.apply.floor() }
    }
}
