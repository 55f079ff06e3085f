//! A changed file, planned and applied while clients press; and whatever else is said on the socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use understudy_api::{
    ApiError, Effect, ErrorCode, Request, Response, decode_request, decode_response, encode_request,
};
use understudy_lab::clients::Task;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::vip4;
use understudy_lab::pattern::Rng;
use understudy_lab::{Member, NodeOptions, Scenario, Verdict, cmd, scenario, sys};

const REDIS: u16 = 6379;
const CONNECTIONS: usize = 20;
const LIVENESS: Duration = Duration::from_secs(10);
/// The longest silence of all connections together that a reload may coincide with. Two cores carry
/// three nodes here: a bound on harm, not on speed.
const STALL_MAX: Duration = Duration::from_millis(500);
const REQUESTS: usize = 1000;

/// Every field that a reload applies, with another value that serves as well.
fn live() -> Vec<(&'static str, toml::Value)> {
    vec![
        ("nodes.0.priority", 99.into()),
        ("service.ready_timeout_ms", 20_000.into()),
        ("service.clone_wait_ms", 4_000.into()),
        ("service.audit", "report".into()),
        ("idle.spin_us", 10.into()),
        ("idle.pause_us", 150.into()),
        ("idle.sleep_us", 150.into()),
        ("commit.evict_after_ms", 1_900.into()),
        ("commit.checkpoint_interval_ms", 90.into()),
        ("checkpoint.keep", 2.into()),
        ("checkpoint.interval_s", 80_000.into()),
        ("checkpoint.log_fill_percent", 90.into()),
        ("checkpoint.connections", 1_000_000.into()),
        ("checkpoint.transfer_mb_s", 50.into()),
        ("supervise.failover_interval_s", 50.into()),
        ("supervise.checkpoint", true.into()),
        ("supervise.application.interval_ms", 150.into()),
        ("supervise.health.check", format!("tcp/{REDIS}").into()),
        ("supervise.health.timeout_ms", 700.into()),
        ("supervise.links.policy", "alert".into()),
        ("supervise.paths.silent_ms", 5_000.into()),
        ("supervise.lag.log_percent", 60.into()),
        ("supervise.disk.free_mb", 1.into()),
        ("supervise.memory.buffers_percent", 1.into()),
        ("supervise.core.stuck_ms", 20_000.into()),
        ("supervise.clock.drift_ppm", 900_000.into()),
        ("supervise.cpu.gap_ms", 5_000.into()),
        ("control.log_level", "debug".into()),
    ]
}

fn load(scenario: &Scenario) -> Task {
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections: CONNECTIONS,
        depth: 4,
        pause: Duration::from_millis(5),
        seed: 23,
    };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(500, LIVENESS).unwrap();
    task
}

/// Counts of what is lost on a node.
fn losses(scenario: &mut Scenario, node: Member) -> BTreeMap<String, u64> {
    let mut counters = scenario.trio.node(node).status().unwrap().counters;
    counters.retain(|name, _| name.contains("drop") || name.contains("full"));
    assert!(!counters.is_empty());
    counters
}

fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>) -> ApiError {
    result.unwrap_err().downcast::<ApiError>().expect("the daemon's own words")
}

/// The silence that a moment between two times fell into.
fn longest_ns(verdict: &Verdict, from_ns: u64, to_ns: u64) -> u64 {
    let replies = verdict.replies_ns.iter().copied();
    let times: Vec<u64> = replies.filter(|at| (from_ns..=to_ns).contains(at)).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("replies in that time")
}

/// One field after the other, on every node.
fn reload_each(scenario: &mut Scenario) {
    for member in Member::ALL {
        let node = scenario.trio.node(member);
        let pid = node.pid();
        for (key, value) in live() {
            node.edit(key, value).unwrap();
            let planned = node.plan().unwrap();
            assert_eq!((planned.applied, planned.changes.len()), (false, 1), "{key}: {planned:?}");
            assert_eq!(planned.changes[0].effect, Effect::Live, "{planned:?}");
            let done = node.reload().unwrap();
            assert_eq!((done.applied, done.changes), (true, planned.changes), "{key}");
            assert_eq!(node.plan().unwrap().changes, [], "{key}");
        }
        let status = node.status().unwrap();
        assert_eq!((node.pid(), status.ready), (pid, true));
        assert_eq!(status.counters["reloads"], live().len() as u64);
        let told = status.timeline.iter().filter(|e| e.event == "reloaded").count();
        assert_eq!(told, live().len());
        node.edit("control.log_level", "info").unwrap();
        node.reload().unwrap();
        let log = fs::read_to_string(node.log()).unwrap();
        assert_eq!(log.matches("DEBUG").count(), 1, "only the last reload is told in detail");
    }
}

/// One that is not live is named with its line and why, and nothing beside it is applied.
fn refuse_the_rest(scenario: &mut Scenario, node: Member) {
    let node = scenario.trio.node(node);
    let before = fs::read_to_string(node.config()).unwrap();
    for (key, value, why) in [
        ("log.size_mb", toml::Value::from(128), "restart this node's daemon"),
        ("detect.lease_ms", 110.into(), "stop the group"),
        ("service.vrid", 52.into(), "stop the group"),
        ("service.audit", "off".into(), "restart this node's daemon"),
        ("nodes.2.id", 9.into(), "stop the group"),
    ] {
        node.edit("checkpoint.keep", 9).unwrap();
        node.edit(key, value).unwrap();
        let text = fs::read_to_string(node.config()).unwrap();
        let error = refusal(node.reload());
        assert_eq!(error.code, ErrorCode::RefusedUnsafe);
        let (_, field) = key.rsplit_once('.').unwrap();
        let at = error.message.strip_prefix(&format!("{}:", node.config().display())).unwrap();
        let line: usize = at.split(':').next().unwrap().parse().unwrap();
        assert!(text.lines().nth(line - 1).unwrap().starts_with(field), "{key}: {error}");
        assert!(error.message.contains(why) && error.message.ends_with("nothing was changed"));
        let planned = node.plan().unwrap().changes;
        assert_eq!(planned.len(), 2, "what is live was not applied: {planned:?}");
        fs::write(node.config(), &before).unwrap();
    }
    for (text, code) in [
        (before.replace("keep = 2", "keep = 1"), ErrorCode::InvalidConfig),
        (before.replace("[detect]", "[detect"), ErrorCode::InvalidConfig),
        (String::new(), ErrorCode::InvalidConfig),
        (
            before.replace("policy = \"quorum\"", "policy = \"checkpoint\""),
            ErrorCode::RefusedUnsafe,
        ),
    ] {
        fs::write(node.config(), text).unwrap();
        let error = refusal(node.reload());
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.starts_with(&format!("{}:", node.config().display())), "{error}");
    }
    fs::remove_file(node.config()).unwrap();
    assert_eq!(refusal(node.reload()).code, ErrorCode::InvalidConfig);
    fs::write(node.config(), &before).unwrap();
    assert_eq!(node.plan().unwrap().changes, []);
}

/// What an operator's `kill -HUP` does; its answer is in the log.
fn hang_up(scenario: &mut Scenario, node: Member) {
    let node = scenario.trio.node(node);
    node.edit("checkpoint.keep", 4).unwrap();
    sys::kill(node.pid().unwrap(), libc::SIGHUP).unwrap();
    cmd::wait_until("SIGHUP reloads", LIVENESS, || Ok(node.plan()?.changes.is_empty())).unwrap();
}

/// A request as it might be, damaged in one place.
fn damaged(rng: &mut Rng) -> Vec<u8> {
    let to = Some("no such node".to_owned());
    let requests = [
        Request::Status,
        Request::Conns,
        Request::ConnImages { client: "10.0.0.7:4711".parse().ok() },
        Request::Switchover { to },
        Request::KeyStatus,
        Request::Plan { file: Some("/etc/understudy/a.toml".into()) },
        Request::Reload,
        Request::Capture { from_ns: Some(1), to_ns: Some(2), follow: false, filter: None },
    ];
    let mut line = encode_request(&requests[rng.below(requests.len() as u64) as usize]);
    line.pop();
    let at = rng.below(line.len() as u64) as usize;
    match rng.below(6) {
        0 => line[at] ^= 1 << rng.below(7),
        1 => line.truncate(at),
        2 => drop(line.remove(at)),
        3 => line.insert(at, b' ' + rng.below(90) as u8),
        4 => {
            let text = String::from_utf8(line).unwrap();
            let values = ["5", "null", "[]", "{}", "true", "\"\"", "-1", "1e99"];
            let value = values[rng.below(values.len() as u64) as usize];
            let fields = text.trim_end_matches('}').to_owned();
            let names = ["to", "file", "client", "from_ns", "follow", "request", "x"];
            let name = names[rng.below(names.len() as u64) as usize];
            line = format!("{fields},\"{name}\":{value}}}").into_bytes();
        }
        _ => line.extend((0..rng.below(2000)).map(|_| b'a' + rng.below(26) as u8)),
    }
    line.retain(|&byte| byte != b'\n');
    line.push(b'\n');
    line
}

/// Sends a line and takes the answer.
fn say(socket: &Path, line: &[u8]) -> Response {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIVENESS)).unwrap();
    stream.write_all(line).unwrap();
    let mut said = Vec::new();
    // A capture's answer is followed by more.
    stream.read_to_end(&mut said).unwrap();
    let first = said.split(|&byte| byte == b'\n').next().unwrap_or_default();
    decode_response(first).unwrap_or_else(|e| panic!("{e} after {}", String::from_utf8_lossy(line)))
}

/// Whether a refusal says where: the field, or the column of what is no JSON.
fn names_what(line: &[u8], message: &str) -> bool {
    let Some(rest) = message.strip_prefix("the request is not understood: ") else {
        return message.contains(" column ") || message.contains("version");
    };
    let line = String::from_utf8_lossy(line);
    let field = rest.split_once(": ").map(|(field, _)| field);
    field.is_some_and(|field| line.contains(&format!("\"{field}")))
        || rest == "missing field `request`"
}

/// Requests that may be anything; those that are understood change nothing here.
fn press_the_socket(scenario: &mut Scenario, node: Member) {
    let socket = scenario.trio.node(node).socket().to_path_buf();
    let mut rng = Rng::new(5);
    let (mut understood, mut refused) = (0, 0);
    while refused < REQUESTS {
        let line = damaged(&mut rng);
        match decode_request(&line[..line.len() - 1]) {
            Ok(Request::Switchover { to: None }) | Ok(Request::Capture { follow: true, .. }) => {
                continue;
            }
            Ok(_) => {
                understood += 1;
                let _ = say(&socket, &line);
                continue;
            }
            Err(expected) => {
                let Response::Error(error) = say(&socket, &line) else { panic!("{expected}") };
                assert_eq!(error, expected);
                assert!(names_what(&line, &error.message), "{error}");
                refused += 1;
            }
        }
    }
    println!("{refused} requests were refused, {understood} understood");
}

#[test]
fn a_reload_and_a_hostile_socket_disturb_nobody() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let mut scenario = Scenario::start(&NodeOptions::default()).unwrap();
    let task = load(&scenario);
    let primary = scenario.primary().unwrap();
    let lost = losses(&mut scenario, primary);
    let begun_ns = sys::unix_ns();
    reload_each(&mut scenario);
    let reloaded_ns = sys::unix_ns();
    task.wait_progress(200, LIVENESS).unwrap();
    refuse_the_rest(&mut scenario, primary);
    hang_up(&mut scenario, primary);
    press_the_socket(&mut scenario, primary);
    let ended_ns = sys::unix_ns();
    task.wait_progress(200, LIVENESS).unwrap();
    assert_eq!(scenario.primary().unwrap(), primary, "the primary has not changed");
    assert_eq!(losses(&mut scenario, primary), lost, "something was dropped");
    let verdict = task.finish().unwrap();
    verdict.assert_pass();
    let reloads = live().len() * Member::ALL.len();
    let (reload_ns, rest_ns) =
        (longest_ns(&verdict, begun_ns, reloaded_ns), longest_ns(&verdict, reloaded_ns, ended_ns));
    println!(
        "{verdict}  {reloads} reloads in {} ms; longest silence {:.1} ms, then {:.1} ms",
        (reloaded_ns - begun_ns) / 1_000_000,
        reload_ns as f64 / 1e6,
        rest_ns as f64 / 1e6
    );
    assert!(reload_ns < STALL_MAX.as_nanos() as u64, "a reload held the service up");
    scenario.check_wire(0).unwrap();
}

/// A node that starts itself anew goes on with what ran, whatever its file says by then.
#[test]
fn a_node_that_starts_anew_ignores_a_file_nobody_asked_to_reload() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let mut scenario = Scenario::start(&NodeOptions::default()).unwrap();
    let task = load(&scenario);
    let primary = scenario.primary().unwrap();
    let node = scenario.trio.node(primary);
    node.edit("checkpoint.keep", 4).unwrap();
    node.reload().unwrap();
    let good = fs::read_to_string(node.config()).unwrap();
    fs::write(node.config(), "not a configuration\n").unwrap();
    // The old primary of a switchover becomes a replica by starting itself anew.
    node.switchover(None).unwrap();
    scenario.trio.wait_ready().unwrap();
    let node = scenario.trio.node(primary);
    assert_eq!(refusal(node.reload()).code, ErrorCode::InvalidConfig);
    fs::write(node.config(), good).unwrap();
    assert_eq!(node.plan().unwrap().changes, [], "what was reloaded runs");
    task.wait_progress(100, LIVENESS).unwrap();
    task.finish().unwrap().assert_pass();
    let node = scenario.trio.node(primary);
    assert_eq!(node.stop().unwrap(), 0);
    assert!(!node.state_dir().join("restart.toml").exists(), "nothing is left for another life");
    scenario.check_wire(1).unwrap();
}
