//! Supervision without IO: samples of what the service needs go in, changes and actions come out.
//!
//! A [`Supervisor`] is told what was seen of each resource, and now and then what this node is. A resource is
//! bad after `fall` bad samples in a row and good after `rise` good ones. What follows is its policy:
//!
//! | policy | primary | replica |
//! | --- | --- | --- |
//! | `alert` | told | told |
//! | `failover` | hands the service over, if another node is fit; else told | unfit: it stands only if no fit node lives |
//! | `restart` | hands over; without a fit node the application is started anew | unfit, and its clone is made anew |
//!
//! A service never goes to and fro: to a node whose own samples are bad nothing is handed over, and a reign that
//! began with a takeover lasts `failover_interval_ns` before supervision ends it. That needs no memory beyond a
//! life: whoever takes over knows when.

mod rule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use rule::{Cause, Fault, Key, Policy, RESOURCES, Resource, Rule, Rules};

/// Keys followed at most: every resource here, and some of each peer.
const KEYS_MAX: usize = 64;
const OUTPUTS_MAX: usize = 256;
const S: u64 = 1_000_000_000;
/// A handover that failed is tried again after this; doubled with each, up to the last.
const RETRY_FIRST_NS: u64 = 2 * S;
const RETRY_LAST_NS: u64 = 60 * S;
/// Between two fresh starts of one application; doubled with each, up to the last.
const RESTART_FIRST_NS: u64 = 30 * S;
const RESTART_LAST_NS: u64 = 900 * S;
/// Between two checkpoints for resources that turned bad.
const CHECKPOINT_INTERVAL_NS: u64 = 60 * S;

/// What this node is, for the policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Situation {
    /// It serves.
    Primary {
        /// Since when.
        since_ns: u64,
        /// It took the service over from another reign.
        took_over: bool,
        /// Another node is fit to take over.
        has_successor: bool,
    },
    /// It follows.
    Replica,
    /// Neither, or it is becoming something.
    #[default]
    Other,
}

/// What is to be told or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It has turned bad.
    Bad {
        /// What.
        key: Key,
        /// Why.
        fault: Fault,
    },
    /// It is good again.
    Good {
        /// What.
        key: Key,
        /// For how long it was bad.
        bad_ns: u64,
    },
    /// Whether this node is less fit to serve than one without bad resources.
    Impaired(bool),
    /// Hand the service over.
    Failover(Key),
    /// Start the application anew: the primary's for want of a fit node, or a clone.
    Restart(Key),
    /// The policy would be to hand over, and is not carried out now.
    Held {
        /// For what.
        key: Key,
        /// Why not.
        why: Hold,
    },
    /// A checkpoint would be of use, before it gets worse.
    Checkpoint(Key),
}

/// Why a service is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// This reign began with a takeover a moment ago: so long yet.
    Young {
        /// Until it may end.
        left_ns: u64,
    },
    /// Nobody else is fit.
    NoSuccessor,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Bad or good samples in a row, against the present state.
    run: u32,
    bad: Option<Badness>,
}

#[derive(Clone, Debug)]
struct Badness {
    since_ns: u64,
    fault: Fault,
    /// Which reasons for holding have been told: young, no successor.
    held_told: [bool; 2],
}

/// A resource that is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadView {
    /// What.
    pub key: Key,
    /// Why, as last seen.
    pub fault: Fault,
    /// Since when.
    pub since_ns: u64,
    /// What is done about it.
    pub policy: Policy,
}

/// All that is supervised on a node.
#[derive(Clone, Debug)]
pub struct Supervisor {
    rules: Rules,
    failover_interval_ns: u64,
    states: BTreeMap<Key, State>,
    impaired: bool,
    attempt_at_ns: u64,
    attempts: u32,
    restart_at_ns: u64,
    restarts: u32,
    checkpoint_at_ns: u64,
    outputs: VecDeque<Output>,
    /// Outputs for which there was no room.
    lost: u64,
}

impl Supervisor {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(rules: Rules, failover_interval_ns: u64) -> Self {
        Self {
            rules,
            failover_interval_ns,
            states: BTreeMap::new(),
            impaired: false,
            attempt_at_ns: 0,
            attempts: 0,
            restart_at_ns: 0,
            restarts: 0,
            checkpoint_at_ns: 0,
            outputs: VecDeque::new(),
            lost: 0,
        }
    }

    /// Goes on by other rules. What is bad stays so until `rise` good samples; what is done about it is
    /// what the rules say now.
    pub fn set_rules(&mut self, rules: Rules, failover_interval_ns: u64) {
        (self.rules, self.failover_interval_ns) = (rules, failover_interval_ns);
        self.note_impaired();
    }

    /// A resource was looked at.
    pub fn sample(&mut self, now_ns: u64, key: Key, seen: Result<(), Fault>) {
        if !self.states.contains_key(&key) && self.states.len() >= KEYS_MAX {
            self.lost += 1;
            return;
        }
        let rule = *self.rules.of(key.resource);
        let state = self.states.entry(key).or_default();
        match (seen, &mut state.bad) {
            (Ok(()), None) => state.run = 0,
            (Err(fault), Some(bad)) => {
                state.run = 0;
                bad.fault = fault;
            }
            (Err(fault), None) => {
                state.run += 1;
                if state.run >= rule.fall {
                    state.run = 0;
                    let bad =
                        Badness { since_ns: now_ns, fault: fault.clone(), held_told: [false; 2] };
                    state.bad = Some(bad);
                    self.turned_bad(now_ns, key, fault);
                }
            }
            (Ok(()), Some(bad)) => {
                state.run += 1;
                if state.run >= rule.rise {
                    let bad_ns = now_ns.saturating_sub(bad.since_ns);
                    *state = State::default();
                    self.put(Output::Good { key, bad_ns });
                    self.note_impaired();
                }
            }
        }
    }

    /// A resource is not looked at any more: nothing is known of it.
    pub fn forget(&mut self, key: Key) {
        if self.states.remove(&key).is_some_and(|state| state.bad.is_some()) {
            self.note_impaired();
        }
    }

    fn turned_bad(&mut self, now_ns: u64, key: Key, fault: Fault) {
        self.put(Output::Bad { key, fault });
        self.note_impaired();
        let policy = self.rules.of(key.resource).policy;
        if policy == Policy::Alert
            && key.resource.is_worth_a_checkpoint()
            && now_ns >= self.checkpoint_at_ns
        {
            self.checkpoint_at_ns = now_ns + CHECKPOINT_INTERVAL_NS;
            self.put(Output::Checkpoint(key));
        }
    }

    /// Whether a resource of this node that decides about its fitness is bad.
    #[must_use]
    pub fn is_impaired(&self) -> bool {
        self.bad().any(|bad| bad.key.is_own() && bad.policy != Policy::Alert)
    }

    fn note_impaired(&mut self) {
        let impaired = self.is_impaired();
        if impaired != self.impaired {
            self.impaired = impaired;
            self.put(Output::Impaired(impaired));
        }
        if !impaired {
            // What it was for is over: the next one is a new one.
            self.attempts = 0;
        }
    }

    /// Carries policies out, as far as the situation allows. To be called often, and after samples.
    pub fn act(&mut self, now_ns: u64, situation: Situation) {
        match situation {
            Situation::Primary { since_ns, took_over, has_successor } => {
                let Some(key) = self.first_to_act_on(now_ns, |_| true) else { return };
                let young_ns = match took_over {
                    true => (since_ns + self.failover_interval_ns).saturating_sub(now_ns),
                    false => 0,
                };
                if young_ns > 0 && !key.resource.is_the_data_path() {
                    return self.hold(key, Hold::Young { left_ns: young_ns });
                }
                self.act_as_primary(now_ns, key, has_successor);
            }
            Situation::Replica => {
                let anew = |rule: &Rule| rule.policy == Policy::Restart;
                if let Some(key) = self.first_to_act_on(now_ns, anew) {
                    self.restart(now_ns, key);
                }
            }
            Situation::Other => {}
        }
    }

    /// The first bad resource of this node whose policy is more than to tell.
    fn first_to_act_on(&self, now_ns: u64, also: impl Fn(&Rule) -> bool) -> Option<Key> {
        let acts = |bad: &BadView| {
            let rule = self.rules.of(bad.key.resource);
            bad.key.is_own()
                && bad.policy != Policy::Alert
                && !bad.key.resource.is_handed_over_by_the_node()
                && now_ns >= bad.since_ns + rule.settle_ns
                && also(rule)
        };
        self.bad().find(acts).map(|bad| bad.key)
    }

    fn act_as_primary(&mut self, now_ns: u64, key: Key, has_successor: bool) {
        if has_successor || key.resource.is_the_data_path() {
            if now_ns >= self.attempt_at_ns || self.attempts == 0 {
                let wait_ns = (RETRY_FIRST_NS << self.attempts.min(8)).min(RETRY_LAST_NS);
                self.attempt_at_ns = now_ns + wait_ns;
                self.attempts += 1;
                self.put(Output::Failover(key));
            }
            return;
        }
        match self.rules.of(key.resource).policy {
            Policy::Restart => self.restart(now_ns, key),
            _ => self.hold(key, Hold::NoSuccessor),
        }
    }

    fn restart(&mut self, now_ns: u64, key: Key) {
        if now_ns >= self.restart_at_ns {
            let wait_ns = (RESTART_FIRST_NS << self.restarts.min(8)).min(RESTART_LAST_NS);
            self.restart_at_ns = now_ns + wait_ns;
            self.restarts += 1;
            self.put(Output::Restart(key));
        }
    }

    /// Each reason is told once for each time that the resource turns bad.
    fn hold(&mut self, key: Key, why: Hold) {
        let Some(bad) = self.states.get_mut(&key).and_then(|state| state.bad.as_mut()) else {
            return;
        };
        let reason = usize::from(why == Hold::NoSuccessor);
        if !std::mem::replace(&mut bad.held_told[reason], true) {
            self.put(Output::Held { key, why });
        }
    }

    /// What is bad now.
    pub fn bad(&self) -> impl Iterator<Item = BadView> {
        self.states.iter().filter_map(|(key, state)| {
            let bad = state.bad.as_ref()?;
            Some(BadView {
                key: *key,
                fault: bad.fault.clone(),
                since_ns: bad.since_ns,
                policy: self.rules.of(key.resource).policy,
            })
        })
    }

    /// Whether this one is bad.
    #[must_use]
    pub fn is_bad(&self, key: Key) -> bool {
        self.states.get(&key).is_some_and(|state| state.bad.is_some())
    }

    /// How many resources are looked at.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.states.len()
    }

    /// The next thing to tell or do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Outputs and samples for which there was no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn put(&mut self, output: Output) {
        if self.outputs.len() < OUTPUTS_MAX {
            self.outputs.push_back(output);
        } else {
            self.lost += 1;
        }
    }
}
