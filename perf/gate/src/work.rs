//! What is counted: the shipped data path over ports in memory.

use anyhow::{Result, bail, ensure};
use understudy_fastpath::ports::PortRole;

use crate::world::memory::MemoryPorts;
use crate::world::{Primary, client_frame, reply_frame};

/// Packets that are counted.
pub const PACKETS: usize = 20_000;
/// Packets before them: tables are there, the log's memory is touched.
const WARM_UP_PACKETS: usize = 4_000;
/// Packets on a ring at once.
const RING: usize = 2_000;

/// By name.
pub const CASES: [&str; 3] = ["capture-64", "capture-1500", "reply-64"];

/// Runs a case, warm-up and all; callgrind counts what is below [`counted_slice`].
///
/// # Errors
/// If there is no such case, or the data path loses a packet.
pub fn run(case: &str) -> Result<()> {
    let (port, frame) = match case {
        "capture-64" => (PortRole::Client, client_frame(64)?),
        "capture-1500" => (PortRole::Client, client_frame(1500)?),
        "reply-64" => (PortRole::Host, reply_frame(64)?),
        _ => bail!("no case {case}"),
    };
    let mut primary = Primary::new(MemoryPorts::new(RING + 1024))?;
    for _ in 0..WARM_UP_PACKETS / RING {
        primary.ports.prefill(port, &frame, RING);
        slice(&mut primary);
    }
    for _ in 0..PACKETS / RING {
        primary.ports.prefill(port, &frame, RING);
        counted_slice(&mut primary);
    }
    primary.poll();
    let through = (WARM_UP_PACKETS + PACKETS) as u64;
    let ports = &primary.ports;
    let seen = if port == PortRole::Client { ports.delivered } else { ports.replied };
    ensure!(seen == through, "{case}: {seen} packets of {through} came out");
    Ok(())
}

fn slice(primary: &mut Primary<MemoryPorts>) {
    while !primary.ports.is_drained() || !primary.is_replicated() {
        primary.poll();
    }
}

/// Callgrind finds it by its name.
#[inline(never)]
fn counted_slice(primary: &mut Primary<MemoryPorts>) {
    slice(primary);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_to_its_end() {
        CASES.into_iter().try_for_each(run).unwrap();
        assert!(run("nothing").is_err());
    }
}
