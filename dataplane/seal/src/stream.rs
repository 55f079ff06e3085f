//! A byte stream between two nodes, such as the transfer of a checkpoint: greetings, keys, frames.
//!
//! Each end says a [`Hello`] in the clear, with 32 bytes never used before. Both directions have a
//! key of their own, from the cluster key and both greetings:
//! `HKDF-SHA256(cluster key; cluster, both nodes, both nonces, direction)`. So no recording opens in
//! another stream, and the first frame that opens proves who holds the key. Frames are
//! `{length u32, AES-256-GCM(bytes), tag}`; the nonce counts them, the length is authenticated.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use understudy_wire::NodeId;

use crate::key::{ClusterKey, Keyring, derive};

/// Bytes of a greeting.
pub const HELLO_LEN: usize = 50;
/// Bytes of a frame's length field.
pub const FRAME_HEAD_LEN: usize = 4;
/// Bytes that sealing adds behind the length field.
pub const FRAME_TAG_LEN: usize = 16;
/// Longest frame, tag included.
pub const FRAME_BYTES_MAX: usize = 256 * 1024 + FRAME_TAG_LEN;
const MAGIC: [u8; 4] = *b"USst";
const VERSION: u16 = 1;

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Not a greeting, or of another version.
    #[error("the other end speaks something else, or another version of this")]
    NotAHello,
    /// Another group's.
    #[error("the other end belongs to another group (cluster.name)")]
    Cluster,
    /// It seals with a key that is not here.
    #[error("the other end seals with key {0:04x}, which is not in the key file here")]
    UnknownKey(u16),
    /// A length that no frame has.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// Not sealed under the keys of this stream, or changed since.
    #[error("a frame is not authentic: the other end has no key of this group")]
    Forged,
    /// All counters are used.
    #[error("the stream has no counter left")]
    Exhausted,
}

/// What an end says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The group.
    pub cluster: u64,
    /// Who speaks.
    pub node: NodeId,
    /// The cluster key that it seals with.
    pub key: u16,
    /// Never used before.
    pub nonce: [u8; 32],
}

impl Hello {
    /// `{magic 4, version u16, cluster u64, node u16, key u16, nonce 32}`, little-endian.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..14].copy_from_slice(&self.cluster.to_le_bytes());
        out[14..16].copy_from_slice(&self.node.to_le_bytes());
        out[16..18].copy_from_slice(&self.key.to_le_bytes());
        out[18..].copy_from_slice(&self.nonce);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`StreamError::NotAHello`].
    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Hello, StreamError> {
        let two = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if bytes[..4] != MAGIC || two(4) != VERSION {
            return Err(StreamError::NotAHello);
        }
        let mut cluster = [0; 8];
        cluster.copy_from_slice(&bytes[6..14]);
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&bytes[18..]);
        let cluster = u64::from_le_bytes(cluster);
        Ok(Hello { cluster, node: two(14), key: two(16), nonce })
    }
}

/// Who began the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It connected, and chose the key.
    Client,
    /// It answered.
    Server,
}

/// Both directions' keys, for one end of a stream.
#[derive(Debug)]
pub struct StreamKeys {
    /// Of what this end says.
    pub sealer: Sealer,
    /// Of what it hears.
    pub opener: Opener,
}

impl StreamKeys {
    /// The keys for the end `me`. The stream is sealed with the key that the client names.
    ///
    /// # Errors
    /// If the other end is of another group, or the client's key is not here.
    pub fn derive(
        keyring: &Keyring,
        me: End,
        client: &Hello,
        server: &Hello,
    ) -> Result<StreamKeys, StreamError> {
        if client.cluster != server.cluster {
            return Err(StreamError::Cluster);
        }
        let key = keyring.keys().iter().find(|k| k.id() == client.key);
        let key = key.ok_or(StreamError::UnknownKey(client.key))?;
        let direction = |from: u8| Direction::new(key, client, server, from);
        let (to_server, to_client) = (direction(1), direction(2));
        let (sealer, opener) = match me {
            End::Client => (Sealer(to_server), Opener(to_client)),
            End::Server => (Sealer(to_client), Opener(to_server)),
        };
        Ok(StreamKeys { sealer, opener })
    }
}

struct Direction {
    key: LessSafeKey,
    counter: u64,
}

impl Direction {
    fn new(key: &ClusterKey, client: &Hello, server: &Hello, from: u8) -> Direction {
        let parts: [&[u8]; 7] = [
            b"understudy stream",
            &client.cluster.to_le_bytes(),
            &client.node.to_le_bytes(),
            &client.nonce,
            &server.node.to_le_bytes(),
            &server.nonce,
            &[from],
        ];
        let bytes = derive(key.secret(), &parts);
        let unbound = UnboundKey::new(&AES_256_GCM, &bytes).expect("32 bytes are its key length");
        Direction { key: LessSafeKey::new(unbound), counter: 0 }
    }

    fn nonce(&mut self) -> Result<Nonce, StreamError> {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&self.counter.to_le_bytes());
        self.counter = self.counter.checked_add(1).ok_or(StreamError::Exhausted)?;
        Ok(Nonce::assume_unique_for_key(bytes))
    }
}

/// Seals frames, in their order.
pub struct Sealer(Direction);

/// Opens frames, in their order.
pub struct Opener(Direction);

impl Sealer {
    /// Makes `frame`, [`FRAME_HEAD_LEN`] bytes of room and then the content, a frame to be sent.
    ///
    /// # Errors
    /// If it is too long, or too many were sealed.
    pub fn seal(&mut self, frame: &mut Vec<u8>) -> Result<(), StreamError> {
        let len = frame.len().saturating_sub(FRAME_HEAD_LEN) + FRAME_TAG_LEN;
        if frame.len() < FRAME_HEAD_LEN || len > FRAME_BYTES_MAX {
            return Err(StreamError::Length(len));
        }
        let head = (len as u32).to_le_bytes();
        let nonce = self.0.nonce()?;
        let (room, content) = frame.split_at_mut(FRAME_HEAD_LEN);
        room.copy_from_slice(&head);
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(head), content)
            .map_err(|_| StreamError::Length(len))?;
        frame.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

impl Opener {
    /// How many bytes follow this length field.
    ///
    /// # Errors
    /// If no frame is as long.
    pub fn len_of(head: [u8; FRAME_HEAD_LEN]) -> Result<usize, StreamError> {
        let len = u32::from_le_bytes(head) as usize;
        let fits = (FRAME_TAG_LEN..=FRAME_BYTES_MAX).contains(&len);
        if fits { Ok(len) } else { Err(StreamError::Length(len)) }
    }

    /// Opens what followed the length field; gives the content.
    ///
    /// # Errors
    /// If it is not the next frame of this stream.
    pub fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], StreamError> {
        let head = (sealed.len() as u32).to_le_bytes();
        let nonce = self.0.nonce()?;
        self.0.key.open_in_place(nonce, Aad::from(head), sealed).map_err(|_| StreamError::Forged)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} sealed)", self.0.counter)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({} opened)", self.0.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: NodeId, key: &Keyring, nonce: u8) -> Hello {
        Hello { cluster: 7, node, key: key.sealing().id(), nonce: [nonce; 32] }
    }

    fn ring(secrets: &[u8]) -> Keyring {
        Keyring::new(secrets.iter().map(|&s| ClusterKey::new([s; 32]))).unwrap()
    }

    fn frame(content: &[u8]) -> Vec<u8> {
        [&[0; FRAME_HEAD_LEN][..], content].concat()
    }

    fn both(client_ring: &Keyring, server_ring: &Keyring) -> (StreamKeys, StreamKeys) {
        let (c, s) = (hello(1, client_ring, 1), hello(2, server_ring, 2));
        let client = StreamKeys::derive(client_ring, End::Client, &c, &s).unwrap();
        (client, StreamKeys::derive(server_ring, End::Server, &c, &s).unwrap())
    }

    #[test]
    fn greetings_are_read_back_and_others_are_not() {
        let one = hello(3, &ring(&[1]), 9);
        assert_eq!(Hello::decode(&one.encode()), Ok(one));
        for at in 0..6 {
            let mut bytes = one.encode();
            bytes[at] ^= 1;
            assert_eq!(Hello::decode(&bytes), Err(StreamError::NotAHello));
        }
    }

    #[test]
    fn frames_open_in_order_at_the_other_end_and_nowhere_else() {
        // The server's own first key is another one: the client's choice counts.
        let (mut client, mut server) = both(&ring(&[1]), &ring(&[2, 1]));
        for content in [&b"first"[..], b"", b"third"] {
            let mut sealed = frame(content);
            client.sealer.seal(&mut sealed).unwrap();
            let head: [u8; 4] = sealed[..4].try_into().unwrap();
            assert_eq!(Opener::len_of(head), Ok(sealed.len() - 4));
            assert_eq!(server.opener.open(&mut sealed[4..]).unwrap(), content);
        }
        let mut sealed = frame(b"x");
        client.sealer.seal(&mut sealed).unwrap();
        let again = sealed.clone();
        // Its own end, a changed byte, and the same frame twice.
        assert_eq!(client.opener.open(&mut again.clone()[4..]), Err(StreamError::Forged));
        assert_eq!(server.opener.open(&mut sealed[4..]).unwrap(), b"x");
        assert_eq!(server.opener.open(&mut again.clone()[4..]), Err(StreamError::Forged));
    }

    #[test]
    fn strangers_are_told_apart() {
        let (one, other) = (ring(&[1]), ring(&[2]));
        let (c, s) = (hello(1, &one, 1), hello(2, &other, 2));
        let refused = StreamKeys::derive(&other, End::Server, &c, &s).unwrap_err();
        assert_eq!(refused, StreamError::UnknownKey(one.sealing().id()));
        let foreign = Hello { cluster: 8, ..s };
        let refused = StreamKeys::derive(&one, End::Client, &c, &foreign).unwrap_err();
        assert_eq!(refused, StreamError::Cluster);
        for len in [0, FRAME_TAG_LEN - 1, FRAME_BYTES_MAX + 1, usize::MAX >> 33] {
            assert_eq!(Opener::len_of((len as u32).to_le_bytes()), Err(StreamError::Length(len)));
        }
        let (mut client, _) = both(&one, &one);
        let mut long = frame(&vec![0; FRAME_BYTES_MAX]);
        assert!(matches!(client.sealer.seal(&mut long), Err(StreamError::Length(_))));
    }
}
