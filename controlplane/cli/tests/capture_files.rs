//! `understudy capture` as an operator or a script runs it, against a daemon in a thread.

use std::io::{Read as _, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use understudy_api::stream::Piece;
use understudy_api::{ApiError, Capturing, ErrorCode, Request, Response, server};
use understudy_pcap::{Block, Reader};
use understudy_wire::record::{EpochRecord, RecordHeader, RecordKind};

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
const PATIENCE: Duration = Duration::from_secs(20);
const START_NS: u64 = 1_763_888_400_000_000_000;
/// A forked child holds the sockets that another test is about to close: one start at a time.
static SPAWN: Mutex<()> = Mutex::new(());

struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Setup {
        Setup { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the command against a daemon that serves one capture with `serve`.
    fn start(
        &self,
        serve: impl FnOnce(Request, UnixStream) + Send + 'static,
        arguments: &[&str],
        stdout: Stdio,
    ) -> (Child, std::thread::JoinHandle<()>) {
        let _guard = SPAWN.lock().unwrap();
        let socket = self.path("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let request = server::read_request(&mut stream, PATIENCE).unwrap().unwrap();
            serve(request, stream);
        });
        let child = Command::new(PROGRAM)
            .args(["-s", socket.to_str().unwrap()])
            .args(arguments)
            .current_dir(self.dir.path())
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (child, thread)
    }

    fn run(
        &self,
        serve: impl FnOnce(Request, UnixStream) + Send + 'static,
        arguments: &[&str],
    ) -> Output {
        let (child, thread) = self.start(serve, arguments, Stdio::piped());
        let output = child.wait_with_output().unwrap();
        thread.join().unwrap();
        output
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn begin(stream: &mut UnixStream) {
    let nodes = [(1, "a".to_owned()), (2, "b".to_owned())].into();
    let capturing = Capturing { node: "b".into(), nodes, ..Capturing::default() };
    server::write_response(stream, &capturing.into(), PATIENCE).unwrap();
}

fn send(stream: &mut UnixStream, piece: &Piece<'_>) -> std::io::Result<()> {
    stream.write_all(&piece.head())?;
    match piece {
        Piece::Records { bytes, .. } => stream.write_all(bytes),
        _ => Ok(()),
    }
}

fn record(kind: RecordKind, timestamp_ns: u64, payload: &[u8]) -> Vec<u8> {
    let header = RecordHeader { len: payload.len() as u32, kind, timestamp_ns };
    let mut record = [&header.encode()[..], payload].concat();
    record.resize(header.stored_len(), 0);
    record
}

/// UDP from a port of 10.0.0.7.
fn frame(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 7, 10, 0, 0, 100]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 53]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// Two frames, a reign that begins, a loss, a checkpoint, a SYN-ACK, another frame, another reign.
fn a_course(_: Request, mut stream: UnixStream) {
    begin(&mut stream);
    let client = |i: u64, port, payload: &[u8]| {
        record(RecordKind::ClientFrame, START_NS + i, &frame(port, payload))
    };
    let epoch = |epoch, primary| {
        record(RecordKind::Epoch, START_NS, &EpochRecord { epoch, primary }.encode())
    };
    let first = [client(1, 1000, b"one"), client(2, 2000, b"two"), epoch(3, 1)].concat();
    let syn_ack = record(RecordKind::SynAck, START_NS + 3, &frame(3000, b"syn"));
    let second = [&syn_ack[..], &client(4, 4000, &[7; 200]), &epoch(4, 2)].concat();
    let at = 800 + first.len() as u64;
    let checkpoint = Piece::Note { position: at + 8, text: "checkpoint 5".into() };
    for piece in [
        checkpoint,
        Piece::Records { position: 800, bytes: &first },
        Piece::Lost(10),
        Piece::Records { position: at + 8, bytes: &second },
        Piece::Alive { not_logged: 2 },
        Piece::End,
    ] {
        // Who has enough goes.
        if send(&mut stream, &piece).is_err() {
            break;
        }
    }
}

#[test]
fn a_file_has_frames_comments_and_counters() {
    let setup = Setup::new();
    let arguments = ["capture", "-n", "-w", "x", "-s", "60", "udp", "and", "not", "port", "2000"];
    let output = setup.run(a_course, &arguments);
    let expected = "\
3 packets captured
4 packets received by filter, 1 filtered out
10 records dropped: overwritten in the log before they were read
2 packets not logged by the node: no room in the log
";
    assert_eq!((text(&output.stderr), output.status.code()), (expected, Some(0)));
    assert!(output.stdout.is_empty());

    let file = std::fs::read(setup.path("x")).unwrap();
    let (packets, error) = Reader::new(&file).packets();
    assert_eq!(error, None);
    let frames = [frame(1000, b"one"), frame(3000, b"syn"), frame(4000, &[7; 200])];
    let seen: Vec<_> = packets.iter().map(|p| (p.timestamp_ns, p.interface, p.bytes)).collect();
    let expected = [(1, 0, &frames[0][..]), (3, 1, &frames[1][..]), (4, 0, &frames[2][..60])];
    assert_eq!(seen, expected.map(|(i, interface, bytes)| (START_NS + i, interface, bytes)));
    assert_eq!(packets[2].wire_len as usize, frames[2].len());
    let said = [
        "epoch 3: node a is primary from here on".to_owned(),
        "10 records were overwritten before they could be read".to_owned(),
        "checkpoint 5, at position".to_owned(),
    ];
    assert_eq!(packets[1].comments.len(), 3, "{:?}", packets[1].comments);
    for (comment, said) in packets[1].comments.iter().zip(said) {
        assert!(comment.starts_with(&said), "{comment}");
    }
    let mut statistics = Vec::new();
    let mut reader = Reader::new(&file);
    while let Some(block) = reader.next_block().unwrap() {
        if let Block::Statistics { interface, received, dropped, comments } = block {
            statistics.push((interface, received, dropped, comments));
        }
    }
    let last = vec!["epoch 4: node b is primary from here on".to_owned()];
    let expected = [(0, Some(3), Some(2), last), (1, Some(1), Some(0), Vec::new())];
    assert_eq!(statistics, expected);
}

#[test]
fn without_a_file_there_is_a_line_for_each_packet() {
    let output = Setup::new().run(a_course, &["capture", "--count", "2"]);
    let expected = "\
09:00:00.000000001 IP 10.0.0.7.1000 > 10.0.0.100.53: UDP, length 3
09:00:00.000000002 IP 10.0.0.7.2000 > 10.0.0.100.53: UDP, length 3
";
    assert_eq!(text(&output.stdout), expected);
    assert!(text(&output.stderr).starts_with("2 packets captured\n"), "{}", text(&output.stderr));
    let output = Setup::new().run(a_course, &["capture"]);
    assert!(text(&output.stdout).contains("\n# epoch 3: node a is primary from here on\n"));
    assert!(text(&output.stdout).ends_with("# epoch 4: node b is primary from here on\n"));
}

#[test]
fn json_is_the_summary() {
    let setup = Setup::new();
    let output = setup.run(a_course, &["-j", "capture", "-w", "x", "udp"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({"ok": true, "schema_version": 1, "capture": {"captured": 4, "received": 4,
        "filtered": 0, "dropped": 10, "not_logged": 2, "taken_back": 0, "files": 1}});
    assert_eq!(document, expected);
    assert!(output.stderr.is_empty());
    let refused = |_, mut stream: UnixStream| {
        let error = ApiError::new(ErrorCode::Runtime, "4 captures are running");
        server::write_response(&mut stream, &Response::Error(error), PATIENCE).unwrap();
    };
    let output = Setup::new().run(refused, &["-j", "capture", "-w", "x"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["ok"], output.status.code()), (&Value::Bool(false), Some(1)));
}

#[test]
fn what_is_asked_for() {
    for (arguments, from_ns, to_ns, follow) in [
        (&[][..], None, None, true),
        (&["--from", "@5"], Some(5_000_000_000), None, false),
        (&["--from", "@5", "--follow"], Some(5_000_000_000), None, true),
        (&["--to", "@6.5"], Some(0), Some(6_500_000_000), false),
        (&["--from", "@5", "--to", "@6"], Some(5_000_000_000), Some(6_000_000_000), false),
        (&["--to", "@9999999999"], None, Some(9_999_999_999_000_000_000), true),
    ] {
        let expected = Request::Capture { from_ns, to_ns, follow, filter: None };
        let serve = move |request, mut stream: UnixStream| {
            assert_eq!(request, expected);
            begin(&mut stream);
            send(&mut stream, &Piece::End).unwrap();
        };
        let output = Setup::new().run(serve, &[&["capture"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let nowhere = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(["-s", "/nonexistent"]).args(arguments).output();
        let output = output.unwrap();
        (output.status.code(), text(&output.stderr).to_owned())
    };
    for arguments in [
        &["capture", "host"][..],
        &["capture", "--from", "noon"],
        &["capture", "--from", "@6", "--to", "@5"],
        &["capture", "--follow", "--to", "@5"],
        &["capture", "-w", "-", "-C", "1"],
        &["capture", "-C", "1"],
        &["capture", "-w", "x", "-W", "0"],
        &["capture", "-w", "x", "-G", "0.5"],
    ] {
        assert_eq!(nowhere(arguments).0, Some(2), "{arguments:?}");
    }
    assert_eq!(nowhere(&["capture"]).0, Some(4));
}

/// Sends frames without end; gives how many bytes when the client has gone.
fn endless(_: Request, mut stream: UnixStream) {
    begin(&mut stream);
    let bytes = record(RecordKind::ClientFrame, START_NS, &frame(1, &[1; 1000])).repeat(100);
    let begun = Instant::now();
    while send(&mut stream, &Piece::Records { position: 0, bytes: &bytes }).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the client does not end");
    }
}

#[test]
fn a_reader_that_goes_ends_it_quietly() {
    for arguments in [&["capture"][..], &["capture", "-w", "-"]] {
        let setup = Setup::new();
        let (mut child, thread) = setup.start(endless, arguments, Stdio::piped());
        let mut some = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        thread.join().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!said.contains("understudy:"), "{said}");
    }
}

#[test]
fn a_signal_ends_it_with_a_whole_file() {
    for signal in ["INT", "TERM"] {
        let setup = Setup::new();
        let (child, thread) = setup.start(endless, &["capture", "-w", "x"], Stdio::null());
        let begun = Instant::now();
        while std::fs::metadata(setup.path("x")).map_or(0, |m| m.len()) < 1_000_000 {
            assert!(begun.elapsed() < PATIENCE, "nothing is captured");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        thread.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let file = std::fs::read(setup.path("x")).unwrap();
        let (packets, error) = Reader::new(&file).packets();
        assert_eq!(error, None);
        let said = format!("{} packets captured\n", packets.len());
        assert!(text(&output.stderr).starts_with(&said), "{}", text(&output.stderr));
    }
}

#[test]
fn a_daemon_that_dies_leaves_a_whole_file_and_an_error() {
    let setup = Setup::new();
    let serve = |_, mut stream: UnixStream| {
        begin(&mut stream);
        let bytes = record(RecordKind::ClientFrame, START_NS, &frame(1, b"last"));
        send(&mut stream, &Piece::Records { position: 0, bytes: &bytes }).unwrap();
        // And half a piece.
        stream.write_all(&[1, 0, 0, 0, 200]).unwrap();
    };
    let output = setup.run(serve, &["capture", "-w", "x"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.starts_with("1 packet captured\n") && said.contains("ended: it has gone"),
        "{said}"
    );
    let file = std::fs::read(setup.path("x")).unwrap();
    let (packets, error) = Reader::new(&file).packets();
    assert_eq!((packets.len(), error), (1, None));
}

#[test]
fn files_are_a_ring() {
    let setup = Setup::new();
    let serve = |_, mut stream: UnixStream| {
        begin(&mut stream);
        for i in 0..10u64 {
            let time = START_NS + i * 1_000_000_000;
            let bytes = record(RecordKind::ClientFrame, time, &frame(i as u16, &[0; 1000]));
            send(&mut stream, &Piece::Records { position: i, bytes: &bytes }).unwrap();
        }
        send(&mut stream, &Piece::End).unwrap();
    };
    let output = setup.run(serve, &["-j", "capture", "-w", "t-%H%M%S", "-G", "2", "-W", "3"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The first has the time of the start in its name, not of the first packet: it is gone by now.
    assert_eq!(document["capture"]["files"], 5);
    let mut names: Vec<_> = std::fs::read_dir(setup.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("t-"))
        .collect();
    names.sort();
    assert_eq!(names, ["t-090004", "t-090006", "t-090008"]);
}
