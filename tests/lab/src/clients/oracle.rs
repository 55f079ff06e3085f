//! Redis asked for what it cannot say twice: identifiers made of the time, members taken at random,
//! the time itself. What it said once it must stand by.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::wire::Wire;
use super::{Control, QUIET, REPLY_TIMEOUT, Task, resp};
use crate::ledger::Verdict;
use crate::pattern::Rng;

/// Members of a set from which it takes at random.
const MEMBERS: usize = 64;
/// Newest entries that are asked for again.
const RECALLED: usize = 4;

/// What all connections were told of the stream that they share: (id, value).
pub type Told = Arc<Mutex<Vec<(String, String)>>>;

/// One connection that asks in rounds: what is new, then what it was told before.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// The service.
    pub target: SocketAddr,
    /// For keys of its own.
    pub name: String,
    /// Shared with the others.
    pub told: Told,
    /// Time between two rounds.
    pub pause: Duration,
    /// Of the choice of what is recalled.
    pub seed: u64,
}

/// What this connection was told.
struct Memory {
    rng: Rng,
    /// Of its own stream: (id, value).
    entries: Vec<(String, String)>,
    members: BTreeSet<String>,
    taken: Option<String>,
    time_us: u64,
}

impl Oracle {
    /// Asks until stopped.
    pub fn start(self, netns: &Path) -> Result<Task> {
        let name = format!("oracle connection ({})", self.name);
        Task::start(netns, &name, move |control, verdict| {
            let mut wire = Wire::connect(self.target, REPLY_TIMEOUT)?;
            let outcome = self.run(&mut wire, control, verdict);
            verdict.ledgers.push(wire.ledger);
            outcome
        })
    }

    fn run(&self, wire: &mut Wire, control: &Control, verdict: &mut Verdict) -> Result<()> {
        let mut memory = Memory {
            rng: Rng::new(self.seed),
            entries: Vec::new(),
            members: BTreeSet::new(),
            taken: None,
            time_us: 0,
        };
        for round in 0.. {
            if control.is_stopped() {
                break;
            }
            self.ask(wire, &mut memory, round).with_context(|| format!("round {round}, new"))?;
            self.recall(wire, &mut memory)
                .with_context(|| format!("round {round}, told before"))?;
            verdict.reply();
            control.advance(1);
            control.pause(self.pause);
        }
        verdict.count("entries", memory.entries.len() as u64);
        wire.quiet(QUIET).context("after the last reply")
    }

    /// Everything is sent at once, so that a round takes one wait for a checkpoint.
    fn ask(&self, wire: &mut Wire, memory: &mut Memory, round: u64) -> Result<()> {
        let (stream, set) = (format!("{}:stream", self.name), format!("{}:set", self.name));
        let value = format!("{}-{round}", self.name);
        let mut bytes = Vec::new();
        let refill = memory.members.is_empty();
        if refill {
            memory.members = (0..MEMBERS).map(|n| format!("{value}-{n}")).collect();
            let words = ["SADD", &set].into_iter().chain(memory.members.iter().map(String::as_str));
            bytes.extend(resp::command(&words.collect::<Vec<_>>()));
        }
        for words in [
            &["XADD", &stream, "*", "v", &value][..],
            &["SPOP", &set],
            &["XADD", "shared", "*", "v", &value],
            &["TIME"],
        ] {
            bytes.extend(resp::command(words));
        }
        wire.send(&bytes)?;
        if refill {
            let added = wire.reply(REPLY_TIMEOUT)?;
            ensure!(added == resp::integer(MEMBERS as u64), "SADD: {added:?}");
        }
        memory.entries.push((one_string(wire)?, value.clone()));
        let member = one_string(wire)?;
        ensure!(memory.members.remove(&member), "SPOP gave {member}, which is not in the set");
        memory.taken = Some(member);
        let id = one_string(wire)?;
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push((id, value));
        let time_us = time_us(&wire.reply(REPLY_TIMEOUT)?)?;
        ensure!(time_us >= memory.time_us, "the time ran back by {} us", memory.time_us - time_us);
        memory.time_us = time_us;
        Ok(())
    }

    fn recall(&self, wire: &mut Wire, memory: &mut Memory) -> Result<()> {
        let (stream, set) = (format!("{}:stream", self.name), format!("{}:set", self.name));
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, value) = told[memory.rng.below(told.len() as u64) as usize].clone();
        drop(told);
        let newest = memory.entries.iter().rev().take(RECALLED);
        let newest: Vec<Vec<u8>> = newest.map(|(id, value)| entry(id, value)).collect();
        let taken = memory.taken.as_deref().unwrap_or_default();
        let count = RECALLED.to_string();
        let questions: [(&[&str], Vec<u8>); 5] = [
            (&["XREVRANGE", &stream, "+", "-", "COUNT", &count], resp::array(&newest)),
            (&["XLEN", &stream], resp::integer(memory.entries.len() as u64)),
            (&["XRANGE", "shared", &id, &id], resp::array(&[entry(&id, &value)])),
            (&["SISMEMBER", &set, taken], resp::integer(0)),
            (&["SCARD", &set], resp::integer(memory.members.len() as u64)),
        ];
        let bytes: Vec<u8> = questions.iter().flat_map(|(words, _)| resp::command(words)).collect();
        wire.send(&bytes)?;
        for (words, expected) in questions {
            let reply = wire.reply(REPLY_TIMEOUT)?;
            if reply != expected {
                let (expected, reply) = (expected.escape_ascii(), reply.escape_ascii());
                bail!("{}: expected {expected}, got {reply}", words.join(" "));
            }
        }
        Ok(())
    }
}

/// An entry of a stream as a reply.
fn entry(id: &str, value: &str) -> Vec<u8> {
    resp::array(&[resp::bulk(id), resp::array(&[resp::bulk("v"), resp::bulk(value)])])
}

fn one_string(wire: &mut Wire) -> Result<String> {
    let reply = wire.reply(REPLY_TIMEOUT)?;
    match &resp::strings(&reply)[..] {
        [one] if reply[0] == b'$' => Ok(one.clone()),
        _ => bail!("a string was expected, got {}", reply.escape_ascii()),
    }
}

fn time_us(reply: &[u8]) -> Result<u64> {
    let words = resp::strings(reply);
    let [seconds, micros] = &words[..] else { bail!("TIME gave {}", reply.escape_ascii()) };
    Ok(seconds.parse::<u64>()? * 1_000_000 + micros.parse::<u64>()?)
}
