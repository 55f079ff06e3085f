//! Frames that carry a number, so that a file of them can be checked: which are there, in which
//! order, and whether each is as it was sent.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use understudy_lab::pattern::mix;

/// Ethernet, IPv4 and UDP: 10.0.0.1 to 10.0.0.2.
const HEADERS: [u8; 42] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0,
    1, 10, 0, 0, 2, 0x20, 0, 0, 53, 0, 0, 0, 0,
];
/// Low byte of the UDP source port: the flow.
const FLOW_AT: usize = 35;
/// Where all frames go.
pub const DESTINATION: [u8; 4] = [10, 0, 0, 2];
/// The shortest frame: headers and number.
pub const LEN_MIN: usize = HEADERS.len() + 8;

/// The frame with the number 0.
///
/// # Errors
/// If it would be too short for a number.
pub fn frame(len: usize) -> Result<Vec<u8>> {
    ensure!((LEN_MIN..=1514).contains(&len), "a numbered frame has {LEN_MIN} to 1514 bytes");
    let mut frame = HEADERS.to_vec();
    frame.resize(len, 0);
    frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    frame[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
    write(0, &mut frame);
    Ok(frame)
}

/// Makes a frame that [`frame`] made the one of another number: one of 256 flows, and every byte of
/// the payload follows from the number.
pub fn write(number: u64, frame: &mut [u8]) {
    frame[FLOW_AT] = number as u8;
    let (first, rest) = frame[HEADERS.len()..].split_at_mut(8);
    first.copy_from_slice(&number.to_le_bytes());
    let word = mix(number).to_le_bytes();
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// What a file holds of a sequence of numbered frames.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stored {
    /// Frames that are as they were sent, in the order in which they were.
    pub right: u64,
    /// Others: damaged, twice there, late, or not of the sequence.
    pub wrong: u64,
    /// Frames a second, from the first one's time to the last one's.
    pub rate: f64,
}

/// Takes frames in the order of a file.
struct Check {
    expected: Vec<u8>,
    next: u64,
    stored: Stored,
}

impl Check {
    fn new(len: usize) -> Result<Check> {
        Ok(Check { expected: frame(len)?, next: 0, stored: Stored::default() })
    }

    fn take(&mut self, bytes: &[u8]) {
        let number = bytes.get(HEADERS.len()..LEN_MIN).and_then(|b| b.try_into().ok());
        let number = number.map(u64::from_le_bytes).filter(|&number| number >= self.next);
        if let Some(number) = number {
            write(number, &mut self.expected);
            if bytes == self.expected {
                self.next = number + 1;
                self.stored.right += 1;
                return;
            }
        }
        self.stored.wrong += 1;
    }
}

/// Reads a pcap or pcapng file, by libpcap, of frames of that length.
///
/// # Errors
/// If it cannot be read to its end.
pub fn read(path: &Path, len: usize) -> Result<Stored> {
    let mut check = Check::new(len)?;
    let rate = for_each(path, |bytes| check.take(bytes))?;
    Ok(Stored { rate, ..check.stored })
}

/// The same of frames that have no number: UDP to [`DESTINATION`], each like the first but for the
/// identification in its IPv4 header, whose checksum must be right.
///
/// # Errors
/// As [`read`].
pub fn read_alike(path: &Path, len: usize) -> Result<Stored> {
    let (mut first, mut stored) = (None::<Vec<u8>>, Stored::default());
    let rate = for_each(path, |bytes| {
        let first = first.get_or_insert_with(|| bytes.to_vec());
        let is_sent = bytes.len() == len.max(HEADERS.len())
            && bytes[30..34] == DESTINATION
            && checksum(&bytes[14..34]) == 0
            && ALIKE.iter().all(|part| bytes[part.clone()] == first[part.clone()])
            && bytes[HEADERS.len()..] == first[HEADERS.len()..];
        if is_sent { stored.right += 1 } else { stored.wrong += 1 }
    })?;
    Ok(Stored { rate, ..stored })
}

/// What headers have but for identification and header checksum.
const ALIKE: [std::ops::Range<usize>; 3] = [0..18, 20..24, 26..42];

/// Of a whole IPv4 header: 0 if it is right.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Hands over each frame of a file; gives their rate.
fn for_each(path: &Path, mut take: impl FnMut(&[u8])) -> Result<f64> {
    let name = || format!("read {}", path.display());
    let mut file = pcap::Capture::from_file(path).with_context(name)?;
    let (mut count, mut first_s, mut last_s) = (0_u64, None, 0.0);
    loop {
        match file.next_packet() {
            Ok(packet) => {
                let at = packet.header.ts;
                last_s = at.tv_sec as f64 + at.tv_usec as f64 / 1e6;
                first_s.get_or_insert(last_s);
                count += 1;
                take(packet.data);
            }
            Err(pcap::Error::NoMorePackets) => break,
            Err(error) => return Err(error).with_context(name),
        }
    }
    let span_s = last_s - first_s.unwrap_or(0.0);
    // Of no time at all there is no rate: it is limited by what else is known.
    Ok(if span_s > 0.0 { (count - 1) as f64 / span_s } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u64) -> Vec<u8> {
        let mut frame = frame(64).unwrap();
        write(number, &mut frame);
        frame
    }

    #[test]
    fn what_is_missing_damaged_or_out_of_order_is_seen() {
        let check = |frames: &[Vec<u8>]| {
            let mut check = Check::new(64).unwrap();
            frames.iter().for_each(|frame| check.take(frame));
            (check.stored.right, check.stored.wrong)
        };
        let all: Vec<_> = (0..5).map(numbered).collect();
        assert_eq!(check(&all), (5, 0));
        assert_eq!(check(&all[1..4]), (3, 0));
        let twice = [&all[..2], &all[1..2]].concat();
        assert_eq!(check(&twice), (2, 1));
        let mut damaged = all.clone();
        damaged[2][63] ^= 1;
        assert_eq!(check(&damaged), (4, 1));
        assert_eq!(check(&[vec![0; 20]]), (0, 1));
        assert!(frame(LEN_MIN - 1).is_err() && frame(LEN_MIN).is_ok());
    }

    #[test]
    fn a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let dead = pcap::Capture::dead(pcap::Linktype::ETHERNET).unwrap();
        let mut file = dead.savefile(&path).unwrap();
        for number in [0, 1, 3] {
            let data = numbered(number);
            let ts = libc::timeval { tv_sec: 1, tv_usec: number as i64 * 1000 };
            let header = pcap::PacketHeader { ts, caplen: 64, len: 64 };
            file.write(&pcap::Packet { header: &header, data: &data });
        }
        drop(file);
        let stored = read(&path, 64).unwrap();
        assert_eq!((stored.right, stored.wrong), (3, 0));
        assert!((stored.rate - 2000.0 / 3.0).abs() < 1.0, "{stored:?}");
        assert!(read(&dir.path().join("y"), 64).is_err());
    }

    #[test]
    fn frames_without_a_number_are_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let dead = pcap::Capture::dead(pcap::Linktype::ETHERNET).unwrap();
        let mut file = dead.savefile(&path).unwrap();
        let mut write = |identification: u8, last: u8| {
            let mut data = frame(64).unwrap();
            (data[19], data[63]) = (identification, last);
            let sum = checksum(&data[14..34]).to_be_bytes();
            data[24..26].copy_from_slice(&sum);
            // One is damaged on the way.
            data[24] ^= u8::from(identification == 3);
            let header = pcap::PacketHeader {
                ts: libc::timeval { tv_sec: 1, tv_usec: 0 },
                caplen: 64,
                len: 64,
            };
            file.write(&pcap::Packet { header: &header, data: &data });
        };
        for (identification, last) in [(1, 7), (2, 7), (3, 7), (4, 8)] {
            write(identification, last);
        }
        drop(file);
        let stored = read_alike(&path, 64).unwrap();
        assert_eq!((stored.right, stored.wrong), (2, 2));
    }
}
