//! One node's data path without frames: the shipped log, sender, receiver and gate, and the few lines of
//! `fastpath::Dataplane` that choose between them.
//!
//! What belongs here: orders carried out, PDUs taken and made, output released. What commits, what an
//! acknowledgement says and when a lease ends is decided by `Sender` and `Receiver` alone.

use std::cell::RefCell;

use understudy_fastpath::counters::Counters;
use understudy_fastpath::gate::Gate;
use understudy_fastpath::receiver::Receiver;
use understudy_fastpath::sender::{Sender, SenderConfig};
use understudy_log::CaptureLog;
use understudy_proto::{DpCommand, LogState};
use understudy_wire::pdu::{Ack, DataHeader, Nak, TARGET_ALL};
use understudy_wire::record::RecordKind;
use understudy_wire::{Epoch, NodeId, Position};

/// More than a bounded exploration ever appends.
const LOG_BYTES: usize = 4096;
/// Frames that may wait at the gate.
const GATE_FRAMES: usize = 8;
/// PDUs of one poll at most.
const PDUS_MAX: usize = 8;

thread_local! {
    // A state keeps a log as its bytes. They are put into a shipped log for each call: one ring serves all states.
    static RING: RefCell<CaptureLog> =
        RefCell::new(CaptureLog::new(LOG_BYTES).expect("memory for one small log"));
}

/// What data paths send each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pdu {
    /// A range of the log, or a sign of life.
    Data(DataHeader, Vec<u8>),
    /// What a replica holds.
    Ack(Ack),
    /// What it misses.
    Nak(Nak),
}

/// A PDU on its way out: to one node or all, in an epoch.
pub type Outgoing = (NodeId, Epoch, Pdu);

/// A reign of this node.
#[derive(Clone, Hash)]
pub struct Reign {
    /// Its epoch.
    pub epoch: Epoch,
    serve: bool,
    /// The shipped sender.
    pub sender: Sender,
    /// End of its epoch record.
    pub opened_at: Position,
}

/// What the data path does.
#[expect(clippy::large_enum_variant, reason = "one a machine")]
#[derive(Clone, Hash)]
pub enum Role {
    /// Nothing yet.
    Idle,
    /// A replica.
    Follow(Receiver),
    /// The primary.
    Lead(Box<Reign>),
    /// No longer the primary.
    Fenced,
}

/// The data path.
#[derive(Clone, Hash)]
pub struct Plane {
    /// The log's bytes, from position 0 on.
    pub bytes: Vec<u8>,
    /// Received beyond a gap, as it lies in the ring's memory.
    ahead: Vec<(Position, Vec<u8>)>,
    /// What it does.
    pub role: Role,
    promised: Epoch,
    /// As in the data path's snapshot.
    pub committed: Position,
    applied: Position,
    gate: Gate<Position>,
    /// When each peer was last heard on the replica port.
    heard: Vec<(NodeId, u64)>,
}

impl Plane {
    /// An empty one.
    pub fn new(peers: impl Iterator<Item = NodeId>) -> Plane {
        Plane {
            bytes: Vec::new(),
            ahead: Vec::new(),
            role: Role::Idle,
            promised: 0,
            committed: 0,
            applied: 0,
            gate: Gate::new(GATE_FRAMES),
            heard: peers.map(|id| (id, 0)).collect(),
        }
    }

    /// No older epoch is acknowledged any more.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// That of the next life: nothing is kept.
    pub fn emptied(&self) -> Plane {
        Plane::new(self.heard.iter().map(|(id, _)| *id))
    }

    fn end(&self) -> Position {
        self.bytes.len() as Position
    }

    /// A peer was heard on the replica port.
    pub fn note_heard(&mut self, now_ns: u64, from: NodeId) {
        if let Some(entry) = self.heard.iter_mut().find(|(id, _)| *id == from) {
            entry.1 = now_ns;
        }
    }

    /// Carries an order out; `Some` is a promise to report.
    pub fn order(
        &mut self,
        now_ns: u64,
        me: NodeId,
        config: SenderConfig,
        command: DpCommand,
    ) -> Option<Epoch> {
        match command {
            DpCommand::Promise { epoch } => {
                self.promise(epoch);
                return Some(epoch);
            }
            DpCommand::Follow { epoch, primary, cut } if epoch >= self.promised => {
                self.promised = epoch;
                self.gate.clear();
                on_ring(&mut self.bytes, &mut self.ahead, |log| log.truncate_to(cut));
                assert!(self.applied <= self.end(), "a clone consumed what is cut off");
                self.committed = self.committed.min(self.end());
                self.role = Role::Follow(Receiver::new(epoch, primary, self.committed));
            }
            DpCommand::Lead { epoch, serve } => self.lead(now_ns, me, config, epoch, serve),
            DpCommand::Fence { epoch } => {
                self.promised = self.promised.max(epoch);
                self.gate.clear();
                self.role = Role::Fenced;
            }
            DpCommand::Alone { epoch, on } => {
                if let Role::Lead(reign) = &mut self.role
                    && reign.epoch == epoch
                {
                    reign.sender.set_alone(on);
                }
            }
            DpCommand::Follow { .. }
            | DpCommand::Drain
            | DpCommand::Undrain
            | DpCommand::Announce => {}
        }
        None
    }

    fn promise(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
        match &mut self.role {
            Role::Follow(receiver) => receiver.acknowledging &= receiver.epoch >= self.promised,
            Role::Lead(reign) if reign.epoch < self.promised => {
                self.gate.clear();
                self.role = Role::Fenced;
            }
            _ => {}
        }
    }

    fn lead(&mut self, now_ns: u64, me: NodeId, config: SenderConfig, epoch: Epoch, serve: bool) {
        self.promised = self.promised.max(epoch);
        self.gate.clear();
        let start = on_ring(&mut self.bytes, &mut self.ahead, |log| {
            log.truncate_to(log.boundary());
            let start = log.end();
            log.append_epoch(epoch, me, 0, 0).expect("the log is large enough");
            start
        });
        self.committed = self.committed.min(start);
        let mut counters = Counters::default();
        let heard = self.heard.iter().copied();
        let sender = Sender::new(config, heard, start, now_ns, &mut counters);
        let opened_at = self.end();
        self.role = Role::Lead(Box::new(Reign { epoch, serve, sender, opened_at }));
        if serve {
            self.applied = opened_at;
        }
    }

    /// A client's frame, and the application's answer at the gate. False: nobody takes it here.
    pub fn client_frame(&mut self, value: u8) -> bool {
        let Role::Lead(reign) = &self.role else { return false };
        if !reign.serve {
            return false;
        }
        on_ring(&mut self.bytes, &mut self.ahead, |log| {
            log.append(RecordKind::ClientFrame, 0, &[value; 8], 0).expect("large enough");
        });
        self.applied = self.end();
        self.gate.push(self.end(), self.end())
    }

    /// What the primary has to send now.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Outgoing> {
        let Role::Lead(reign) = &mut self.role else { return Vec::new() };
        let mut counters = Counters::default();
        on_ring(&mut self.bytes, &mut self.ahead, |log| {
            let mut out = Vec::new();
            while out.len() < PDUS_MAX {
                reign.sender.update(now_ns, log.end(), &mut counters);
                let Some(next) = reign.sender.next(now_ns, log, &mut counters) else { break };
                let bytes = log.bytes(next.header.position, next.to).unwrap_or_default().to_vec();
                out.push((next.target, reign.epoch, Pdu::Data(next.header, bytes)));
            }
            out
        })
    }

    /// Takes a PDU; returns the answers.
    pub fn receive(&mut self, now_ns: u64, from: NodeId, epoch: Epoch, pdu: &Pdu) -> Vec<Outgoing> {
        self.note_heard(now_ns, from);
        let mut counters = Counters::default();
        match (pdu, &mut self.role) {
            (Pdu::Data(header, bytes), Role::Follow(receiver))
                if epoch == receiver.epoch
                    && from == receiver.primary
                    && receiver.acknowledging =>
            {
                if header.position > self.bytes.len() as Position {
                    self.ahead.push((header.position, bytes.clone()));
                }
                let applied = self.applied;
                let (ack, nak, committed) = on_ring(&mut self.bytes, &mut self.ahead, |log| {
                    receiver.on_data(now_ns, header, bytes, log, applied, &mut counters);
                    let committed = receiver.committed().min(log.end());
                    let applied = applied.max(committed.min(log.boundary()));
                    let ack = receiver.poll_ack(now_ns, log, applied);
                    (ack, receiver.poll_nak(now_ns, log), committed)
                });
                self.committed = self.committed.max(committed);
                self.applied = self.applied.max(self.committed);
                let ack = ack.map(|ack| (from, epoch, Pdu::Ack(ack)));
                let nak = nak.map(|nak| (from, epoch, Pdu::Nak(nak)));
                ack.into_iter().chain(nak).collect()
            }
            (Pdu::Ack(ack), Role::Lead(reign)) if epoch == reign.epoch => {
                reign.sender.on_ack(now_ns, from, ack);
                Vec::new()
            }
            (Pdu::Nak(nak), Role::Lead(reign)) if epoch == reign.epoch => {
                on_ring(&mut self.bytes, &mut self.ahead, |log| {
                    reign.sender.on_nak(now_ns, from, nak, log, &mut counters);
                });
                self.poll(now_ns)
            }
            _ => Vec::new(),
        }
    }

    /// Whether output may leave at this moment.
    pub fn gate_open(&self, now_ns: u64) -> bool {
        match &self.role {
            Role::Lead(r) => {
                r.serve && r.sender.lease_valid(now_ns) && r.sender.committed() >= r.opened_at
            }
            _ => false,
        }
    }

    /// Lets output leave; returns the newest position that caused some of it.
    pub fn release(&mut self, now_ns: u64) -> Option<Position> {
        let end = self.end();
        let Role::Lead(reign) = &mut self.role else { return None };
        reign.sender.update(now_ns, end, &mut Counters::default());
        // Nobody is told about members here.
        let _ = reign.sender.take_changes();
        let committed = reign.sender.committed();
        self.committed = self.committed.max(committed);
        if !self.gate_open(now_ns) {
            return None;
        }
        std::iter::from_fn(|| self.gate.pop(committed)).last()
    }

    /// The state for the control plane.
    pub fn state(&mut self, now_ns: u64) -> LogState {
        let (epoch, leading, alone, lease_valid) = match &self.role {
            Role::Follow(receiver) => (receiver.epoch, false, false, false),
            Role::Lead(r) => (r.epoch, true, r.sender.is_alone(), r.sender.lease_valid(now_ns)),
            Role::Idle | Role::Fenced => (0, false, false, false),
        };
        let last_data_rx_ns = match &self.role {
            Role::Follow(receiver) => receiver.heard_at_ns(),
            _ => 0,
        };
        let peer_acked = match &self.role {
            Role::Lead(r) => r.sender.peers().iter().map(|p| (p.id, p.acked)).collect(),
            _ => Default::default(),
        };
        let history = history(&self.bytes);
        LogState {
            epoch,
            leading,
            log_epoch: history.last().map_or(0, |newest| newest.epoch),
            log_start: 0,
            position: self.end(),
            committed: self.committed,
            applied: self.applied,
            history,
            alone,
            gate_open: self.gate_open(now_ns),
            lease_valid,
            drained: false,
            last_data_rx_ns,
            clone_level: true,
            fit: true,
            peer_acked,
        }
    }
}

/// The reigns in a log's bytes.
pub fn history(bytes: &[u8]) -> understudy_wire::control::History {
    on_ring(&mut bytes.to_vec(), &mut Vec::new(), |log| log.history().clone())
}

/// Whether a PDU carries or acknowledges log bytes, rather than only life.
pub fn is_sign_of_life(pdu: &Pdu) -> bool {
    matches!(pdu, Pdu::Data(_, bytes) if bytes.is_empty())
}

/// Whether a PDU is for `id`.
pub fn is_for(target: NodeId, id: NodeId) -> bool {
    target == TARGET_ALL || target == id
}

fn on_ring<R>(
    bytes: &mut Vec<u8>,
    ahead: &mut Vec<(Position, Vec<u8>)>,
    call: impl FnOnce(&mut CaptureLog) -> R,
) -> R {
    RING.with_borrow_mut(|log| {
        log.reset();
        if !bytes.is_empty() {
            log.write_at(0, bytes, 0).expect("it fitted before");
            log.extend_to(bytes.len() as Position);
        }
        for (at, more) in ahead.iter() {
            // What has been reached meanwhile is there already.
            let _ = log.write_at(*at, more, 0);
        }
        let result = call(log);
        let end = log.end();
        let held = log.bytes(0, end).expect("nothing is ever overwritten");
        if held != bytes.as_slice() {
            bytes.clear();
            bytes.extend_from_slice(held);
        }
        ahead.retain(|(at, _)| *at > end);
        result
    })
}
