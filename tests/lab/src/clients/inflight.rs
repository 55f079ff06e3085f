//! A request that is on its way while the primary dies; the caller sets the moments.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::wire::Wire;
use super::{QUIET, REPLY_TIMEOUT, resp};
use crate::ledger::Verdict;
use crate::sys;

/// A connection driven step by step.
pub struct InFlight {
    wire: Wire,
    key: String,
    next: u64,
    /// What has been seen so far.
    pub verdict: Verdict,
}

impl InFlight {
    /// Connects from inside `netns` and proves the connection with a first request.
    pub fn connect(netns: &Path, target: SocketAddr, key: &str) -> Result<InFlight> {
        let wire = sys::in_netns(netns, || Wire::connect(target, REPLY_TIMEOUT))??;
        let verdict = Verdict::new(&format!("request in flight ({key})"));
        let mut client = InFlight { wire, key: key.to_string(), next: 1, verdict };
        client.send_whole()?;
        client.take_reply()?;
        Ok(client)
    }

    /// The client's port of the connection.
    pub fn local_port(&self) -> Result<u16> {
        Ok(self.wire.stream().local_addr()?.port())
    }

    fn request(&self) -> Vec<u8> {
        resp::command(&["INCR", &self.key])
    }

    /// Sends a whole request.
    pub fn send_whole(&mut self) -> Result<()> {
        self.wire.send(&self.request())
    }

    /// Sends the first half of a request, in a frame of its own.
    pub fn send_first_half(&mut self) -> Result<()> {
        let request = self.request();
        self.wire.send(&request[..request.len() / 2])
    }

    /// Sends the rest of it.
    pub fn send_second_half(&mut self) -> Result<()> {
        let request = self.request();
        self.wire.send(&request[request.len() / 2..])
    }

    /// Takes the reply: exactly once, with the right count.
    pub fn take_reply(&mut self) -> Result<()> {
        let expected = resp::integer(self.next);
        self.wire
            .expect(&expected, REPLY_TIMEOUT)
            .with_context(|| format!("INCR {}", self.next))?;
        self.next += 1;
        self.verdict.reply();
        Ok(())
    }

    /// One more round trip, then silence: nothing came twice.
    pub fn finish(mut self) -> Verdict {
        let outcome = self
            .send_whole()
            .and_then(|()| self.take_reply())
            .and_then(|()| self.wire.quiet(QUIET));
        if let Err(error) = outcome {
            self.verdict.fault(format!("{error:#}"));
        }
        self.verdict.ledgers.push(self.wire.ledger);
        self.verdict
    }
}
