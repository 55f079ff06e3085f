//! A connection that says nothing for a while and must then still be there.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::wire::Wire;
use super::{QUIET, REPLY_TIMEOUT, Task, resp};

/// PING, silence, INCR, PING.
#[derive(Clone, Debug)]
pub struct Idle {
    /// The service.
    pub target: SocketAddr,
    /// A key nobody else uses.
    pub key: String,
    /// Length of the silence.
    pub silence: Duration,
}

impl Idle {
    /// Starts; ends by itself after the silence.
    pub fn start(self, netns: &Path) -> Result<Task> {
        let name = format!("idle connection ({})", self.key);
        Task::start(netns, &name, move |control, verdict| {
            let mut wire = Wire::connect(self.target, REPLY_TIMEOUT)?;
            wire.ask(&["PING"], b"+PONG\r\n", REPLY_TIMEOUT).context("before")?;
            verdict.reply();
            control.advance(1);
            wire.quiet(self.silence).context("while idle")?;
            wire.ask(&["INCR", &self.key], &resp::integer(1), REPLY_TIMEOUT).context("after")?;
            wire.ask(&["PING"], b"+PONG\r\n", REPLY_TIMEOUT).context("after")?;
            verdict.reply();
            control.advance(1);
            wire.quiet(QUIET).context("at the end")?;
            verdict.ledgers.push(wire.ledger);
            Ok(())
        })
    }
}
