//! The Internet checksum (RFC 1071) and the TCP pseudo header sums (RFC 9293 3.1, RFC 8200 8.1).

use std::net::IpAddr;

/// Running one's-complement sum; fold with [`Sum::finish`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes as big-endian 16-bit words; an odd last byte is padded with zero.
    pub fn plus(mut self, bytes: &[u8]) -> Sum {
        let mut words = bytes.chunks_exact(2);
        for w in &mut words {
            self.0 += u64::from(u16::from_be_bytes([w[0], w[1]]));
        }
        if let [last] = words.remainder() {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// Adds the pseudo header of an upper-layer packet.
    pub fn add_pseudo(self, src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum {
        let mut sum = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => self.plus(&s.octets()).plus(&d.octets()),
            (IpAddr::V6(s), IpAddr::V6(d)) => self.plus(&s.octets()).plus(&d.octets()),
            // Not a packet that exists; the sum is merely wrong.
            _ => self,
        };
        sum.0 += u64::from(protocol) + len as u64;
        sum
    }

    /// The checksum field's value.
    pub fn finish(self) -> u16 {
        let mut s = self.0;
        while s >> 16 != 0 {
            s = (s & 0xffff) + (s >> 16);
        }
        !(s as u16)
    }
}

/// Adjusts a checksum for a 32-bit field changed in place at an even offset (RFC 1624).
pub fn update_u32(check: u16, old: u32, new: u32) -> u16 {
    let mut s = u64::from(!check);
    for w in [!(old >> 16) as u16, !old as u16, (new >> 16) as u16, new as u16] {
        s += u64::from(w);
    }
    while s >> 16 != 0 {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1071_example() {
        let sum = Sum::default().plus(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn incremental_update_equals_recomputation() {
        let mut bytes = *b"\x12\x34\x56\x78\x9a\xbc\xde\xf0";
        let before = Sum::default().plus(&bytes).finish();
        let old = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        let new = 0xdead_beefu32;
        bytes[2..6].copy_from_slice(&new.to_be_bytes());
        assert_eq!(update_u32(before, old, new), Sum::default().plus(&bytes).finish());
    }
}
