//! BGP messages (RFC 4271) in a stream: what was said, and where each message ends.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Begins a session.
    Open,
    /// Announces or withdraws routes.
    Update,
    /// Ends a session.
    Notification,
    /// Says that the session lives.
    Keepalive,
    /// Any other.
    Other,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its kind.
    pub kind: Kind,
    /// Where it ends in the stream.
    pub end: usize,
    /// IPv4 routes that an update takes back.
    pub withdraws: bool,
}

const HEADER: usize = 19;

/// The whole messages of a stream; the last one may still be on its way.
pub fn messages(stream: &[u8]) -> Result<Vec<Message>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(header) = stream.get(at..at + HEADER) {
        ensure!(header[..16] == [0xff; 16], "byte {at} of {} begins no message", stream.len());
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        ensure!((HEADER..=4096).contains(&length), "a message of {length} bytes at {at}");
        let Some(body) = stream.get(at + HEADER..at + length) else { break };
        let kind = match header[18] {
            1 => Kind::Open,
            2 => Kind::Update,
            3 => Kind::Notification,
            4 => Kind::Keepalive,
            _ => Kind::Other,
        };
        at += length;
        let withdraws = kind == Kind::Update && body.first_chunk::<2>() != Some(&[0; 2]);
        found.push(Message { kind, end: at, withdraws });
    }
    Ok(found)
}

/// How many of each kind.
pub fn count(messages: &[Message]) -> BTreeMap<Kind, usize> {
    let mut counts = BTreeMap::new();
    messages.iter().for_each(|message| *counts.entry(message.kind).or_default() += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (HEADER + body.len()) as u16;
        [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
    }

    #[test]
    fn messages_are_told_apart() {
        let stream = [message(4, &[]), message(2, &[0, 0, 0, 0]), message(2, &[0, 4, 24, 1, 2, 3])];
        let stream = stream.concat();
        let found = messages(&stream).unwrap();
        let withdraws: Vec<_> = found.iter().map(|m| m.withdraws).collect();
        assert_eq!(withdraws, [false, false, true]);
        assert_eq!(count(&found), [(Kind::Update, 2), (Kind::Keepalive, 1)].into());
        assert_eq!(messages(&stream[..stream.len() - 1]).unwrap().len(), 2, "on its way");
        assert!(messages(&stream[1..]).is_err());
    }
}
