//! pcapng files of other programs, and frames as they are looked into for people.

use understudy_fuzz::{corpus, fuzz, is_inside, mutated};
use understudy_pcap::{
    Block, Direction, Filter, Interface, Packet, ReadError, Reader, Section, Statistics, Writer,
    dissect, line,
};

fn file(interfaces: usize, frames: &[Vec<u8>], comments: &[String]) -> Vec<u8> {
    let interface =
        Interface { name: "client".into(), filter: "tcp".into(), ..Interface::default() };
    let section = Section {
        comment: "a fuzzer's".into(),
        interfaces: vec![interface; interfaces],
        ..Section::default()
    };
    let mut writer = Writer::new(Vec::new(), &section).expect("memory");
    for (i, bytes) in frames.iter().enumerate() {
        let packet = Packet {
            interface: (i % interfaces) as u32,
            timestamp_ns: u64::MAX / 3 * i as u64,
            wire_len: bytes.len() as u32,
            bytes,
            direction: (i % 2 == 0).then_some(Direction::Out),
            comments: if i == 1 { comments } else { &[] },
        };
        writer.packet(&packet).expect("memory");
    }
    let comments = comments.to_vec();
    writer.statistics(&Statistics { comments, ..Statistics::default() }).expect("memory");
    writer.finish().expect("memory")
}

/// Files of ours, and one in the other byte order with times of another resolution.
fn seeds() -> Vec<Vec<u8>> {
    let comments = ["epoch 2".to_owned(), "x".repeat(50)];
    let mut big_endian = vec![0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1];
    big_endian.extend([0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 28]);
    // An interface with times in 2^-10 s, and a packet.
    big_endian.extend([0, 0, 0, 1, 0, 0, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0]);
    big_endian.extend([0, 9, 0, 1, 0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    big_endian.extend([0, 0, 0, 6, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]);
    big_endian.extend([0, 0, 0, 4, 0, 0, 0, 60, 9, 9, 9, 9, 0, 0, 0, 36]);
    vec![
        file(1, &[vec![1; 60], vec![2; 14], vec![]], &comments),
        file(3, &[vec![7; 300], vec![8; 61], vec![9; 1]], &[]),
        big_endian,
    ]
}

#[test]
fn seeds_are_whole() {
    for seed in seeds() {
        assert_eq!(Reader::new(&seed).packets().1, None);
    }
}

#[test]
fn pcapng_files() {
    let seeds = seeds();
    let (mut whole, mut broken) = (0u64, 0u64);
    fuzz("pcapng", 2, |rng| {
        let bytes = mutated(rng, &seeds);
        let mut reader = Reader::new(&bytes);
        loop {
            let at = reader.at();
            match reader.next_block() {
                Ok(Some(block)) => {
                    whole += 1;
                    assert!(reader.at() >= at + 12, "it goes on");
                    if let Block::Packet(packet) = block {
                        assert!(packet.bytes.is_empty() || is_inside(packet.bytes, &bytes));
                    }
                }
                Ok(None) => break assert_eq!(at, bytes.len()),
                Err(ReadError::Short { at: said } | ReadError::Damaged { at: said, .. }) => {
                    broken += 1;
                    break assert_eq!((said, reader.at()), (at, at));
                }
            }
        }
    });
    println!("{whole} blocks were read, {broken} files were broken");
    assert!(whole > 0 && broken > 0);
}

#[test]
fn frames_for_people() {
    let seeds = corpus("client.frames");
    let filter = Filter::compile("tcp port 6379 or ip6 or vlan").expect("a filter");
    let (mut addressed, mut passed) = (0u64, 0u64);
    fuzz("dissect", 2, |rng| {
        let frame = mutated(rng, &seeds);
        let seen = dissect(&frame);
        assert_eq!(seen.is_none(), frame.len() < 14);
        addressed += u64::from(seen.is_some_and(|seen| seen.addresses.is_some()));
        passed += u64::from(filter.matches(&frame));
        assert!(line(&frame, frame.len()).bytes().all(|b| (0x20..0x7f).contains(&b)));
    });
    println!("{addressed} frames have addresses, {passed} pass the filter");
    assert!(addressed > 0 && passed > 0);
}
