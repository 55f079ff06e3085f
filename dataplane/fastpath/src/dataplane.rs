//! One poll-mode thread's data path: the three ports, the log, and the role it plays.

use std::collections::VecDeque;
use std::net::IpAddr;

use arrayvec::ArrayVec;
use understudy_log::{CaptureLog, LogError};
use understudy_wire::control::CONTROL_LEN_MAX;
use understudy_wire::frame::{Ethernet, Mac};
use understudy_wire::neighbor::{build_announcement, parse_solicitation};
use understudy_wire::pdu::{
    Ack, DATA_HEADER_LEN, DataHeader, ETHERTYPE_REPLICA, Nak, PDU_HEADER_LEN, PduError, PduHeader,
    PduKind, TARGET_ALL, group_mac, in_frame,
};
use understudy_wire::record::RecordKind;
use understudy_wire::tcp::{ACK, FIN, RST, SYN, Segment};
use understudy_wire::{Epoch, NodeId, Position};

use crate::MS;
use crate::apply::{Apply, Context, Mode, OutputFate};
use crate::command::{Command, ControlBody, DataRole, Event, Snapshot};
use crate::counters::Counters;
use crate::flows::FlowState;
use crate::gate::Gate;
use crate::kept::Kept;
use crate::neighbors::Neighbors;
use crate::ports::{BURST, Burst, Frame, Outbox, PortRole, Ports};
use crate::receiver::Receiver;
use crate::retained::Retained;
use crate::sender::{PEERS_MAX, Sender, SenderConfig};

/// Bursts taken from one port in one poll.
const BURSTS_PER_POLL: usize = 4;
/// Records applied in one poll.
const APPLY_BUDGET: usize = 64;
/// PDUs sent in one poll.
const PDU_BUDGET: usize = 64;
/// Events the control plane may be behind.
const EVENTS_MAX: usize = 256;
const NEIGHBORS_MAX: usize = 4096;
/// A replica waits this long for its clone's output before it calls it divergent.
const CLONE_WAIT_NS: u64 = 5_000 * MS;
/// At takeover it waits less: the client's patience is what counts.
const FINISH_WAIT_NS: u64 = 100 * MS;

/// A clone this little behind is level: a takeover need not wait for it noticeably.
const LEVEL_BYTES: u64 = 256 << 10;

/// What a data path rests on.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// This node.
    pub me: NodeId,
    /// The group.
    pub cluster: u64,
    /// The other nodes.
    pub peers: Vec<NodeId>,
    /// The service's virtual MAC.
    pub vmac: Mac,
    /// Its virtual addresses.
    pub vips: Vec<IpAddr>,
    /// The replica port's own MAC.
    pub replica_mac: Mac,
    /// Bytes of an Ethernet payload on the replica port.
    pub replica_mtu: usize,
    /// Replication and commit. `chunk_len` is derived from the MTU.
    pub sender: SenderConfig,
    /// Frames that may wait at the gate.
    pub gate_frames_max: usize,
    /// Frames retained for a takeover.
    pub retained_frames_max: usize,
    /// Connections a clone can carry.
    pub flows_max: usize,
}

/// A reign of this node.
struct Reign {
    epoch: Epoch,
    sender: Sender,
    /// Position after this reign's epoch record: nothing before it may leave under this reign.
    opened_at: Position,
    /// Everything before the reign has been applied, inherited output handed over.
    level: bool,
    draining: bool,
}

enum Role {
    Idle,
    Follow(Box<Receiver>),
    /// Won, but the log has no room for the epoch record yet.
    Claim(Epoch),
    Lead(Box<Reign>),
    Fenced,
}

/// The data path. All memory is taken in [`Dataplane::new`].
pub struct Dataplane<P: Ports> {
    config: DataplaneConfig,
    log: CaptureLog,
    role: Role,
    promised: Epoch,
    committed: Position,
    apply: Apply,
    gate: Gate<P::Frame>,
    retained: Retained<P::Frame>,
    kept: Kept<P::Frame>,
    neighbors: Neighbors,
    macs: ArrayVec<(NodeId, Mac), PEERS_MAX>,
    client_out: Outbox<P::Frame>,
    replica_out: Outbox<P::Frame>,
    host_out: Outbox<P::Frame>,
    events: VecDeque<Event>,
    service_up: bool,
    service_dying: bool,
    /// The application was seen alive since this burst was received.
    seen_alive: bool,
    client_link_up: bool,
    counters: Counters,
    last_stamp_ns: u64,
}

impl<P: Ports> Dataplane<P> {
    /// A data path over an empty log, in no role.
    pub fn new(mut config: DataplaneConfig, log: CaptureLog) -> Dataplane<P> {
        config.sender.chunk_len = config.replica_mtu - PDU_HEADER_LEN - DATA_HEADER_LEN;
        Dataplane {
            apply: Apply::new(config.flows_max),
            gate: Gate::new(config.gate_frames_max),
            retained: Retained::new(config.retained_frames_max),
            kept: Kept::new(),
            neighbors: Neighbors::new(NEIGHBORS_MAX),
            macs: ArrayVec::new(),
            client_out: Outbox::new(PortRole::Client),
            replica_out: Outbox::new(PortRole::Replica),
            host_out: Outbox::new(PortRole::Host),
            events: VecDeque::with_capacity(EVENTS_MAX),
            service_up: false,
            service_dying: false,
            seen_alive: false,
            client_link_up: true,
            counters: Counters::default(),
            last_stamp_ns: 0,
            role: Role::Idle,
            promised: 0,
            committed: 0,
            config,
            log,
        }
    }

    /// The log.
    pub fn log(&self) -> &CaptureLog {
        &self.log
    }

    /// The counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the control plane must hear next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// One round over all ports. Returns whether there was anything to do.
    pub fn poll(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = self.poll_replica_port(now_ns, ports);
        busy |= self.poll_client_port(now_ns, ports);
        busy |= self.poll_role(now_ns, ports);
        busy |= self.poll_host_port(now_ns, ports);
        busy |= self.release(now_ns, ports);
        self.host_out.flush(ports);
        self.replica_out.flush(ports);
        busy
    }

    // ---- orders -------------------------------------------------------------

    /// Carries out an order.
    pub fn command(&mut self, now_ns: u64, command: Command, ports: &mut P) {
        match command {
            Command::Promise { epoch } => self.promise(now_ns, epoch),
            Command::Follow { epoch, primary, cut } => self.follow(epoch, primary, cut),
            Command::Lead { epoch } => {
                self.promised = self.promised.max(epoch);
                self.log.truncate_to(self.log.boundary());
                self.role = Role::Claim(epoch);
                self.claim(now_ns);
            }
            Command::Drain => self.set_draining(true),
            Command::Undrain => self.set_draining(false),
            Command::Fence { epoch } => {
                self.promised = self.promised.max(epoch);
                self.fence();
            }
            Command::Announce => self.announce(now_ns, ports),
            Command::Service { up } => self.service_up = up,
            Command::ClientLink { up } => self.client_link_up = up,
            Command::Control { target, epoch, body } => {
                self.send_pdu(ports, PduKind::Control, target, epoch, &[&body]);
            }
        }
    }

    fn promise(&mut self, now_ns: u64, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
        let reign_over = match &mut self.role {
            Role::Follow(r) => {
                r.acknowledging &= r.epoch >= self.promised;
                false
            }
            Role::Lead(r) => r.epoch < self.promised,
            Role::Claim(e) => *e < self.promised,
            Role::Idle | Role::Fenced => false,
        };
        if reign_over {
            self.fence();
        }
        let snapshot = self.snapshot(now_ns);
        self.push_event(Event::Promised { epoch, snapshot });
    }

    fn follow(&mut self, epoch: Epoch, primary: NodeId, cut: Position) {
        if epoch < self.promised {
            return;
        }
        self.promised = epoch;
        self.gate.clear();
        self.log.truncate_to(cut);
        self.committed = self.committed.min(self.log.end());
        self.role = Role::Follow(Box::new(Receiver::new(epoch, primary, self.committed)));
    }

    fn fence(&mut self) {
        self.counters.gate_fenced += (self.gate.clear() + self.client_out.clear()) as u64;
        self.role = Role::Fenced;
    }

    fn set_draining(&mut self, draining: bool) {
        if let Role::Lead(reign) = &mut self.role {
            reign.draining = draining;
        }
    }

    fn claim(&mut self, now_ns: u64) {
        let Role::Claim(epoch) = self.role else { return };
        let start = self.log.end();
        let floor = self.apply.floor();
        let Ok(opened_at) = self.log.append_epoch(epoch, self.config.me, now_ns, floor) else {
            return;
        };
        let sender = Sender::new(self.config.sender, &self.config.peers, start, now_ns);
        self.role =
            Role::Lead(Box::new(Reign { epoch, sender, opened_at, level: false, draining: false }));
    }

    fn announce(&mut self, now_ns: u64, ports: &mut P) {
        if !self.gate_open(now_ns) {
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

    // ---- replica port -------------------------------------------------------

    fn poll_replica_port(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS_PER_POLL {
            let mut burst = Burst::new();
            ports.rx(PortRole::Replica, &mut burst);
            busy |= !burst.is_empty();
            for frame in &burst {
                self.on_replica_frame(now_ns, frame.bytes());
            }
            if burst.len() < BURST {
                break;
            }
        }
        busy
    }

    fn on_replica_frame(&mut self, now_ns: u64, frame: &[u8]) {
        let Some(bytes) = in_frame(frame) else {
            self.counters.pdu_not_ours += 1;
            return;
        };
        let (header, body) = match PduHeader::decode(bytes, self.config.cluster) {
            Ok(pdu) => pdu,
            Err(e) => return self.count_pdu_error(e),
        };
        if !self.config.peers.contains(&header.node) {
            self.counters.pdu_unknown_node += 1;
            return;
        }
        if header.target != TARGET_ALL && header.target != self.config.me {
            return;
        }
        self.learn_mac(header.node, frame);
        let result = match header.kind {
            PduKind::Control => self.on_control(&header, body),
            PduKind::Data => self.on_data(now_ns, &header, body),
            PduKind::Ack => self.on_ack(now_ns, &header, body),
            PduKind::Nak => self.on_nak(now_ns, &header, body),
        };
        if let Err(e) = result {
            self.count_pdu_error(e);
        }
    }

    fn count_pdu_error(&mut self, error: PduError) {
        let c = &mut self.counters;
        match error {
            PduError::Magic => c.pdu_not_ours += 1,
            PduError::Version => c.pdu_version += 1,
            PduError::Short | PduError::Malformed => c.pdu_malformed += 1,
            PduError::Cluster => c.pdu_foreign_cluster += 1,
        }
    }

    fn learn_mac(&mut self, node: NodeId, frame: &[u8]) {
        let Some(eth) = Ethernet::parse(frame) else { return };
        match self.macs.iter_mut().find(|(n, _)| *n == node) {
            Some(entry) => entry.1 = eth.src,
            None => {
                let _ = self.macs.try_push((node, eth.src));
            }
        }
    }

    fn on_control(&mut self, header: &PduHeader, body: &[u8]) -> Result<(), PduError> {
        if body.len() > CONTROL_LEN_MAX {
            return Err(PduError::Malformed);
        }
        let body: ControlBody = body.iter().copied().collect();
        self.push_event(Event::Control { node: header.node, epoch: header.epoch, body });
        Ok(())
    }

    /// Whether a PDU belongs to the reign `epoch`; counts it if not.
    fn is_current(&mut self, header: &PduHeader, epoch: Epoch) -> bool {
        if header.epoch < epoch {
            self.counters.pdu_old_epoch += 1;
        } else if header.epoch > epoch {
            self.counters.pdu_future_epoch += 1;
        }
        header.epoch == epoch
    }

    fn on_data(&mut self, now_ns: u64, header: &PduHeader, body: &[u8]) -> Result<(), PduError> {
        let (data, bytes) = DataHeader::decode(body)?;
        let (epoch, primary) = match &self.role {
            Role::Follow(r) => (r.epoch, r.primary),
            _ => (self.promised.max(1), header.node),
        };
        if !self.is_current(header, epoch) {
            return Ok(());
        }
        let Role::Follow(receiver) = &mut self.role else {
            self.counters.pdu_unexpected += 1;
            return Ok(());
        };
        if header.node != primary || !receiver.acknowledging {
            self.counters.pdu_unexpected += 1;
            return Ok(());
        }
        let floor = self.apply.floor();
        receiver.on_data(now_ns, &data, bytes, &mut self.log, floor, &mut self.counters);
        // The primary lives: what clients sent until a moment ago, it has.
        self.kept.expire(now_ns.saturating_sub(2 * self.config.sender.heartbeat_interval_ns));
        Ok(())
    }

    fn on_ack(&mut self, now_ns: u64, header: &PduHeader, body: &[u8]) -> Result<(), PduError> {
        let ack = Ack::decode(body)?;
        let epoch = self.reign_epoch();
        if !self.is_current(header, epoch) {
            return Ok(());
        }
        self.counters.acks_received += 1;
        if let Role::Lead(reign) = &mut self.role {
            reign.sender.on_ack(now_ns, header.node, &ack);
        }
        Ok(())
    }

    fn on_nak(&mut self, now_ns: u64, header: &PduHeader, body: &[u8]) -> Result<(), PduError> {
        let nak = Nak::decode(body)?;
        let epoch = self.reign_epoch();
        if !self.is_current(header, epoch) {
            return Ok(());
        }
        self.counters.naks_received += 1;
        if let Role::Lead(reign) = &mut self.role {
            reign.sender.on_nak(now_ns, header.node, &nak, &self.log, &mut self.counters);
        }
        Ok(())
    }

    /// The reign of this node; otherwise an epoch whose acknowledgements are all old.
    fn reign_epoch(&self) -> Epoch {
        match &self.role {
            Role::Lead(r) => r.epoch,
            _ => Epoch::MAX,
        }
    }

    fn send_pdu(
        &mut self,
        ports: &mut P,
        kind: PduKind,
        target: NodeId,
        epoch: Epoch,
        body: &[&[u8]],
    ) {
        let len = body.iter().map(|b| b.len()).sum();
        let dst = self.macs.iter().find(|(n, _)| *n == target).map(|(_, mac)| *mac);
        let eth = Ethernet {
            dst: dst.unwrap_or(group_mac(self.config.cluster)),
            src: self.config.replica_mac,
            ethertype: ETHERTYPE_REPLICA,
        };
        let header = PduHeader {
            kind,
            node: self.config.me,
            target,
            cluster: self.config.cluster,
            epoch,
            stream: 0,
        };
        let (eth, header) = (eth.bytes(), header.encode(len));
        let mut parts: ArrayVec<&[u8], 6> = ArrayVec::from_iter([&eth[..], &header[..]]);
        parts.extend(body.iter().copied());
        let sent = match ports.alloc(&parts) {
            Some(frame) => self.replica_out.push(ports, frame),
            None => false,
        };
        self.counters.replica_tx_dropped += u64::from(!sent);
    }

    // ---- client port --------------------------------------------------------

    fn poll_client_port(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS_PER_POLL {
            let mut burst = Burst::new();
            ports.rx(PortRole::Client, &mut burst);
            busy |= !burst.is_empty();
            let full = burst.len() == BURST;
            let stamp_ns = self.stamp(now_ns);
            for frame in burst {
                self.on_client_frame(stamp_ns, frame, ports);
            }
            if !full {
                break;
            }
        }
        busy
    }

    /// Time for records: never backwards in the log.
    fn stamp(&mut self, now_ns: u64) -> u64 {
        self.last_stamp_ns = self.last_stamp_ns.max(now_ns);
        self.last_stamp_ns
    }

    fn on_client_frame(&mut self, now_ns: u64, frame: P::Frame, ports: &mut P) {
        if !self.is_for_service(frame.bytes()) {
            self.counters.not_for_service += 1;
            return;
        }
        if matches!(self.role, Role::Lead(_)) {
            self.capture(now_ns, frame, ports);
        } else {
            self.neighbors.observe(frame.bytes());
            self.counters.kept_frames += 1;
            self.counters.kept_dropped += self.kept.push(now_ns, frame);
        }
    }

    /// To the virtual MAC, or asking for a virtual address.
    fn is_for_service(&self, frame: &[u8]) -> bool {
        let Some(eth) = Ethernet::parse(frame) else { return false };
        if eth.src == self.config.vmac {
            return false;
        }
        let asked =
            || parse_solicitation(frame).is_some_and(|q| self.config.vips.contains(&q.target));
        eth.dst == self.config.vmac || asked()
    }

    /// The primary's way of a client frame: log once, deliver.
    fn capture(&mut self, now_ns: u64, frame: P::Frame, ports: &mut P) {
        let floor = self.floor(now_ns);
        let at = match self.log.append(RecordKind::ClientFrame, now_ns, frame.bytes(), floor) {
            Ok(at) => at,
            Err(LogError::TooLong) => {
                self.counters.frame_too_long += 1;
                return;
            }
            Err(_) => {
                self.counters.log_full += 1;
                return;
            }
        };
        self.counters.captured_frames += 1;
        self.counters.captured_bytes += frame.bytes().len() as u64;
        self.neighbors.observe(frame.bytes());
        let direct = match &self.role {
            Role::Lead(r) => r.level && !r.draining && self.apply.cursor() == at,
            _ => false,
        };
        // Otherwise the applier reaches it in its order.
        if direct {
            self.deliver_direct(now_ns, frame, ports);
        }
    }

    fn deliver_direct(&mut self, now_ns: u64, frame: P::Frame, ports: &mut P) {
        let inherited =
            self.with_apply(now_ns, FINISH_WAIT_NS, ports, |a, cx| a.take_if_inherited(cx));
        if !inherited {
            if self.host_out.push(ports, frame) {
                self.counters.delivered_frames += 1;
            } else {
                self.counters.host_tx_dropped += 1;
            }
        }
        self.apply.skip_to(self.log.end());
    }

    /// What the log must keep.
    fn floor(&self, now_ns: u64) -> Position {
        let applied = self.apply.floor();
        match &self.role {
            Role::Lead(r) => applied.min(r.sender.floor(now_ns)),
            _ => applied,
        }
    }

    // ---- host port ----------------------------------------------------------

    fn poll_host_port(&mut self, now_ns: u64, ports: &mut P) -> bool {
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
            busy |= !burst.is_empty();
            let full = burst.len() == BURST;
            for frame in burst {
                if serving {
                    self.on_service_output(now_ns, frame, ports);
                } else {
                    self.on_clone_output(now_ns, frame, ports);
                }
            }
            if !full {
                break;
            }
        }
        busy
    }

    /// The primary's output: note what a clone needs to know, then to the gate.
    fn on_service_output(&mut self, now_ns: u64, frame: P::Frame, ports: &P) {
        if self.withhold(frame.bytes(), ports) {
            self.counters.death_withheld += 1;
            return;
        }
        if let Some(segment) = Segment::parse(frame.bytes()) {
            if self.apply.observe_output(&segment, &mut self.counters) == OutputFate::Swallow {
                return;
            }
            if segment.has(SYN | ACK) && !self.note_synack(now_ns, frame.bytes()) {
                // Without the note no clone could adopt: the kernel will answer again.
                return;
            }
        }
        let tag = self.log.end();
        self.counters.gate_in += 1;
        if let Role::Lead(r) = &self.role
            && r.sender.committed() >= tag
        {
            self.counters.gate_zero_wait += 1;
        }
        self.gate.push(tag, frame);
    }

    /// A dying application's kernel closes its connections. Nothing of that may leave, since a
    /// clone goes on with them. Asked once a burst and only when something closes: it costs a
    /// system call.
    fn withhold(&mut self, frame: &[u8], ports: &P) -> bool {
        if self.service_dying {
            return true;
        }
        let closes = Segment::parse(frame).is_some_and(|s| s.flags & (FIN | RST) != 0);
        if !closes || self.seen_alive {
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

    fn note_synack(&mut self, now_ns: u64, frame: &[u8]) -> bool {
        let (floor, stamp_ns) = (self.floor(now_ns), self.stamp(now_ns));
        let level = self.apply.cursor() == self.log.end();
        let noted = self.log.append(RecordKind::SynAck, stamp_ns, frame, floor).is_ok();
        self.counters.log_full += u64::from(!noted);
        if noted && level {
            self.apply.skip_to(self.log.end());
        }
        noted
    }

    /// A clone's output goes nowhere: it is followed, and kept for a takeover.
    fn on_clone_output(&mut self, now_ns: u64, frame: P::Frame, ports: &mut P) {
        if let Some(question) = parse_solicitation(frame.bytes()) {
            self.answer_clone(&question, ports);
            return;
        }
        let segment = Segment::parse(frame.bytes());
        let fate =
            segment.map(|s| (s.seq_end(), self.apply.observe_output(&s, &mut self.counters)));
        match fate {
            Some((seq_end, OutputFate::Retain(flow))) => {
                let flows = self.apply.flows();
                self.counters.retained += 1;
                self.counters.retained_dropped +=
                    self.retained.push(now_ns, flow, seq_end, frame, flows);
            }
            _ => self.counters.clone_muted += 1,
        }
    }

    fn answer_clone(&mut self, question: &understudy_wire::neighbor::Solicitation, ports: &mut P) {
        let answer = self.neighbors.answer(question).and_then(|bytes| ports.alloc(&[&bytes]));
        if let Some(frame) = answer
            && self.host_out.push(ports, frame)
        {
            self.counters.neighbor_answers += 1;
        }
    }

    // ---- role ---------------------------------------------------------------

    fn poll_role(&mut self, now_ns: u64, ports: &mut P) -> bool {
        match &mut self.role {
            Role::Claim(_) => {
                self.claim(now_ns);
                self.apply_until(now_ns, Mode::Clone, self.log.boundary(), FINISH_WAIT_NS, ports)
            }
            Role::Follow(receiver) => {
                self.committed = self.committed.max(receiver.committed().min(self.log.end()));
                let busy =
                    self.apply_until(now_ns, Mode::Clone, self.committed, CLONE_WAIT_NS, ports);
                self.acknowledge(now_ns, ports) || busy
            }
            Role::Lead(_) => self.poll_reign(now_ns, ports),
            Role::Idle | Role::Fenced => {
                self.apply_until(now_ns, Mode::Clone, self.committed, CLONE_WAIT_NS, ports)
            }
        }
    }

    fn acknowledge(&mut self, now_ns: u64, ports: &mut P) -> bool {
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

    fn poll_reign(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = self.replicate(now_ns, ports);
        let Role::Lead(reign) = &self.role else { return busy };
        let (level, draining, opened_at) = (reign.level, reign.draining, reign.opened_at);
        if !level {
            busy |= self.apply_until(now_ns, Mode::Clone, opened_at, FINISH_WAIT_NS, ports);
            if self.service_up && self.apply.cursor() == opened_at {
                self.take_over(now_ns, ports);
            }
        } else if draining {
            self.with_apply(now_ns, 0, ports, |a, cx| a.scan_pending(cx));
        } else {
            let end = self.log.end();
            busy |= self.apply_until(now_ns, Mode::Primary, end, FINISH_WAIT_NS, ports);
        }
        busy
    }

    fn replicate(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        for _ in 0..PDU_BUDGET {
            let Role::Lead(reign) = &mut self.role else { break };
            reign.sender.update(now_ns, self.log.end());
            let epoch = reign.epoch;
            let Some(out) = reign.sender.next(now_ns, &self.log, &mut self.counters) else { break };
            busy = true;
            let fixed = out.header.encode();
            let dst = self.macs.iter().find(|(n, _)| *n == out.target).map(|(_, m)| *m);
            let eth = Ethernet {
                dst: dst.unwrap_or(group_mac(self.config.cluster)),
                src: self.config.replica_mac,
                ethertype: ETHERTYPE_REPLICA,
            };
            let Some(bytes) = self.log.bytes(out.header.position, out.to) else { continue };
            let header = PduHeader {
                kind: PduKind::Data,
                node: self.config.me,
                target: out.target,
                cluster: self.config.cluster,
                epoch,
                stream: 0,
            };
            let header = header.encode(fixed.len() + bytes.len());
            let frame = ports.alloc(&[&eth.bytes(), &header, &fixed, bytes]);
            let sent = frame.is_some_and(|f| self.replica_out.push(ports, f));
            self.counters.replica_tx_dropped += u64::from(!sent);
        }
        busy
    }

    /// The clone is level with the log: from here on its output is the service's.
    fn take_over(&mut self, now_ns: u64, ports: &mut P) {
        let Role::Lead(reign) = &mut self.role else { return };
        reign.level = true;
        let tag = reign.opened_at;
        self.resend_synacks(tag, ports);
        while self.gate.room() > 0 {
            let Some(frame) = self.retained.pop_wanted(now_ns, self.apply.flows()) else { break };
            self.gate.push(tag, frame);
            self.counters.retained_sent += 1;
        }
        self.retained.clear();
        for at in self.apply.take_unanswered_syns() {
            self.with_apply(now_ns, 0, ports, |_, cx| {
                let log = cx.log;
                log.record(at).map(|r| cx.deliver(r.payload))
            });
        }
        while let Some(frame) = self.kept.pop() {
            self.counters.kept_applied += 1;
            self.capture(now_ns, frame, ports);
        }
    }

    /// Handshakes that wait for the client's ACK: it may never have got the SYN-ACK.
    fn resend_synacks(&mut self, tag: Position, ports: &mut P) {
        let half_open = self.apply.flows().iter().filter(|f| f.state == FlowState::HalfOpen);
        for flow in half_open {
            let record = self.log.record(flow.synack_at);
            if let Some(frame) = record.and_then(|r| ports.alloc(&[r.payload])) {
                self.gate.push(tag, frame);
            }
        }
    }

    fn apply_until(
        &mut self,
        now_ns: u64,
        mode: Mode,
        limit: Position,
        wait_ns_max: u64,
        ports: &mut P,
    ) -> bool {
        if !self.service_up {
            return false;
        }
        let from = self.apply.cursor();
        let busy = self
            .with_apply(now_ns, wait_ns_max, ports, |a, cx| a.run(cx, mode, limit, APPLY_BUDGET));
        if mode == Mode::Clone {
            self.observe_neighbors(from);
        }
        if wait_ns_max == CLONE_WAIT_NS && self.log.is_corrupt() {
            self.apply.mark_unfit();
        }
        busy
    }

    fn observe_neighbors(&mut self, mut at: Position) {
        while at < self.apply.cursor() {
            let Some(record) = self.log.record(at) else { break };
            if record.header.kind == RecordKind::ClientFrame {
                self.neighbors.observe(record.payload);
            }
            at = record.next;
        }
    }

    fn with_apply<R>(
        &mut self,
        now_ns: u64,
        wait_ns_max: u64,
        ports: &mut P,
        f: impl FnOnce(&mut Apply, &mut Context<'_, P>) -> R,
    ) -> R {
        let primary_now_ns = match &self.role {
            Role::Follow(r) => r.primary_clock_ns(now_ns),
            _ => now_ns,
        };
        let mut cx = Context {
            now_ns,
            primary_now_ns,
            wait_ns_max,
            log: &self.log,
            ports,
            host: &mut self.host_out,
            counters: &mut self.counters,
        };
        f(&mut self.apply, &mut cx)
    }

    // ---- gate ---------------------------------------------------------------

    fn gate_open(&self, now_ns: u64) -> bool {
        match &self.role {
            Role::Lead(r) => {
                r.level && r.sender.lease_valid(now_ns) && r.sender.committed() >= r.opened_at
            }
            _ => false,
        }
    }

    /// Sends committed output, the lease checked against the clock at every burst.
    fn release(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let Role::Lead(reign) = &mut self.role else { return false };
        reign.sender.update(now_ns, self.log.end());
        let committed = reign.sender.committed();
        self.committed = self.committed.max(committed);
        let mut busy = false;
        while self.client_link_up && self.gate_open(ports.clock_ns().max(now_ns)) {
            let before = self.counters.gate_released;
            while self.client_out.room() > 0 {
                let Some(frame) = self.gate.pop(committed) else { break };
                self.client_out.push(ports, frame);
                self.counters.gate_released += 1;
            }
            self.client_out.flush(ports);
            busy |= self.counters.gate_released > before;
            if self.counters.gate_released == before || self.client_out.room() < BURST {
                return busy;
            }
        }
        let level = matches!(&self.role, Role::Lead(r) if r.level);
        self.counters.lease_holds += u64::from(level && !self.gate.is_empty());
        busy
    }

    // ---- view ---------------------------------------------------------------

    fn push_event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.counters.control_in_dropped += 1;
        }
        self.events.push_back(event);
    }

    /// The state for the control plane.
    pub fn snapshot(&self, now_ns: u64) -> Snapshot {
        let (role, lease_valid, draining) = match &self.role {
            Role::Idle => (DataRole::Idle, false, false),
            Role::Follow(r) => (DataRole::Follow(r.epoch), false, false),
            Role::Claim(e) => (DataRole::Lead(*e), false, false),
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
            log_capacity: self.log.capacity(),
            committed: self.committed,
            applied: self.apply.cursor(),
            gate_open: self.gate_open(now_ns),
            lease_valid,
            drained: draining && self.gate.is_empty() && self.client_out.room() == BURST,
            level: self.apply.cursor() + LEVEL_BYTES >= self.committed.min(self.log.boundary()),
            fit: self.apply.is_fit() && !self.log.is_corrupt(),
            data_heard_at_ns: heard,
            primary_log_start,
            gate_waiting: self.gate.len(),
            flows: self.apply.flows().len(),
            retained: self.retained.len(),
            peers,
            counters: self.counters,
        }
    }
}
