//! `nodes`, `clones`, `log`, `top`, `drain`, and what takes its time.

use understudy_api::Drained;

use super::*;

// ---- long work ----

#[test]
fn long_work_says_that_it_goes_on_and_json_does_not() {
    let slow = |stream| {
        server::serve(stream, PATIENCE, |_| {
            std::thread::sleep(Duration::from_millis(2_700));
            ApiError::new(ErrorCode::Runtime, "no disk").into()
        })
        .unwrap();
    };
    let said = std::thread::spawn(move || against(slow, &["checkpoint"]));
    let json = against(slow, &["-j", "checkpoint"]);
    assert_eq!(document(&json, 1)["error"]["message"], "no disk");
    let said = said.join().unwrap();
    let expected = "understudy: the checkpoint is being taken: 2 s so far\nunderstudy: no disk\n";
    assert_eq!(text(&said.stderr), expected);
    assert!(said.stdout.is_empty());
}

// ---- parts of a status ----

#[test]
fn parts_of_a_status_have_documents_of_their_own() {
    for (part, of) in [
        ("nodes", serde_json::to_value(status().nodes()).unwrap()),
        ("clones", serde_json::to_value(status().clones()).unwrap()),
        ("log", serde_json::to_value(status().log_view()).unwrap()),
    ] {
        let document = document(&answered(Request::Status, status(), &["-j", part]), 0);
        assert_eq!(document[part], of);
        assert_eq!(document["schema_version"], 1);
        let output = answered(Request::Status, status(), &[part]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let nodes = answered(Request::Status, status(), &["nodes"]);
    let expected = "\
Node  Id  Role     Alive  Ready  Epoch  Position      Lag  Commit  Replica   Second
b *    2  primary  yes    no         8     18446      0 B  -             -        -
a      1  -        no     no         0         0      0 B  out       never  1234 ms
c      3  replica  yes    yes        8     18446  2.0 KiB  in         4 ms     7 ms
";
    assert_eq!(text(&nodes.stdout), expected);
}

#[test]
fn errors_of_every_command_are_documents() {
    for arguments in [
        ["-s", "/nonexistent", "-j", "status"],
        ["-s", "/nonexistent", "-j", "nodes"],
        ["-s", "/nonexistent", "-j", "top"],
        ["-s", "/nonexistent", "-j", "drain"],
    ] {
        let document = document(&understudy(&arguments), 4);
        assert_eq!(document["error"]["code"], "unreachable");
        assert_eq!(document["schema_version"], 1);
    }
}

#[test]
fn drain_and_its_end_are_told() {
    let drained = Drained {
        node: "b".into(),
        drained: true,
        was_primary: true,
        switchover: Some(SwitchoverDone { from: "b".into(), to: "c".into(), epoch: 9, took_ms: 4 }),
    };
    let output = answered(Request::Drain, drained.clone(), &["drain"]);
    let expected = "c has taken over from b in 4 ms, epoch 9\nb serves nobody until undrain\n";
    assert_eq!(text(&output.stdout), expected);
    let document = document(&answered(Request::Drain, drained, &["-j", "leave"]), 0);
    assert_eq!(document["drained"]["switchover"]["to"], "c");
    let back = Drained { node: "b".into(), ..Drained::default() };
    let output = answered(Request::Undrain, back, &["join"]);
    assert_eq!(text(&output.stdout), "b may take over again\n");
}

#[test]
fn top_without_a_terminal_is_text() {
    let dir = Dir::new();
    let socket = dir.0.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        for uptime_ms in [1000, 1100] {
            let (stream, _) = listener.accept().unwrap();
            let status = Status { uptime_ms, ..status() };
            server::serve(stream, PATIENCE, |_| status.into()).unwrap();
        }
    });
    let output = understudy(&["-s", socket.to_str().unwrap(), "top", "-i", "100"]);
    thread.join().unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("exposed") && shown.contains("takeovers and stalls"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}
