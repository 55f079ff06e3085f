//! Files as the writer and the recorder make them, read back by this crate's reader and by the
//! programs people use: tshark and capinfos.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use understudy_pcap::{
    Block, Direction, Filter, Interface, Packet, Reader, Recorder, Rotation, Section, Statistics,
    Writer,
};

const START_NS: u64 = 1_763_888_400_000_000_000;

fn section(interfaces: usize) -> Section {
    let interface = |i| Interface {
        name: format!("port{i}"),
        description: "a port".into(),
        filter: "tcp".into(),
        snap_len: 0,
    };
    Section {
        application: "understudy test".into(),
        os: "Linux".into(),
        comment: "made by a test".into(),
        interfaces: (0..interfaces).map(interface).collect(),
    }
}

fn packet(interface: u32, timestamp_ns: u64, bytes: &[u8]) -> Packet<'_> {
    let wire_len = bytes.len() as u32;
    Packet { interface, timestamp_ns, wire_len, bytes, direction: None, comments: &[] }
}

fn statistics(dropped: u64) -> Statistics {
    Statistics {
        start_ns: START_NS,
        end_ns: START_NS + 5,
        received: 9,
        dropped,
        ..Statistics::default()
    }
}

proptest! {
    /// Whatever is written is read.
    #[test]
    fn what_is_written_is_read(
        packets in proptest::collection::vec(
            (
                0u32..3,
                any::<u64>(),
                proptest::collection::vec(any::<u8>(), 0..200),
                0u32..5000,
                proptest::collection::vec("\\PC{0,40}", 0..3),
                proptest::option::of(any::<bool>()),
            ),
            0..40,
        ),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut writer = Writer::new(Vec::new(), &section(3)).unwrap();
        let mut ends = vec![writer.bytes()];
        for (interface, timestamp_ns, bytes, more, comments, inward) in &packets {
            let direction = inward.map(|i| if i { Direction::In } else { Direction::Out });
            let packet = Packet {
                direction,
                wire_len: bytes.len() as u32 + more,
                comments,
                ..packet(*interface, *timestamp_ns, bytes)
            };
            let (before, expected) = (writer.bytes(), Writer::<Vec<u8>>::packet_bytes(&packet));
            writer.packet(&packet).unwrap();
            prop_assert_eq!(writer.bytes() - before, expected);
            ends.push(writer.bytes());
        }
        writer.statistics(&statistics(3)).unwrap();
        let file = writer.finish().unwrap();
        let (read, error) = Reader::new(&file).packets();
        prop_assert_eq!((read.len(), error), (packets.len(), None));
        for (read, (interface, timestamp_ns, bytes, more, comments, inward)) in read.iter().zip(&packets) {
            prop_assert_eq!((read.interface, read.timestamp_ns), (*interface, *timestamp_ns));
            prop_assert_eq!(read.bytes, &bytes[..]);
            prop_assert_eq!(read.wire_len, bytes.len() as u32 + more);
            let said: Vec<&String> = comments.iter().filter(|c| !c.is_empty()).collect();
            prop_assert_eq!(read.comments.iter().collect::<Vec<_>>(), said);
            prop_assert_eq!(read.flags, inward.map_or(0, |i| if i { 1 } else { 2 }));
        }
        // Cut anywhere, the packets that are whole are read, and the rest is an error.
        let cut = cut.index(file.len());
        let whole = ends.iter().filter(|end| **end as usize <= cut).count().saturating_sub(1);
        prop_assert_eq!(Reader::new(&file[..cut]).packets().0.len(), whole);
    }
}

#[test]
fn statistics_are_read() {
    let mut writer = Writer::new(Vec::new(), &section(1)).unwrap();
    let said = Statistics { comments: vec!["epoch 4".into()], ..statistics(7) };
    writer.statistics(&said).unwrap();
    let file = writer.finish().unwrap();
    let mut reader = Reader::new(&file);
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        blocks.push(block);
    }
    let comments = vec!["epoch 4".to_owned()];
    let expected =
        Block::Statistics { interface: 0, received: Some(9), dropped: Some(7), comments };
    assert_eq!(blocks[2..], [expected]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The first byte of each packet of a file.
fn firsts(path: &Path) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let (packets, error) = Reader::new(&file).packets();
    assert_eq!(error, None);
    packets.iter().map(|p| p.bytes[0]).collect()
}

fn record(name: &Path, rotation: Rotation, step_ns: u64) {
    let mut recorder = Recorder::to_files(name, section(1), rotation, START_NS).unwrap();
    for i in 0..10u8 {
        let bytes = [i; 100];
        let packet = packet(0, START_NS + u64::from(i) * step_ns, &bytes);
        recorder.packet(&packet, || vec![statistics(0)]).unwrap();
    }
    recorder.finish(&[statistics(0)]).unwrap();
}

#[test]
fn a_ring_by_size_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let header_bytes = Writer::new(Vec::new(), &section(1)).unwrap().bytes();
    let three = 3 * Writer::<Vec<u8>>::packet_bytes(&packet(0, 0, &[0; 100]));
    let size_bytes = Some(header_bytes + three);
    let rotation = Rotation { size_bytes, files_max: Some(2), ..Rotation::default() };
    record(&dir.path().join("x"), rotation, 1);
    assert_eq!(names(dir.path()), ["x0", "x1"]);
    assert_eq!(firsts(&dir.path().join("x1")), [9]);
    assert_eq!(firsts(&dir.path().join("x0")), [6, 7, 8]);
    let rotation = Rotation { files_max: None, ..rotation };
    record(&dir.path().join("y"), rotation, 1);
    assert_eq!(names(dir.path()), ["x0", "x1", "y", "y1", "y2", "y3"]);
}

#[test]
fn a_ring_by_time_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let interval_ns = Some(3_000_000_000);
    let rotation = Rotation { interval_ns, files_max: Some(3), ..Rotation::default() };
    record(&dir.path().join("t-%s"), rotation, 1_000_000_000);
    // Of 0-2, 3-5, 6-8 and 9 seconds, the last three.
    let expected = [3, 6, 9].map(|s| format!("t-{}", START_NS / 1_000_000_000 + s));
    assert_eq!(names(dir.path()), expected);
    assert_eq!(firsts(&dir.path().join(&expected[0])), [3, 4, 5]);
}

#[test]
fn a_name_that_cannot_be_written_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("no").join("such");
    let error = Recorder::to_files(&name, section(1), Rotation::default(), 0).err().unwrap();
    assert!(error.to_string().contains("no/such"), "{error}");
    assert!(!error.is_broken_pipe());
}

#[test]
fn filters_are_libpcaps() {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 7, 10, 0, 0, 9]);
    frame.extend([0x10, 0, 0, 53, 0, 8, 0, 0]);
    for (text, passes) in [
        ("", true),
        ("host 10.0.0.7", true),
        ("host 10.0.0.8", false),
        ("udp and dst port 53", true),
        ("tcp", false),
        ("greater 43", false),
        ("len == 42", true),
        ("ip[8] = 64", true),
        ("vlan", false),
    ] {
        assert_eq!(Filter::compile(text).unwrap().matches(&frame), passes, "{text}");
    }
    // A filter that looks past the end of a runt does not match it.
    assert!(!Filter::compile("udp").unwrap().matches(&frame[..9]));
    let error = Filter::compile("host and tcp and").unwrap_err().to_string();
    assert!(error.contains("syntax error"), "{error}");
    assert!(Filter::compile("tcp\0").is_err());
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|e| panic!("{program}: {e}; dpdk-build/setup.sh installs it"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {err}");
    out.into_owned()
}

/// The programs people use see the same frames, bytes, times, comments and counters.
#[test]
fn tshark_and_capinfos_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.pcapng");
    // A runt, a jumbo frame, times 1 ns apart.
    let frames = [vec![1; 20], vec![0xab; 9000], vec![3; 61], vec![4; 1514]];
    let comments = ["epoch 3: node b is primary now".to_owned(), "checkpoint 2".to_owned()];
    let mut recorder = Recorder::to_files(&path, section(2), Rotation::default(), 0).unwrap();
    for (i, frame) in frames.iter().enumerate() {
        let packet = Packet {
            comments: if i == 1 { &comments } else { &[] },
            direction: Some(Direction::In),
            ..packet(i as u32 % 2, START_NS + i as u64, frame)
        };
        recorder.packet(&packet, Vec::new).unwrap();
    }
    let cut = Packet { wire_len: 1514, ..packet(0, START_NS + 999_999_999, &frames[3][..64]) };
    recorder.packet(&cut, Vec::new).unwrap();
    recorder.finish(&[statistics(5)]).unwrap();
    let path = path.to_str().unwrap();

    let fields =
        ["frame.time_epoch", "frame.cap_len", "frame.len", "frame.interface_name", "frame.comment"];
    let mut arguments = vec!["-n", "-r", path, "-T", "fields"];
    fields.iter().for_each(|field| arguments.extend(["-e", field]));
    let expected = "\
1763888400.000000000\t20\t20\tport0\t
1763888400.000000001\t9000\t9000\tport1\tepoch 3: node b is primary now,checkpoint 2
1763888400.000000002\t61\t61\tport0\t
1763888400.000000003\t1514\t1514\tport1\t
1763888400.999999999\t64\t1514\tport0\t
";
    assert_eq!(run("tshark", &arguments), expected);

    let dump = run("tshark", &["-n", "-r", path, "-x"]);
    let bytes: usize = dump
        .lines()
        .filter(|line| {
            line.as_bytes().get(4) == Some(&b' ') && line.starts_with('0')
                || line.starts_with('1')
                || line.starts_with('2')
        })
        .map(|line| line.get(6..53).unwrap_or_default().split_whitespace().count())
        .sum();
    assert_eq!(bytes, 20 + 9000 + 61 + 1514 + 64);

    let infos = run("capinfos", &["-M", path]);
    for part in [
        "nanoseconds (9)",
        "Capture comment:     made by a test",
        "understudy test",
        "Number of packets:   5",
        "Filter string = tcp",
        "Number of stat entries = 1",
    ] {
        assert!(infos.contains(part), "{part} is not in\n{infos}");
    }
}

#[test]
fn a_filter_is_a_program_for_others_to_run() {
    let program = Filter::compile("ip").unwrap().instructions();
    let (codes, last): (Vec<u16>, _) = (program.iter().map(|i| i.0).collect(), program.last());
    assert_eq!(codes, [0x28, 0x15, 0x06, 0x06], "ldh, jeq, ret, ret: {program:?}");
    assert_eq!((program[0].3, program[1].3, last.map(|i| i.3)), (12, 0x800, Some(0)));
    assert!(Filter::compile("").unwrap().instructions().is_empty());
}
