//! Lines on the daemon's socket, in both directions.

use understudy_api::codec::LineBuffer;
use understudy_api::stream::{Piece, PieceBuffer};
use understudy_api::{
    ApiError, ByteList, Conn, ConnImage, ConnImages, ConnSocket, Conns, Drained, ErrorCode, Events,
    KeyPath, KeyPeer, Keys, Peer, REQUEST_BYTES_MAX, Request, Response, Status, SwitchoverDone,
    TimelineEvent, decode_request, decode_response, encode_request, encode_response,
};
use understudy_fuzz::{corpus_file, fuzz, mutated};

/// The lines of a recorded file, each with its end.
fn recorded(name: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(corpus_file(name)).expect("a recorded file");
    let lines: Vec<_> = bytes.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    assert!(lines.len() >= 4, "{name} has too few lines");
    lines
}

fn requests() -> Vec<Vec<u8>> {
    let to = Some("b \"\\ \u{e4}\u{1f600}".to_owned());
    let requests = [
        Request::Status,
        Request::Conns,
        Request::ConnImages { client: "[fd00::7]:4711".parse().ok() },
        Request::Switchover { to: None },
        Request::Switchover { to },
        Request::Drain,
        Request::Undrain,
        Request::KeyStatus,
        Request::KeyReload,
        Request::Plan { file: Some("/etc/understudy/a.toml".into()) },
        Request::Reload,
        Request::Events { since_seq: Some(u64::MAX), since_ns: None, wait_ms: 1 },
        Request::Capture {
            from_ns: Some(u64::MAX),
            to_ns: Some(0),
            follow: true,
            filter: Some("host ::1".into()),
        },
    ];
    requests.iter().map(encode_request).chain(recorded("requests.jsonl")).collect()
}

fn responses() -> Vec<Vec<u8>> {
    let mut status = Status { primary: Some("a".into()), epoch: u64::MAX, ..Default::default() };
    status.peers.push(Peer { role: None, replica_path_ms: Some(3), ..Default::default() });
    status.counters.insert("captured_frames".into(), 7);
    status.timeline.push(TimelineEvent { event: "suspect".into(), ..Default::default() });
    let conn = Conn { client: "10.77.0.1:40000".into(), rtt_us: Some(1), ..Default::default() };
    let conns = Conns { conns: vec![conn; 2], ..Default::default() };
    let peer = KeyPeer { name: "b".into(), known: true, key: Some("0a1b".into()) };
    let path = KeyPath { path: "replica".into(), peers: vec![peer; 2], ..Default::default() };
    let keys = Keys { seals: "0a1b".into(), opens: vec!["0a1b".into()], paths: vec![path] };
    let unread = ByteList { len: 9, bytes: b"\0PING".to_vec() };
    let socket = Some(ConnSocket { unread, ..Default::default() });
    let image = ConnImage { socket, ..Default::default() };
    let images = ConnImages { conns: vec![image, ConnImage::default()], ..Default::default() };
    let responses = [
        Response::from(status),
        Response::from(conns),
        Response::from(images),
        Response::from(SwitchoverDone { took_ms: 12, ..Default::default() }),
        Response::from(Drained { was_primary: true, ..Default::default() }),
        Response::from(keys),
        Response::from(Events { events: vec![TimelineEvent::default()], ..Default::default() }),
        Response::from(ApiError::new(ErrorCode::Runtime, "a sentence")),
    ];
    let real = recorded("responses.jsonl");
    assert!(real.iter().all(|line| decode_response(line).is_ok()), "a recorded answer is refused");
    responses.iter().map(encode_response).chain(real).collect()
}

#[test]
fn request_lines() {
    let seeds = requests();
    let mut understood = 0;
    fuzz("request", 2, |rng| {
        let line = mutated(rng, &seeds);
        match decode_request(&line) {
            Ok(request) => {
                understood += 1;
                assert_eq!(decode_request(&encode_request(&request)).as_ref(), Ok(&request));
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Usage);
                assert!(!error.message.is_empty() && error.message.len() < REQUEST_BYTES_MAX);
            }
        }
    });
    println!("{understood} requests were understood");
}

#[test]
fn response_lines() {
    let seeds = responses();
    let mut understood = 0;
    fuzz("response", 2, |rng| {
        let line = mutated(rng, &seeds);
        match decode_response(&line) {
            Ok(response) => {
                understood += 1;
                let again = decode_response(&encode_response(&response));
                assert_eq!(again.expect("our own answer"), response);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
    println!("{understood} responses were understood");
}

#[test]
fn lines_in_pieces() {
    let seeds = requests();
    fuzz("line", 2, |rng| {
        let bytes = mutated(rng, &seeds);
        let bytes_max = rng.below(200);
        let mut buffer = LineBuffer::new(bytes_max);
        let wanted = bytes.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + rng.below(rest.len()));
            rest = after;
            match buffer.push(piece) {
                Ok(None) => assert!(!piece.contains(&b'\n')),
                Ok(Some(line)) => {
                    assert_eq!([&line[..], b"\n"].concat(), wanted);
                    assert!(wanted.len() <= bytes_max);
                    return;
                }
                Err(_) => {
                    assert!(
                        wanted.len() > bytes_max
                            || !wanted.ends_with(b"\n") && wanted.len() == bytes_max
                    );
                    return;
                }
            }
        }
        assert!(!wanted.ends_with(b"\n"));
    });
}

/// What a daemon streams behind its answer to a capture.
#[test]
fn pieces_of_captures() {
    let records = [1u8; 48];
    let mut seeds = vec![Vec::new()];
    for piece in [
        Piece::Records { position: 8, bytes: &records },
        Piece::Lost(3),
        Piece::TakenBack(1),
        Piece::Note { position: 1, text: "checkpoint 1".into() },
        Piece::Alive { not_logged: 0 },
        Piece::End,
    ] {
        let mut bytes = piece.head();
        if let Piece::Records { bytes: records, .. } = piece {
            bytes.extend_from_slice(records);
        }
        let all = [&seeds[seeds.len() - 1][..], &bytes].concat();
        seeds.extend([bytes, all]);
    }
    let (mut whole, mut refused) = (0, 0);
    fuzz("piece", 1, |rng| {
        let bytes = mutated(rng, &seeds);
        let cut = rng.below(bytes.len() + 1);
        let mut buffer = PieceBuffer::new(bytes[..cut].to_vec());
        let mut more = &bytes[cut..];
        loop {
            match buffer.next_piece() {
                Ok(Some(piece)) => {
                    whole += 1;
                    // What is no UTF-8 takes three bytes instead of one.
                    assert!(piece.head().len() <= 3 * bytes.len() + 16);
                }
                Ok(None) if more.is_empty() => break,
                Ok(None) => buffer.push(std::mem::take(&mut more)),
                Err(error) => {
                    refused += 1;
                    break assert!(!error.to_string().is_empty());
                }
            }
        }
    });
    println!("{whole} pieces were whole, {refused} refused");
    assert!(whole > 0 && refused > 0);
}
