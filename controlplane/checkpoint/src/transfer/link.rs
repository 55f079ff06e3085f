//! One end of a sealed connection: greetings, messages, runs of bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use understudy_seal::stream::{
    End, FRAME_BYTES_MAX, FRAME_HEAD_LEN, FRAME_TAG_LEN, HELLO_LEN, Hello, Opener, StreamKeys,
};
use understudy_seal::{Keyring, entropy};
use understudy_wire::NodeId;

use crate::error::{Error, Result};

/// Bytes of a file in one frame.
pub const PIECE_BYTES: usize = FRAME_BYTES_MAX - FRAME_TAG_LEN;

/// Who this node is in its group.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The group.
    pub cluster: u64,
    /// The node.
    pub node: NodeId,
    /// Its keys.
    pub keyring: Keyring,
}

/// A connection whose other end holds the cluster key, once something of it has been heard.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    keys: StreamKeys,
    /// Who the other end says it is.
    pub peer: NodeId,
    buffer: Vec<u8>,
}

pub fn transfer(what: impl std::fmt::Display) -> Error {
    Error::Transfer(what.to_string())
}

impl Link {
    /// Greets the other end.
    pub fn open(
        mut stream: TcpStream,
        me: End,
        identity: &Identity,
        timeout: Duration,
    ) -> Result<Link> {
        stream.set_read_timeout(Some(timeout)).map_err(transfer)?;
        stream.set_write_timeout(Some(timeout)).map_err(transfer)?;
        stream.set_nodelay(true).map_err(transfer)?;
        let own = Hello {
            cluster: identity.cluster,
            node: identity.node,
            key: identity.keyring.sealing().id(),
            nonce: entropy().map_err(transfer)?,
        };
        stream.write_all(&own.encode()).map_err(transfer)?;
        let mut bytes = [0; HELLO_LEN];
        stream.read_exact(&mut bytes).map_err(transfer)?;
        let other = Hello::decode(&bytes).map_err(transfer)?;
        let (client, server) = match me {
            End::Client => (&own, &other),
            End::Server => (&other, &own),
        };
        let keys = StreamKeys::derive(&identity.keyring, me, client, server).map_err(transfer)?;
        Ok(Link { stream, keys, peer: other.node, buffer: Vec::new() })
    }

    /// How long the other end may be silent from now on.
    pub fn set_patience(&self, timeout: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(timeout)).map_err(transfer)
    }

    pub fn say(&mut self, message: &impl Serialize) -> Result<()> {
        self.begin();
        serde_json::to_writer(&mut self.buffer, message).map_err(transfer)?;
        self.end()
    }

    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let content = self.next()?;
        serde_json::from_slice(content).map_err(transfer)
    }

    /// Sends the next piece that `from` gives, of at most `len` bytes; how long it was, 0 at its end.
    pub fn send_piece(&mut self, from: &mut impl Read, len: u64) -> Result<usize> {
        self.begin();
        let len = len.min(PIECE_BYTES as u64);
        let read = from.take(len).read_to_end(&mut self.buffer).map_err(transfer)?;
        self.end()?;
        Ok(read)
    }

    /// The next piece of at most `len` bytes.
    pub fn receive_piece(&mut self, len: u64) -> Result<&[u8]> {
        let piece = self.next()?;
        if piece.is_empty() || piece.len() as u64 > len {
            return Err(transfer("a file ends before its end, or goes on after it"));
        }
        Ok(piece)
    }

    fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.resize(FRAME_HEAD_LEN, 0);
    }

    fn end(&mut self) -> Result<()> {
        self.keys.sealer.seal(&mut self.buffer).map_err(transfer)?;
        self.stream.write_all(&self.buffer).map_err(transfer)
    }

    fn next(&mut self) -> Result<&[u8]> {
        let mut head = [0; FRAME_HEAD_LEN];
        self.stream.read_exact(&mut head).map_err(transfer)?;
        self.buffer.resize(Opener::len_of(head).map_err(transfer)?, 0);
        self.stream.read_exact(&mut self.buffer).map_err(transfer)?;
        Ok(self.keys.opener.open(&mut self.buffer).map_err(transfer)?)
    }
}
