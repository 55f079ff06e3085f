//! What is counted: the shipped data path over ports in memory.

use anyhow::{Result, bail, ensure};
use understudy_fastpath::ports::PortRole;

use crate::world::crowd::Crowd;
use crate::world::follower::Follower;
use crate::world::memory::MemoryPorts;
use crate::world::{Primary, client_frame, reply_frame};

/// Packets that are counted.
const PACKETS: usize = 20_000;
/// Packets before them: tables are there, the log's memory is touched.
const WARM_UP_PACKETS: usize = 4_000;
/// Packets on a ring at once.
const RING: usize = 2_000;
/// Connections: so few that tables are small, and so many as a node must carry.
const FEW: usize = 100;
const CROWD: usize = 10_000;

/// By name.
pub const CASES: [&str; 8] = [
    "capture-64",
    "capture-1500",
    "reply-64",
    "serve-64",
    "serve-crowd",
    "clone-64",
    "clone-crowd",
    "takeover-crowd",
];

/// Packets, or connections, that are counted in a case.
pub fn counted(case: &str) -> usize {
    if case == "takeover-crowd" { CROWD } else { PACKETS }
}

/// Runs a case, warm-up and all; callgrind counts what is below a function that [`counted_slice`] names.
///
/// # Errors
/// If there is no such case, or the data path loses a packet.
pub fn run(case: &str) -> Result<()> {
    match case {
        "capture-64" => forward(case, PortRole::Client, &client_frame(64)?),
        "capture-1500" => forward(case, PortRole::Client, &client_frame(1500)?),
        "reply-64" => forward(case, PortRole::Host, &reply_frame(64)?),
        "serve-64" => serve(FEW),
        "serve-crowd" => serve(CROWD),
        "clone-64" => follow(FEW),
        "clone-crowd" => follow(CROWD),
        "takeover-crowd" => take_over(),
        _ => bail!("no case {case}"),
    }
}

/// A primary is given frames, and passes them on.
fn forward(case: &str, port: PortRole, frame: &[u8]) -> Result<()> {
    let mut primary = Primary::new(MemoryPorts::new(RING + 1024))?;
    for _ in 0..WARM_UP_PACKETS / RING {
        primary.ports.prefill(port, frame, RING);
        slice(&mut primary);
    }
    for _ in 0..PACKETS / RING {
        primary.ports.prefill(port, frame, RING);
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

/// A primary's clients ask and are answered, one after the other, again and again.
fn serve(connections: usize) -> Result<()> {
    let mut primary = Primary::new(MemoryPorts::with_kernel(4 * connections + 4096))?;
    let mut crowd = Crowd::new(connections);
    for n in 0..connections {
        primary.ports.give(PortRole::Client, &crowd.syn(n))?;
        if n % RING == 0 {
            slice(&mut primary);
        }
    }
    slice(&mut primary);
    for counts in std::iter::once(false).chain(vec![true; PACKETS / connections]) {
        for frame in crowd.ask(64)? {
            primary.ports.give(PortRole::Client, &frame)?;
        }
        if counts { counted_slice(&mut primary) } else { slice(&mut primary) }
    }
    primary.poll();
    let through = ((PACKETS / connections + 2) * connections) as u64;
    let seen = primary.ports.replied;
    ensure!(seen == through, "{seen} answers of {through} came out");
    Ok(())
}

/// A clone's clients ask, one after the other, again and again.
fn follow(connections: usize) -> Result<()> {
    let mut clone = Follower::new(connections)?;
    clone.ask(64)?;
    clone.apply()?;
    for _ in 0..PACKETS / connections {
        clone.ask(64)?;
        counted_slice_of_clone(&mut clone)?;
    }
    Ok(())
}

/// Each client of a crowd waits for its answer.
fn take_over() -> Result<()> {
    let mut clone = Follower::new(CROWD)?;
    clone.ask(64)?;
    clone.apply()?;
    counted_slice_of_takeover(&mut clone)
}

#[inline(never)]
fn counted_slice_of_clone(clone: &mut Follower) -> Result<()> {
    clone.apply()
}

#[inline(never)]
fn counted_slice_of_takeover(clone: &mut Follower) -> Result<()> {
    clone.take_over()
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
