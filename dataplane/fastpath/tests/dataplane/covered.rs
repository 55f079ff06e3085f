//! Commit by checkpoint: what the application had said leaves once the replicas store it.

use super::*;
use understudy_fastpath::command::{Barrier, StoredCheckpoint, StoredCheckpoints};
use understudy_wire::record::{CheckpointRecord, RecordKind};

pub(super) fn record(barrier: &Barrier) -> CheckpointRecord {
    CheckpointRecord { position: barrier.position, at_ns: barrier.at_ns }
}

pub(super) fn stored(barrier: &Barrier) -> StoredCheckpoint {
    let reign = *barrier.history.last().expect("a reign");
    StoredCheckpoint { checkpoint: record(barrier), reign }
}

impl Rig {
    /// As the control plane: holds, dumps, goes on, and says that the checkpoint is whole.
    fn take_checkpoint(&mut self) -> Barrier {
        let barrier = self.held();
        self.order(Command::Release);
        self.order(Command::Checkpointed(record(&barrier)));
        barrier
    }

    fn stores(&mut self, barriers: &[&Barrier]) {
        let all: StoredCheckpoints = barriers.iter().map(|b| stored(b)).collect();
        self.order(Command::Stored(all));
    }

    fn held_position(&self) -> u64 {
        self.dp.snapshot(self.now_ns).held
    }
}

/// A pair whose primary has said a reply that no checkpoint covers.
fn replied() -> (Rig, Rig) {
    let (mut a, mut b) = trio_pair(CommitPolicy::Checkpoint);
    // A warm clone's node: nothing runs there.
    b.order(Command::Service { up: false });
    a.give(PortRole::Client, from_client(CLIENT_ISN, 0, SYN, b""));
    exchange(&mut a, &mut b, 5);
    a.give(PortRole::Host, from_server(SERVER_ISN, cli(0), SYN | ACK, 65535, b""));
    exchange(&mut a, &mut b, 5);
    let first = a.take_checkpoint();
    exchange(&mut a, &mut b, 5);
    b.stores(&[&first]);
    exchange(&mut a, &mut b, 5);
    assert_eq!(a.sent(PortRole::Client).len(), 1, "the handshake is covered");
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"request"));
    a.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    exchange(&mut a, &mut b, 10);
    assert!(a.sent(PortRole::Client).is_empty(), "its cause is committed, it is not covered");
    assert_eq!(b.held_position(), a.dp.log().end());
    (a, b)
}

#[test]
fn output_waits_until_a_checkpoint_that_covers_it_is_stored_elsewhere() {
    let (mut a, mut b) = replied();
    assert_eq!(a.dp.snapshot(a.now_ns).gate_uncovered, 1);
    let barrier = a.held();
    a.give(PortRole::Host, from_server(srv(5), cli(7), ACK, 500, b"more"));
    exchange(&mut a, &mut b, 5);
    a.order(Command::Release);
    a.order(Command::Checkpointed(record(&barrier)));
    exchange(&mut a, &mut b, 5);
    assert!(a.sent(PortRole::Client).is_empty(), "only this node stores it");
    let view = a.dp.snapshot(a.now_ns);
    assert!(view.cover_pending && view.gate_uncovered == 1);
    assert!(b.dp.snapshot(b.now_ns).checkpoint_lacking == Some(record(&barrier)));
    b.stores(&[&barrier]);
    exchange(&mut a, &mut b, 5);
    let frames = a.sent(PortRole::Client);
    assert_eq!(frames.len(), 1, "what was said after the barrier waits for the next");
    assert!(frames[0].ends_with(b"reply"));
    let next = a.take_checkpoint();
    b.stores(&[&barrier, &next]);
    exchange(&mut a, &mut b, 5);
    assert!(a.sent(PortRole::Client).iter().any(|f| f.ends_with(b"more")));
    assert!(!a.dp.snapshot(a.now_ns).cover_pending);
}

#[test]
fn who_lacks_the_checkpoint_holds_the_log_only_up_to_it() {
    let (mut a, mut b) = replied();
    let before = a.dp.log().end();
    let barrier = a.take_checkpoint();
    a.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"another"));
    exchange(&mut a, &mut b, 5);
    assert_eq!(b.dp.log().end(), a.dp.log().end(), "it has the bytes");
    assert_eq!(b.held_position(), before, "but could not bring back what clients may hear of");
    // One of the same position that was taken earlier is not the same.
    let earlier = Barrier { at_ns: barrier.at_ns - 1, ..barrier.clone() };
    b.stores(&[&earlier]);
    assert_eq!(b.held_position(), before);
    // A later one stands for it as soon as it is committed, not before.
    let later = Barrier { position: a.dp.log().end(), ..barrier.clone() };
    b.stores(&[&later]);
    exchange(&mut a, &mut b, 5);
    assert_eq!(b.held_position(), before);
    // What it leads with is what it holds.
    b.order(Command::Lead { epoch: 2, serve: false });
    assert_eq!(b.dp.log().history().last().map(|e| e.start), Some(before));
}

#[test]
fn a_checkpoint_of_a_reign_that_was_cut_off_stands_for_nothing() {
    let (mut a, mut b) = replied();
    let cut = a.dp.log().end();
    a.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"never committed"));
    a.poll();
    a.poll();
    let lost = a.held();
    assert!(lost.position > cut);
    a.sent(PortRole::Replica);
    // Another node leads; what it records lies where the old reign had gone on.
    let mut c = Rig::new(3, CommitPolicy::Checkpoint);
    c.now_ns = a.now_ns;
    acquaint(&mut b, &mut c);
    let log = b.dp.log();
    let (bytes, history) = (log.bytes(0, cut).unwrap().to_vec(), log.history().clone());
    assert_eq!(history.len(), 1);
    b.order(Command::Lead { epoch: 2, serve: true });
    b.order(Command::Service { up: true });
    b.stand_still(200);
    c.now_ns = b.now_ns;
    c.order(Command::Follow { epoch: 2, primary: 2, cut: 0 });
    c.stores(&[&lost]);
    exchange(&mut b, &mut c, 60);
    assert_eq!(c.dp.log().bytes(0, cut), Some(&bytes[..]));
    let first = c.held_position();
    assert!(first < cut, "it has none of the checkpoints of this history");
    let of_now = b.take_checkpoint();
    assert!(of_now.position > cut);
    exchange(&mut b, &mut c, 10);
    assert_eq!(c.held_position(), first);
    c.stores(&[&lost, &of_now]);
    exchange(&mut b, &mut c, 10);
    assert_eq!(c.held_position(), b.dp.log().end());
}

#[test]
fn what_clients_sent_after_a_checkpoint_that_was_lost_is_captured_anew() {
    let (mut a, mut b) = replied();
    let cut = a.dp.log().end();
    a.take_checkpoint();
    a.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"another"));
    a.give(PortRole::Client, from_client(cli(14), srv(0), ACK, b"and more"));
    exchange(&mut a, &mut b, 5);
    b.order(Command::Service { up: true });
    b.order(Command::Lead { epoch: 2, serve: true });
    for _ in 0..600 {
        b.poll();
    }
    let log = b.dp.log();
    let mut payloads = Vec::new();
    let mut at = cut;
    while let Some(record) = log.record(at) {
        if record.header.kind == RecordKind::ClientFrame {
            payloads.push(record.payload.to_vec());
        }
        at = record.next;
    }
    let at = |end: &[u8]| payloads.iter().position(|p| p.ends_with(end)).expect("in the log");
    assert!(at(b"another") < at(b"and more"));
    assert_eq!(payloads.len(), 2, "each once");
}

#[test]
fn a_new_reign_is_followed_from_what_is_held_in_full() {
    let (mut a, mut b) = replied();
    let held = a.dp.log().end();
    a.take_checkpoint();
    a.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"another"));
    exchange(&mut a, &mut b, 5);
    assert!(b.dp.log().end() > held);
    // Who decides where the histories part knows only of what is held.
    b.order(Command::Follow { epoch: 2, primary: 3, cut: u64::MAX });
    assert_eq!(b.dp.log().end(), held);
}
