//! The command as an operator or a script runs it, against a daemon in a thread.

mod events;
mod images;
mod views;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use understudy_api::{
    ApiError, Change, Conn, Conns, Effect, ErrorCode, Gate, KeyPath, KeyPeer, Keys, LogPositions,
    Peer, Plan, RESPONSE_BYTES_MAX, Request, Response, Role, Service, Status, SwitchoverDone,
    TimelineEvent, encode_response, server,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
const PATIENCE: Duration = Duration::from_secs(20);
/// A program that is being written cannot be run, and a forked child holds what
/// its parent writes: one of both at a time.
static WRITE_OR_SPAWN: Mutex<()> = Mutex::new(());

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("us-cli-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(program: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _guard = WRITE_OR_SPAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        command.spawn().unwrap()
    };
    child.wait_with_output().unwrap()
}

fn understudy(arguments: &[&str]) -> Output {
    run(Path::new(PROGRAM), arguments, &[])
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The one JSON document of an output, which has to be one line.
#[track_caller]
fn document(output: &Output, code: i32) -> Value {
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{out}{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(out.matches('\n').count(), 1, "{out}");
    let document: Value = serde_json::from_str(out).unwrap();
    assert_eq!(document["ok"], code == 0, "{out}");
    document
}

/// Runs against a daemon that serves one connection with `serve`.
fn against(serve: impl FnOnce(UnixStream) + Send + 'static, arguments: &[&str]) -> Output {
    let dir = Dir::new();
    let socket = dir.0.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    let all = [&["-s", socket.to_str().unwrap()], arguments].concat();
    let output = understudy(&all);
    thread.join().unwrap();
    output
}

fn answered(expected: Request, response: impl Into<Response>, arguments: &[&str]) -> Output {
    let response = response.into();
    let serve = move |stream| {
        server::serve(stream, PATIENCE, |request| {
            assert_eq!(request, expected);
            response
        })
        .unwrap();
    };
    against(serve, arguments)
}

/// Answers anything with these bytes.
fn answered_raw(bytes: Vec<u8>, arguments: &[&str]) -> Output {
    let serve = move |mut stream| {
        server::read_request(&mut stream, PATIENCE).unwrap().unwrap();
        let _ = stream.write_all(&bytes);
    };
    against(serve, arguments)
}

fn status() -> Status {
    let event = |ms: u64, epoch: u64, event: &str, detail: &str| TimelineEvent {
        unix_ns: 1_763_888_400_000_000_000 + ms * 1_000_000,
        epoch,
        event: event.into(),
        detail: detail.into(),
        ..TimelineEvent::default()
    };
    let mut status = Status {
        arbiter: None,
        checkpoints: None,
        cluster: "trio".into(),
        node: "b".into(),
        node_id: 2,
        version: "0.1.0".into(),
        pid: 812,
        uptime_ms: 7_380_000,
        role: Role::Primary,
        epoch: 8,
        primary: Some("b".into()),
        ready: false,
        not_ready_because: vec!["gate closed".into(), "port tcp/6379 is not bound".into()],
        service: Service {
            name: "redis".into(),
            vip: vec!["10.77.0.100/24".into(), "fd77::100/64".into()],
            vmac: "00:00:5e:00:01:33".into(),
            app_pid: Some(4242),
            app_running: true,
        },
        log: LogPositions {
            start: 0,
            end: 18_446,
            committed: 18_000,
            applied: 18_446,
            capacity_bytes: 64 << 20,
        },
        gate: Gate {
            open: true,
            policy: "quorum".into(),
            replicas_required: 1,
            replicas_in_set: 1,
            alone: false,
            waiting_frames: 3,
            uncovered_frames: 0,
            released: 1000,
            released_zero_wait: 987,
            dropped: 0,
            ..Gate::default()
        },
        faults: Vec::new(),
        peers: vec![
            Peer {
                name: "a".into(),
                id: 1,
                role: None,
                alive: false,
                second_path_ms: Some(1234),
                evicted_because: Some("silent for 2003 ms, 446 bytes behind".into()),
                ..Peer::default()
            },
            Peer {
                name: "c".into(),
                id: 3,
                role: Some(Role::Replica),
                alive: true,
                replica_path_ms: Some(4),
                second_path_ms: Some(7),
                epoch: 8,
                position: 18_446,
                applied: 18_000,
                lag_bytes: 2048,
                in_commit_set: true,
                evicted_because: None,
                clone_ready: true,
                electable: true,
            },
        ],
        counters: [("naks_sent".to_owned(), 5), ("rx_frames".to_owned(), 12_345)].into(),
        timeline: vec![
            event(0, 1, "elected", "at start"),
            event(5000, 1, "suspected", "a, 200 ms silent"),
            event(5002, 8, "elected", "2 of 3 votes"),
            event(5004, 8, "gate_open", "\u{1b}[31mred"),
        ],
        ..Status::default()
    };
    status.conclude();
    status
}

// ---- status ----

#[test]
fn status_as_text() {
    let output = answered(Request::Status, status(), &["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = "\
exposed because gate closed; port tcp/6379 is not bound; one more loss leaves no majority: 2 of 3 nodes count (a missing)
Node      b (id 2) of cluster trio
Role      primary, epoch 8, primary b
Ready     no: gate closed
              port tcp/6379 is not bound
Service   redis  10.77.0.100/24 fd77::100/64  00:00:5e:00:01:33  running, pid 4242
Log       start 0  committed 18000  applied 18446  end 18446
          18.0 KiB of 64.0 MiB used, 446 B uncommitted, 0 B not applied
Gate      open, policy quorum, commit set 1 of 2, at least 1  waiting 3  released 1000 (98.7% with zero wait)  dropped 0
Daemon    version 0.1.0, pid 812, up 2h03m

Peer  Id  Role     Alive  Replica   Second  Epoch  Position  Applied      Lag  Commit  Clone
a      1  -        no       never  1234 ms      0         0        0      0 B  out     not ready
c      3  replica  yes       4 ms     7 ms      8     18446    18000  2.0 KiB  in      ready
a is out of the commit set: silent for 2003 ms, 446 bytes behind

Last takeover, epoch 8, from 2025-11-23 09:00:05.000 UTC
      ms  Epoch  Event      Detail
  +0.000      1  suspected  a, 200 ms silent
  +2.000      8  elected    2 of 3 votes
  +4.000      8  gate_open  \\u{1b}[31mred

Counters
  naks_sent  5
  rx_frames  12345
";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn status_as_json_is_the_struct() {
    for arguments in [["-j", "status"], ["status", "-j"], ["status", "--json"]] {
        let document = document(&answered(Request::Status, status(), &arguments), 0);
        assert_eq!(document["status"], serde_json::to_value(status()).unwrap());
        assert_eq!(document["schema_version"], 1);
        assert_eq!(document.as_object().unwrap().len(), 3);
    }
}

#[test]
fn an_empty_status_is_text_too() {
    let output = answered(Request::Status, Status::default(), &["status"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("starting, epoch 0, primary -"));
    let extreme = Status {
        uptime_ms: u64::MAX,
        log: LogPositions { start: u64::MAX, capacity_bytes: u64::MAX, ..LogPositions::default() },
        timeline: vec![
            TimelineEvent { unix_ns: u64::MAX, ..TimelineEvent::default() },
            TimelineEvent { unix_ns: 0, ..TimelineEvent::default() },
        ],
        ..status()
    };
    assert_eq!(answered(Request::Status, extreme, &["status"]).status.code(), Some(0));
}

// ---- conns ----

fn conns() -> Conns {
    let conn = Conn {
        client: "10.77.0.1:40000".into(),
        server: "10.77.0.100:6379".into(),
        proto: "tcp".into(),
        state: "established".into(),
        adopted: true,
        rqueue: 0,
        wqueue: 12,
        rtt_us: Some(85),
        bytes_received: 1_000_000,
        bytes_acked: 77,
        retrans: 1,
    };
    let other = Conn { adopted: false, rtt_us: None, client: "[fd77::1]:5".into(), ..conn.clone() };
    Conns { role: Role::Primary, conns: vec![conn, other], truncated: false }
}

#[test]
fn conns_as_text() {
    let output = answered(Request::Conns, conns(), &["conns"]);
    let expected = "\
Proto  State        Rqueue  Wqueue  Client           Server            Origin    RTT-us  Received  Acked  Retrans
tcp    established       0      12  10.77.0.1:40000  10.77.0.100:6379  adopted       85   1000000     77        1
tcp    established       0      12  [fd77::1]:5      10.77.0.100:6379  accepted       -   1000000     77        1
2 connections, 1 adopted, role primary
";
    assert_eq!(text(&output.stdout), expected);
    let cut = Conns { truncated: true, ..conns() };
    let output = answered(Request::Conns, cut, &["conns"]);
    assert!(text(&output.stdout).contains("2 connections shown, there are more"));
}

#[test]
fn conns_as_json_is_the_struct() {
    let document = document(&answered(Request::Conns, conns(), &["-j", "conns"]), 0);
    assert_eq!(document["conns"], serde_json::to_value(conns()).unwrap());
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let dir = Dir::new();
    let socket = dir.0.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let many = Conns { conns: vec![conns().conns[0].clone(); 4000], ..conns() };
        server::serve(listener.accept().unwrap().0, PATIENCE, |_| many.into()).unwrap();
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = {
        let _guard = WRITE_OR_SPAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Command::new(PROGRAM)
            .args(["-s", socket.to_str().unwrap(), "conns"])
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let output = child.wait_with_output().unwrap();
    thread.join().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

// ---- switchover ----

#[test]
fn switchovers() {
    let done = SwitchoverDone { from: "a".into(), to: "b".into(), epoch: 9, took_ms: 4 };
    let to_b = Request::Switchover { to: Some("b".into()) };
    let output = answered(to_b.clone(), done.clone(), &["switchover", "--to", "b"]);
    assert_eq!(text(&output.stdout), "b has taken over from a in 4 ms, epoch 9\n");
    assert_eq!(output.status.code(), Some(0));
    let any = Request::Switchover { to: None };
    let document_ = document(&answered(any, done.clone(), &["switchover", "-j"]), 0);
    assert_eq!(document_["switchover"], serde_json::to_value(done).unwrap());

    let refused = ApiError::new(ErrorCode::RefusedUnsafe, "b is 5 MiB behind");
    let output = answered(to_b.clone(), refused.clone(), &["switchover", "--to", "b"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "understudy: b is 5 MiB behind\n");
    assert_eq!(text(&output.stdout), "");
    let output = answered(to_b, refused, &["-j", "switchover", "--to", "b"]);
    assert_eq!(document(&output, 5)["error"]["code"], "refused_unsafe");
}

// ---- keys ----

#[test]
fn keys_are_shown_and_reloaded() {
    let peer = KeyPeer { name: "b".into(), known: true, key: Some("0a1b".into()) };
    let silent = KeyPeer { name: "c".into(), ..KeyPeer::default() };
    let counters = [("seal_forged".to_owned(), 3), ("seal_stale".to_owned(), 0)].into();
    let keys = Keys {
        seals: "0a1b".into(),
        opens: vec!["0a1b".into(), "22ff".into()],
        paths: vec![KeyPath { path: "replica".into(), peers: vec![peer, silent], counters }],
    };
    let output = answered(Request::KeyStatus, keys.clone(), &["key", "status"]);
    let shown = text(&output.stdout);
    for words in ["Seals     0a1b", "Opens     0a1b 22ff", "b     yes    0a1b", "c     no     -"] {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
    assert!(shown.contains("seal_forged") && !shown.contains("seal_stale"), "{shown}");
    let json = document(&answered(Request::KeyReload, keys.clone(), &["-j", "key", "reload"]), 0);
    assert_eq!(json["keys"], serde_json::to_value(keys).unwrap());
    let refused = ApiError::new(ErrorCode::InvalidConfig, "k:1: bad; nothing was changed");
    let output = answered(Request::KeyReload, refused, &["key", "reload"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stderr), "understudy: k:1: bad; nothing was changed\n");
}

#[test]
fn plans_and_reloads_say_what_is_live() {
    let change = |field: &str, effect, why: &str| Change {
        field: field.into(),
        line: 7,
        from: Some("3".into()),
        to: None,
        effect,
        why: why.into(),
    };
    let live = change("checkpoint.keep", Effect::Live, "");
    let fixed = change("detect.lease_ms", Effect::Group, "nodes must agree");
    let plan =
        Plan { file: "/etc/a.toml".into(), applied: false, changes: vec![live.clone(), fixed] };
    let asked = Request::Plan { file: Some("/etc/a.toml".into()) };
    let said = answered(asked.clone(), plan.clone(), &["plan", "/etc/a.toml"]);
    let shown = text(&said.stdout);
    for words in [
        "   7  checkpoint.keep  3     (none)  live",
        "detect.lease_ms: nodes must agree; stop the group, change every node's file",
        "/etc/a.toml: a reload would be refused, for 1 of these",
    ] {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
    let json = document(&answered(asked, plan.clone(), &["-j", "plan", "/etc/a.toml"]), 0);
    assert_eq!(json["plan"], serde_json::to_value(&plan).unwrap());
    let nothing = Plan { changes: Vec::new(), ..plan.clone() };
    let own = Request::Plan { file: None };
    let said = answered(own, nothing, &["plan"]);
    let shown = text(&said.stdout);
    assert_eq!(shown, "/etc/a.toml: nothing differs from what runs\n");
    let done = Plan { applied: true, changes: vec![live], ..plan };
    let said = answered(Request::Reload, done, &["reload"]);
    let shown = text(&said.stdout);
    assert!(shown.ends_with("/etc/a.toml: applied\n"), "{shown}");
    let refused = ApiError::new(ErrorCode::RefusedUnsafe, "a.toml:7: x: no; nothing was changed");
    let output = answered(Request::Reload, refused, &["reload"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "understudy: a.toml:7: x: no; nothing was changed\n");
}

#[test]
fn key_files_are_made_added_to_and_not_overwritten() {
    let dir = Dir::new();
    let path = dir.0.join("cluster.key");
    let file = path.to_str().unwrap();
    let understudy = |arguments: &[&str]| run(Path::new(PROGRAM), arguments, &[]);
    let made = document(&understudy(&["-j", "key", "generate", file]), 0);
    assert_eq!((&made["key"]["file"], &made["key"]["added"]), (&file.into(), &false.into()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read_to_string(&path).unwrap();
    let refused = document(&understudy(&["-j", "key", "generate", file]), 5);
    assert!(refused["error"]["message"].as_str().unwrap().contains("not overwritten"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    let added = understudy(&["key", "generate", "--add", file]);
    assert!(text(&added.stdout).contains("is added"), "{added:?}");
    let after = std::fs::read_to_string(&path).unwrap();
    assert!(after.starts_with(&before) && after.len() > before.len());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(understudy(&["key", "generate", "--add", file]).status.code(), Some(3));
    let help = understudy(&["key", "--help"]);
    assert!(text(&help.stdout).contains("three rounds"), "{help:?}");
}

// ---- errors ----

#[test]
fn every_error_code_has_its_exit_code() {
    for (code, exit) in [
        (ErrorCode::Runtime, 1),
        (ErrorCode::Usage, 2),
        (ErrorCode::InvalidConfig, 3),
        (ErrorCode::Unreachable, 4),
        (ErrorCode::RefusedUnsafe, 5),
    ] {
        for arguments in [&["status"][..], &["-j", "status"]] {
            let output = answered(Request::Status, ApiError::new(code, "m\u{1b}"), arguments);
            assert_eq!(output.status.code(), Some(exit));
        }
        let output = answered(Request::Conns, ApiError::new(code, "m"), &["-j", "conns"]);
        assert_eq!(document(&output, exit)["error"]["code"], code.as_str());
    }
}

#[test]
fn an_unreachable_daemon() {
    for command in ["status", "conns", "switchover"] {
        let output = understudy(&["-s", "/nonexistent/s", command]);
        assert_eq!(output.status.code(), Some(4));
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("/nonexistent/s"), "{}", text(&output.stderr));
        let document = document(&understudy(&["-js", "/nonexistent/s", command]), 4);
        assert_eq!(document["error"]["code"], "unreachable");
    }
}

#[test]
fn garbage_long_and_no_answers() {
    for (bytes, exit, words) in [
        (b"garbage\n".to_vec(), 1, "not understood"),
        (b"\xff\xfe\n".to_vec(), 1, "not understood"),
        (b"\n".to_vec(), 1, "not understood"),
        (b"{\"ok\":true}\n".to_vec(), 1, "not understood"),
        (vec![b'x'; RESPONSE_BYTES_MAX + 10], 1, "longer than"),
        (encode_response(&conns().into()), 1, "something else"),
        (b"{\"ok\":".to_vec(), 4, "without an answer"),
        (Vec::new(), 4, "without an answer"),
    ] {
        let output = answered_raw(bytes.clone(), &["status"]);
        assert_eq!(output.status.code(), Some(exit), "{words}");
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
        let document = document(&answered_raw(bytes, &["-j", "status"]), exit);
        assert!(document["error"]["message"].as_str().unwrap().contains(words));
    }
}

#[test]
fn a_silent_daemon_times_out() {
    let silent = |mut stream: UnixStream| {
        server::read_request(&mut stream, PATIENCE).unwrap().unwrap();
        // Until the client has gone.
        let _ = server::read_request(&mut stream, PATIENCE);
    };
    let started = Instant::now();
    let document_ = document(&against(silent, &["-j", "-t", "100", "status"]), 4);
    assert!(document_["error"]["message"].as_str().unwrap().contains("within 100 ms"));
    assert!(started.elapsed() < PATIENCE);
    let output = against(silent, &["-t", "100", "switchover"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("not known, see status"), "{}", text(&output.stderr));
}

#[test]
fn usage_errors() {
    for arguments in [
        &["reboot"][..],
        &[],
        &["status", "extra"],
        &["-s"],
        &["-s", "x", "-c", "y", "status"],
        &["status", "--to", "b"],
        &["-t", "0", "status"],
        &["-t", "x", "status"],
        &["check"],
        &["conns", "10.0.0.7"],
        &["conns", "-v", "10.0.0"],
    ] {
        let output = understudy(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert!(!output.stderr.is_empty());
        let with_json = [&["-j"], arguments].concat();
        let document = document(&understudy(&with_json), 2);
        assert_eq!(document["error"]["code"], "usage");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
        assert!(!message.starts_with("error:"), "{message:?}");
    }
    assert_eq!(understudy(&["--help"]).status.code(), Some(0));
    assert_eq!(understudy(&["--version"]).status.code(), Some(0));
}

// ---- which socket ----

const A: &str = include_str!("../../../configs/trio/a.toml");

/// A valid file for a socket in `dir`.
fn config(dir: &Dir, socket: &str) -> String {
    let old = "socket = \"/run/understudy/a.sock\"";
    assert!(A.contains(old));
    dir.file("a.toml", &A.replace(old, &format!("socket = \"{socket}\"")))
}

#[test]
fn the_socket_is_found() {
    let dir = Dir::new();
    let socket = dir.0.join("s");
    let socket = socket.to_str().unwrap();
    let file = config(&dir, socket);
    let listener = UnixListener::bind(socket).unwrap();
    let thread = std::thread::spawn(move || {
        for _ in 0..3 {
            let stream = listener.accept().unwrap().0;
            server::serve(stream, PATIENCE, |_| status().into()).unwrap();
        }
    });
    let program = Path::new(PROGRAM);
    for (arguments, env) in [
        (vec!["-c", &file, "status"], vec![("UNDERSTUDY_SOCKET", "/nonexistent")]),
        (vec!["status"], vec![("UNDERSTUDY_SOCKET", socket)]),
        (vec!["status", "-s", socket], vec![("UNDERSTUDY_SOCKET", "/nonexistent")]),
    ] {
        let output = run(program, &arguments, &env);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    thread.join().unwrap();

    let output = run(program, &["-j", "status"], &[("UNDERSTUDY_SOCKET", "/nonexistent/env")]);
    assert!(
        document(&output, 4)["error"]["message"].as_str().unwrap().contains("/nonexistent/env")
    );
    let bad = dir.file("bad.toml", "x = 1\n");
    let output = understudy(&["-j", "-c", &bad, "status"]);
    let document = document(&output, 3);
    assert_eq!(document["error"]["code"], "invalid_config");
    assert!(document["error"]["message"].as_str().unwrap().contains("bad.toml:1:"));
}

// ---- check ----

/// This program in a directory of its own, next to an `understudyd` that is `script`.
fn beside(dir: &Dir, script: Option<&str>) -> PathBuf {
    let _guard = WRITE_OR_SPAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let program = dir.0.join("understudy");
    if std::fs::hard_link(PROGRAM, &program).is_err() {
        std::fs::copy(PROGRAM, &program).unwrap();
    }
    if let Some(script) = script {
        let daemon = dir.0.join("understudyd");
        std::fs::write(&daemon, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

fn root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

#[test]
fn check_without_the_daemon() {
    let dir = Dir::new();
    let program = beside(&dir, None);
    let file = config(&dir, "/run/a.sock");
    let output = run(&program, &["check", &file], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.starts_with(&format!("{file}: valid\nCluster   trio, node a\n")), "{out}");
    assert!(out.contains("3 voters, policy quorum: survives the loss of one node"), "{out}");
    assert!(out.contains("\ninfo      not checked: "), "{out}");

    let document = document(&run(&program, &["-j", "check", &file], &[]), 0);
    let check = &document["check"];
    assert_eq!(check["valid"], true);
    assert_eq!(check["environment_checked"], false);
    assert_eq!(check["group"]["voters"], 3);
    assert_eq!(check["group"]["majority"], 2);
    assert_eq!(check["group"]["losses_tolerated"], 1);
    assert_eq!(check["findings"][0]["level"], "info");
}

#[test]
fn check_of_bad_files() {
    let dir = Dir::new();
    let program = beside(&dir, None);
    let bad = dir.file("bad.toml", &A.replace("vrid = 51", "vrid = 0"));
    let output = run(&program, &["check", &bad], &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("refused\nerror     "), "{}", text(&output.stdout));
    let refused = document(&run(&program, &["-j", "check", &bad], &[]), 3);
    assert_eq!(refused["error"]["code"], "invalid_config");
    assert_eq!(refused["check"]["findings"][0]["message"], refused["error"]["message"]);
    assert_eq!(refused["check"]["group"], Value::Null);

    let missing = document(&run(&program, &["-j", "check", "/nonexistent.toml"], &[]), 3);
    assert!(missing["error"]["message"].as_str().unwrap().contains("/nonexistent.toml"));

    let nodes = A.find("[[nodes]]\nname = \"c\"").unwrap();
    let two = format!("{}{}", &A[..nodes], &A[A.find("[service]").unwrap()..]);
    let two = dir.file("two.toml", &two);
    let refused = document(&run(&program, &["-j", "check", &two], &[]), 5);
    assert_eq!(refused["error"]["code"], "refused_unsafe");
}

#[test]
fn check_says_what_is_tolerated() {
    let dir = Dir::new();
    let program = beside(&dir, None);
    let b = A.find("[[nodes]]\nname = \"b\"").unwrap();
    let alone = format!("{}{}", &A[..b], &A[A.find("[service]").unwrap()..]);
    let none = A.replace("policy = \"quorum\"", "policy = \"none\"");
    let all = A.replace("policy = \"quorum\"", "policy = \"all\"");
    for (body, words, levels) in [
        (alone, "1 voter, policy quorum: no takeover", &["warn", "info"][..]),
        (none, "what clients were told last may be lost", &["warn", "info"]),
        (all, "output waits for every replica, up to 2000 ms", &["info"]),
    ] {
        let file = dir.file("x.toml", &body);
        let document = document(&run(&program, &["-j", "check", &file], &[]), 0);
        let tolerance = document["check"]["group"]["tolerance"].as_str().unwrap();
        assert!(tolerance.contains(words), "{tolerance}");
        let findings = document["check"]["findings"].as_array().unwrap();
        let found: Vec<_> = findings.iter().map(|f| f["level"].as_str().unwrap()).collect();
        assert_eq!(found, levels);
    }
}

#[test]
fn check_merges_what_the_daemon_finds() {
    if !root() {
        eprintln!("skipped: only root runs the daemon's check");
        return;
    }
    let warn = r#"{"findings":[{"level":"warn","message":"no huge pages"}]}"#;
    let error = r#"{"findings":[{"level":"error","message":"no device x"},{"level":"error","message":"y"}]}"#;
    let empty = r#"{"findings":[]}"#;
    for (script, code, words) in [
        (format!("echo '{warn}'"), 0, "no huge pages"),
        // A daemon's libraries may print before.
        (format!("echo EAL: x; echo noise >&2; echo '{warn}'"), 0, "no huge pages"),
        (
            format!("test \"$1\" = --check && test -r \"$2\" && test $# = 2 && echo '{empty}'"),
            0,
            "",
        ),
        (format!("echo '{error}'; exit 3"), 3, "no device x"),
        (format!("echo '{error}'; exit 0"), 3, "no device x"),
        (format!("echo '{empty}'; exit 3"), 3, "without a reason"),
        (format!("echo '{empty}'; exit 1"), 1, "could not check"),
        ("echo nonsense".to_owned(), 1, "no findings"),
        ("exit 0".to_owned(), 1, "no findings"),
        ("echo 'EAL: no hugepages' >&2; exit 9".to_owned(), 1, "it said: EAL: no hugepages"),
        ("kill -9 $$".to_owned(), 1, "signal"),
        ("yes | head -c 3000000; exit 0".to_owned(), 1, "no findings"),
    ] {
        let dir = Dir::new();
        let program = beside(&dir, Some(&script));
        let file = config(&dir, "/run/a.sock");
        let path = [("PATH", "/usr/bin:/bin")];
        let output = run(&program, &["check", &file], &path);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", text(&output.stdout));
        assert!(text(&output.stdout).contains(words), "{script}: {}", text(&output.stdout));
        let document = document(&run(&program, &["-j", "check", &file], &path), code);
        assert_eq!(document["check"]["valid"], code == 0, "{script}");
        if code != 1 {
            assert_eq!(document["check"]["environment_checked"], true, "{script}");
        } else {
            assert_eq!(document["error"]["code"], "runtime", "{script}");
        }
    }
}

#[test]
fn check_finds_the_daemon_in_path() {
    if !root() {
        eprintln!("skipped: only root runs the daemon's check");
        return;
    }
    let (dir, other) = (Dir::new(), Dir::new());
    let program = beside(&dir, None);
    beside(&other, Some(r#"echo '{"findings":[{"level":"info","message":"from PATH"}]}'"#));
    let file = config(&dir, "/run/a.sock");
    let path = [("PATH", other.0.to_str().unwrap())];
    let document = document(&run(&program, &["-j", "check", &file], &path), 0);
    assert_eq!(document["check"]["findings"][0]["message"], "from PATH");
}
