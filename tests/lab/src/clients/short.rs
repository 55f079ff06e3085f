//! Many short Redis connections: every one must be made and served.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::wire::Wire;
use super::{Control, REPLY_TIMEOUT, Task, resp};
use crate::ledger::{Ledger, Verdict};
use crate::pattern;

/// Connect, SET and GET an own key, close; again and again.
#[derive(Clone, Debug)]
pub struct Short {
    /// The service.
    pub target: SocketAddr,
    /// Start of the names of all keys.
    pub prefix: String,
    /// Time between two connections.
    pub pause: Duration,
    /// Connections at most.
    pub connections_max: u64,
}

impl Short {
    /// Starts connecting until stopped.
    pub fn start(self, netns: &Path) -> Result<Task> {
        let name = format!("short connections ({})", self.prefix);
        Task::start(netns, &name, move |control, verdict| {
            for number in 0..self.connections_max {
                if control.is_stopped() {
                    break;
                }
                self.once(number, control, verdict);
                control.pause(self.pause);
            }
            Ok(())
        })
    }

    fn once(&self, number: u64, control: &Control, verdict: &mut Verdict) {
        verdict.count("tried", 1);
        let mut ledger = Ledger::default();
        match self.converse(number, &mut ledger) {
            Ok(()) => {
                verdict.reply();
                control.advance(1);
            }
            Err(error) => {
                // Counted by its last cause: "connect: connection refused" and the like.
                verdict.count(&format!("failed: {}", error.root_cause()), 1);
                verdict.fault(format!("connection {number}: {error:#}"));
            }
        }
        verdict.ledgers.push(ledger);
    }

    fn converse(&self, number: u64, ledger: &mut Ledger) -> Result<()> {
        let key = format!("{}:{number}", self.prefix);
        let value = pattern::letters(number, 24);
        let mut wire = Wire::connect(self.target, REPLY_TIMEOUT)?;
        let outcome =
            wire.ask(&["SET", &key, &value], b"+OK\r\n", REPLY_TIMEOUT).context("SET").and_then(
                |()| wire.ask(&["GET", &key], &resp::bulk(&value), REPLY_TIMEOUT).context("GET"),
            );
        *ledger = wire.ledger;
        outcome
    }
}
