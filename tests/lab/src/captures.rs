//! Capture files: those that tcpdump tests itself with, a public mix of what links carry, and what
//! tshark reads of ours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cmd;

/// Ethernet, of the link types (<https://www.tcpdump.org/linktypes.html>).
const ETHERNET: u32 = 1;
/// Bytes of the file's header and of a frame's.
const FILE_HEADER_LEN: usize = 24;
const FRAME_HEADER_LEN: usize = 16;
/// Destination, source and type: no device sends less.
const FRAME_LEN_MIN: usize = 14;

/// A frame with its time.
pub type Stamped = (u64, Vec<u8>);

/// Where `dpdk-build/setup.sh` puts the captures that tcpdump tests itself with.
pub fn public_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/public-captures")
}

/// Every Ethernet frame of the public captures that was captured whole and can be sent, in the order
/// of the files' names.
///
/// # Errors
/// If they are not there.
pub fn public_mix(frame_len_max: usize) -> Result<Vec<Vec<u8>>> {
    let directory = public_directory();
    let missing = || format!("{}: dpdk-build/setup.sh fetches them", directory.display());
    let files = fs::read_dir(&directory).with_context(missing)?;
    let mut paths: Vec<PathBuf> = files.map(|f| Ok(f?.path())).collect::<Result<_>>()?;
    paths.sort();
    let mut frames = Vec::new();
    for path in paths {
        let bytes = fs::read(&path)?;
        // They are made to break who reads them: what is no capture of Ethernet is not meant.
        let Some(file) = Pcap::open(&bytes).filter(|file| file.link_type == ETHERNET) else {
            continue;
        };
        let whole = file.filter(|frame| frame.wire_len == frame.bytes.len());
        frames.extend(whole.map(|frame| frame.bytes.to_vec()));
    }
    frames.retain(|frame| (FRAME_LEN_MIN..=frame_len_max).contains(&frame.len()));
    ensure!(!frames.is_empty(), "{} holds no frames", directory.display());
    Ok(frames)
}

/// The frames of a pcapng file as tshark reads them.
///
/// # Errors
/// If tshark does not like it, or a frame was cut.
pub fn as_tshark_reads(path: &Path) -> Result<Vec<Stamped>> {
    let out = path.with_extension("tshark");
    let (from, to) = (path.to_string_lossy(), out.to_string_lossy());
    cmd::run(&["tshark", "-n", "-r", &from, "-w", &to, "-F", "nsecpcap"])?;
    let bytes = fs::read(&out)?;
    let file = Pcap::open(&bytes).filter(|f| f.per_second == 1_000_000_000);
    let file = file.context("tshark wrote something else")?;
    let mut frames = Vec::new();
    for frame in file {
        ensure!(frame.wire_len == frame.bytes.len(), "a frame that was cut");
        frames.push((frame.ns, frame.bytes.to_vec()));
    }
    Ok(frames)
}

/// Where two lists of frames part, for a failed test.
pub fn difference(found: &[&[u8]], sent: &[&[u8]]) -> String {
    let at = found.iter().zip(sent).position(|(a, b)| a != b);
    match at {
        Some(at) => format!(
            "frame {at} of {} differs: {:02x?}.. instead of {:02x?}..",
            sent.len(),
            &found[at][..found[at].len().min(40)],
            &sent[at][..sent[at].len().min(40)]
        ),
        None => format!("{} frames instead of {}", found.len(), sent.len()),
    }
}

/// A file of the format that pcap-savefile(5) describes, of either byte order; ends where it does.
struct Pcap<'a> {
    rest: &'a [u8],
    is_big_endian: bool,
    per_second: u64,
    link_type: u32,
}

struct PcapFrame<'a> {
    ns: u64,
    wire_len: usize,
    bytes: &'a [u8],
}

impl<'a> Pcap<'a> {
    fn open(bytes: &'a [u8]) -> Option<Pcap<'a>> {
        let magic = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let (is_big_endian, per_second) = match magic {
            0xa1b2_c3d4 => (false, 1_000_000),
            0xa1b2_3c4d => (false, 1_000_000_000),
            0xd4c3_b2a1 => (true, 1_000_000),
            0x4d3c_b2a1 => (true, 1_000_000_000),
            _ => return None,
        };
        let mut file = Pcap { rest: bytes, is_big_endian, per_second, link_type: 0 };
        file.link_type = file.word(FILE_HEADER_LEN - 4)? & 0xffff;
        file.rest = &bytes[FILE_HEADER_LEN..];
        Some(file)
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.rest.get(at..at + 4)?.try_into().ok()?;
        Some(match self.is_big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }
}

impl<'a> Iterator for Pcap<'a> {
    type Item = PcapFrame<'a>;

    fn next(&mut self) -> Option<PcapFrame<'a>> {
        let (s, part) = (u64::from(self.word(0)?), u64::from(self.word(4)?));
        let (len, wire_len) = (self.word(8)? as usize, self.word(12)? as usize);
        let bytes = self.rest[FRAME_HEADER_LEN..].get(..len)?;
        self.rest = &self.rest[FRAME_HEADER_LEN + len..];
        let ns = s * 1_000_000_000 + part * (1_000_000_000 / self.per_second);
        Some(PcapFrame { ns, wire_len, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(magic: [u8; 4], word: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        bytes.extend([0; 16]);
        bytes.extend(word(ETHERNET));
        for frame in [(1, 5, 2, 2, &b"ab"[..]), (2, 0, 1, 9, b"c")] {
            for number in [frame.0, frame.1, frame.2, frame.3] {
                bytes.extend(word(number));
            }
            bytes.extend(frame.4);
        }
        bytes
    }

    #[test]
    fn both_byte_orders_are_read_and_a_torn_end_ends_it() {
        for bytes in [
            file([0xd4, 0xc3, 0xb2, 0xa1], u32::to_le_bytes),
            file([0xa1, 0xb2, 0xc3, 0xd4], u32::to_be_bytes),
        ] {
            let frames: Vec<_> = Pcap::open(&bytes).unwrap().collect();
            assert_eq!(frames.len(), 2);
            assert_eq!((frames[0].ns, frames[0].bytes), (1_000_005_000, &b"ab"[..]));
            assert_eq!((frames[1].wire_len, frames[1].bytes), (9, &b"c"[..]));
            for cut in 0..bytes.len() {
                let whole = Pcap::open(&bytes[..cut]).map_or(0, Iterator::count);
                assert_eq!(whole, usize::from(cut >= 42), "cut at {cut}");
            }
        }
    }
}
