//! A small PostgreSQL client (protocol 3), each byte in a ledger.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::wire::Wire;
use super::{QUIET, REPLY_TIMEOUT, Task};
use crate::ledger::Ledger;
use crate::sys;

const PROTOCOL: i32 = 3 << 16;
/// One message at most.
const MESSAGE_MAX: usize = 1 << 20;

/// Rows of text.
pub type Rows = Vec<Vec<String>>;

/// What a session was told when it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The backend's process id and its secret.
    pub key: Vec<u8>,
    /// The server's parameters.
    pub parameters: Vec<(String, String)>,
}

/// A session.
pub struct Pg {
    wire: Wire,
    /// How it began.
    pub greeting: Greeting,
}

impl Pg {
    /// A session as `postgres`, on a connection made by the calling thread.
    pub fn connect(target: SocketAddr) -> Result<Pg> {
        let wire = Wire::connect(target, REPLY_TIMEOUT)?;
        let mut pg = Pg { wire, greeting: Greeting::default() };
        let mut start = PROTOCOL.to_be_bytes().to_vec();
        for word in ["user", "postgres", "database", "postgres", ""] {
            put_text(&mut start, word);
        }
        pg.wire.send(&framed(None, &start))?;
        loop {
            let (kind, body) = pg.message()?;
            match kind {
                b'R' => ensure!(body == [0; 4], "asked for a password"),
                b'S' => {
                    let words = texts(&body);
                    ensure!(words.len() == 2, "parameter {words:?}");
                    pg.greeting.parameters.push((words[0].clone(), words[1].clone()));
                }
                b'K' => pg.greeting.key = body,
                b'Z' => return Ok(pg),
                _ => bail!("in the greeting: {}", describe(kind, &body)),
            }
        }
    }

    /// The same, made inside `netns`.
    pub fn connect_in(netns: &Path, target: SocketAddr) -> Result<Pg> {
        sys::in_netns(netns, || Pg::connect(target))?
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>)> {
        let kind = self.wire.exactly(1, REPLY_TIMEOUT)?[0];
        let length = self.wire.exactly(4, REPLY_TIMEOUT)?;
        let length = u32::from_be_bytes(length[..].try_into()?) as usize;
        ensure!((4..MESSAGE_MAX).contains(&length), "a message of {length} bytes");
        Ok((kind, self.wire.exactly(length - 4, REPLY_TIMEOUT)?))
    }

    /// Takes all up to the next ReadyForQuery, whose state of the transaction must be `state`.
    fn answer(&mut self, state: char) -> Result<Rows> {
        let mut rows = Vec::new();
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'D' => rows.push(fields(&body).context("a torn row")?),
                // Parsed, bound, done, described, nothing to say, a tag.
                b'1' | b'2' | b'C' | b'T' | b'n' | b'I' => {}
                b'Z' => {
                    let is = char::from(*body.first().context("an empty state")?);
                    ensure!(is == state, "the transaction is {is:?}, not {state:?}");
                    return Ok(rows);
                }
                _ => bail!("{}", describe(kind, &body)),
            }
        }
    }

    /// A simple query; `state` is that of the transaction behind it: I none, T open.
    pub fn query(&mut self, text: &str, state: char) -> Result<Rows> {
        let mut body = Vec::new();
        put_text(&mut body, text);
        self.wire.send(&framed(Some(b'Q'), &body))?;
        self.answer(state).with_context(|| text.to_string())
    }

    /// Makes a named prepared statement.
    pub fn prepare(&mut self, name: &str, text: &str) -> Result<()> {
        let mut parse = Vec::new();
        put_text(&mut parse, name);
        put_text(&mut parse, text);
        parse.extend(0_i16.to_be_bytes());
        let request = [framed(Some(b'P'), &parse), framed(Some(b'S'), &[])].concat();
        self.wire.send(&request)?;
        self.answer('I').map(drop).with_context(|| text.to_string())
    }

    /// Executes a prepared statement.
    pub fn execute(&mut self, name: &str, values: &[&str], state: char) -> Result<Rows> {
        let mut bind = Vec::new();
        put_text(&mut bind, "");
        put_text(&mut bind, name);
        bind.extend(0_i16.to_be_bytes());
        bind.extend((values.len() as i16).to_be_bytes());
        for value in values {
            bind.extend((value.len() as i32).to_be_bytes());
            bind.extend(value.as_bytes());
        }
        bind.extend(0_i16.to_be_bytes());
        // Of the unnamed portal, all rows.
        let all_rows = [0; 5];
        let request =
            [framed(Some(b'B'), &bind), framed(Some(b'E'), &all_rows), framed(Some(b'S'), &[])];
        self.wire.send(&request.concat())?;
        self.answer(state).with_context(|| format!("{name} {values:?}"))
    }

    /// Checks that nothing more comes, and gives the ledger.
    pub fn finish(mut self) -> Result<Ledger> {
        self.wire.quiet(QUIET)?;
        Ok(self.wire.ledger)
    }
}

/// Inserts and counts in a table of its own until stopped, each statement a transaction.
pub fn inserts(netns: &Path, target: SocketAddr, table: &str, pause: Duration) -> Result<Task> {
    let table = table.to_string();
    Task::start(netns, &format!("inserts into {table}"), move |control, verdict| {
        let mut pg = Pg::connect(target)?;
        let text = format!(
            "WITH row AS (INSERT INTO {table} VALUES ($1::int) RETURNING n) \
             SELECT row.n, (SELECT count(*) FROM {table}) FROM row"
        );
        pg.prepare("next", &text)?;
        let mut next = 0_u64;
        while !control.is_stopped() {
            let rows = pg.execute("next", &[&next.to_string()], 'I')?;
            // What the statement sees is what was there before it.
            let expected = vec![vec![next.to_string(), next.to_string()]];
            ensure!(rows == expected, "insert {next}: {rows:?}");
            next += 1;
            verdict.reply();
            control.advance(1);
            control.pause(pause);
        }
        let rows = pg.query(&format!("SELECT count(*), sum(n) FROM {table}"), 'I')?;
        let sum = next * next.saturating_sub(1) / 2;
        ensure!(rows == [[next.to_string(), sum.to_string()]], "{next} inserts: {rows:?}");
        verdict.ledgers.push(pg.finish()?);
        Ok(())
    })
}

fn framed(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = kind.into_iter().collect();
    out.extend((body.len() as i32 + 4).to_be_bytes());
    out.extend(body);
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn texts(body: &[u8]) -> Vec<String> {
    let body = body.strip_suffix(&[0]).unwrap_or(body);
    body.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The fields of a row; NULL reads as nothing.
fn fields(mut body: &[u8]) -> Option<Vec<String>> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    body = rest;
    let mut fields = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        fields.push(String::from_utf8_lossy(rest.get(..length)?).into_owned());
        body = &rest[length..];
    }
    Some(fields)
}

fn describe(kind: u8, body: &[u8]) -> String {
    format!("message {:?}: {}", char::from(kind), texts(body).join(" "))
}
