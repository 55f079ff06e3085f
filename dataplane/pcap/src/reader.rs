//! Reads pcapng: what the writer writes and what other programs write, either byte order. For tests
//! and small tools: the whole file is in memory.

use thiserror::Error;

use crate::writer::{
    BYTE_ORDER_MAGIC, ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS, OPT_COMMENT,
    OPT_EPB_FLAGS, OPT_IF_TSRESOL, OPT_ISB_DROPPED, OPT_ISB_RECEIVED, SECTION_HEADER,
};

/// Interfaces of one section; more are refused.
const INTERFACES_MAX: usize = 1024;
const NS_PER_S: u128 = 1_000_000_000;

/// Why a file cannot be read on.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// The file ends in the middle of a block.
    #[error("the file ends in the middle of a block, at byte {at}")]
    Short {
        /// Where the block begins.
        at: usize,
    },
    /// A block contradicts itself or the ones before it.
    #[error("the block at byte {at} is damaged: {what}")]
    Damaged {
        /// Where the block begins.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// A section begins; the interfaces before it are forgotten.
    Section,
    /// An interface.
    Interface {
        /// Link type, 1 for Ethernet.
        link_type: u16,
        /// Bytes kept of a packet; 0 for all.
        snap_len: u32,
    },
    /// A packet.
    Packet(ReadPacket<'a>),
    /// What was counted at an interface.
    Statistics {
        /// Its index.
        interface: u32,
        /// Packets seen.
        received: Option<u64>,
        /// Packets lost.
        dropped: Option<u64>,
        /// What is said about it.
        comments: Vec<String>,
    },
    /// Anything else, skipped.
    Other(u32),
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPacket<'a> {
    /// Index of its interface.
    pub interface: u32,
    /// ns since 1970.
    pub timestamp_ns: u64,
    /// Bytes it had on the wire.
    pub wire_len: u32,
    /// The bytes kept.
    pub bytes: &'a [u8],
    /// `epb_flags`, 0 if there are none.
    pub flags: u32,
    /// What is said about it.
    pub comments: Vec<String>,
}

/// Units of an interface's timestamps in a second.
#[derive(Clone, Copy)]
struct Resolution(u128);

impl Resolution {
    /// `if_tsresol`: a power of ten, or with the top bit of two.
    fn new(value: u8) -> Option<Resolution> {
        let power = u32::from(value & 0x7f);
        let units =
            if value & 0x80 == 0 { 10u128.checked_pow(power) } else { 1u128.checked_shl(power) };
        // 128 bits of ns for 64 bits of units.
        units.filter(|units| *units <= 1 << 64).map(Resolution)
    }

    fn to_ns(self, units: u64) -> u64 {
        (u128::from(units) * NS_PER_S / self.0).min(u64::MAX.into()) as u64
    }
}

/// Reads block after block.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
    interfaces: Vec<Resolution>,
    in_section: bool,
}

impl<'a> Reader<'a> {
    /// Of a whole file, or of its beginning.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0, big_endian: false, interfaces: Vec::new(), in_section: false }
    }

    /// Where the next block begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next block, `None` at the end.
    ///
    /// # Errors
    /// If there is no whole block; the position does not change then.
    pub fn next_block(&mut self) -> Result<Option<Block<'a>>, ReadError> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let short = ReadError::Short { at: self.at };
        let at = self.at;
        let damaged = |what| ReadError::Damaged { at, what };
        let head: &[u8; 8] = rest.first_chunk().ok_or(short)?;
        let kind_is_section = head[0..4] == SECTION_HEADER.to_le_bytes();
        if kind_is_section {
            let magic: [u8; 4] = rest.get(8..12).ok_or(short)?.try_into().map_err(|_| short)?;
            self.big_endian = match magic {
                m if m == BYTE_ORDER_MAGIC.to_le_bytes() => false,
                m if m == BYTE_ORDER_MAGIC.to_be_bytes() => true,
                _ => return Err(damaged("no byte order")),
            };
        } else if !self.in_section {
            return Err(damaged("no section header"));
        }
        let len = self.u32(head, 4).unwrap_or(0) as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(damaged("impossible length"));
        }
        let block = rest.get(..len).ok_or(short)?;
        if self.u32(block, len - 4) != Some(len as u32) {
            return Err(damaged("two lengths"));
        }
        let body = &block[8..len - 4];
        let kind = self.u32(head, 0).unwrap_or(0);
        let block = match kind {
            SECTION_HEADER => self.section(body),
            INTERFACE_DESCRIPTION => self.interface(body),
            ENHANCED_PACKET => self.packet(body),
            INTERFACE_STATISTICS => self.statistics(body),
            other => Ok(Block::Other(other)),
        };
        let block = block.map_err(damaged)?;
        self.at += len;
        Ok(Some(block))
    }

    /// All packets, and the error that ends them early.
    pub fn packets(mut self) -> (Vec<ReadPacket<'a>>, Option<ReadError>) {
        let mut packets = Vec::new();
        loop {
            match self.next_block() {
                Ok(Some(Block::Packet(packet))) => packets.push(packet),
                Ok(Some(_)) => {}
                Ok(None) => return (packets, None),
                Err(e) => return (packets, Some(e)),
            }
        }
    }

    fn section(&mut self, body: &'a [u8]) -> Result<Block<'a>, &'static str> {
        if self.u16(body, 4).ok_or("too short")? != 1 {
            return Err("another version");
        }
        if body.len() < 16 {
            return Err("too short");
        }
        self.interfaces.clear();
        self.in_section = true;
        Ok(Block::Section)
    }

    fn interface(&mut self, body: &'a [u8]) -> Result<Block<'a>, &'static str> {
        let link_type = self.u16(body, 0).ok_or("too short")?;
        let snap_len = self.u32(body, 4).ok_or("too short")?;
        let mut resolution = Resolution(1_000_000);
        self.options(&body[8..], |code, value| {
            if code == OPT_IF_TSRESOL
                && let [value] = value
            {
                resolution = Resolution::new(*value).ok_or("impossible resolution")?;
            }
            Ok(())
        })?;
        if self.interfaces.len() == INTERFACES_MAX {
            return Err("too many interfaces");
        }
        self.interfaces.push(resolution);
        Ok(Block::Interface { link_type, snap_len })
    }

    fn packet(&self, body: &'a [u8]) -> Result<Block<'a>, &'static str> {
        let word = |at| self.u32(body, at).ok_or("too short");
        let interface = word(0)?;
        let resolution = *self.interfaces.get(interface as usize).ok_or("no such interface")?;
        let units = u64::from(word(4)?) << 32 | u64::from(word(8)?);
        let kept = word(12)? as usize;
        let wire_len = word(16)?;
        let bytes = body.get(20..).and_then(|b| b.get(..kept)).ok_or("longer than its block")?;
        let (mut comments, mut flags) = (Vec::new(), 0);
        let options = &body[(20 + kept.next_multiple_of(4)).min(body.len())..];
        self.options(options, |code, value| {
            match code {
                OPT_COMMENT => comments.push(String::from_utf8_lossy(value).into_owned()),
                OPT_EPB_FLAGS => flags = self.u32(value, 0).ok_or("short flags")?,
                _ => {}
            }
            Ok(())
        })?;
        let timestamp_ns = resolution.to_ns(units);
        Ok(Block::Packet(ReadPacket { interface, timestamp_ns, wire_len, bytes, flags, comments }))
    }

    fn statistics(&self, body: &'a [u8]) -> Result<Block<'a>, &'static str> {
        let interface = self.u32(body, 0).ok_or("too short")?;
        if interface as usize >= self.interfaces.len() {
            return Err("no such interface");
        }
        let (mut received, mut dropped, mut comments) = (None, None, Vec::new());
        self.options(body.get(12..).ok_or("too short")?, |code, value| {
            match code {
                OPT_COMMENT => comments.push(String::from_utf8_lossy(value).into_owned()),
                OPT_ISB_RECEIVED => received = Some(self.u64(value).ok_or("short counter")?),
                OPT_ISB_DROPPED => dropped = Some(self.u64(value).ok_or("short counter")?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Block::Statistics { interface, received, dropped, comments })
    }

    fn options(
        &self,
        mut rest: &[u8],
        mut each: impl FnMut(u16, &[u8]) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        while rest.len() >= 4 {
            let (code, len) = (self.u16(rest, 0).unwrap_or(0), self.u16(rest, 2).unwrap_or(0));
            if code == 0 {
                break;
            }
            let len = usize::from(len);
            each(code, rest.get(4..4 + len).ok_or("an option longer than its block")?)?;
            rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(())
    }

    fn u16(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&self, bytes: &[u8]) -> Option<u64> {
        let bytes: [u8; 8] = bytes.try_into().ok()?;
        Some(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }
}
