//! HTTP/1.1 on one connection: every byte of every body is known beforehand.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::wire::Wire;
use super::{Control, QUIET, REPLY_TIMEOUT, Task};
use crate::apps::nginx;
use crate::ledger::Verdict;
use crate::pattern;

/// The lines of an answer before its body.
struct Head {
    status: String,
    fields: Vec<(String, String)>,
}

impl Head {
    fn take(wire: &mut Wire) -> Result<Head> {
        let mut line = || -> Result<String> {
            let line = wire.line(REPLY_TIMEOUT)?;
            Ok(line.strip_suffix('\r').context("a line without CR")?.to_string())
        };
        let mut head = Head { status: line()?, fields: Vec::new() };
        loop {
            let text = line()?;
            if text.is_empty() {
                return Ok(head);
            }
            let (name, value) = text.split_once(": ").with_context(|| format!("field {text:?}"))?;
            head.fields.push((name.to_ascii_lowercase(), value.to_string()));
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All that does not tell the time of day.
    fn lasting(&self) -> String {
        let fields =
            self.fields.iter().filter(|(name, _)| name != "date" && name != "content-length");
        fields.fold(self.status.clone(), |all, (name, value)| format!("{all}\n{name}: {value}"))
    }
}

/// Asks for a file and takes it: its bytes are `seed`'s, `count` of them.
fn get(
    wire: &mut Wire,
    path: &str,
    seed: u64,
    count: u64,
    mut each: impl FnMut(usize),
) -> Result<Head> {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: vip\r\n\r\n").as_bytes())?;
    let head = Head::take(wire).with_context(|| path.to_string())?;
    ensure!(head.status == "HTTP/1.1 200 OK", "{path}: {}", head.status);
    let length = head.field("content-length").map(str::parse).transpose()?;
    ensure!(length == Some(count), "{path}: length {length:?}, not {count}");
    let (mut at, mut expected) = (0, Vec::new());
    while at < count {
        let most = (count - at).min(64 << 10) as usize;
        let got = wire.bytes(most, REPLY_TIMEOUT).with_context(|| format!("{path} at {at}"))?;
        expected.resize(got.len(), 0);
        pattern::fill(seed, at, &mut expected);
        if let Some(wrong) = got.iter().zip(&expected).position(|(a, b)| a != b) {
            bail!("{path}: byte {} is wrong", at + wrong as u64);
        }
        at += got.len() as u64;
        each(got.len());
    }
    Ok(head)
}

/// The large file, once; its progress is in bytes.
pub fn download(netns: &Path, target: SocketAddr) -> Result<Task> {
    Task::start(netns, "download", move |control, verdict| {
        let mut wire = Wire::connect(target, REPLY_TIMEOUT)?;
        let outcome = get(&mut wire, "/large", nginx::LARGE_SEED, nginx::LARGE_BYTES, |count| {
            verdict.reply();
            verdict.count("bytes", count as u64);
            control.advance(count as u64);
        });
        let outcome = outcome.and_then(|_| wire.quiet(QUIET));
        verdict.ledgers.push(wire.ledger);
        outcome
    })
}

/// Small files, one after the other on one connection until stopped.
pub fn keep_alive(netns: &Path, target: SocketAddr, first: u64, pause: Duration) -> Result<Task> {
    Task::start(netns, &format!("keep-alive from file {first}"), move |control, verdict| {
        let mut wire = Wire::connect(target, REPLY_TIMEOUT)?;
        let outcome = ask_on(&mut wire, first, pause, control, verdict);
        verdict.ledgers.push(wire.ledger);
        outcome
    })
}

fn ask_on(
    wire: &mut Wire,
    first: u64,
    pause: Duration,
    control: &Control,
    verdict: &mut Verdict,
) -> Result<()> {
    let (mut number, mut dates) = (first, BTreeSet::new());
    let mut heads = vec![None; nginx::SMALL_FILES as usize];
    while !control.is_stopped() {
        let file = number % nginx::SMALL_FILES;
        let length = nginx::small_bytes(file) as u64;
        let head = get(wire, &format!("/small/{file}"), file, length, |_| {})
            .with_context(|| format!("request {number}"))?;
        dates.insert(head.field("date").context("no date")?.to_string());
        let before = heads[file as usize].get_or_insert_with(|| head.lasting());
        ensure!(*before == head.lasting(), "{before}\nbecame\n{}", head.lasting());
        verdict.reply();
        control.advance(1);
        number += 1;
        control.pause(pause);
    }
    verdict.count("dates", dates.len() as u64);
    wire.quiet(QUIET).context("after the last answer")
}
