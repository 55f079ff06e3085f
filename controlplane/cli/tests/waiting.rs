//! What takes its time: `understudy wait`, and what is shown meanwhile on a terminal and elsewhere. Against
//! a daemon in a thread; `tests/lab/tests/waited.rs` waits for real ones.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;
use understudy_api::stream::Piece;
use understudy_api::{
    ApiError, CaptureStatus, Capturing, ErrorCode, LinkStatus, Response, Status, Verdict, server,
};
use understudy_wire::record::{RecordHeader, RecordKind};

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
const PATIENCE: Duration = Duration::from_secs(20);

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn understudy(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("-s").arg(socket).args(arguments).env("TERM", "xterm").stdin(Stdio::null());
    command
}

/// `understudy wait` at a daemon that answers these, one by one, the last for ever. It is there after
/// `absent`. Gives how often it was asked, too.
fn waits(absent: Duration, answers: &[Response], arguments: &[&str]) -> (Output, usize) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let asked = AtomicUsize::new(0);
    let output = scope(|scope| {
        let serve = || {
            sleep(absent);
            let listener = UnixListener::bind(&socket).unwrap();
            for stream in listener.incoming().map(Result::unwrap) {
                let mut is_over = true;
                let _ = server::serve(stream, PATIENCE, |_| {
                    is_over = false;
                    let nth = asked.fetch_add(1, Ordering::Relaxed);
                    answers[nth.min(answers.len() - 1)].clone()
                });
                if is_over {
                    break;
                }
            }
        };
        let daemon = (!answers.is_empty()).then(|| scope.spawn(serve));
        let output = understudy(&socket, &[&["wait"], arguments].concat()).output().unwrap();
        if let Some(daemon) = daemon {
            // Who asks nothing ends it.
            while UnixStream::connect(&socket).is_err() {
                sleep(Duration::from_millis(5));
            }
            daemon.join().unwrap();
        }
        output
    });
    (output, asked.into_inner())
}

fn status(ready: bool, verdict: Verdict) -> Response {
    let why = |so: bool, text: &str| if so { Vec::new() } else { vec![text.to_owned()] };
    Status {
        ready,
        not_ready_because: why(ready, "the application is not ready"),
        verdict,
        reasons: why(verdict == Verdict::Protected, "no majority without b"),
        ..Status::default()
    }
    .into()
}

const NOW: Duration = Duration::ZERO;

#[test]
fn what_is_so_already_is_told_at_once() {
    for (arguments, answer, until) in [
        (&[][..], status(true, Verdict::Exposed), "ready"),
        (&["--protected"], status(false, Verdict::Protected), "protected"),
    ] {
        let (output, asked) = waits(NOW, &[answer], arguments);
        let said = text(&output.stdout);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{said}");
        assert!(said.starts_with(&format!("{until} after ")) && said.ends_with(" ms\n"), "{said}");
        assert_eq!(asked, 1);
    }
}

#[test]
fn what_becomes_so_is_waited_for() {
    let (not_yet, yet) = (status(false, Verdict::Exposed), status(true, Verdict::Protected));
    let failing = Response::from(ApiError::new(ErrorCode::Runtime, "not now"));
    for arguments in [&["-j"][..], &["-j", "--protected"]] {
        let answers = [not_yet.clone(), failing.clone(), not_yet.clone(), yet.clone()];
        let begun = Instant::now();
        let (output, asked) = waits(Duration::from_millis(300), &answers, arguments);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let until = if arguments.len() == 2 { "protected" } else { "ready" };
        assert_eq!((output.status.code(), asked), (Some(0), 4), "{document}");
        assert_eq!((&document["ok"], &document["wait"]["until"]), (&true.into(), &until.into()));
        let waited = Duration::from_millis(document["wait"]["waited_ms"].as_u64().unwrap());
        assert!(waited >= Duration::from_millis(300 + 3 * 100), "{waited:?}");
        assert!(waited <= begun.elapsed());
    }
}

#[test]
fn what_does_not_become_so_has_its_reason_and_exit_code() {
    let exposed = || vec![status(true, Verdict::Exposed)];
    let tap = |up| {
        let link = LinkStatus {
            device: "eth7".into(),
            clock: "software".into(),
            up,
            ..LinkStatus::default()
        };
        CaptureStatus { links: vec![link], ..CaptureStatus::default() }.into()
    };
    let timeout = ["--timeout-ms", "350"];
    for (answers, arguments, code, why) in [
        (vec![], &timeout[..], 4, "not ready within "),
        (vec![status(false, Verdict::Protected)], &timeout, 1, ": the application is not ready"),
        (exposed(), &["--timeout-ms", "350", "--protected"], 1, ": no majority without b"),
        (vec![tap(false)], &timeout, 1, ": eth7 is not up"),
    ] {
        let begun = Instant::now();
        let (output, asked) = waits(NOW, &answers, arguments);
        let (took, said) = (begun.elapsed(), text(&output.stderr));
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), ""), "{said}");
        assert!(said.contains(why) && said.contains(" ms: "), "{said}");
        assert!(took >= Duration::from_millis(350) && asked <= 5, "{took:?}, asked {asked} times");
    }
    // What can never be is not waited for.
    let (output, asked) = waits(NOW, &[tap(true)], &["--protected"]);
    assert_eq!((output.status.code(), asked), (Some(2), 1));
    assert_eq!(waits(NOW, &[tap(true)], &[]).0.status.code(), Some(0));
}

/// The same command with a terminal, and all that it was sent.
fn on_a_terminal(command: &Command) -> String {
    let word = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(word).collect();
    let line = format!("stty rows 24 cols 80; exec {}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
    let output = script.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn waiting_is_a_moving_line_on_a_terminal_and_a_plain_one_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("s");
    let (short, long) = (["wait", "--timeout-ms", "300"], ["wait", "--timeout-ms", "5000"]);
    let (plain, screen, quick) = scope(|scope| {
        let plain = scope.spawn(|| understudy(&nobody, &long).output().unwrap());
        let screen = scope.spawn(|| on_a_terminal(&understudy(&nobody, &long)));
        let quick = scope.spawn(|| on_a_terminal(&understudy(&nobody, &short)));
        (plain.join().unwrap(), screen.join().unwrap(), quick.join().unwrap())
    });
    let lines: Vec<&str> = text(&plain.stderr).lines().collect();
    let [first, second, end] = lines[..] else { panic!("{lines:?}") };
    assert!(first.starts_with("understudy: waiting: ") && first.ends_with(" s so far"), "{first}");
    assert!(second.starts_with("understudy: waiting: ") && second != first, "{second}");
    assert!(end.contains("not ready within") && !text(&plain.stderr).contains('\x1b'), "{end}");

    // Written over itself, and gone before the answer.
    let moves = screen.matches("waiting: ").count();
    assert!(moves > 10 && !screen.contains("so far"), "{moves}: {screen:?}");
    let (shown, answer) = screen.rsplit_once("\x1b[2K").expect("a line that is cleared");
    assert!(shown.contains("waiting: 4s"), "{shown:?}");
    assert!(answer.contains("not ready within") && !answer.contains("waiting"), "{answer:?}");
    assert!(!quick.contains("waiting") && quick.contains("not ready within"), "{quick:?}");
}

/// A log of which a tenth comes every 300 ms.
fn slow_log(mut stream: UnixStream) {
    let _ = server::read_request(&mut stream, PATIENCE).unwrap().unwrap();
    let header = RecordHeader { len: 1000, kind: RecordKind::Audit, timestamp_ns: 1 };
    let mut record = header.encode().to_vec();
    record.resize(header.stored_len(), 0);
    let (start, len) = (4096, record.len() as u64);
    let capturing =
        Capturing { log_start: start, log_end: start + 10 * len, ..Capturing::default() };
    server::write_response(&mut stream, &capturing.into(), PATIENCE).unwrap();
    for nth in 0..10 {
        sleep(Duration::from_millis(300));
        let piece = Piece::Records { position: start + nth * len, bytes: &record };
        stream.write_all(&piece.head()).unwrap();
        stream.write_all(&record).unwrap();
    }
    stream.write_all(&Piece::End.head()).unwrap();
}

/// Reads that log, with the command made into what is wanted of it by `run`.
fn reads<R>(more: &[&str], run: impl FnOnce(Command) -> R) -> R {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("s"), dir.path().join("x"));
    let listener = UnixListener::bind(&socket).unwrap();
    let words = ["capture", "--from", "@0", "--to", "@5", "-w", file.to_str().unwrap()];
    scope(|scope| {
        let daemon = scope.spawn(move || slow_log(listener.accept().unwrap().0));
        let ran = run(understudy(&socket, &[more, &words].concat()));
        daemon.join().unwrap();
        ran
    })
}

#[test]
fn of_a_known_amount_it_is_told_how_much_is_done() {
    let (plain, screen, json) = scope(|scope| {
        let plain = scope.spawn(|| reads(&[], |mut command| command.output().unwrap()));
        let screen = scope.spawn(|| reads(&[], |command| on_a_terminal(&command)));
        let json = scope.spawn(|| reads(&["-j"], |mut command| command.output().unwrap()));
        (plain.join().unwrap(), screen.join().unwrap(), json.join().unwrap())
    });
    let told: Vec<&str> =
        text(&plain.stderr).lines().filter(|line| line.contains("the log is read")).collect();
    let [line] = told[..] else { panic!("{told:?}") };
    let percent = line.strip_prefix("understudy: the log is read: ").unwrap();
    let percent: u64 = percent.strip_suffix(" % so far").unwrap().parse().unwrap();
    assert!((60..=90).contains(&percent), "two of three seconds: {line}");
    assert!(text(&plain.stderr).contains("0 packets captured"), "{}", text(&plain.stderr));

    let moves = screen.matches("the log is read ").count();
    assert!(moves >= 5 && !screen.contains("so far"), "{moves}: {screen:?}");
    assert!(screen.contains(" of 9.92 KiB"), "{screen:?}");
    let (_, answer) = screen.rsplit_once("\x1b[2K").expect("a line that is cleared");
    assert!(answer.contains("0 packets captured") && !answer.contains("is read"), "{answer:?}");
    // A script that wants JSON is told nothing else.
    assert_eq!((json.status.code(), text(&json.stderr)), (Some(0), ""));
}
