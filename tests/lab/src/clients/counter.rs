//! One long-lived Redis connection that counts: replies must be 1, 2, 3 and so on.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::wire::Wire;
use super::{Control, QUIET, REPLY_TIMEOUT, Task, resp};
use crate::ledger::Verdict;

/// INCR of one key in a closed loop on one connection.
#[derive(Clone, Debug)]
pub struct Counter {
    /// The service.
    pub target: SocketAddr,
    /// A key nobody else uses.
    pub key: String,
    /// Time between a reply and the next request.
    pub pause: Duration,
}

impl Counter {
    /// Starts counting until stopped.
    pub fn start(self, netns: &Path) -> Result<Task> {
        let name = format!("long-lived connection ({})", self.key);
        Task::start(netns, &name, move |control, verdict| {
            let mut wire = Wire::connect(self.target, REPLY_TIMEOUT)?;
            let outcome = self.count(&mut wire, control, verdict);
            verdict.ledgers.push(wire.ledger);
            outcome
        })
    }

    fn count(&self, wire: &mut Wire, control: &Control, verdict: &mut Verdict) -> Result<()> {
        let mut next = 1;
        while !control.is_stopped() {
            wire.ask(&["INCR", &self.key], &resp::integer(next), REPLY_TIMEOUT)
                .with_context(|| format!("request {next}"))?;
            verdict.reply();
            control.advance(1);
            next += 1;
            control.pause(self.pause);
        }
        let last = (next - 1).to_string();
        wire.ask(&["GET", &self.key], &resp::bulk(&last), REPLY_TIMEOUT).context("final GET")?;
        wire.quiet(QUIET).context("after the last reply")
    }
}
