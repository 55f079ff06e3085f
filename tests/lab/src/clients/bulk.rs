//! Bulk TCP, both ways, against `lab-server tcp`: every byte is known at both ends.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wire::Wire;
use super::{Control, QUIET, REPLY_TIMEOUT, Task};
use crate::ledger::Verdict;
use crate::pattern::{self, Hash};

const CHUNK: usize = 64 << 10;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Client to server; the server answers with the hash.
    Up,
    /// Server to client; every byte is compared.
    Down,
}

/// One bulk transfer.
#[derive(Clone, Debug)]
pub struct Bulk {
    /// The service.
    pub target: SocketAddr,
    /// Which way.
    pub load: Load,
    /// How much.
    pub bytes: u64,
    /// Seed of the bytes.
    pub seed: u64,
    /// Time between two chunks of 64 KB: slows a transfer down so that a kill hits it.
    pub pause: Duration,
}

impl Bulk {
    /// Starts; ends by itself. Its progress is in bytes.
    pub fn start(self, netns: &Path) -> Result<Task> {
        let name = format!("bulk {:?} {} bytes", self.load, self.bytes).to_lowercase();
        Task::start(netns, &name, move |control, verdict| {
            let mut wire = Wire::connect(self.target, REPLY_TIMEOUT)?;
            let outcome = match self.load {
                Load::Up => self.up(&mut wire, control, verdict),
                Load::Down => self.down(&mut wire, control, verdict),
            }
            .and_then(|()| self.ping(&mut wire, verdict));
            verdict.ledgers.push(wire.ledger);
            outcome
        })
    }

    fn up(&self, wire: &mut Wire, control: &Control, verdict: &mut Verdict) -> Result<()> {
        wire.send(format!("UPLOAD {}\n", self.bytes).as_bytes())?;
        let (mut hash, mut chunk, mut at) = (Hash::default(), vec![0; CHUNK], 0);
        while at < self.bytes {
            let count = CHUNK.min((self.bytes - at) as usize);
            pattern::fill(self.seed, at, &mut chunk[..count]);
            hash.update(&chunk[..count]);
            wire.send(&chunk[..count]).with_context(|| format!("at byte {at}"))?;
            at += count as u64;
            verdict.count("bytes", count as u64);
            control.advance(count as u64);
            control.pause(self.pause);
        }
        let line = wire.line(REPLY_TIMEOUT).context("waiting for the server's hash")?;
        let expected = format!("HASH {:016x}", hash.value());
        if line != expected {
            bail!("the server says {line:?}, sent was {expected:?}");
        }
        verdict.reply();
        Ok(())
    }

    fn down(&self, wire: &mut Wire, control: &Control, verdict: &mut Verdict) -> Result<()> {
        wire.send(format!("DOWNLOAD {} {}\n", self.bytes, self.seed).as_bytes())?;
        let (mut expected, mut at) = (vec![0; CHUNK], 0);
        while at < self.bytes {
            let most = CHUNK.min((self.bytes - at) as usize);
            let got = wire.bytes(most, REPLY_TIMEOUT).with_context(|| format!("at byte {at}"))?;
            let expected = &mut expected[..got.len()];
            pattern::fill(self.seed, at, expected);
            if let Some(wrong) = got.iter().zip(expected).position(|(a, b)| a != b) {
                bail!("byte {} of the download is wrong", at + wrong as u64);
            }
            at += got.len() as u64;
            verdict.reply();
            verdict.count("bytes", got.len() as u64);
            control.advance(got.len() as u64);
            control.pause(self.pause);
        }
        Ok(())
    }

    /// The connection must still be in step after the transfer.
    fn ping(&self, wire: &mut Wire, verdict: &mut Verdict) -> Result<()> {
        wire.send(format!("PING {}\n", self.seed).as_bytes())?;
        let line = wire.line(REPLY_TIMEOUT).context("after the transfer")?;
        if line != format!("PONG {}", self.seed) {
            bail!("after the transfer: {line:?}");
        }
        verdict.reply();
        wire.quiet(QUIET)
    }
}
