//! What the audit costs an output frame: the same frames parsed, with and without their digest.
//!
//! The baseline parses each segment, which the data path does anyway; the subject digests it as well,
//! and writes the notes that are due. Connections take turns, so that their entries are not all in
//! the nearest cache.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use understudy_fastpath::audit::Auditor;
use understudy_fastpath::counters::Counters;
use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
use understudy_wire::tcp::{ACK, FlowKey, Segment, build_segment};

use crate::noise::Watched;
use crate::paired;
use crate::stats::Spread;

/// Pairs that are run and not counted.
const WARM_UP_PAIRS: usize = 5;
const CONNECTIONS: usize = 256;
const FRAMES: usize = 4096;
/// The clock moves this much with each frame.
const FRAME_NS: u64 = 10_000;
/// Of the log, that the cause of each frame takes.
const CAUSE_LEN: u64 = 96;

/// What was found for one length of frame.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the audit adds to an output frame, per pair, in nanoseconds.
    pub audit_ns: Spread,
    /// Notes written per output frame.
    pub notes_per_frame: f64,
}

struct Bench {
    auditor: Auditor,
    counters: Counters,
    frames: Vec<Vec<u8>>,
    sequence: Vec<u32>,
    now_ns: u64,
    log_end: u64,
}

/// Measures frames of `frame_len` bytes, in `pairs` pairs.
///
/// # Errors
/// If there is nothing to run, or not every frame was digested.
pub fn run(frame_len: usize, pairs: usize) -> Result<Outcome> {
    ensure!(pairs > 0 && frame_len > 54, "there is nothing to run");
    let mut bench = Bench::new(frame_len - 54);
    let (own, nobody) = (Watched::ThisThread, Watched::Nobody);
    paired::run(WARM_UP_PAIRS, &nobody, &mut bench, Bench::parse_slice, Bench::audit_slice)?;
    let before = bench.counters.audit_notes;
    let measured = paired::run(pairs, &own, &mut bench, Bench::parse_slice, Bench::audit_slice)?;
    let slices = measured.kept.len() + measured.discarded.total() as usize;
    let c = &bench.counters;
    ensure!(c.audit_gaps + c.audit_evicted == 0, "not every frame was digested: {c:?}");
    ensure!(c.audit_notes > before, "nothing was noted");
    Ok(Outcome {
        audit_ns: measured.added(),
        notes_per_frame: (c.audit_notes - before) as f64 / (slices * FRAMES) as f64,
    })
}

impl Bench {
    fn new(payload_len: usize) -> Bench {
        let eth = Ethernet { dst: [2; 6], src: [4; 6], ethertype: ETHERTYPE_IPV4 };
        let service = ([10, 77, 0, 100].into(), 6379);
        let client = |i: usize| ([10, 77, 0, 1].into(), 20000 + i as u16);
        let payload = vec![0x5a; payload_len];
        let frame = |i| build_segment(&eth, service, client(i), (0, 1, ACK, 512), &[], &payload);
        let mut bench = Bench {
            auditor: Auditor::new([7; 16], 1024),
            counters: Counters::default(),
            frames: (0..CONNECTIONS).map(frame).collect(),
            sequence: vec![0; CONNECTIONS],
            now_ns: 0,
            log_end: 0,
        };
        bench.auditor.serve(0, 0);
        for i in 0..CONNECTIONS {
            let key = FlowKey { client: client(i), server: service };
            bench.auditor.open(0, &key, 0, &mut bench.counters);
        }
        bench
    }

    /// Nanoseconds per frame of both: the sequence numbers move in both, by what was digested.
    fn slice(&mut self, audit: bool) -> f64 {
        let begun = Instant::now();
        for n in 0..FRAMES {
            let i = n % CONNECTIONS;
            let frame = &mut self.frames[i];
            frame[38..42].copy_from_slice(&self.sequence[i].to_be_bytes());
            let Some(segment) = black_box(Segment::parse(frame)) else { continue };
            if audit {
                self.now_ns += FRAME_NS;
                self.log_end += CAUSE_LEN;
                self.sequence[i] = segment.seq_end();
                self.auditor.said(self.now_ns, &segment, frame, &mut self.counters);
                black_box(self.auditor.note(self.now_ns, self.log_end, &mut self.counters));
            }
        }
        begun.elapsed().as_nanos() as f64 / FRAMES as f64
    }

    fn parse_slice(&mut self) -> Result<f64> {
        Ok(self.slice(false))
    }

    fn audit_slice(&mut self) -> Result<f64> {
        Ok(self.slice(true))
    }
}
