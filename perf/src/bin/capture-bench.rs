//! What capture costs per packet, beside only moving the packet: see perf/README.md.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use understudy_perf::capture::{self, Outcome, Plan};
use understudy_perf::paired::Spread;

/// Nanoseconds per packet of the primary's capture path, without a network card.
#[derive(Parser)]
struct Options {
    /// One JSON document instead of text.
    #[arg(short, long)]
    json: bool,
    /// Lengths of client frames, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1500])]
    frame_len: Vec<usize>,
    /// Pairs of slices per length.
    #[arg(long, default_value_t = 200)]
    pairs: usize,
    /// Frames in a slice.
    #[arg(long, default_value_t = 4096)]
    slice_frames: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (slice_frames, pairs) = (options.slice_frames, options.pairs);
    if cfg!(debug_assertions) {
        eprintln!("capture-bench: not a release build, the numbers mean little");
    }
    let plans = options.frame_len.iter().map(|&frame_len| Plan { frame_len, slice_frames, pairs });
    let outcomes = plans.map(|plan| capture::run(&plan)).collect::<Result<Vec<_>>>()?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        outcomes.iter().for_each(print);
    }
    Ok(())
}

fn print(outcome: &Outcome) {
    let Plan { frame_len, slice_frames, pairs } = outcome.plan;
    let pages = if outcome.huge_pages { "huge" } else { "ordinary" };
    println!("{frame_len} B frames, {pairs} pairs of {slice_frames}, log in {pages} pages");
    let row = |name: &str, unit: &str, s: &Spread| {
        println!("  {name:<28}{:>8.1}{unit}  ({:.1} .. {:.1})", s.median, s.min, s.max);
    };
    row("move only", " ns", &outcome.baseline_ns);
    row("capture, log, replicate", " ns", &outcome.capture_ns);
    row("added, by pairs", " ns", &outcome.added_ns);
    row("ratio, by pairs", "x  ", &outcome.ratio);
    println!("  {:<28}{:>8.3}", "DATA PDUs per frame", outcome.pdus_per_frame);
    println!("  {:<28}{:>8} B", "their bodies, on average", outcome.body_len);
    row("sealing a PDU, by pairs", " ns", &outcome.sealing.seal_ns);
    row("opening a PDU, by pairs", " ns", &outcome.sealing.open_ns);
    let per_packet = outcome.sealing.seal_ns.median * outcome.pdus_per_frame;
    println!("  {:<28}{per_packet:>8.1} ns", "sealing, per packet");
    row("auditing an output frame", " ns", &outcome.auditing.audit_ns);
    println!("  {:<28}{:>8.4}", "notes per output frame", outcome.auditing.notes_per_frame);
}
