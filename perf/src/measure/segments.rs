//! What a capture-only node's writer takes: records from memory into segments on disk.

use std::time::Instant;

use anyhow::{Result, ensure};
use understudy_segments::{Limits, SegmentInfo, Store};
use understudy_wire::record::{LinkFrame, RecordHeader, RecordKind};

use super::{Plan, scratch};
use crate::findings::Findings;
use crate::stats::Spread;

/// What it is.
pub const ABOUT: &str = "Records per second, and bits of frames, that the thread which writes segments \
    takes on one CPU: each frame's keys are found, each block is checksummed, its Bloom filter made, \
    and all of it written through the page cache (tmpfs or disk, wherever the scratch directory \
    is; forcing it to the disk is another thread's). Of 4096 UDP flows in turn, and with every \
    frame of a flow of its own, which is the worst there is for the index.";

const BATCH_RECORDS: usize = 1024;
const SLICES: usize = 10;
const SLICE_BATCHES: usize = 200;
const MB: u64 = 1 << 20;

/// Runs it.
///
/// # Errors
/// If a segment cannot be written.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    for (len, flows) in [(64, 4096), (64, u32::MAX), (1500, 4096)] {
        let name = if flows == u32::MAX { "each another flow" } else { "4096 flows" };
        let mpps = slices(plan, len, flows)?;
        let gbps = mpps.iter().map(|mpps| mpps * len as f64 * 8.0 / 1000.0).collect::<Vec<_>>();
        let short = if flows == u32::MAX { "worst" } else { "flows" };
        let what = format!("{len} B frames, {name}");
        let (mpps, gbps) = (Spread::of(mpps.into_iter()), Spread::of(gbps.into_iter()));
        let samples = plan.count(SLICES, 2);
        findings.figure(&format!("segments/{len}-{short}"), &what, "million/s", mpps, samples);
        findings.figure(&format!("segments/{len}-{short}-bits"), &what, "Gbit/s", gbps, samples);
    }
    Ok(())
}

fn slices(plan: &Plan, len: usize, flows: u32) -> Result<Vec<f64>> {
    let dir = scratch(plan, "segments")?;
    let limits = Limits {
        segment_bytes: 64 * MB,
        block_bytes: 512 * 1024,
        keep_bytes: 512 * MB,
        keep_ns: 0,
        flush_ns: u64::MAX / 2,
        direct: false,
    };
    let (mut store, _) = Store::open(&dir, limits, SegmentInfo::default())?;
    let (mut batch, stored) = batch(len);
    let (mut flow, mut position, mut out) = (0u32, 0, Vec::new());
    for slice in 0..plan.count(SLICES, 2) + 1 {
        let mut spent_ns = 0;
        for _ in 0..SLICE_BATCHES {
            for record in batch.chunks_exact_mut(stored) {
                // The source address: behind record header, link header and the frame's first 26 bytes.
                record[58..62].copy_from_slice(&(flow % flows).to_be_bytes());
                flow = flow.wrapping_add(1);
            }
            let begun = Instant::now();
            store.records(position, &batch, 0);
            spent_ns += begun.elapsed().as_nanos();
            position += batch.len() as u64;
        }
        let records = (SLICE_BATCHES * BATCH_RECORDS) as f64;
        // The first one makes the files.
        if slice > 0 {
            out.push(records * 1000.0 / spent_ns as f64);
        }
    }
    let kept = store.catalogue().kept();
    ensure!(kept.failures == 0, "it could not write: {:?}", kept.failed_because);
    store.close(0);
    std::fs::remove_dir_all(&dir)?;
    Ok(out)
}

/// Records of UDP frames, and the bytes of each.
fn batch(len: usize) -> (Vec<u8>, usize) {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 50, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([4, 0, 0, 53, 0, 30, 0, 0]);
    frame.resize(len, 7);
    let head = LinkFrame { wire_len: len as u32, link: 0, device_ns: None };
    let payload = [&head.encode()[..], &frame].concat();
    let kind = RecordKind::LinkFrame;
    let header = RecordHeader { len: payload.len() as u32, kind, timestamp_ns: 1 };
    let mut record = [&header.encode()[..], &payload].concat();
    record.resize(header.stored_len(), 0);
    let stored = record.len();
    (record.repeat(BATCH_RECORDS), stored)
}
