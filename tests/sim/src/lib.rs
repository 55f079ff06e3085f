//! Whole clusters in one thread, as a function of a seed.
//!
//! Every node is the shipped data path over queues and the shipped control plane, joined as the
//! daemon joins them; capsule, networks, disks, clocks and clients are models. What must hold is
//! checked at every step. A failure names its seed, and the seed replays it.
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod check;
pub mod client;
pub mod control;
pub mod course;
pub mod director;
pub mod disk;
pub mod frames;
pub mod group;
pub mod kernel;
pub mod machine;
pub mod net;
pub mod ports;
pub mod rng;
pub mod scenario;
pub mod session;
pub mod sweep;
pub mod tamper;
pub mod tcb;
pub mod udp;
pub mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::ValueEnum;
use rng::Rng;
use scenario::{Mutation, Profile, Scenario};
use world::World;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The broken promise, if any.
    pub violation: Option<String>,
    /// What happened last.
    pub trace: Vec<String>,
    /// Depends on everything that happened.
    pub digest: u64,
    /// Events handled.
    pub steps: u64,
    /// How long it was, in simulated time.
    pub simulated_ns: u64,
    /// Connections from SYN to both FINs, replies, bytes compared, longest stall.
    pub ledger: client::Ledger,
    /// Frames that left client ports.
    pub released: u64,
    /// Connections that clones adopted.
    pub adopted: u64,
    /// Digests that clones compared with their output, and found the same.
    pub audited: u64,
    /// Events of the time lines, counted.
    pub notes: BTreeMap<String, u64>,
}

/// Seeds that each run of the tests goes through, and within which planted bugs must be caught.
pub const SEEDS_TESTED: u64 = 900;

/// The profile of a seed when they take turns.
pub fn profile_of(seed: u64) -> Profile {
    let all = Profile::value_variants();
    all[(seed % all.len() as u64) as usize]
}

/// Runs a seed.
pub fn run(seed: u64, profile: Profile, mutation: Mutation, verbose: bool) -> Outcome {
    let salt = profile as u64 + 1;
    let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(salt << 48));
    let scenario = Scenario::new(seed, profile, mutation, &mut rng);
    if verbose {
        println!("{scenario:#?}");
    }
    let mut world = World::new(scenario, rng, verbose);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = ended {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
        world.violate(format!("panic: {}", text.unwrap_or_default()));
    }
    outcome(world)
}

fn outcome(world: World) -> Outcome {
    let mut ledger = client::Ledger::default();
    for host in &world.hosts {
        ledger.add(&host.ledger);
    }
    let lives = world.machines.iter().filter_map(|m| m.life.as_ref());
    Outcome {
        audited: lives.clone().map(|l| l.dp.counters().audit_same).sum(),
        adopted: lives.map(|l| l.kernel.adopted).sum(),
        violation: world.violation,
        trace: world.trace.into(),
        digest: world.digest,
        steps: world.steps,
        simulated_ns: world.now_ns,
        ledger,
        released: world.truth.frames_released,
        notes: world.notes,
    }
}
