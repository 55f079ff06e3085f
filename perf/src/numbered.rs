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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Frames that are as they were sent, in the order in which they were.
    pub right: u64,
    /// Others: damaged, twice there, late, or not of the sequence.
    pub wrong: u64,
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
    let name = || format!("read {}", path.display());
    let mut file = pcap::Capture::from_file(path).with_context(name)?;
    loop {
        match file.next_packet() {
            Ok(packet) => check.take(packet.data),
            Err(pcap::Error::NoMorePackets) => return Ok(check.stored),
            Err(error) => return Err(error).with_context(name),
        }
    }
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
            check.stored
        };
        let all: Vec<_> = (0..5).map(numbered).collect();
        assert_eq!(check(&all), Stored { right: 5, wrong: 0 });
        assert_eq!(check(&all[1..4]), Stored { right: 3, wrong: 0 });
        let twice = [&all[..2], &all[1..2]].concat();
        assert_eq!(check(&twice), Stored { right: 2, wrong: 1 });
        let mut damaged = all.clone();
        damaged[2][63] ^= 1;
        assert_eq!(check(&damaged), Stored { right: 4, wrong: 1 });
        assert_eq!(check(&[vec![0; 20]]), Stored { right: 0, wrong: 1 });
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
            let ts = libc::timeval { tv_sec: 1, tv_usec: 0 };
            let header = pcap::PacketHeader { ts, caplen: 64, len: 64 };
            file.write(&pcap::Packet { header: &header, data: &data });
        }
        drop(file);
        assert_eq!(read(&path, 64).unwrap(), Stored { right: 3, wrong: 0 });
        assert!(read(&dir.path().join("y"), 64).is_err());
    }
}
