//! The server on a real socket: what it answers, and whom it leaves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use understudy_api::{Response, Role, Status, decode_response};
use understudy_web::server::CONNECTIONS_MAX;
use understudy_web::{Seen, Server};

/// Longer than a loaded machine needs.
const LONG: Duration = Duration::from_secs(20);

struct Rig {
    address: SocketAddr,
    server: Server,
    asked: Arc<AtomicUsize>,
    is_mute: Arc<AtomicBool>,
}

fn rig() -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, is_mute) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, mute) = (Arc::clone(&asked), Arc::clone(&is_mute));
    let source = move || {
        count.fetch_add(1, Ordering::AcqRel);
        let status = Status { node: "a".into(), role: Role::Primary, ..Status::default() };
        (!mute.load(Ordering::Acquire)).then(|| Seen::Node(Box::new(status)))
    };
    let server = Server::serve(listener, false, Box::new(source)).unwrap();
    Rig { address, server, asked, is_mute }
}

impl Rig {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn get(&self, path: &str) -> String {
        self.say(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).as_bytes())
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn everything_is_served() {
    let rig = rig();
    let metrics = rig.get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("Content-Type: text/plain; version=0.0.4"), "{metrics}");
    assert!(body(&metrics).contains("role=\"primary\"} 1\n"), "{metrics}");
    let document = rig.get("/status.json");
    let Ok(Response::Status(status)) = decode_response(body(&document).as_bytes()) else {
        panic!("{document}");
    };
    assert_eq!(status.node, "a");
    let page = rig.get("/");
    assert!(body(&page).contains("status.js") && page.contains("default-src 'none'"), "{page}");
    for (path, kind) in [("/status.js", "text/javascript"), ("/status.css", "text/css")] {
        assert!(rig.get(path).contains(&format!("Content-Type: {kind}")), "{path}");
    }
    assert_eq!(rig.asked.load(Ordering::Acquire), 1, "two answers in 200 ms are one status");
    let head = rig.say(b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body(&head).is_empty(), "{head}");
}

#[test]
fn what_is_refused_has_an_answer() {
    let rig = rig();
    for (request, code) in [
        ("GET /etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "405"),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n", "400"),
        (&format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(5_000)), "431"),
    ] {
        let answer = rig.say(request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{code}: {answer:?}");
    }
    assert_eq!(rig.asked.load(Ordering::Acquire), 0, "none of them costs the daemon anything");
}

#[test]
fn a_daemon_without_an_answer_is_said_to_have_none() {
    let rig = rig();
    rig.is_mute.store(true, Ordering::Release);
    assert!(rig.get("/metrics").starts_with("HTTP/1.1 503 "));
    assert!(rig.get("/").starts_with("HTTP/1.1 200 "), "the page says so itself");
    rig.is_mute.store(false, Ordering::Release);
    assert!(rig.get("/metrics").starts_with("HTTP/1.1 200 "));
}

#[test]
fn who_says_nothing_is_left_and_others_are_served_again() {
    let rig = rig();
    let idle: Vec<TcpStream> = (0..CONNECTIONS_MAX + 3).map(|_| rig.connect()).collect();
    let begun = Instant::now();
    while rig.server.turned_away() < 3 {
        assert!(begun.elapsed() < LONG, "none was turned away");
        std::thread::sleep(Duration::from_millis(5));
    }
    // All of them are closed in time, without a byte.
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    let begun = Instant::now();
    while !rig.get("/metrics").contains("understudy_http_turned_away_total") {
        assert!(begun.elapsed() < LONG, "nobody is served");
    }
}

#[test]
fn an_address_that_is_taken_is_had_later() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let status = || Status { node: "late".into(), ..Status::default() };
    let source = move || Some(Seen::Node(Box::new(status())));
    let server = Server::start(address, false, Box::new(source)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(taken);
    let (asked, is_mute) = (Arc::default(), Arc::default());
    let rig = Rig { address, server, asked, is_mute };
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < LONG, "nobody listens");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(rig.get("/metrics").contains("node=\"late\""));
}
