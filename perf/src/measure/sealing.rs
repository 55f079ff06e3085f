//! What sealing costs a PDU: the same PDU made with and without it.
//!
//! The baseline copies the log's bytes behind room for the header and writes a header; the subject
//! seals that as well. Opening is timed against copying the sealed bytes, which it needs because it
//! works in place. Channels and sizes are those of the capture benchmark.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use understudy_seal::Channel;
use understudy_wire::pdu::{
    PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PduHeader, PduKind, Sealing, TARGET_ALL,
};

use crate::noise::Watched;
use crate::paired;
use crate::stats::Spread;
use understudy_perf_gate::world::{ME, REPLICAS, channel};

/// Pairs that are run and not counted.
const WARM_UP_PAIRS: usize = 5;
/// PDUs of a slice; their sealed forms are kept for opening.
const PDUS: usize = 512;

/// What was found for one length of body.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Bytes of the body.
    pub body_len: usize,
    /// What sealing adds to a PDU, per pair, in nanoseconds.
    pub seal_ns: Spread,
    /// What opening adds to a PDU, per pair, in nanoseconds.
    pub open_ns: Spread,
}

struct Bench {
    sender: Channel,
    receiver: Channel,
    body: Vec<u8>,
    pdu: Vec<u8>,
    sealed: Vec<Vec<u8>>,
}

/// Measures PDUs with a body of `body_len` bytes, in `pairs` pairs.
///
/// # Errors
/// If there is nothing to run, or a PDU does not open.
pub fn run(body_len: usize, pairs: usize) -> Result<Outcome> {
    ensure!(pairs > 0 && body_len <= 9000, "there is nothing to run");
    let mut bench = Bench {
        sender: channel(ME),
        receiver: channel(REPLICAS[0]),
        body: vec![0x5a; body_len],
        pdu: vec![0; body_len + PDU_OVERHEAD_LEN],
        sealed: Vec::with_capacity(PDUS),
    };
    bench.acquaint();
    let own = Watched::ThisThread;
    paired::run(WARM_UP_PAIRS, &Watched::Nobody, &mut bench, Bench::make_slice, Bench::seal_slice)?;
    let sealing = paired::run(pairs, &own, &mut bench, Bench::make_slice, Bench::seal_slice)?;
    let before = bench.receiver.counters().opened;
    let opening = paired::run(pairs, &own, &mut bench, Bench::copy_slice, Bench::open_slice)?;
    let opened = bench.receiver.counters().opened - before;
    let slices = opening.kept.len() as u64 + opening.discarded.total();
    ensure!(opened == slices * PDUS as u64, "{opened} PDUs opened of {}", slices * PDUS as u64);
    Ok(Outcome { body_len, seal_ns: sealing.added(), open_ns: opening.added() })
}

impl Bench {
    /// The receiver accepts the sender's session.
    fn acquaint(&mut self) {
        self.seal();
        let _ = self.receiver.open_in_place(0, &mut self.pdu);
        while let Some(mut challenge) = self.receiver.poll_handshake(0) {
            let _ = self.sender.open_in_place(0, &mut challenge.pdu);
        }
        while let Some(mut proof) = self.sender.poll_handshake(0) {
            let _ = self.receiver.open_in_place(0, &mut proof.pdu);
        }
    }

    fn fill(&mut self) {
        let body = &mut self.pdu[PDU_HEADER_LEN..][..self.body.len()];
        body.copy_from_slice(black_box(&self.body));
    }

    fn seal(&mut self) {
        self.fill();
        let sealed = self.sender.seal_in_place(PduKind::Data, TARGET_ALL, 1, &mut self.pdu);
        sealed.expect("a PDU that fits");
    }

    fn make_slice(&mut self) -> Result<f64> {
        let cluster = self.sender.cluster();
        let header = PduHeader {
            kind: PduKind::Data,
            node: ME,
            target: TARGET_ALL,
            cluster,
            epoch: 1,
            stream: 0,
        };
        let begun = Instant::now();
        for counter in 0..PDUS as u64 {
            self.fill();
            let sealing = Sealing { key: 1, session: 2, counter };
            let head = header.encode(self.body.len(), &sealing);
            self.pdu[..PDU_HEADER_LEN].copy_from_slice(&head);
            black_box(&self.pdu);
        }
        Ok(per_pdu(begun))
    }

    fn seal_slice(&mut self) -> Result<f64> {
        let begun = Instant::now();
        for _ in 0..PDUS {
            self.seal();
            black_box(&self.pdu);
        }
        Ok(per_pdu(begun))
    }

    /// Makes what both slices of opening begin with. Not timed.
    fn prepare(&mut self) {
        self.sealed.clear();
        for _ in 0..PDUS {
            self.seal();
            self.sealed.push(self.pdu.clone());
        }
    }

    fn copy_slice(&mut self) -> Result<f64> {
        self.prepare();
        let begun = Instant::now();
        for sealed in &self.sealed {
            self.pdu.copy_from_slice(sealed);
            black_box(&self.pdu);
        }
        Ok(per_pdu(begun))
    }

    fn open_slice(&mut self) -> Result<f64> {
        self.prepare();
        let begun = Instant::now();
        for sealed in &self.sealed {
            self.pdu.copy_from_slice(sealed);
            let _ = black_box(self.receiver.open_in_place(1, &mut self.pdu));
        }
        Ok(per_pdu(begun))
    }
}

fn per_pdu(begun: Instant) -> f64 {
    begun.elapsed().as_nanos() as f64 / PDUS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_what_it_says() {
        for body_len in [0, 104, 1436] {
            let outcome = run(body_len, 3).unwrap();
            assert!(outcome.seal_ns.median > 0.0 && outcome.open_ns.median > 0.0, "{outcome:?}");
        }
        assert!(run(100, 0).is_err() && run(9001, 1).is_err());
    }
}
