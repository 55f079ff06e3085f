//! What a checkpoint costs, beside plain CRIU: see perf/README.md.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use understudy_perf::checkpoint::{self, Outcome, Plan};
use understudy_perf::paired::Spread;

/// Milliseconds of checkpoints of a real redis, and of plain `criu dump` and `criu restore`.
#[derive(Parser)]
struct Options {
    /// One JSON document instead of text.
    #[arg(short, long)]
    json: bool,
    /// Data in redis, in MB.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 50])]
    data_mb: Vec<usize>,
    /// Live connections.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Dumps and restores of each kind, in turn.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (connections, pairs) = (options.connections, options.pairs.max(1));
    let mut outcomes = Vec::new();
    for &data_mb in &options.data_mb {
        let dir = tempfile::tempdir()?;
        outcomes.push(checkpoint::run(Plan { data_mb, connections, pairs }, dir.path())?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        outcomes.iter().for_each(print);
    }
    Ok(())
}

fn print(o: &Outcome) {
    let Plan { data_mb, connections, pairs } = o.plan;
    println!(
        "redis, {data_mb} MB of data, {connections} connections, {pairs} pairs, CRIU {}",
        o.criu
    );
    let row = |name: &str, s: &Spread| {
        println!("  {name:<28}{:>8.1} ms  ({:.1} .. {:.1})", s.median, s.min, s.max);
    };
    row("frozen", &o.frozen_ms);
    row("dump", &o.dump_ms);
    row("criu dump", &o.plain_dump_ms);
    row("kept: checksums, fsync", &o.keep_ms);
    row("restore, clocks set", &o.restore_ms);
    row("criu restore", &o.plain_restore_ms);
    let mb = o.bytes as f64 / 1e6;
    println!("  {:<28}{mb:>8.1} MB, {:.0} MB/s dumped", "size", mb * 1e3 / o.dump_ms.median);
}
