//! The format: `USKI`, 16 bits of version, 16 bits of zero, 32 bits of body length, the body,
//! CRC-32 (IEEE 802.3) of all before it. Little-endian; fields in the order of the structs; an
//! option or a bool is one byte of 0 or 1; lists and names are 32 bits of length, then bytes.
//! One image has one encoding: what decodes encodes to the same bytes.

use crate::{Inconsistent, SocketImage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The format's version; another one is refused.
pub const VERSION: u16 = 1;
/// No list of bytes is longer.
pub const LIST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// No image is longer: three lists and the rest.
pub const IMAGE_BYTES_MAX: usize = 3 * LIST_BYTES_MAX + 4096;

const MAGIC: [u8; 4] = *b"USKI";
const HEADER_LEN: usize = 12;
const CRC_LEN: usize = 4;

/// Why bytes are not an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short, too long, or its length field says otherwise.
    #[error("a socket image of {got} bytes says that it has {said}: it was cut or is none")]
    Length {
        /// Bytes given.
        got: usize,
        /// Bytes that its header promises; 0 if there is no whole header.
        said: usize,
    },
    /// It does not begin as an image does.
    #[error("not a socket image: it does not begin with USKI")]
    Magic,
    /// Made by another version of the format.
    #[error("a socket image of version {found}; this node reads version {VERSION}: upgrade it")]
    Version {
        /// The image's version.
        found: u16,
    },
    /// The checksum is wrong.
    #[error("a damaged socket image: its checksum is wrong; take another copy")]
    Checksum,
    /// A field holds what it cannot hold.
    #[error("a socket image with an impossible {what}")]
    Field {
        /// Which one.
        what: &'static str,
    },
    /// The fields contradict each other.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
}

/// What the body consists of.
pub(crate) trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut Reader<'_>) -> Result<Self, Error>;
}

pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(field("length of a field"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.0.split_first_chunk().ok_or(field("length of a field"))?;
        self.0 = rest;
        Ok(*head)
    }
}

pub(crate) const fn field(what: &'static str) -> Error {
    Error::Field { what }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
                Ok(<$number>::from_le_bytes(from.array()?))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i32);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(field("flag")),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        bool::get(from)?.then(|| T::get(from)).transpose()
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

impl Field for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend(self);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        let len = u32::get(from)? as usize;
        if len > LIST_BYTES_MAX {
            return Err(field("list of bytes: it is too long"));
        }
        Ok(from.take(len)?.to_vec())
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend(self.as_bytes());
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        String::from_utf8(Vec::get(from)?).map_err(|_| field("name"))
    }
}

impl Field for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            SocketAddr::V4(a) => {
                out.push(4);
                out.extend(a.ip().octets());
            }
            SocketAddr::V6(a) => {
                out.push(6);
                out.extend(a.ip().octets());
                a.flowinfo().put(out);
                a.scope_id().put(out);
            }
        }
        self.port().put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::get(from)? {
            4 => {
                let ip = IpAddr::V4(Ipv4Addr::from(from.array::<4>()?));
                Ok(SocketAddr::new(ip, u16::get(from)?))
            }
            6 => {
                let ip = Ipv6Addr::from(from.array::<16>()?);
                let (flowinfo, scope) = <(u32, u32)>::get(from)?;
                Ok(SocketAddrV6::new(ip, u16::get(from)?, flowinfo, scope).into())
            }
            _ => Err(field("address family")),
        }
    }
}

impl SocketImage {
    /// The image as bytes.
    ///
    /// # Errors
    /// If the image contradicts itself or a list is too long: such bytes would not be read.
    pub fn encode(&self) -> Result<Vec<u8>, Inconsistent> {
        self.check()?;
        let lists = self.in_flight.len() + self.pending.len() + self.unread.len();
        let mut out = Vec::with_capacity(lists + 512);
        out.extend(MAGIC);
        VERSION.put(&mut out);
        0u16.put(&mut out);
        0u32.put(&mut out);
        self.put(&mut out);
        let body = (out.len() - HEADER_LEN) as u32;
        out[8..HEADER_LEN].copy_from_slice(&body.to_le_bytes());
        crc32fast::hash(&out).put(&mut out);
        Ok(out)
    }

    /// Reads what [`SocketImage::encode`] made; nothing may follow it.
    ///
    /// # Errors
    /// If it is anything else. Never allocates more than it was given.
    pub fn decode(bytes: &[u8]) -> Result<SocketImage, Error> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(Error::Length { got: bytes.len(), said: 0 });
        };
        if header[..4] != MAGIC {
            return Err(Error::Magic);
        }
        let mut rest = Reader(&header[4..]);
        let found = u16::get(&mut rest)?;
        if found != VERSION {
            return Err(Error::Version { found });
        }
        let zero = u16::get(&mut rest)?;
        let said = (u32::get(&mut rest)? as usize).saturating_add(HEADER_LEN + CRC_LEN);
        if said != bytes.len() || said > IMAGE_BYTES_MAX {
            return Err(Error::Length { got: bytes.len(), said });
        }
        let (checked, crc) = bytes.split_at(said - CRC_LEN);
        if crc != crc32fast::hash(checked).to_le_bytes() {
            return Err(Error::Checksum);
        }
        if zero != 0 {
            return Err(field("reserved field"));
        }
        let mut body = Reader(&checked[HEADER_LEN..]);
        let image = SocketImage::get(&mut body)?;
        if !body.0.is_empty() {
            return Err(field("length of the body"));
        }
        image.check()?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fin, State, image::tests::sample};
    use proptest::prelude::*;

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let at = bytes.len() - CRC_LEN;
        let crc = crc32fast::hash(&bytes[..at]);
        bytes[at..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let whole = sample().encode().unwrap();
        assert_eq!(SocketImage::decode(&whole).unwrap(), sample());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SocketImage::decode(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(SocketImage::decode(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(SocketImage::decode(&[&whole[..], &[0]].concat()).is_err());
    }

    #[test]
    fn another_version_is_named_before_the_checksum() {
        let mut bytes = sample().encode().unwrap();
        bytes[4] = 9;
        assert_eq!(SocketImage::decode(&bytes), Err(Error::Version { found: 9 }));
        bytes[0] = 0;
        assert_eq!(SocketImage::decode(&bytes), Err(Error::Magic));
    }

    #[test]
    fn a_right_checksum_does_not_excuse_a_wrong_field() {
        let whole = sample().encode().unwrap();
        let mut reserved = whole.clone();
        reserved[6] = 1;
        let refused = SocketImage::decode(&sealed(reserved));
        assert_eq!(refused, Err(Error::Field { what: "reserved field" }));
        let mut family = whole;
        family[HEADER_LEN] = 5;
        let refused = SocketImage::decode(&sealed(family));
        assert_eq!(refused, Err(Error::Field { what: "address family" }));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            state in prop::sample::select(&State::ALL),
            fin_sent: bool, snd_una: u32, rcv_nxt: u32, v6: bool,
            lists in prop::array::uniform3(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let [in_flight, pending, unread] = lists;
            let mut image = SocketImage { state, snd_una, rcv_nxt, in_flight, pending, unread, ..sample() };
            image.window.rcv_wup = rcv_nxt;
            image.window.snd_wl1 = rcv_nxt;
            image.fin = match state {
                State::Established | State::CloseWait => Fin::None,
                State::FinWait2 => Fin::Acked,
                _ if fin_sent => Fin::InFlight,
                _ => Fin::Unsent,
            };
            if fin_sent || state == State::FinWait2 {
                image.pending.clear();
            }
            if state == State::FinWait2 {
                image.in_flight.clear();
            }
            if v6 {
                image.local = "[fe80::1%3]:7".parse().unwrap_or("[fd00::1]:7".parse().unwrap());
                image.remote = "[fd00::2]:9".parse().unwrap();
            }
            let bytes = image.encode().unwrap();
            prop_assert_eq!(SocketImage::decode(&bytes).unwrap(), image);
        }
    }
}
