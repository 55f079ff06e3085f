//! Writes pcapng (draft-ietf-opsawg-pcapng): section header, interfaces, packets, statistics.
//! Little-endian, Ethernet, timestamps in ns.

use std::io::{self, Write};

pub(crate) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
pub(crate) const INTERFACE_DESCRIPTION: u32 = 1;
pub(crate) const INTERFACE_STATISTICS: u32 = 5;
pub(crate) const ENHANCED_PACKET: u32 = 6;
pub(crate) const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
pub(crate) const LINKTYPE_ETHERNET: u16 = 1;
pub(crate) const OPT_COMMENT: u16 = 1;
pub(crate) const OPT_IF_TSRESOL: u16 = 9;
pub(crate) const OPT_EPB_FLAGS: u16 = 2;
pub(crate) const OPT_ISB_DROPPED: u16 = 5;
pub(crate) const OPT_ISB_RECEIVED: u16 = 4;

const OPT_SHB_OS: u16 = 3;
const OPT_SHB_APPLICATION: u16 = 4;
const OPT_IF_NAME: u16 = 2;
const OPT_IF_DESCRIPTION: u16 = 3;
const OPT_IF_FILTER: u16 = 11;
const OPT_ISB_START: u16 = 2;
const OPT_ISB_END: u16 = 3;
const OPT_ISB_ACCEPTED: u16 = 6;
const OPT_ISB_OS_DROPPED: u16 = 7;
const OPT_ISB_DELIVERED: u16 = 8;
/// 10^-9 s.
const NANOSECONDS: u8 = 9;
/// An option's length has 16 bits; no text of ours needs them.
const TEXT_BYTES_MAX: usize = 4096;

/// What a file says about itself and where its packets were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The program that writes it.
    pub application: String,
    /// The operating system.
    pub os: String,
    /// More, for people.
    pub comment: String,
    /// In the order of [`Packet::interface`].
    pub interfaces: Vec<Interface>,
}

/// Where packets were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// More about it.
    pub description: String,
    /// The filter that chose the packets; empty for none.
    pub filter: String,
    /// Bytes kept of a packet; 0 for all.
    pub snap_len: u32,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It was received.
    In,
    /// It was sent.
    Out,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Index of its interface.
    pub interface: u32,
    /// ns since 1970.
    pub timestamp_ns: u64,
    /// Bytes it had on the wire; `bytes` may be fewer.
    pub wire_len: u32,
    /// Its bytes, from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Which way, if known.
    pub direction: Option<Direction>,
    /// What is to be said at this place of the file.
    pub comments: &'a [String],
}

/// What was counted at an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Index of the interface.
    pub interface: u32,
    /// When counting began, ns since 1970.
    pub start_ns: u64,
    /// When it was counted, ns since 1970.
    pub end_ns: u64,
    /// Packets seen.
    pub received: u64,
    /// Packets lost where they were seen: no room.
    pub dropped: u64,
    /// Packets lost between there and whoever writes this.
    pub os_dropped: u64,
    /// Packets that passed the filter.
    pub accepted: u64,
    /// Packets written.
    pub delivered: u64,
    /// What is still to be said.
    pub comments: Vec<String>,
}

/// Writes one section.
pub struct Writer<W: Write> {
    out: W,
    block: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn new(out: W, section: &Section) -> io::Result<Writer<W>> {
        let mut writer = Writer { out, block: Vec::with_capacity(4096), bytes: 0 };
        writer.section_header(section)?;
        for interface in &section.interfaces {
            writer.interface(interface)?;
        }
        Ok(writer)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that a packet takes in the file.
    pub fn packet_bytes(packet: &Packet<'_>) -> u64 {
        let comment = |c: &String| if c.is_empty() { 0 } else { 4 + padded(clipped(c).len()) };
        let comments: usize = packet.comments.iter().map(comment).sum();
        let flags = if packet.direction.is_some() { 8 } else { 0 };
        // Kind and length, five words, the end of the options, the length again.
        (28 + padded(packet.bytes.len()) + comments + flags + 8) as u64
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        self.begin();
        self.word(packet.interface);
        self.timestamp(packet.timestamp_ns);
        self.word(packet.bytes.len() as u32);
        self.word(packet.wire_len);
        self.block.extend_from_slice(packet.bytes);
        self.pad();
        packet.comments.iter().for_each(|comment| self.text(OPT_COMMENT, comment));
        if let Some(direction) = packet.direction {
            let flags: u32 = if direction == Direction::In { 1 } else { 2 };
            self.option(OPT_EPB_FLAGS, &flags.to_le_bytes());
        }
        self.end(ENHANCED_PACKET)
    }

    /// Writes what was counted at an interface.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn statistics(&mut self, counted: &Statistics) -> io::Result<()> {
        self.begin();
        self.word(counted.interface);
        self.timestamp(counted.end_ns);
        counted.comments.iter().for_each(|comment| self.text(OPT_COMMENT, comment));
        for (code, ns) in [(OPT_ISB_START, counted.start_ns), (OPT_ISB_END, counted.end_ns)] {
            let halves = [(ns >> 32) as u32, ns as u32].map(u32::to_le_bytes);
            self.option(code, &halves.concat());
        }
        for (code, count) in [
            (OPT_ISB_RECEIVED, counted.received),
            (OPT_ISB_DROPPED, counted.dropped),
            (OPT_ISB_ACCEPTED, counted.accepted),
            (OPT_ISB_OS_DROPPED, counted.os_dropped),
            (OPT_ISB_DELIVERED, counted.delivered),
        ] {
            self.option(code, &count.to_le_bytes());
        }
        self.end(INTERFACE_STATISTICS)
    }

    /// Hands everything on.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the section and gives `out` back.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn section_header(&mut self, section: &Section) -> io::Result<()> {
        self.begin();
        self.word(BYTE_ORDER_MAGIC);
        // Version 1.0; the section's length is not known.
        self.word(1);
        self.block.extend_from_slice(&u64::MAX.to_le_bytes());
        self.text(OPT_COMMENT, &section.comment);
        self.text(OPT_SHB_OS, &section.os);
        self.text(OPT_SHB_APPLICATION, &section.application);
        self.end(SECTION_HEADER)
    }

    fn interface(&mut self, interface: &Interface) -> io::Result<()> {
        self.begin();
        self.word(LINKTYPE_ETHERNET.into());
        self.word(interface.snap_len);
        self.text(OPT_IF_NAME, &interface.name);
        self.text(OPT_IF_DESCRIPTION, &interface.description);
        self.option(OPT_IF_TSRESOL, &[NANOSECONDS]);
        if !interface.filter.is_empty() {
            // A leading 0: libpcap's language.
            let text = clipped(&interface.filter);
            self.option(OPT_IF_FILTER, &[&[0], text.as_bytes()].concat());
        }
        self.end(INTERFACE_DESCRIPTION)
    }

    /// Room for kind and length.
    fn begin(&mut self) {
        self.block.clear();
        self.block.extend_from_slice(&[0; 8]);
    }

    fn word(&mut self, word: u32) {
        self.block.extend_from_slice(&word.to_le_bytes());
    }

    fn timestamp(&mut self, ns: u64) {
        self.word((ns >> 32) as u32);
        self.word(ns as u32);
    }

    fn text(&mut self, code: u16, text: &str) {
        if !text.is_empty() {
            self.option(code, clipped(text).as_bytes());
        }
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.block.extend_from_slice(&code.to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.block.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.block.resize(padded(self.block.len()), 0);
    }

    /// The end of the options, the length again, and out. A block without options has no end of
    /// them either, but may.
    fn end(&mut self, kind: u32) -> io::Result<()> {
        self.word(0);
        let len = self.block.len() as u32 + 4;
        self.word(len);
        self.block[0..4].copy_from_slice(&kind.to_le_bytes());
        self.block[4..8].copy_from_slice(&len.to_le_bytes());
        self.out.write_all(&self.block)?;
        self.bytes += self.block.len() as u64;
        Ok(())
    }
}

const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// As much of a text as an option is given.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
