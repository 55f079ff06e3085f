//! The command at a node that only captures, against a daemon in a thread.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::time::Duration;

use understudy_api::stream::{DiskRead, Piece};
use understudy_api::{CaptureStatus, Capturing, LinkStatus, Request, StoreStatus, server};
use understudy_pcap::{Block, Reader};
use understudy_wire::record::{LinkFrame, RecordHeader, RecordKind};

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
const PATIENCE: Duration = Duration::from_secs(20);
const START_NS: u64 = 1_763_888_400_000_000_000;
const TAP: &str = include_str!("../../../configs/capture/tap.toml");

fn run(
    dir: &tempfile::TempDir,
    serve: impl FnOnce(Request, UnixStream) + Send + 'static,
    arguments: &[&str],
) -> Output {
    let socket = dir.path().join("s");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let request = server::read_request(&mut stream, PATIENCE).unwrap().unwrap();
        serve(request, stream);
    });
    // The socket comes from the node's file, as it does for an operator.
    let config = dir.path().join("tap.toml");
    let text = TAP.replace("/run/understudy/tap.sock", socket.to_str().unwrap());
    std::fs::write(&config, text).unwrap();
    let output = Command::new(PROGRAM)
        .args(["-c", config.to_str().unwrap()])
        .args(arguments)
        .current_dir(dir.path())
        .env("TZ", "UTC")
        .output()
        .unwrap();
    thread.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn record(head: &LinkFrame, timestamp_ns: u64, frame: &[u8]) -> Vec<u8> {
    let payload = [&head.encode()[..], frame].concat();
    let kind = RecordKind::LinkFrame;
    let header = RecordHeader { len: payload.len() as u32, kind, timestamp_ns };
    let mut record = [&header.encode()[..], &payload].concat();
    record.resize(header.stored_len(), 0);
    record
}

fn serve(request: Request, mut stream: UnixStream) {
    let expected = Request::Capture {
        from_ns: Some(5_000_000_000),
        to_ns: None,
        follow: false,
        filter: Some("len < 200 or tcp".into()),
    };
    assert_eq!(request, expected);
    let capturing = Capturing {
        node: "tap".into(),
        clock: "software".into(),
        links: vec!["net_af_packet_tap,iface=us-tap,blocksz=1".into(), "0000:01:00.0".into()],
        node_filter: "not port 22".into(),
        ..Capturing::default()
    };
    server::write_response(&mut stream, &capturing.into(), PATIENCE).unwrap();
    let cut = LinkFrame { wire_len: 1500, link: 0, device_ns: None };
    let stamped = LinkFrame { wire_len: 60, link: 1, device_ns: Some(START_NS + 7) };
    let gone = LinkFrame { wire_len: 60, link: 9, device_ns: None };
    let records = [
        record(&cut, START_NS + 1, &[1; 100]),
        record(&stamped, START_NS + 10, &[2; 60]),
        record(&gone, START_NS + 11, &[3; 60]),
        record(&cut, START_NS + 12, &[4; 300]),
    ]
    .concat();
    let read = DiskRead {
        segments_read: 1,
        segments_skipped: 9,
        blocks_read: 2,
        blocks_skipped: 100,
        bytes_read: 5000,
        damaged: 1,
    };
    for piece in [Piece::Records { position: 0, bytes: &records }, Piece::Read(read), Piece::End] {
        stream.write_all(&piece.head()).unwrap();
        if let Piece::Records { bytes, .. } = piece {
            stream.write_all(bytes).unwrap();
        }
    }
}

#[test]
fn links_are_interfaces_and_a_device_s_time_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["capture", "--from", "@5", "-w", "x", "len < 200 or tcp"];
    let output = run(&dir, serve, &arguments);
    let expected = "\
3 packets captured
4 packets received by filter, 1 filtered out
0 records dropped: overwritten in the log before they were read
1 of 10 segments, 2 of 102 blocks in them read from disk, 5000 bytes
1 blocks or segments could not be read
";
    assert_eq!((text(&output.stderr), output.status.code()), (expected, Some(0)));
    let file = std::fs::read(dir.path().join("x")).unwrap();
    let (packets, error) = Reader::new(&file).packets();
    assert_eq!(error, None);
    let seen: Vec<_> = packets
        .iter()
        .map(|p| (p.interface, p.timestamp_ns - START_NS, p.wire_len, p.bytes.len()))
        .collect();
    assert_eq!(seen, [(0, 1, 1500, 100), (1, 7, 60, 60), (1, 11, 60, 60)]);
    let mut reader = Reader::new(&file);
    let mut statistics = 0;
    while let Some(block) = reader.next_block().unwrap() {
        statistics += usize::from(matches!(block, Block::Statistics { .. }));
    }
    assert_eq!(statistics, 2, "of each link");
    let whole = String::from_utf8_lossy(&file);
    for said in ["us-tap", "0000:01:00.0", "timestamps: software", "not port 22", "node tap"] {
        assert!(whole.contains(said), "{said}");
    }
}

#[test]
fn its_status_says_what_is_wrong_and_only_that() {
    let answer = |store: StoreStatus| {
        move |request: Request, mut stream: UnixStream| {
            assert_eq!(request, Request::Status);
            let link = LinkStatus {
                device: "0000:01:00.0".into(),
                clock: "software".into(),
                up: true,
                received: 10,
                captured: 9,
                filtered: 1,
                ..LinkStatus::default()
            };
            let status = CaptureStatus {
                node: "tap".into(),
                filter: "udp".into(),
                filter_runs_as: "rte_bpf, machine code".into(),
                links: vec![link],
                store,
                ..CaptureStatus::default()
            };
            server::write_response(&mut stream, &status.into(), PATIENCE).unwrap();
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let good = StoreStatus {
        directory: "/var/x".into(),
        segments: 3,
        oldest_unix_ns: Some(START_NS),
        ..StoreStatus::default()
    };
    let output = run(&dir, answer(good.clone()), &["status"]);
    let out = text(&output.stdout);
    assert!(
        out.contains("tap  captures only") && out.contains("udp  (rte_bpf, machine code)"),
        "{out}"
    );
    assert!(
        out.contains("3 segments") && out.contains("since 2025-11-23 09:00:00.000 UTC"),
        "{out}"
    );
    assert!(!out.contains("LOST") && !out.contains("FAILS") && !out.contains("failures"), "{out}");
    let bad = StoreStatus {
        lost_records: 7,
        failures: 2,
        failed_because: Some("No space left\non device".into()),
        ..good
    };
    let out = run(&dir, answer(bad.clone()), &["status"]).stdout;
    let out = text(&out);
    assert!(out.contains("7 records LOST") && out.contains("2 failures"), "{out}");
    assert!(out.contains("No space left\\non device"), "{out}");
    let out = run(&dir, answer(bad), &["-j", "status"]).stdout;
    let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(document["capture_node"]["store"]["lost_records"], 7);
    assert_eq!(document["ok"], true);
}
