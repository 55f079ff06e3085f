//! A body of data in Redis: written once, looked at again after everything that happened.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::wire::Wire;
use super::{Control, REPLY_TIMEOUT, Task, resp};
use crate::ledger::Verdict;
use crate::pattern;

/// `keys` values of `length` bytes each, which follow from their number.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// The service.
    pub target: SocketAddr,
    /// How many.
    pub keys: usize,
    /// How long each.
    pub length: usize,
}

impl Data {
    /// Writes all of it over one connection.
    pub fn write(self, netns: &Path) -> Result<Task> {
        Task::start(netns, "writes the data", move |control, verdict| {
            self.each(control, verdict, |wire, key, value| {
                wire.ask(&["SET", key, value], b"+OK\r\n", REPLY_TIMEOUT)
            })
        })
    }

    /// Reads all of it over one connection.
    pub fn read(self, netns: &Path) -> Result<Task> {
        Task::start(netns, "reads the data", move |control, verdict| {
            self.each(control, verdict, |wire, key, value| {
                wire.ask(&["GET", key], &resp::bulk(value), REPLY_TIMEOUT)
            })
        })
    }

    fn each(
        &self,
        control: &Control,
        verdict: &mut Verdict,
        mut one: impl FnMut(&mut Wire, &str, &str) -> Result<()>,
    ) -> Result<()> {
        let mut wire = Wire::connect(self.target, REPLY_TIMEOUT)?;
        let outcome = (0..self.keys).try_for_each(|number| {
            let (key, value) =
                (format!("data:{number}"), pattern::letters(number as u64, self.length));
            one(&mut wire, &key, &value).with_context(|| key.clone())?;
            verdict.reply();
            control.advance(1);
            Ok(())
        });
        verdict.count("values", self.keys as u64);
        verdict.ledgers.push(wire.ledger);
        outcome
    }
}
