//! A small model of the dataplane: log, acknowledgements, promises, quorum commit, lease and gate.
//!
//! What belongs here: what the real one must do by contract, with one position per record. No network, no faults.

use std::collections::BTreeMap;

use understudy_proto::{DpCommand, LogState};
use understudy_wire::{
    Epoch, NodeId, Position,
    control::{EpochStart, History},
};

/// How much one PDU carries.
const RECORDS_MAX: usize = 16;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    pub value: u64,
}

/// What dataplanes send each other.
#[derive(Clone, Debug)]
pub enum Pdu {
    Data { epoch: Epoch, from: usize, records: Vec<Record>, committed: usize, sent_ns: u64 },
    Ack { epoch: Epoch, position: usize, echo_ns: u64 },
}

/// One node's dataplane. Times are by the node's clock.
#[derive(Debug, Default)]
pub struct Dataplane {
    pub me: NodeId,
    pub majority: usize,
    pub lease_ns: u64,
    /// Mutation: acknowledges whoever asks, whatever was promised.
    pub breaks_promises: bool,
    pub log: Vec<Record>,
    pub promised: Epoch,
    pub epoch: Epoch,
    pub leading: bool,
    pub serve: bool,
    pub alone: bool,
    pub gate_open: bool,
    pub committed: usize,
    pub applied: usize,
    following: Option<NodeId>,
    drained: bool,
    last_data_rx_ns: u64,
    acked: BTreeMap<NodeId, usize>,
    next: BTreeMap<NodeId, usize>,
    leased: BTreeMap<NodeId, u64>,
}

impl Dataplane {
    /// An empty one.
    pub fn new(me: NodeId, majority: usize, lease_ns: u64, breaks_promises: bool) -> Self {
        Self { me, majority, lease_ns, breaks_promises, ..Self::default() }
    }

    /// Carries an order out; `Some(epoch)` is a promise to report.
    pub fn order(&mut self, command: DpCommand) -> Option<Epoch> {
        match command {
            DpCommand::Promise { epoch } => {
                self.promised = self.promised.max(epoch);
                return Some(epoch);
            }
            DpCommand::Follow { epoch, primary, cut } if epoch >= self.promised => {
                let len = self.log.len().min(usize::try_from(cut).unwrap_or(usize::MAX));
                assert!(self.applied <= len, "node {} un-applied what its clone consumed", self.me);
                self.log.truncate(len);
                self.committed = self.committed.min(len);
                (self.epoch, self.following, self.leading) = (epoch, Some(primary), false);
                self.gate_open = false;
            }
            DpCommand::Lead { epoch, serve } if epoch >= self.promised => {
                (self.epoch, self.following, self.leading) = (epoch, None, true);
                (self.gate_open, self.drained) = (false, false);
                (self.serve, self.alone) = (serve, false);
                self.acked.clear();
                self.next.clear();
                self.leased.clear();
                self.log.push(Record { epoch, value: 0 });
                if serve {
                    self.applied = self.log.len();
                }
            }
            DpCommand::Alone { epoch, on } if self.leading && self.epoch == epoch => {
                self.alone = on;
            }
            DpCommand::Fence { epoch } if self.epoch == epoch => {
                (self.leading, self.gate_open, self.alone) = (false, false, false);
            }
            DpCommand::Drain => self.drained = self.leading,
            DpCommand::Undrain => self.drained = false,
            _ => {}
        }
        None
    }

    /// The supervisor emptied the log for a fresh service.
    pub fn reset(&mut self) {
        self.log.clear();
        (self.committed, self.applied, self.epoch) = (0, 0, 0);
        (self.leading, self.gate_open, self.following) = (false, false, None);
    }

    pub fn lease_valid(&self, now_ns: u64) -> bool {
        let fresh = self.leased.values().filter(|&&at_ns| at_ns + self.lease_ns > now_ns).count();
        self.leading && (self.alone || fresh + 1 >= self.majority)
    }

    /// Could put a frame on the clients' network now.
    pub fn can_transmit(&self, now_ns: u64) -> bool {
        self.gate_open && self.lease_valid(now_ns)
    }

    pub fn client_frame(&mut self, value: u64) {
        if self.leading && self.serve {
            self.log.push(Record { epoch: self.epoch, value });
        }
    }

    /// A PDU for each peer, if leading.
    pub fn poll(&mut self, now_ns: u64, peer: NodeId) -> Option<Pdu> {
        if !self.leading {
            return None;
        }
        let from = self.next.get(&peer).copied().unwrap_or(self.log.len()).min(self.log.len());
        let to = (from + RECORDS_MAX).min(self.log.len());
        let (epoch, committed) = (self.epoch, self.committed);
        let records = self.log[from..to].to_vec();
        Some(Pdu::Data { epoch, from, records, committed, sent_ns: now_ns })
    }

    /// Takes a PDU; maybe answers.
    pub fn receive(&mut self, now_ns: u64, sender: NodeId, pdu: &Pdu) -> Option<Pdu> {
        match pdu {
            Pdu::Data { epoch, from, records, committed, sent_ns } => {
                let joined = self.following == Some(sender) && self.epoch == *epoch;
                let may = joined && self.promised <= *epoch || self.breaks_promises;
                if self.leading || !may {
                    return None;
                }
                self.last_data_rx_ns = now_ns;
                if *from <= self.log.len() {
                    for (at, record) in (*from..).zip(records) {
                        match self.log.get(at) {
                            Some(own) => assert_eq!(own, record, "logs diverge at {at}"),
                            None => self.log.push(*record),
                        }
                    }
                    self.committed = self.committed.max((*committed).min(self.log.len()));
                    self.applied = self.applied.max(self.committed);
                }
                Some(Pdu::Ack { epoch: *epoch, position: self.log.len(), echo_ns: *sent_ns })
            }
            Pdu::Ack { epoch, position, echo_ns } => {
                if self.leading && self.epoch == *epoch {
                    self.next.insert(sender, *position);
                    let acked = self.acked.entry(sender).or_default();
                    *acked = (*acked).max(*position);
                    let leased = self.leased.entry(sender).or_default();
                    *leased = (*leased).max(*echo_ns);
                }
                None
            }
        }
    }

    /// Commits what a quorum holds and opens the gate.
    pub fn settle(&mut self, now_ns: u64) {
        if !self.leading {
            return;
        }
        let mut held: Vec<usize> = self.acked.values().copied().collect();
        held.push(self.log.len());
        held.sort_unstable_by(|a, b| b.cmp(a));
        let enough = if self.alone { 0 } else { self.majority - 1 };
        if let Some(&held) = held.get(enough)
            && held > self.committed
            && self.log[held - 1].epoch == self.epoch
        {
            self.committed = held;
        }
        let begun = self.committed > 0 && self.log[self.committed - 1].epoch == self.epoch;
        if begun && self.serve && self.lease_valid(now_ns) {
            self.gate_open = true;
        }
        if self.serve {
            self.applied = self.log.len();
        }
    }

    pub fn state(&self, now_ns: u64) -> LogState {
        // Epochs rise along the log, so each begins at a partition point.
        let mut history = History::new();
        let mut rest = self.log.len();
        while rest > 0 && !history.is_full() {
            let epoch = self.log[rest - 1].epoch;
            rest = self.log[..rest].partition_point(|record| record.epoch < epoch);
            history.insert(0, EpochStart { epoch, start: rest as Position });
        }
        LogState {
            epoch: self.epoch,
            leading: self.leading,
            log_epoch: self.log.last().map_or(0, |record| record.epoch),
            log_start: 0,
            position: self.log.len() as Position,
            committed: self.committed as Position,
            applied: self.applied as Position,
            history,
            alone: self.alone,
            gate_open: self.gate_open,
            lease_valid: self.lease_valid(now_ns),
            drained: self.drained && self.committed == self.log.len(),
            last_data_rx_ns: self.last_data_rx_ns,
            clone_level: true,
            fit: true,
            peer_acked: self.acked.iter().map(|(&id, &at)| (id, at as Position)).collect(),
        }
    }
}
