//! `understudy events` against a daemon in a thread.

use understudy_api::Events;

use super::*;

fn history() -> Events {
    let events = vec![
        TimelineEvent {
            seq: 41,
            unix_ns: 1_763_888_400_123_000_000,
            node: "b".into(),
            epoch: 8,
            event: "gate_open".into(),
            detail: "the gate is open".into(),
            ..TimelineEvent::default()
        },
        TimelineEvent {
            seq: 42,
            unix_ns: 1_763_888_401_000_000_000,
            node: "b".into(),
            epoch: 8,
            event: "resource_bad".into(),
            resource: Some("health".into()),
            cause: Some("timed_out".into()),
            detail: "\u{1b}[31mno answer".into(),
        },
    ];
    Events { node: "b".into(), events, oldest_seq: 1, newest_seq: 42, ..Events::default() }
}

fn asked(since_seq: Option<u64>, wait_ms: u64) -> Request {
    Request::Events { since_seq, since_ns: None, wait_ms }
}

#[test]
fn events_are_lines_and_one_document() {
    let output = answered(asked(None, 0), history(), &["events"]);
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(
        lines[0],
        "    41  2025-11-23 09:00:00.123      8  gate_open           the gate is open"
    );
    assert!(
        lines[1].ends_with("resource_bad        health (timed_out): \\u{1b}[31mno answer"),
        "{said}"
    );
    let output = answered(asked(Some(40), 0), history(), &["events", "--since", "40", "-j"]);
    let document = document(&output, 0);
    assert_eq!(document["events"]["events"][1]["cause"], "timed_out");
    assert_eq!(document["events"]["newest_seq"], 42);
}

#[test]
fn what_does_not_fit_one_answer_is_asked_for() {
    let dir = Dir::new();
    let socket = dir.0.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        for (expected, from) in [(asked(None, 0), 0), (asked(Some(41), 0), 1)] {
            let stream = listener.accept().unwrap().0;
            let all = history();
            let part = Events { events: vec![all.events[from].clone()], more: from == 0, ..all };
            server::serve(stream, PATIENCE, |request| {
                assert_eq!(request, expected);
                part.into()
            })
            .unwrap();
        }
    });
    let output = understudy(&["-s", socket.to_str().unwrap(), "-j", "events"]);
    thread.join().unwrap();
    let document = document(&output, 0);
    let seqs: Vec<_> = document["events"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["seq"].as_u64())
        .collect();
    assert_eq!(seqs, [Some(41), Some(42)]);
    assert_eq!(document["events"]["more"], false);
}

#[test]
fn events_are_followed_through_a_restart_of_the_daemon() {
    let dir = Dir::new();
    let socket = dir.0.join("s");
    let mut command = Command::new(PROGRAM);
    command.args(["-s", socket.to_str().unwrap(), "-j", "events", "--follow"]);
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = |listener: &UnixListener, expected: Request, events: Events| {
        let stream = listener.accept().unwrap().0;
        server::serve(stream, PATIENCE, |request| {
            assert_eq!(request, expected);
            events.into()
        })
        .unwrap();
    };
    let mut child = {
        let _guard = WRITE_OR_SPAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all = history();
    serve(
        &listener,
        asked(None, 1000),
        Events { events: vec![all.events[0].clone()], ..all.clone() },
    );
    drop(listener);
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    serve(&listener, asked(Some(41), 1000), Events { events: vec![all.events[1].clone()], ..all });
    drop(listener.accept().unwrap());
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<_> = lines.iter().map(|line| line["event"]["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(41), Some(42)]);
    assert!(lines.iter().all(|line| line["schema_version"] == 1 && line["ok"] == true));
}

#[test]
fn events_since_no_time_is_usage() {
    let output = understudy(&["-s", "/nowhere", "-j", "events", "--since", "soon"]);
    let document = document(&output, 2);
    assert!(document["error"]["message"].as_str().unwrap().starts_with("--since: "), "{document}");
}
