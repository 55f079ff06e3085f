//! Connections of an application that serves meanwhile: read over and over, it notices nothing.

mod common;

use common::{LIMIT, eventually, root};
use std::{
    env, fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use understudy_image::Unsavable;
use understudy_linux::{
    Error,
    capsule::{App, AppSpec},
    image::{Frozen, LiveImage, read_live},
    netns::NetNs,
    poll_fds,
    socks::{SockInfo, tcp_sockets},
};

const AT: &str = "127.0.0.1:7000";
const HELPER: &str = "UNDERSTUDY_LIVE_HELPER";
const CONNECTIONS: usize = 4;
const READS: usize = 100;
const KEEP: usize = 4096;
/// What is written counts to this, again and again.
const PERIOD: u64 = 251;

fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|at| (at % PERIOD) as u8).collect()
}

/// Writes as fast as it can until the peer has closed its side. Any error is one, EINTR too.
fn write_until_closed(stream: TcpStream) -> u64 {
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
    let closed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&closed);
    let reading = thread::spawn(move || {
        assert_eq!(reader.read(&mut [0; 16]).unwrap(), 0);
        seen.store(true, Ordering::Release);
    });
    let mut at = 0u64;
    while !closed.load(Ordering::Acquire) {
        let bytes = pattern(at, 1 + (at % 20_000) as usize);
        at += writer.write(&bytes).unwrap() as u64;
    }
    writer.shutdown(Shutdown::Write).unwrap();
    reading.join().unwrap();
    at
}

/// Some queues are short enough to be read.
fn limit_buffer(stream: &TcpStream) {
    let bytes: i32 = 256 * 1024;
    let (at, len) = ((&raw const bytes).cast(), size_of_val(&bytes) as u32);
    // SAFETY: the option's value is a live integer of the length passed.
    let done =
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, at, len) };
    assert_eq!(done, 0);
}

/// Not a test by itself: the application of the next one. Threads come and go in it.
#[test]
fn helper_application() {
    if env::var_os(HELPER).is_none() {
        return;
    }
    let listener = TcpListener::bind(AT).unwrap();
    let served = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !served.load(Ordering::Acquire) {
                thread::spawn(|| thread::sleep(Duration::from_micros(50))).join().unwrap();
            }
        });
        let streams = (0..CONNECTIONS).map(|_| listener.accept().unwrap().0);
        let streams = streams.enumerate().map(|(at, stream)| {
            if at % 2 == 0 {
                limit_buffer(&stream);
            }
            stream
        });
        let writers: Vec<_> =
            streams.map(|stream| thread::spawn(|| write_until_closed(stream))).collect();
        let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        served.store(true, Ordering::Release);
        println!("\nwritten {written}");
    });
}

/// Reads to the end and checks every byte; how many, and the longest time without one.
fn read_to_end(mut stream: TcpStream, count: &AtomicU64) -> (u64, Duration) {
    let (mut at, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let len = stream.read(&mut buffer).unwrap();
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if len == 0 {
            return (at, longest);
        }
        assert!(buffer[..len] == pattern(at, len), "another byte after {at}");
        at += len as u64;
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
}

fn service(ns: &NetNs) -> Vec<SockInfo> {
    let at: SocketAddr = AT.parse().unwrap();
    let all = tcp_sockets(ns, 1000).unwrap().into_iter();
    all.filter(|s| s.local == at && s.remote.port() != 0).collect()
}

/// The lists hold what was written, from where they begin.
fn check(read: &LiveImage) {
    let image = &read.image;
    for list in [&image.in_flight, &image.pending] {
        let counts = list.windows(2).all(|w| u64::from(w[1]) == (u64::from(w[0]) + 1) % PERIOD);
        assert!(counts, "{} bytes are not what was written", list.len());
    }
    if let (Some(first), Some(next)) = (image.in_flight.first(), image.pending.first()) {
        let between = read.in_flight_bytes as u64 + u64::from(*first);
        assert_eq!(between % PERIOD, u64::from(*next), "the lists do not join");
    }
    assert!(image.unread.is_empty());
    let shows = read.in_flight_bytes + read.pending_bytes <= 1 << 20;
    let shown = |bytes: usize| if shows { bytes.min(KEEP) } else { 0 };
    assert_eq!(image.in_flight.len(), shown(read.in_flight_bytes));
    assert_eq!(image.pending.len(), shown(read.pending_bytes));
}

/// Reads all connections; how long the application stood still, and how many bytes were shown.
fn read_once(ns: &NetNs, pid: i32) -> (Frozen, usize) {
    let wanted = service(ns);
    let (mut images, mut shown, mut waiting) = (0, 0, 0);
    let frozen = read_live(ns, pid, &wanted, KEEP, |at, read| {
        match read {
            Ok(image) => {
                assert_eq!(image.image.remote, wanted[at].remote);
                check(&image);
                images += 1;
                shown += image.image.in_flight.len() + image.image.pending.len();
            }
            Err(Error::Unsavable(Unsavable::NotAccepted)) => waiting += 1,
            Err(e) => panic!("{e}"),
        }
        true
    });
    let frozen = frozen.unwrap();
    assert_eq!((images, waiting), (CONNECTIONS, 1));
    (frozen, shown)
}

#[test]
fn an_application_that_writes_in_a_loop_notices_nothing() {
    if !root() {
        return;
    }
    let (ns, dir) = (NetNs::create().unwrap(), tempfile::tempdir().unwrap());
    let spec = AppSpec {
        command: vec![
            env::current_exe().unwrap().to_str().unwrap().into(),
            "--exact".into(),
            "helper_application".into(),
            "--nocapture".into(),
        ],
        work_dir: dir.path().into(),
        env: vec![(HELPER.into(), "1".into())],
        stdout_log: dir.path().join("log"),
    };
    let mut app = App::spawn(&ns, &spec).unwrap();
    let connect = || ns.run(|| TcpStream::connect(AT)).unwrap();
    let mut streams = Vec::new();
    eventually("a listener", || {
        streams.extend(connect());
        !streams.is_empty()
    });
    streams.extend((1..=CONNECTIONS).map(|_| connect().unwrap()));
    let not_accepted = streams.pop().unwrap();
    let ends: Vec<TcpStream> = streams.iter().map(|s| s.try_clone().unwrap()).collect();
    let count = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let count = Arc::clone(&count);
            thread::spawn(move || read_to_end(stream, &count))
        })
        .collect();
    eventually("bytes", || count.load(Ordering::Relaxed) > 1 << 20);
    eventually("all but one accepted", || {
        service(&ns).iter().filter(|s| s.inode != 0).count() == CONNECTIONS
    });

    let (mut total, mut longest, mut turns, mut shown_bytes) =
        (Duration::ZERO, Duration::ZERO, 0, 0);
    let (pid, ended) = (app.pid(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                assert_eq!(app.try_wait(), None, "a stop is taken for an end");
            }
        });
        for _ in 0..READS {
            let before = count.load(Ordering::Relaxed);
            let (frozen, shown) = read_once(&ns, pid);
            (total, longest) = (total + frozen.total, longest.max(frozen.longest));
            (turns, shown_bytes) = (turns + frozen.turns, shown_bytes + shown);
            eventually("it goes on", || count.load(Ordering::Relaxed) > before);
        }
        ended.store(true, Ordering::Release);
    });
    for end in ends {
        end.shutdown(Shutdown::Write).unwrap();
    }
    let read: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert!(poll_fds(&[app.pidfd()], LIMIT).unwrap()[0], "the application goes on");
    let log = fs::read_to_string(&spec.stdout_log).unwrap();
    assert_eq!(app.try_wait().and_then(|status| status.code()), Some(0), "{log}");
    drop(not_accepted);
    let bytes: u64 = read.iter().map(|(bytes, _)| bytes).sum();
    assert!(log.contains(&format!("written {bytes}\n")), "{bytes} read: {log}");
    assert!(shown_bytes > 0, "no queue ever showed a byte");
    println!(
        "{READS} reads of {CONNECTIONS} connections in {turns} turns: frozen {:?} on average, {longest:?} at \
         most; {bytes} bytes intact, {shown_bytes} of them in images, longest silence {:?}",
        total / turns,
        read.iter().map(|(_, longest)| *longest).max().unwrap()
    );
}
