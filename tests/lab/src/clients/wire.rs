//! A TCP connection with a ledger: what all the simple clients are made of.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::resp;
use crate::ledger::{Ledger, Way};

/// A connection and every byte of it.
pub struct Wire {
    stream: TcpStream,
    /// Every byte that passed.
    pub ledger: Ledger,
    unread: Vec<u8>,
}

impl Wire {
    /// Connects within `timeout`.
    pub fn connect(target: SocketAddr, timeout: Duration) -> Result<Wire> {
        let stream =
            TcpStream::connect_timeout(&target, timeout).map_err(|e| anyhow!("connect: {e}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Wire { stream, ledger: Ledger::default(), unread: Vec::new() })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all of `bytes`.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|e| anyhow!("send: {e}"))?;
        self.ledger.enter(Way::Sent, bytes);
        Ok(())
    }

    /// Reads once; 0 bytes mean that `deadline` has passed.
    fn read_some(&mut self, deadline: Instant) -> Result<usize> {
        let wait = deadline.saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => {
                self.ledger.enter(Way::Received, &buffer[..count]);
                self.unread.extend(&buffer[..count]);
                Ok(count)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(1),
            Err(error) => Err(anyhow!("receive: {error}")),
        }
    }

    /// Takes one whole Redis reply.
    pub fn reply(&mut self, timeout: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(length) = resp::reply_length(&self.unread)? {
                return Ok(self.unread.drain(..length).collect());
            }
            if self.read_some(deadline)? == 0 && Instant::now() >= deadline {
                bail!("no reply within {timeout:?}");
            }
        }
    }

    /// Takes one line (without its end).
    pub fn line(&mut self, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.read_some(deadline)? == 0 && Instant::now() >= deadline {
                bail!("no line within {timeout:?}");
            }
        }
    }

    /// Takes what is there, at least one byte, at most `most`.
    pub fn bytes(&mut self, most: usize, timeout: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        while self.unread.is_empty() {
            if self.read_some(deadline)? == 0 && Instant::now() >= deadline {
                bail!("no byte within {timeout:?}");
            }
        }
        let count = most.min(self.unread.len());
        Ok(self.unread.drain(..count).collect())
    }

    /// Takes so many bytes.
    pub fn exactly(&mut self, count: usize, timeout: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        while self.unread.len() < count {
            if self.read_some(deadline)? == 0 && Instant::now() >= deadline {
                bail!("{} bytes of {count} within {timeout:?}", self.unread.len());
            }
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Takes one reply, which must be this one, with nothing behind it.
    pub fn expect(&mut self, expected: &[u8], timeout: Duration) -> Result<()> {
        let reply =
            self.reply(timeout).with_context(|| format!("waiting for {}", show(expected)))?;
        if reply != expected {
            bail!("expected {}, got {}", show(expected), show(&reply));
        }
        self.expect_nothing_unread()
    }

    /// Sends a command and takes its reply, which must be `expected`.
    pub fn ask(&mut self, words: &[&str], expected: &[u8], timeout: Duration) -> Result<()> {
        self.send(&resp::command(words))?;
        self.expect(expected, timeout)
    }

    fn expect_nothing_unread(&self) -> Result<()> {
        match self.unread.as_slice() {
            [] => Ok(()),
            unasked => bail!("bytes nobody asked for: {}", show(unasked)),
        }
    }

    /// Checks that for this long no byte and no end arrives.
    pub fn quiet(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && self.unread.is_empty() {
            self.read_some(deadline)?;
        }
        self.expect_nothing_unread()
    }
}

/// The start of some bytes, readable.
pub fn show(bytes: &[u8]) -> String {
    let end = bytes.len().min(60);
    let more = if end < bytes.len() { "..." } else { "" };
    format!("\"{}\"{more}", bytes[..end].escape_ascii())
}
