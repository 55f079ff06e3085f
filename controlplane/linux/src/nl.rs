//! A small synchronous netlink client: requests built by hand, answers as checked slices.
//!
//! Message layouts are the kernel's stable ABI. Unknown or longer attributes are skipped, so that
//! a newer kernel never makes an answer unreadable.

use crate::{Error, Result, error::BE_ROOT};
use netlink_sys::{Socket, SocketAddr};
use std::{io, ops::ControlFlow};

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// The kernel never sends a larger datagram in answer to a dump unless asked to.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A request under construction.
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Request(bytes)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len() + 4).expect("attributes are built from bounded values");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.bytes(value)
    }

    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.attr(kind, &[]);
        fill(self);
        let len = u16::try_from(self.0.len() - start).expect("nested attributes are bounded");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).expect("requests are bounded");
        self.0[0..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn open(protocol: isize) -> Result<Client> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Both only make error answers shorter and clearer.
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_ext_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(|e| Error::os("open a netlink socket", BE_ROOT, e))?;
        Ok(Client { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Sends a request and gives `each` every answer (type, payload) up to the end of the dump or
    /// the acknowledgement, or until it breaks. What is left of an answer given up on is skipped
    /// by the next request.
    pub(crate) fn request(
        &mut self,
        what: &str,
        advice: &str,
        request: Request,
        mut each: impl FnMut(u16, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let failed = |e| Error::os(what, advice, e);
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.finish(self.sequence), 0).map_err(failed)?;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed(e)),
            }
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = i32_at(message.payload, 0).unwrap_or(-libc::EPROTO);
                        if code == 0 {
                            return Ok(());
                        }
                        return Err(Error::Netlink {
                            what: what.into(),
                            detail: extended_ack(&message),
                            advice: advice.into(),
                            source: io::Error::from_raw_os_error(-code),
                        });
                    }
                    kind => {
                        if each(kind, message.payload).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

fn extended_ack(message: &Message<'_>) -> String {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let original = u32_at(message.payload, 4).unwrap_or(0) as usize;
    let echoed = if message.flags & NLM_F_CAPPED != 0 { HEADER } else { original };
    let rest = message.payload.get(4 + echoed.next_multiple_of(4)..).unwrap_or(&[]);
    match attrs(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG) {
        Some((_, text)) => format!(" ({})", c_str(text)),
        None => String::new(),
    }
}

/// One netlink message of a received datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first malformed one.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 4)?;
        let flags = u16_at(self.0, 6)?;
        let sequence = u32_at(self.0, 8)?;
        let payload = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, flags, sequence, payload })
    }
}

/// The attributes in `bytes`, without their flag bits; ends at the first malformed one.
pub(crate) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(|v| v as i32)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn c_str(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_layout_and_parsing_agree() {
        let mut request = Request::new(16, NLM_F_ACK);
        request.bytes(&[0; 16]).attr_str(3, "veth").nest(18, |r| {
            r.attr_u32(1, 7);
        });
        let bytes = request.finish(1);
        let message = Messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.flags), (16, NLM_F_REQUEST | NLM_F_ACK));
        let found: Vec<_> = attrs(&message.payload[16..]).collect();
        assert_eq!(found[0], (3, &b"veth\0"[..]));
        assert_eq!(attrs(found[1].1).next(), Some((1, &7u32.to_ne_bytes()[..])));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn malformed_input_ends_quietly() {
        for len in 0..40 {
            let bytes = vec![0xff; len];
            assert_eq!(Messages(&bytes).count(), 0);
            assert_eq!(attrs(&bytes).count(), 0);
            assert_eq!(attrs(&vec![0; len]).count(), 0);
            assert_eq!(Messages(&vec![0; len]).count(), 0);
        }
    }
}
