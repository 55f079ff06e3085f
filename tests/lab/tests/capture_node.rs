//! A node that only captures: what it writes is what tcpreplay sent, a query reads what it must and no
//! more, and neither a kill nor a full disk costs more than they have to.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use understudy_lab::captures::{as_tshark_reads, difference};
use understudy_lab::notices::Notices;
use understudy_lab::prometheus::{self, Prometheus};
use understudy_lab::tap::{LISTENER, SENDER, Tap};
use understudy_lab::{cmd, mix, scenario, sys};

/// Of an answer of Prometheus: it has a value above 0.
const SOME: &str = "(.data.result[0].value[1] | tonumber) > 0";
const ALL: [&str; 4] = ["--from", "@0", "--to", "-0s"];

fn can_run() -> bool {
    let has_tcpreplay = Command::new("tcpreplay").arg("--version").output().is_ok();
    if !has_tcpreplay {
        assert!(std::env::var(scenario::REQUIRE).as_deref() != Ok("1"), "tcpreplay is missing");
        eprintln!("skipped: no tcpreplay");
    }
    has_tcpreplay && scenario::can_run(&["understudyd", "understudy"])
}

fn bytes(frames: &[(u64, Vec<u8>)]) -> Vec<&[u8]> {
    frames.iter().map(|(_, bytes)| &bytes[..]).collect()
}

/// The kernel's own times of what comes in, beside the daemon.
fn kernel_times(count: usize) -> std::thread::JoinHandle<Vec<u64>> {
    // In the node's namespace, which the caller has entered.
    let mut socket = sys::PacketSocket::open("rx0", true).unwrap();
    std::thread::spawn(move || {
        use std::os::fd::AsRawFd;
        let mut times = Vec::new();
        for _ in 0..1000 {
            let wants = [(socket.as_raw_fd(), true, false)];
            sys::poll_fds(&wants, Duration::from_millis(20)).unwrap();
            socket
                .receive(|ns, _, bytes| {
                    if mix::is_of_it(bytes) {
                        times.push(ns);
                    }
                })
                .unwrap();
            if times.len() >= count {
                break;
            }
        }
        times
    })
}

#[test]
fn tshark_reads_what_tcpreplay_sent() {
    if !can_run() {
        return;
    }
    // net_af_packet has the kernel put IPv4 fragments together, so it is no device to record them with.
    let devices = ["net_pcap_tap,rx_iface_in=rx0", "net_pcap_two,rx_iface_in=lo"];
    let mut tap = Tap::on(&devices, "flush_ms = 50").unwrap();
    tap.start().unwrap();
    let frames = mix::mix(480);
    let (mut live, live_path) = tap.live("live.pcapng").unwrap();
    let kernel = sys::in_netns(&tap.netns(), || kernel_times(frames.len())).unwrap();
    let begun_ns = sys::unix_ns();
    // libpcap's ring has few places: faster than this it loses some when the thread waits for a CPU.
    tap.replay_all(&frames, 1_000_000, &[]).unwrap();
    let status = tap.wait_received(frames.len() as u64).unwrap();
    assert_eq!((status.links[0].cut, status.links[0].not_logged), (0, 0));
    cmd::wait_until("a live capture that has all", Duration::from_secs(10), || {
        Ok(fs::metadata(&live_path)?.len() > frames.iter().map(|f| f.len() as u64).sum())
    })
    .unwrap();
    assert_eq!(live.terminate(Duration::from_secs(10)).unwrap(), 0, "{}", live.log_tail());

    // And on the other link.
    sys::in_netns(&tap.netns(), || {
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"to nobody", "127.0.0.1:9")
    })
    .unwrap()
    .unwrap();
    cmd::wait_until("a frame on the other link", Duration::from_secs(10), || {
        Ok(tap.status()?.links[1].captured > 0)
    })
    .unwrap();

    // From memory as it came, and from disk alone after a restart: the same.
    tap.stop().unwrap();
    tap.start().unwrap();
    let mut words = ALL.to_vec();
    words.push("udp port 9");
    let (path, _) = tap.query("other.pcapng", &words).unwrap();
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "ip.dst"];
    let tshark = ["tshark", "-n", "-r", path.to_str().unwrap()];
    assert_eq!(cmd::run(&[&tshark[..], &fields].concat()).unwrap(), "lo\t127.0.0.1\n");
    let (past_path, query) = tap.query("past.pcapng", &ALL).unwrap();
    assert!(query.captured > frames.len() as u64 && query.dropped == 0, "{query:?}");
    let all = as_tshark_reads(&past_path).unwrap();
    // Kernels have things to say of their own now and then.
    let replayed = |frames: &[(u64, Vec<u8>)]| -> Vec<(u64, Vec<u8>)> {
        frames.iter().filter(|(_, bytes)| mix::is_of_it(bytes)).cloned().collect()
    };
    let (live, past) = (replayed(&as_tshark_reads(&live_path).unwrap()), replayed(&all));
    let sent: Vec<&[u8]> = frames.iter().map(|f| &f[..]).collect();
    assert!(bytes(&past) == sent, "{}", difference(&bytes(&past), &sent));
    assert!(live == past, "memory and disk differ");

    // Times: in ns, in order, of now, and the kernel's but for the time until the poll.
    assert!(past.is_sorted_by_key(|(ns, _)| *ns));
    assert!(past.iter().all(|(ns, _)| *ns >= begun_ns && *ns <= sys::unix_ns()));
    let fields = ["-T", "fields", "-e", "frame.time_delta"];
    let mut words = vec!["tshark", "-n", "-r", past_path.to_str().unwrap()];
    words.extend(fields);
    let deltas = cmd::run(&words).unwrap();
    let of_tshark: Vec<u64> = deltas.lines().map(ns_of).collect();
    let expected = all.windows(2).map(|w| w[1].0 - w[0].0);
    assert!(of_tshark[1..].iter().copied().eq(expected), "tshark sees other deltas");
    let kernel = kernel.join().unwrap();
    assert_eq!(kernel.len(), past.len(), "the kernel saw others");
    let mut late: Vec<i64> =
        past.iter().zip(&kernel).map(|((ns, _), k)| *ns as i64 - *k as i64).collect();
    late.sort_unstable();
    println!(
        "behind the kernel's stamp: median {} us, 90 % {} us, most {} us",
        late[late.len() / 2] / 1000,
        late[late.len() * 9 / 10] / 1000,
        late[late.len() - 1] / 1000
    );
    // libpcap's ring hands on what it has every 8 ms or so, or when a block of it is full.
    assert!(late[0] > -1_000_000 && late[late.len() / 2] < 50_000_000, "{late:?}");
    let info = cmd::run(&["capinfos", "-I", past_path.to_str().unwrap()]).unwrap();
    assert!(info.contains("software: the TSC") && info.contains("nanoseconds"), "{info}");
    let text = tap.understudy(&["-c", tap.config().to_str().unwrap(), "status"]).unwrap().stdout;
    assert!(text.contains("captures only") && text.contains("net_pcap_tap"), "{text}");
    println!("{text}");
    let config = tap.config().to_str().unwrap();
    let refused = tap.understudy(&["-c", config, "conns"]).unwrap();
    assert!(refused.code == 1 && refused.stderr.contains("only captures"), "{}", refused.stderr);
    let checked = tap.understudy(&["check", config]).unwrap();
    assert!(checked.code == 0 && checked.stdout.contains("only captures"), "{}", checked.stdout);
}

/// Seconds with nine decimals.
fn ns_of(text: &str) -> u64 {
    let (s, ns) = text.trim().split_once('.').unwrap();
    assert_eq!(ns.len(), 9, "{text}: not in ns");
    s.parse::<u64>().unwrap() * 1_000_000_000 + ns.parse::<u64>().unwrap()
}

#[test]
fn a_query_reads_only_what_it_must_and_a_kill_costs_only_what_waited() {
    if !can_run() {
        return;
    }
    let mut tap = Tap::new("block_kb = 16\nsegment_mb = 1\nkeep_mb = 64\nflush_ms = 100").unwrap();
    tap.start().unwrap();
    // 300 hosts, one after the other, ten frames each.
    let frames: Vec<_> = (0..3000).map(|i| mix::of_host(i / 10, 700)).collect();
    tap.replay_all(&frames, 0, &["--pps=5000"]).unwrap();
    let status = tap.wait_received(frames.len() as u64).unwrap();
    assert!(status.store.segments >= 2 && status.store.blocks > 100, "{status:#?}");
    let (_, all) = tap.query("all.pcapng", &ALL).unwrap();
    assert!(all.captured >= 3000, "{all:?}");
    let mut words = ALL.to_vec();
    words.push("host 10.9.0.77 and udp");
    let (path, one) = tap.query("one.pcapng", &words).unwrap();
    println!("all: {all:?}\none host: {one:?}");
    let found = as_tshark_reads(&path).unwrap();
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|(_, bytes)| bytes[26..30] == mix::host(77)));
    assert!(one.blocks_read <= 4 && one.blocks_read * 20 < all.blocks_read, "{one:?}");
    // By time alone: the last tenth of a second.
    let newest_ns = as_tshark_reads(&tap.dir().join("all.pcapng")).unwrap().last().unwrap().0;
    let from_ns = newest_ns - 100_000_000;
    let from = format!("@{}.{:09}", from_ns / 1_000_000_000, from_ns % 1_000_000_000);
    let (_, late) = tap.query("late.pcapng", &["--from", &from, "--to", "-0s"]).unwrap();
    println!("last tenth of a second: {late:?}");
    assert!(late.captured > 0 && late.blocks_read * 3 < all.blocks_read, "{late:?}");
    // Nobody: the index alone says so.
    let mut words = ALL.to_vec();
    words.push("host 10.200.0.1");
    assert!(tap.query("none.pcapng", &words).unwrap().1.blocks_read <= 2);

    // SIGKILL while it writes.
    let more: Vec<_> = (0..20_000).map(|i| mix::of_host(i, 700)).collect();
    let mut replay = tap.replay(&more, 0, &["--pps=5000"]).unwrap();
    let mut written = 0;
    cmd::wait_until("writing", Duration::from_secs(20), || {
        written = tap.status()?.store.written_records;
        Ok(written > 6000)
    })
    .unwrap();
    tap.kill9();
    replay.kill_tree(&[]);
    let status = tap.start().unwrap();
    // None if it was killed between two segments.
    assert!(status.store.recovered_segments <= 1, "{status:#?}");
    println!(
        "{} segments recovered, {} bytes cut off",
        status.store.recovered_segments, status.store.cut_bytes
    );
    let (path, query) = tap.query("after.pcapng", &ALL).unwrap();
    println!("{written} records were written before the kill, {} are there", query.captured);
    assert!(query.captured >= written, "{query:?}");
    let mut found = as_tshark_reads(&path).unwrap();
    found.retain(|(_, bytes)| mix::is_of_it(bytes));
    let sent: Vec<&[u8]> = frames.iter().chain(&more).map(|f| &f[..]).take(found.len()).collect();
    assert!(bytes(&found) == sent, "{}", difference(&bytes(&found), &sent));
    assert_eq!(tap.stop().unwrap(), 0);
    // Without a daemon.
    let (path, directory) = (tap.dir().join("offline.pcapng"), tap.directory().to_str().unwrap());
    let words =
        ["capture", "--directory", directory, "-w", path.to_str().unwrap(), "host 10.9.0.77"];
    let said = tap.understudy(&words).unwrap();
    println!("{}", said.stderr);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let again = found.iter().filter(|(_, bytes)| bytes[26..30] == mix::host(77));
    assert!(as_tshark_reads(&path).unwrap().iter().eq(again), "{}", said.stderr);
}

/// The thread sleeps for a second at a time: late stamps would be later than half of that in any case, as one of
/// the frames comes within its first 0.4 s.
#[test]
fn a_frame_ends_the_sleep_of_an_idle_node() {
    if !can_run() {
        return;
    }
    for device in ["net_af_packet_tap,iface=rx0", "net_af_xdp_tap,iface=rx0,force_copy=1"] {
        let mut tap = Tap::on(&[device], "flush_ms = 50").unwrap();
        // AF_XDP takes no longer frames than a page, and none where the interface might have some.
        for (netns, name) in [(tap.lab().client_netns(), SENDER), (tap.netns(), LISTENER)] {
            cmd::run_inside(&netns, &["ip", "link", "set", name, "mtu", "1500"]).unwrap();
        }
        let text = fs::read_to_string(tap.config()).unwrap();
        let text = text.replace("frame_bytes_max = 16368", "frame_bytes_max = 1518");
        let text = text.replace("memory_mb = 0", "memory_mb = 64");
        fs::write(tap.config(), text + "[idle]\npause_us = 0\nsleep_us = 1000000\n").unwrap();
        tap.start().unwrap();
        let sent_ns = sys::in_netns(&tap.lab().client_netns(), || {
            let socket = sys::PacketSocket::open(SENDER, false).unwrap();
            [0, 1, 2].map(|n| {
                std::thread::sleep(Duration::from_millis(300));
                let at_ns = sys::unix_ns();
                socket.send(&mix::of_host(n, 100)).unwrap();
                at_ns
            })
        })
        .unwrap();
        tap.wait_received(3).unwrap();
        let (path, _) = tap.query("woken.pcapng", &ALL).unwrap();
        let mut found = as_tshark_reads(&path).unwrap();
        found.retain(|(_, bytes)| mix::is_of_it(bytes));
        assert_eq!(found.len(), sent_ns.len(), "{device}");
        for ((stamp_ns, _), sent_ns) in found.iter().zip(sent_ns) {
            let late_ms = stamp_ns.saturating_sub(sent_ns) / 1_000_000;
            assert!(late_ms < 500, "{device}: stamped {late_ms} ms late");
        }
        assert_eq!(tap.stop().unwrap(), 0);
    }
}

/// A small disk; it goes with this.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, size: &str) -> Disk {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        cmd::run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", path.to_str().unwrap()])
            .unwrap();
        Disk(path.into())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = cmd::run(&["umount", "-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_disk_is_told_and_a_filter_in_the_data_path_keeps_out() {
    if !can_run() {
        return;
    }
    let lines =
        "block_kb = 64\nsegment_mb = 1\nkeep_mb = 64\nflush_ms = 50\nfilter = \"udp port 53\"";
    let mut tap = Tap::new(lines).unwrap();
    let _disk = Disk::mount(tap.directory(), "4m");
    let status = tap.start().unwrap();
    assert!(status.filter_runs_as.starts_with("rte_bpf"), "{}", status.filter_runs_as);
    let others: Vec<_> = mix::mix(160)
        .into_iter()
        .filter(|f| f[12..14] != [8, 0] || f.get(23) == Some(&6))
        .collect();
    let passing: Vec<_> = (0..5000).map(|i| mix::of_host(i, 1400)).collect();
    tap.replay_all(&others, 0, &["--pps=5000"]).unwrap();
    tap.replay_all(&passing, 0, &["--pps=4000"]).unwrap();
    let status = tap.wait_received((others.len() + passing.len()) as u64).unwrap();
    let link = &status.links[0];
    // IPv6 to the same port passes too.
    let of_v6 = others.iter().filter(|f| f[12..14] == [0x86, 0xdd] && f[20] == 17).count();
    assert_eq!(link.captured as usize, passing.len() + of_v6, "{link:?}");
    assert!(link.filtered as usize >= others.len() - of_v6, "{link:?}");
    // More than the disk holds: the oldest segments went.
    let store = &status.store;
    println!("{store:#?}");
    assert!(store.removed_for_space > 0 && store.bytes <= 4 << 20, "{store:?}");
    assert_eq!(store.unwritten_records, 0, "{store:?}");
    let (path, query) = tap.query("newest.pcapng", &ALL).unwrap();
    assert!(query.captured > 1000, "{query:?}");
    assert_eq!(as_tshark_reads(&path).unwrap().last().unwrap().1, *passing.last().unwrap());

    // Others take whatever room there is, also what goes of ours: in the end nothing is left to go.
    let mut others = fs::File::create(tap.directory().join("others")).unwrap();
    let mut replay = tap.replay(&passing, 0, &["--pps=4000", "--loop=10"]).unwrap();
    cmd::wait_until("a disk that is too full", Duration::from_secs(20), || {
        while std::io::Write::write_all(&mut others, &[0; 16384]).is_ok() {}
        let store = tap.status()?.store;
        let full = store.failed_because.as_deref().is_some_and(|why| why.contains("No space left"));
        Ok(full && store.unwritten_records > 0)
    })
    .unwrap();
    replay.kill_tree(&[]);
    // Room again: it goes on by itself.
    drop(others);
    fs::remove_file(tap.directory().join("others")).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    tap.replay_all(&passing[..400], 0, &["--pps=4000"]).unwrap();
    cmd::wait_until("a disk that is not full", Duration::from_secs(10), || {
        Ok(tap.status()?.store.failed_because.is_none())
    })
    .unwrap();
    let (path, query) = tap.query("again.pcapng", &ALL).unwrap();
    println!("{query:?}");
    assert!(query.dropped > 0, "what was not written is told: {query:?}");
    assert_eq!(as_tshark_reads(&path).unwrap().last().unwrap().1, passing[399]);

    // A segment that cannot be ended for want of room is there all the same.
    let full = tap.directory().join("others");
    let mut others = fs::File::create(&full).unwrap();
    for len in [65536, 4096, 1] {
        while std::io::Write::write_all(&mut others, &vec![0; len]).is_ok() {}
    }
    tap.kill9();
    let store = tap.start().unwrap().store;
    assert_eq!((store.damaged_files, store.recovered_segments), (0, 0), "{store:?}");
    let (_, again) = tap.query("unended.pcapng", &ALL).unwrap();
    assert_eq!(again.captured, query.captured);
    drop(others);
    fs::remove_file(full).unwrap();
    assert_eq!(tap.stop().unwrap(), 0);

    // Another filter, and no more than 60 bytes of each.
    let text = fs::read_to_string(tap.config()).unwrap();
    fs::write(tap.config(), text.replace("filter = \"udp port 53\"", "snap_len = 60")).unwrap();
    tap.start().unwrap();
    let newest_ns = sys::unix_ns();
    tap.replay_all(&passing[..20], 0, &["--pps=4000"]).unwrap();
    let link = tap.wait_received(20).unwrap().links.remove(0);
    assert!(link.captured >= 20 && link.cut >= 20 && link.filtered == 0, "{link:?}");
    let from = format!("@{}.{:09}", newest_ns / 1_000_000_000, newest_ns % 1_000_000_000);
    let (path, _) = tap.query("cut.pcapng", &["--from", &from]).unwrap();
    let fields = ["-T", "fields", "-e", "frame.len", "-e", "frame.cap_len"];
    let words = ["tshark", "-n", "-r", path.to_str().unwrap()];
    let lens = cmd::run(&[&words[..], &fields].concat()).unwrap();
    assert_eq!(lens.lines().filter(|line| *line == "1442\t60").count(), 20, "{lens}");
    assert_eq!(tap.stop().unwrap(), 0);
}

/// The thread of a process that has this name.
fn thread(pid: u32, name: &str) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let is = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|c| c.trim() == name);
    let found = tasks.map(|task| task.path()).find(|path| is(path)).expect(name);
    found.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// GET in the node's namespace.
fn get(tap: &Tap, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9465")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9465\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    sys::in_netns(&tap.netns(), ask).unwrap().unwrap()
}

/// Rules and dashboard of such nodes, at a node whose disk is taken by others.
#[test]
fn who_watches_it_is_told_what_is_not_recorded() {
    if !can_run() || !scenario::has_programs(&["jq", "promtool", "prometheus"]) {
        return;
    }
    prometheus::check_rules().unwrap();
    assert_eq!(prometheus::untested("capture_alerts").unwrap(), [""; 0]);
    let mut tap = Tap::new("block_kb = 64\nsegment_mb = 1\nkeep_mb = 64\nflush_ms = 50").unwrap();
    let text = fs::read_to_string(tap.config()).unwrap();
    let listen = prometheus::LISTEN;
    fs::write(tap.config(), format!("{text}[metrics]\nlisten = \"{listen}\"\n")).unwrap();
    let _disk = Disk::mount(tap.directory(), "4m");
    tap.start().unwrap();
    let watcher = Prometheus::start(tap.lab(), &tap.netns()).unwrap();
    watcher.wait("up", SOME).unwrap();
    let frames: Vec<_> = (0..4000).map(|i| mix::of_host(i, 1400)).collect();
    // More than one segment: the one that is written to is not deleted for want of room.
    tap.replay_all(&frames[..1600], 0, &["--pps=2000"]).unwrap();
    watcher.wait("rate(understudy_capture_written_records_total[5s])", SOME).unwrap();
    let text = prometheus::get(&tap.netns(), listen, "/metrics").unwrap();
    cmd::run_with_input(&["promtool", "check", "metrics"], &text).unwrap();
    for file in ["prometheus/capture_alerts.yml", "grafana/capture.json"] {
        let unknown = prometheus::unknown_names(file, &text).unwrap();
        assert_eq!(unknown, [""; 0], "{file} names what there is not");
    }
    watcher.check_dashboard("capture.json", &[("$node", "tap")]).unwrap();
    // The disk is smaller than what it is told to keep, but nothing is lost.
    let pending = "ALERTS{alertname=\"UnderstudyCaptureDiskSpace\",alertstate=\"pending\"}";
    watcher.wait(pending, ".data.result[0].metric.node == \"tap\"").unwrap();
    let firing = "ALERTS{alertstate=\"firing\"}";
    assert!(watcher.query(firing, ".data.result == []").unwrap(), "too early");

    let mut others = fs::File::create(tap.directory().join("others")).unwrap();
    let mut replay = tap.replay(&frames, 0, &["--pps=4000", "--loop=10"]).unwrap();
    cmd::wait_until("a disk that is too full", Duration::from_secs(20), || {
        while std::io::Write::write_all(&mut others, &[0; 16384]).is_ok() {}
        Ok(tap.status()?.store.unwritten_records > 0)
    })
    .unwrap();
    replay.kill_tree(&[]);
    watcher.wait_alert("UnderstudyCaptureDiskFails").unwrap();
    watcher.wait_alert("UnderstudyCaptureDiskFull").unwrap();
    watcher.stop().unwrap();
}

#[test]
fn it_is_supervised_watched_and_reloaded_as_any_node() {
    const WATCHDOG: Duration = Duration::from_millis(600);
    if !can_run() {
        return;
    }
    let mut tap = Tap::new("keep_mb = 512\nflush_ms = 50").unwrap();
    let text = fs::read_to_string(tap.config()).unwrap();
    fs::write(tap.config(), format!("{text}[metrics]\nlisten = \"127.0.0.1:9465\"\n")).unwrap();
    let socket = tap.dir().join("notify.sock");
    let notices = Notices::bind(&socket).unwrap();
    tap.notify = Some((socket, WATCHDOG.as_micros() as u64));
    tap.start().unwrap();
    let pid = tap.pid().unwrap();
    notices.until("READY=1");
    let fed = notices.fed_within(WATCHDOG * 3);
    assert!((2..=7).contains(&fed), "fed {fed} times in three times its time");
    // Neither of the two that must get on may stand still.
    for tid in [pid, thread(pid, "segments")] {
        let stopped = sys::StoppedThread::stop(tid).unwrap();
        let _ = notices.fed_within(WATCHDOG);
        assert_eq!(notices.fed_within(WATCHDOG * 2), 0, "{tid} of {pid} stands still");
        drop(stopped);
        notices.until("WATCHDOG=1");
    }

    // Kernels have things to say of their own now and then.
    let received = || tap.status().unwrap().links[0].received;
    let before = received();
    let metrics = get(&tap, "/metrics");
    let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    cmd::run_with_input(&["promtool", "check", "metrics"], body).unwrap();
    let value = |text: &str, name: &str| -> u64 {
        let line = text.lines().find(|l| l.starts_with(&format!("{name}{{"))).expect(name);
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let told = value(body, "understudy_capture_link_received_frames_total");
    assert!((before..=received()).contains(&told), "{told}");
    assert_eq!(value(body, "understudy_capture_segments_keep_bytes"), 512 << 20);
    assert!(get(&tap, "/status.json").contains("\"node\":\"tap\""));
    assert!(get(&tap, "/").starts_with("HTTP/1.1 404"), "there is no page");

    // What is live is applied; one thing that is not, and nothing is.
    let config = tap.config().to_str().unwrap().to_owned();
    let edit = |from: &str, to: &str| {
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&config, text.replace(from, to)).unwrap();
    };
    edit("keep_mb = 512", "keep_mb = 300\nkeep_minutes = 60");
    let planned = tap.understudy(&["-c", &config, "plan"]).unwrap();
    assert!(planned.stdout.contains("keep_mb") && planned.code == 0, "{}", planned.stdout);
    let done = tap.understudy(&["-c", &config, "reload"]).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    notices.until("RELOADING=1");
    assert_eq!(tap.status().unwrap().store.keep_bytes, 300 << 20);
    edit("keep_mb = 300", "keep_mb = 400\nfilter = \"tcp\"");
    let refused = tap.understudy(&["-c", &config, "reload"]).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    let why = "capture.filter: not while it runs: a segment says at its beginning";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    assert_eq!(tap.status().unwrap().store.keep_bytes, 300 << 20, "nothing was changed");
    edit("\nfilter = \"tcp\"", "");
    sys::kill(pid, libc::SIGHUP).unwrap();
    notices.until("RELOADING=1");
    assert_eq!(tap.status().unwrap().store.keep_bytes, 400 << 20);
    assert_eq!(tap.stop().unwrap(), 0);
    notices.until("STOPPING=1");
}
