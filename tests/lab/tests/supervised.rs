//! A node under systemd's protocols: it says when it is ready, how it is, and that there is progress,
//! which there is not while its poll-mode thread stands still; and its messages in the journal.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use understudy_lab::node::{Trio, binary};
use understudy_lab::notices::Notices;
use understudy_lab::sys::{self, StoppedThread};
use understudy_lab::topology::Lab;
use understudy_lab::{Member, NodeOptions, cmd, scenario};

const WATCHDOG: Duration = Duration::from_millis(600);
const LIVENESS: Duration = Duration::from_secs(20);

/// It has not, and cannot get back, what loads modules or reboots.
fn assert_unprivileged(pid: u32) {
    const SYS_MODULE: u64 = 1 << 16;
    const SYS_BOOT: u64 = 1 << 22;
    const NET_ADMIN: u64 = 1 << 12;
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        let hex = text.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        let bits = u64::from_str_radix(hex.trim(), 16).unwrap();
        assert_eq!(bits & (SYS_MODULE | SYS_BOOT), 0, "{set} of {pid}: {hex}");
        assert_ne!(bits & NET_ADMIN, 0, "{set} of {pid}: {hex}");
    }
}

#[test]
fn the_watchdog_is_fed_by_progress_alone() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    scenario::prepare_machine().unwrap();
    let lab = Lab::new().unwrap();
    let socket = lab.dir().join("notify.sock");
    let notices = Notices::bind(&socket).unwrap();
    let notify = Some((socket, WATCHDOG.as_micros() as u64));
    let mut trio = Trio::prepare(&lab, &NodeOptions { notify, ..NodeOptions::default() }).unwrap();
    let node = trio.node(Member::A);
    node.start().unwrap();
    // Alone of three it serves nobody; whoever starts the three one after the other need not wait.
    let said = notices.until("READY=1");
    assert!(said.iter().any(|n| n.contains("hears 0 of 2 other nodes")), "{said:?}");
    let fed = notices.fed_within(WATCHDOG * 3);
    assert!((2..=7).contains(&fed), "fed {fed} times in three times its time");
    // The process runs on, and so does its control thread; the poll-mode thread does not.
    let stopped = StoppedThread::stop(node.pid().unwrap()).unwrap();
    let _ = notices.fed_within(WATCHDOG);
    assert_eq!(notices.fed_within(WATCHDOG * 2), 0, "nobody polls");
    assert!(node.status().is_ok(), "the control plane answers");
    drop(stopped);
    assert_unprivileged(node.pid().unwrap());
    assert_unprivileged(node.status().unwrap().service.app_pid.unwrap());
    notices.until("WATCHDOG=1");
    sys::kill(node.pid().unwrap(), libc::SIGHUP).unwrap();
    let said = notices.until("RELOADING=1");
    assert!(said.last().unwrap().contains("MONOTONIC_USEC="), "{said:?}");
    notices.until("READY=1");
    assert_eq!(node.stop().unwrap(), 0);
    notices.until("STOPPING=1");
}

/// Where stderr is the journal, messages arrive there as fields.
#[test]
fn messages_go_to_the_journal_with_their_fields() {
    if !scenario::can_run(&["understudyd"]) {
        return;
    }
    scenario::prepare_machine().unwrap();
    let lab = Lab::new().unwrap();
    let dir = lab.dir().join("journal");
    fs::create_dir(&dir).unwrap();
    let journal = UnixDatagram::bind(dir.join("socket")).unwrap();
    journal.set_read_timeout(Some(LIVENESS)).unwrap();
    let trio = Trio::prepare(&lab, &NodeOptions::default()).unwrap();
    // A state directory that is a file: the daemon says so and ends.
    let state = lab.dir().join("file");
    fs::write(&state, "").unwrap();
    trio.nodes[0].edit("control.state_dir", state.to_string_lossy().into_owned()).unwrap();
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                  mount --bind \"$0\" /run/systemd/journal && exec 2>\"$1\" && \
                  export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && \
                  exec nsenter --net=\"$2\" \"$3\" --config \"$4\"";
    // Opened first: /run is another one then.
    let netns = fs::File::open(lab.node_netns(Member::A)).unwrap();
    let kept =
        format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&netns));
    let stderr = lab.dir().join("journal.log");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(&dir).arg(&stderr);
    command.arg(kept).arg(binary("understudyd").unwrap()).arg(trio.nodes[0].config());
    let said = cmd::output(command, "", LIVENESS).unwrap();
    assert_eq!(said.code, 1, "{}", said.stderr);
    let lines = fs::read_to_string(&stderr).unwrap();
    assert!(lines.contains(state.to_str().unwrap()), "{lines}");
    let mut bytes = vec![0; 65536];
    let mut next = || {
        let len = journal.recv(&mut bytes).expect("the journal was told");
        fields(&bytes[..len])
    };
    let is_error = |entry: &BTreeMap<String, String>| {
        entry.get("PRIORITY").is_some_and(|priority| priority == "3")
    };
    let mut entry = next();
    while !is_error(&entry) {
        entry = next();
    }
    assert_eq!(entry["SYSLOG_IDENTIFIER"], "understudyd");
    assert!(entry["MESSAGE"].contains(state.to_str().unwrap()), "{entry:?}");
}

/// An entry in the journal's own form: `NAME=value`, or `NAME`, a length of 64 bits, and the value.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut found = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| b"=\n".contains(byte)) {
        let (name, rest) = (text(&entry[..end]), &entry[end + 1..]);
        let (value, after) = match (entry[end], rest.split_first_chunk()) {
            (b'\n', Some((len, rest))) => rest.split_at(u64::from_le_bytes(*len) as usize),
            _ => rest.split_at(rest.iter().position(|&byte| byte == b'\n').unwrap()),
        };
        found.insert(name, text(value));
        entry = &after[1..];
    }
    found
}
