//! Every state that a small group can reach within bounds, over the shipped state machines.
//!
//! The control plane is `understudy_proto::Node`; what is committed, acknowledged and leased is decided by the shipped
//! `Sender` and `Receiver` on a shipped `CaptureLog`. The model is only what surrounds them: networks, disks, clocks,
//! clients, and an arbiter that follows `understudy_proto::arbiter`.
#![forbid(unsafe_code)]

pub mod check;
pub mod machine;
pub mod plane;
pub mod scope;
mod tell;
pub mod world;

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use scope::Scope;
use world::{Action, World};

/// A group within its bounds, as stateright explores it.
#[derive(Clone, Debug)]
pub struct Group {
    /// The bounds.
    pub scope: Scope,
}

impl Model for Group {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.scope)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        Some(state.step(&self.scope, &action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        check::properties(self)
    }
}

/// What an exploration found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Transitions taken.
    pub transitions: usize,
    /// Different states.
    pub states: usize,
    /// Steps of the longest path.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Properties that do not hold, each with the steps that show it.
    pub violations: Vec<(&'static str, Vec<String>)>,
    /// What was to be reached and was not.
    pub unreached: Vec<&'static str>,
    /// The search ended before everything was explored.
    pub cut_short: bool,
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads.
    pub threads: usize,
    /// The search ends, incomplete, after so many transitions.
    pub transitions_max: usize,
    /// End with the first violation.
    pub stop_at_violation: bool,
}

/// Explores a group.
#[must_use]
pub fn explore(scope: Scope, limits: Limits) -> Found {
    let begun = Instant::now();
    let mut builder = Group { scope }
        .checker()
        .threads(limits.threads)
        .target_state_count(limits.transitions_max);
    if limits.stop_at_violation {
        builder = builder.finish_when(HasDiscoveries::AnyFailures);
    }
    let checker = builder.spawn_bfs().join();
    let mut found = Found {
        transitions: checker.state_count(),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: begun.elapsed(),
        cut_short: checker.state_count() >= limits.transitions_max,
        ..Found::default()
    };
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        match (property.expectation, discoveries.get(property.name)) {
            (Expectation::Sometimes, None) => found.unreached.push(property.name),
            (Expectation::Always, Some(path)) => {
                found.violations.push((property.name, steps(path.clone().into_vec())));
            }
            _ => {}
        }
    }
    found
}

/// A path in words.
fn steps(path: Vec<(World, Option<Action>)>) -> Vec<String> {
    let told = path.iter().filter_map(|(world, action)| {
        action
            .as_ref()
            .map(|action| format!("{:>5} ms  {}", world.elapsed_ms(), world.tell(action)))
    });
    told.collect()
}
