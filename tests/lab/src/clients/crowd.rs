//! Thousands of connections, all of them at work.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::wire::Wire;
use super::{QUIET, REPLY_TIMEOUT, Task, resp};
use crate::ledger::{Verdict, Way};
use crate::sys;

/// Connections that are opened between two looks whether to stop.
const STEP: usize = 256;

/// Each connection counts on a key of its own, INCR after INCR: all ask, then all are read.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// The services; connections go to them in turn.
    pub targets: Vec<SocketAddr>,
    /// How many connections.
    pub connections: usize,
    /// So long the service answers nothing as a round begins (CLIENT PAUSE): each connection waits then.
    pub held: Duration,
}

impl Crowd {
    /// Starts; the progress counts 2 a round: when all have asked, and when all were answered.
    ///
    /// # Errors
    /// If the thread cannot be started, or so many files cannot be open.
    pub fn start(self, netns: &Path) -> Result<Task> {
        sys::allow_open_files(self.connections as u64 + 512)?;
        let name = format!("{} connections", self.connections);
        Task::start(netns, &name, move |control, verdict| {
            let mut wires = Vec::with_capacity(self.connections);
            for n in 0..self.connections {
                let target = self.targets[n % self.targets.len()];
                let wire = Wire::connect(target, REPLY_TIMEOUT);
                wires.push(wire.with_context(|| format!("connection {n}"))?);
                if n % STEP == 0 && control.is_stopped() {
                    return Ok(());
                }
            }
            for round in 1.. {
                if control.is_stopped() {
                    break;
                }
                let at = |n: usize| format!("connection {n}, round {round}");
                if let Some(first) = wires.first_mut().filter(|_| !self.held.is_zero()) {
                    let held_ms = self.held.as_millis().to_string();
                    first
                        .send(&resp::command(&["CLIENT", "PAUSE", &held_ms]))
                        .with_context(|| at(0))?;
                    first.expect(b"+OK\r\n", REPLY_TIMEOUT).with_context(|| at(0))?;
                }
                for (n, wire) in wires.iter_mut().enumerate() {
                    let ask = resp::command(&["INCR", &format!("crowd-{n}")]);
                    wire.send(&ask).with_context(|| at(n))?;
                }
                control.advance(1);
                for (n, wire) in wires.iter_mut().enumerate() {
                    let expected = resp::integer(round);
                    wire.expect(&expected, REPLY_TIMEOUT).with_context(|| at(n))?;
                    verdict.reply();
                }
                control.advance(1);
            }
            // One silence for all of them: what is doubled has come after it.
            std::thread::sleep(QUIET);
            for (n, mut wire) in wires.into_iter().enumerate() {
                wire.stream().set_nonblocking(true)?;
                let look = Duration::from_micros(20);
                wire.quiet(look).with_context(|| format!("connection {n}, at the end"))?;
                verdict.ledgers.push(wire.ledger);
            }
            Ok(())
        })
    }
}

/// When each connection was answered first after a moment, sorted, in ns since 1970.
pub fn first_replies(verdict: &Verdict, moment_ns: u64) -> Vec<u64> {
    let first = |ledger: &crate::ledger::Ledger| {
        let mut received = ledger.events.iter().filter(|event| event.way == Way::Received);
        received.find(|event| event.unix_ns > moment_ns).map(|event| event.unix_ns)
    };
    let mut times: Vec<u64> = verdict.ledgers.iter().filter_map(first).collect();
    times.sort_unstable();
    times
}
