//! The service's application: what a connection's replies are, as a function of its bytes alone.
//!
//! A request is {length of the body: u16, length of the reply: u32, body}, big-endian. Every reply
//! depends on all requests before it on the same connection, so a lost, repeated or foreign byte
//! shows in everything that follows.

use crate::rng::mix;

/// Bytes before a request's body.
pub const REQUEST_HEADER_LEN: usize = 6;

/// No client asks for more.
pub const REPLY_LEN_MAX: usize = 1 << 20;

/// The state of one connection's conversation.
#[derive(Clone, Debug, Default)]
pub struct Session {
    state: u64,
}

impl Session {
    /// The reply to a whole request.
    pub fn reply(&mut self, request: &[u8]) -> Vec<u8> {
        for byte in request {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.state = mix(self.state);
        let len = reply_len(request);
        let words = (0..len.div_ceil(8) as u64).map(|i| mix(self.state.wrapping_add(i)));
        let mut out: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
        out.truncate(len);
        out
    }
}

/// A request of a body and the wanted length of its reply.
pub fn request(body: &[u8], reply_len: u32) -> Vec<u8> {
    let mut out = (body.len() as u16).to_be_bytes().to_vec();
    out.extend(reply_len.to_be_bytes());
    out.extend(body);
    out
}

/// The length of the request that begins here, when that can be told.
pub fn request_len(bytes: &[u8]) -> Option<usize> {
    let len: [u8; 2] = bytes.get(0..2)?.try_into().ok()?;
    Some(REQUEST_HEADER_LEN + usize::from(u16::from_be_bytes(len)))
}

/// The length of the reply that a whole request asks for.
pub fn reply_len(request: &[u8]) -> usize {
    let len: [u8; 4] = request[2..6].try_into().unwrap_or_default();
    u32::from_be_bytes(len) as usize
}
