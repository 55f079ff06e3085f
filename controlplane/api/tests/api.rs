//! The protocol on lines and on sockets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use understudy_api::codec::LineBuffer;
use understudy_api::{
    ApiError, ByteList, Change, ClientError, ClientFilter, Conn, ConnImage, ConnImages, ConnSocket,
    Conns, DecodeError, ErrorCode, Events, KeyPath, KeyPeer, Keys, LIST_SHOWN_BYTES_MAX, Peer,
    Plan, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response, Role, Status, SwitchoverDone,
    TimelineEvent, client, decode_request, decode_response, encode_request, encode_response,
    server,
};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than a loaded machine needs.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn requests_are_as_documented() {
    let switchover = |to: Option<&str>| Request::Switchover { to: to.map(str::to_owned) };
    let images = |client: Option<&str>| Request::ConnImages {
        client: client.map(|text| text.parse().unwrap()),
    };
    for (request, line) in [
        (Request::Status, r#"{"version":1,"request":"status"}"#),
        (Request::Conns, r#"{"version":1,"request":"conns"}"#),
        (images(None), r#"{"version":1,"request":"conn_images"}"#),
        (
            images(Some("10.0.0.7:4711")),
            r#"{"version":1,"request":"conn_images","client":"10.0.0.7:4711"}"#,
        ),
        (switchover(None), r#"{"version":1,"request":"switchover"}"#),
        (switchover(Some("b")), r#"{"version":1,"request":"switchover","to":"b"}"#),
        (Request::Drain, r#"{"version":1,"request":"drain"}"#),
        (Request::Undrain, r#"{"version":1,"request":"undrain"}"#),
        (Request::KeyStatus, r#"{"version":1,"request":"key_status"}"#),
        (Request::KeyReload, r#"{"version":1,"request":"key_reload"}"#),
        (Request::Checkpoint, r#"{"version":1,"request":"checkpoint"}"#),
        (
            Request::Events { since_seq: Some(7), since_ns: None, wait_ms: 500 },
            r#"{"version":1,"request":"events","since_seq":7,"wait_ms":500}"#,
        ),
        (
            Request::Capture {
                from_ns: Some(5),
                to_ns: None,
                follow: true,
                filter: Some("tcp".into()),
            },
            r#"{"version":1,"request":"capture","from_ns":5,"follow":true,"filter":"tcp"}"#,
        ),
    ] {
        assert_eq!(encode_request(&request), format!("{line}\n").as_bytes());
        assert_eq!(decode_request(line.as_bytes()), Ok(request.clone()));
        assert_eq!(decode_request(format!("{line}\r\n").as_bytes()), Ok(request));
    }
    let null = br#"{"to":null,"request":"switchover","version":1}"#;
    assert_eq!(decode_request(null), Ok(switchover(None)));
}

#[test]
fn bad_requests_are_usage_errors() {
    for (line, words) in [
        ("", "JSON"),
        ("[]", "JSON"),
        ("\u{0}", "JSON"),
        (r#"{"request":"status"}"#, "no version"),
        (r#"{"version":2,"request":"status"}"#, "version 2"),
        (r#"{"version":"1","request":"status"}"#, "speaks version 1"),
        (r#"{"version":1}"#, "request"),
        (r#"{"version":1,"request":"reboot"}"#, "request: unknown variant `reboot`"),
        (r#"{"version":1,"request":5}"#, "request: "),
        (r#"{"version":1,"request":"status","x":1}"#, "x"),
        (r#"{"version":1,"request":"switchover","to":5}"#, "to: invalid type: integer `5`"),
        (r#"{"version":1,"request":"capture","follow":true,"from_ns":-1}"#, "from_ns: "),
        (r#"{"version":1,"request":"plan","file":[]}"#, "file: "),
        (r#"{"version":1,"request":"conn_images","client":"10.0.0"}"#, "is not a client's address"),
        (r#"{"version":1,"request":"conn_images","x":1}"#, "x"),
        (r#"{"version":1,"request":"status"} x"#, "JSON"),
    ] {
        let error = decode_request(line.as_bytes()).expect_err(line);
        assert_eq!(error.code, ErrorCode::Usage, "{line}");
        assert!(error.message.contains(words), "{line}: {error}");
    }
    let deep = "[".repeat(50_000);
    assert_eq!(decode_request(deep.as_bytes()).unwrap_err().code, ErrorCode::Usage);
    assert!(
        decode_request(&vec![b' '; REQUEST_BYTES_MAX + 1]).unwrap_err().message.contains("longer")
    );
}

fn images() -> ConnImages {
    let list = |byte| ByteList { len: 1 << 20, bytes: vec![byte; LIST_SHOWN_BYTES_MAX] };
    let socket = ConnSocket {
        in_flight: list(0),
        pending: list(0xff),
        unread: list(b'x'),
        ..ConnSocket::default()
    };
    let whole = ConnImage { socket: Some(socket), ..ConnImage::default() };
    let refused = ConnImage { unsavable: Some("TIME_WAIT".into()), ..ConnImage::default() };
    ConnImages { conns: vec![whole, refused], frozen_us: 800, ..ConnImages::default() }
}

#[test]
fn bytes_are_base64_beside_their_number() {
    let list = ByteList { len: 9, bytes: b"\0hi".to_vec() };
    let value = serde_json::to_value(&list).unwrap();
    assert_eq!(value, serde_json::json!({"len": 9, "base64": "AGhp"}));
    assert_eq!(serde_json::from_value::<ByteList>(value).unwrap(), list);
    let odd = serde_json::json!({"len": 9, "base64": "?"});
    assert!(serde_json::from_value::<ByteList>(odd).is_err());
}

#[test]
fn clients_are_meant_by_address_or_port_too() {
    let filter = |text: &str| text.parse::<ClientFilter>();
    for (text, client, means) in [
        ("10.0.0.7", "10.0.0.7:1", true),
        ("10.0.0.7", "10.0.0.8:1", false),
        ("10.0.0.7:4711", "10.0.0.7:4711", true),
        ("10.0.0.7:4711", "10.0.0.7:4712", false),
        ("10.0.0.7", "[::ffff:10.0.0.7]:5", true),
        ("fd00::7", "[fd00::7]:9", true),
        ("[fd00::7]:9", "[fd00::7]:9", true),
        ("[fd00::7]:9", "[fd00::7]:8", false),
    ] {
        let parsed = filter(text).unwrap();
        assert_eq!(parsed.to_string(), text);
        assert_eq!(parsed.matches(client.parse().unwrap()), means, "{text} {client}");
    }
    for text in ["", "10.0.0", "host", "10.0.0.7:", "10.0.0.7:70000", "fd00::7:x", "[fd00::7]"] {
        assert!(filter(text).is_err(), "{text}");
    }
}

#[test]
fn responses_round_trip() {
    let status = Status {
        node: "a".into(),
        primary: Some("a".into()),
        peers: vec![Peer { role: Some(Role::Replica), ..Peer::default() }, Peer::default()],
        counters: [("x".to_owned(), u64::MAX)].into(),
        timeline: vec![TimelineEvent::default()],
        ..Status::default()
    };
    let conns =
        Conns { conns: vec![Conn { rtt_us: Some(1), ..Conn::default() }], ..Conns::default() };
    for response in [
        status.into(),
        conns.into(),
        images().into(),
        SwitchoverDone::default().into(),
        Events { events: vec![TimelineEvent::default()], newest_seq: 9, ..Events::default() }
            .into(),
        Keys {
            paths: vec![KeyPath { peers: vec![KeyPeer::default()], ..KeyPath::default() }],
            ..Keys::default()
        }
        .into(),
        Plan { applied: true, changes: vec![Change::default()], ..Plan::default() }.into(),
        ApiError::new(ErrorCode::RefusedUnsafe, "no").into(),
    ] {
        let line = encode_response(&response);
        assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
        assert_eq!(decode_response(&line).unwrap(), response);
    }
    let error = Response::Error(ApiError::new(ErrorCode::Unreachable, "a\nb"));
    let expected: &[u8] =
        b"{\"ok\":false,\"schema_version\":1,\"error\":{\"code\":\"unreachable\",\"message\":\"a\\nb\"}}\n";
    assert_eq!(encode_response(&error), expected);
}

#[test]
fn unknown_codes_and_fields_of_newer_daemons_are_read() {
    let line = br#"{"ok":false,"error":{"code":"on_fire","message":"m","x":1},"y":2}"#;
    let expected = Response::Error(ApiError::new(ErrorCode::Runtime, "m"));
    assert_eq!(decode_response(line).unwrap(), expected);
}

#[test]
fn codes_are_exit_codes() {
    for (code, exit, text) in [
        (ErrorCode::Runtime, 1, "runtime"),
        (ErrorCode::Usage, 2, "usage"),
        (ErrorCode::InvalidConfig, 3, "invalid_config"),
        (ErrorCode::Unreachable, 4, "unreachable"),
        (ErrorCode::RefusedUnsafe, 5, "refused_unsafe"),
    ] {
        assert_eq!((code.exit_code(), code.as_str()), (exit, text));
        assert_eq!(serde_json::to_value(code).unwrap(), text);
        assert_eq!(serde_json::from_value::<ErrorCode>(text.into()).unwrap(), code);
    }
}

#[test]
fn contradictory_responses_are_refused() {
    for line in [
        r#"{"ok":true}"#,
        r#"{"ok":false}"#,
        r#"{"ok":true,"error":{"code":"usage","message":""}}"#,
        r#"{"ok":false,"conns":{"role":"primary","conns":[],"truncated":false}}"#,
        r#"{"ok":true,"status":{}}"#,
        "null",
        "",
    ] {
        assert!(matches!(decode_response(line.as_bytes()), Err(DecodeError::Invalid(_))), "{line}");
    }
    let long = vec![b' '; RESPONSE_BYTES_MAX + 1];
    assert!(matches!(decode_response(&long), Err(DecodeError::TooLong)));
}

#[test]
fn long_answers_are_cut_visibly() {
    let conn = Conn { client: "192.0.2.1:12345".into(), ..Conn::default() };
    let conns = Conns { conns: vec![conn; 20_000], ..Conns::default() };
    let line = encode_response(&conns.into());
    assert!(line.len() <= RESPONSE_BYTES_MAX && line.len() > RESPONSE_BYTES_MAX / 2);
    let Response::Conns(read) = decode_response(&line).unwrap() else { panic!() };
    assert!(read.truncated && read.conns.len() < 20_000);

    let huge = Conns {
        conns: vec![Conn { state: "x".repeat(2 << 20), ..Conn::default() }],
        ..Conns::default()
    };
    let Response::Conns(read) = decode_response(&encode_response(&huge.into())).unwrap() else {
        panic!()
    };
    assert!(read.truncated && read.conns.is_empty());

    let all = 300;
    let many = ConnImages { conns: vec![images().conns[0].clone(); all], left_out: 7, ..images() };
    let line = encode_response(&many.into());
    assert!(line.len() <= RESPONSE_BYTES_MAX && line.len() > RESPONSE_BYTES_MAX / 2);
    let Response::ConnImages(read) = decode_response(&line).unwrap() else { panic!() };
    assert_eq!(read.conns.len() as u64 + read.left_out, all as u64 + 7);

    let event = |detail: String| TimelineEvent { detail, ..TimelineEvent::default() };
    let mut status = Status { timeline: vec![event("x".repeat(10_000)); 200], ..Status::default() };
    status.timeline.push(event("newest".into()));
    let Response::Status(read) = decode_response(&encode_response(&status.clone().into())).unwrap()
    else {
        panic!()
    };
    assert!(read.timeline.len() < 200);
    assert_eq!(read.timeline.last().unwrap().detail, "newest");

    let events = Events { events: status.timeline.clone(), newest_seq: 201, ..Events::default() };
    let Response::Events(read) = decode_response(&encode_response(&events.into())).unwrap() else {
        panic!()
    };
    assert!(read.more && !read.events.is_empty() && read.events.len() < 201);
    assert_eq!(read.newest_seq, 201);

    status.cluster = "x".repeat(2 << 20);
    let Response::Error(error) = decode_response(&encode_response(&status.into())).unwrap() else {
        panic!()
    };
    assert_eq!(error.code, ErrorCode::Runtime);
}

#[test]
fn lines_come_in_pieces_and_are_bounded() {
    let mut buffer = LineBuffer::new(4);
    assert_eq!(buffer.push(b"a"), Ok(None));
    assert_eq!(buffer.push(b""), Ok(None));
    assert_eq!(buffer.push(b"bc\nrest"), Ok(Some(b"abc".to_vec())));
    assert_eq!(buffer.push(b"\n"), Ok(Some(vec![])));
    assert!(buffer.push(b"abcd\n").is_err(), "the newline counts");
    assert!(buffer.push(b"abcd").is_err());
}

#[test]
fn the_last_takeover_begins_with_its_cause() {
    let event = |epoch, event: &str| TimelineEvent {
        epoch,
        event: event.into(),
        ..TimelineEvent::default()
    };
    let mut status = Status::default();
    assert!(status.last_takeover().is_empty());
    status.timeline = vec![event(1, "elected"), event(1, "suspected"), event(1, "vote")];
    assert_eq!(status.last_takeover(), &status.timeline[..], "the first reign has no cause");
    status.timeline.extend([
        event(2, "epoch_persisted"),
        event(2, "suspected"),
        event(2, "gate_open"),
    ]);
    assert_eq!(status.last_takeover(), &status.timeline[1..]);
    status.timeline[1].event = "linkdown".into();
    assert_eq!(status.last_takeover(), &status.timeline[3..]);
}

// ---- sockets ----

fn socket() -> (PathBuf, UnixListener) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("us-api-{}-{n}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    (path, listener)
}

/// A daemon that serves one connection.
fn daemon(serve: impl FnOnce(UnixStream) + Send + 'static) -> (PathBuf, JoinHandle<()>) {
    let (path, listener) = socket();
    let socket = path.clone();
    let thread = std::thread::spawn(move || {
        serve(listener.accept().unwrap().0);
        let _ = std::fs::remove_file(socket);
    });
    (path, thread)
}

#[test]
fn calls_are_answered() {
    let (path, thread) = daemon(|stream| {
        server::serve(stream, LONG, |request| {
            assert_eq!(request, Request::Switchover { to: Some("b".into()) });
            SwitchoverDone { to: "b".into(), epoch: 2, ..SwitchoverDone::default() }.into()
        })
        .unwrap();
    });
    let response =
        client::call(&path, &Request::Switchover { to: Some("b".into()) }, LONG).unwrap();
    assert!(matches!(response, Response::Switchover(done) if done.epoch == 2));
    thread.join().unwrap();
}

#[test]
fn the_largest_answer_arrives() {
    let (path, thread) = daemon(|stream| {
        let conns = Conns { conns: vec![Conn::default(); 20_000], ..Conns::default() };
        server::serve(stream, LONG, |_| conns.into()).unwrap();
    });
    let response = client::call(&path, &Request::Conns, LONG).unwrap();
    assert!(matches!(response, Response::Conns(conns) if conns.truncated));
    thread.join().unwrap();
}

#[test]
fn nobody_listens() {
    let error = client::call("/nonexistent/socket".as_ref(), &Request::Status, LONG).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert_eq!(error.code(), ErrorCode::Unreachable);
    let long = format!("/{}", "s".repeat(200));
    assert!(client::call(long.as_ref(), &Request::Status, LONG).is_err());
}

#[test]
fn a_silent_or_dripping_daemon_times_out() {
    for drip in [false, true] {
        let (path, thread) = daemon(move |mut stream| {
            let mut byte = [0];
            let started = Instant::now();
            while started.elapsed() < SECOND {
                if drip && stream.write_all(b" ").is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = stream.read(&mut byte);
        });
        let started = Instant::now();
        let error = client::call(&path, &Request::Status, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { timeout_ms: 200, .. }), "{error}");
        assert!(started.elapsed() >= Duration::from_millis(200));
        assert!(started.elapsed() < SECOND * 10);
        thread.join().unwrap();
    }
}

#[test]
fn a_full_backlog_times_out() {
    let (path, listener) = socket();
    // std listens with a backlog of 128 or more: fill it from threads that may block.
    let held: Vec<_> = (0..5000)
        .map_while(|_| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let path = path.clone();
            std::thread::spawn(move || drop(sender.send(UnixStream::connect(path))));
            receiver.recv_timeout(Duration::from_millis(500)).ok()
        })
        .collect();
    let error = client::call(&path, &Request::Status, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error} with {} held", held.len());
    drop(listener);
    let _ = std::fs::remove_file(path);
}

#[test]
fn bad_answers_are_errors() {
    let answer = |bytes: Vec<u8>| {
        let (path, thread) = daemon(move |mut stream| {
            server::read_request(&mut stream, LONG).unwrap().unwrap();
            let _ = stream.write_all(&bytes);
        });
        let error = client::call(&path, &Request::Status, LONG).unwrap_err();
        thread.join().unwrap();
        error
    };
    assert!(matches!(answer(b"garbage\n".to_vec()), ClientError::Decode(DecodeError::Invalid(_))));
    let error = answer(vec![b' '; RESPONSE_BYTES_MAX + 1]);
    assert!(matches!(error, ClientError::Decode(DecodeError::TooLong)), "{error}");
    assert_eq!(error.code(), ErrorCode::Runtime);
    let error = answer(b"{\"ok\":true".to_vec());
    assert!(matches!(error, ClientError::Closed { .. }), "{error}");
    let other = encode_response(&Conns::default().into());
    assert!(matches!(answer(other), ClientError::Mismatch { .. }));
}

#[test]
fn the_server_bounds_requests_and_patience() {
    let (path, thread) = daemon(|stream| {
        server::serve(stream, LONG, |_| panic!("must not be asked")).unwrap();
    });
    let mut stream = UnixStream::connect(&path).unwrap();
    let _ = stream.write_all(&vec![b'x'; REQUEST_BYTES_MAX]);
    let mut line = Vec::new();
    let _ = stream.read_to_end(&mut line);
    let Response::Error(error) = decode_response(&line).unwrap() else { panic!() };
    assert_eq!(error.code, ErrorCode::Usage);
    thread.join().unwrap();

    let (path, thread) = daemon(|stream| {
        assert!(server::serve(stream, Duration::from_millis(50), |_| panic!()).is_err());
    });
    let _idle = UnixStream::connect(&path).unwrap();
    thread.join().unwrap();

    let huge = Request::Switchover { to: Some("x".repeat(REQUEST_BYTES_MAX)) };
    let error = client::call("/nonexistent".as_ref(), &huge, LONG).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Usage);
}
