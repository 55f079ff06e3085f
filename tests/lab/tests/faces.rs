//! What operators see of a group: every command's JSON through jq, metrics through Prometheus, the
//! status page through Chromium, `top` through tmux. One group for all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::node::{READY_TIMEOUT, binary, vip4};
use understudy_lab::prometheus::{self, LISTEN, Prometheus, get};
use understudy_lab::screens::{Terminal, chromium};
use understudy_lab::{Lab, Member, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long two scrapers give no rest.
const SCRAPED: Duration = Duration::from_millis(700);
/// What the tests need beside the shipped binaries.
const PROGRAMS: [&str; 5] = ["jq", "promtool", "prometheus", "chromium", "tmux"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn can_run() -> bool {
    scenario::can_run(&["understudyd", "understudy"]) && scenario::has_programs(&PROGRAMS)
}

fn start() -> (Scenario, Task) {
    let set = vec![("metrics.listen".into(), LISTEN.into())];
    let scenario = Scenario::start(&NodeOptions { set, ..NodeOptions::default() }).unwrap();
    let plan =
        Counter { target: vip4(REDIS), key: "count".into(), pause: Duration::from_millis(1) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(300, PATIENCE).unwrap();
    (scenario, task)
}

/// The command on a node, as an operator types it.
struct Shell {
    socket: PathBuf,
    config: PathBuf,
    netns: PathBuf,
}

impl Shell {
    fn on(lab: &Lab, member: Member) -> Shell {
        let file = |end: &str| lab.dir().join(format!("{member}{end}"));
        Shell { socket: file(".sock"), config: file(".toml"), netns: lab.node_netns(member) }
    }

    fn understudy(&self, words: &[&str]) -> cmd::Output {
        let mut command = cmd::inside(&self.netns, binary("understudy").unwrap());
        if !words.contains(&"-c") && !words.contains(&"-s") {
            command.arg("-s").arg(&self.socket);
        }
        command.args(words);
        cmd::output(command, "", PATIENCE).unwrap()
    }

    /// Its JSON: one line, and what jq makes of it.
    #[track_caller]
    fn jq(&self, words: &[&str], code: i32, filter: &str) -> String {
        let said = self.understudy(&[&["-j"], words].concat());
        assert_eq!(said.code, code, "{words:?}: {}{}", said.stdout, said.stderr);
        assert_eq!(said.stdout.matches('\n').count(), 1, "{words:?}: {}", said.stdout);
        let sane = ".schema_version == 1 and (.ok | type) == \"boolean\"";
        jq(&said.stdout, sane);
        jq(&said.stdout, filter)
    }
}

/// What jq says of a document; false and null are failures.
#[track_caller]
fn jq(document: &str, filter: &str) -> String {
    cmd::run_with_input(&["jq", "-e", "-r", "-S", filter], document)
        .unwrap_or_else(|e| panic!("{e}\n{document}"))
}

/// Every path to a value, without the numbers of lists: the form of a document.
const FORM: &str = "[paths(type != \"object\" and type != \"array\") \
                    | map(if type == \"number\" then \"[]\" else . end) | join(\".\")] | unique | .[]";

#[track_caller]
fn is_golden(name: &str, found: &str) {
    let path = repository().join("tests/lab/golden").join(name);
    if std::env::var_os("UNDERSTUDY_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let has = |wanted: &str| found.lines().any(|line| line == wanted);
    let gone: Vec<&str> = golden.lines().filter(|line| !has(line)).collect();
    assert!(gone.is_empty(), "{name}: {gone:?} went, which is another SCHEMA_VERSION\n{found}");
    let is_new = |line: &&str| !golden.lines().any(|known| known == *line);
    for new in found.lines().filter(is_new) {
        println!("{name}: {new} is new; UNDERSTUDY_GOLDEN=1 writes it down");
    }
}

/// Scripts depend on these documents: fields come, none goes.
fn commands(shell: &Shell) {
    let without = "del(.status.counters, .status.timeline, .status.takeovers, .status.peers[].evicted_because)";
    is_golden("status", &shell.jq(&["status"], 0, &format!("{without} | {FORM}")));
    for part in ["nodes", "clones", "log"] {
        is_golden(part, &shell.jq(&[part], 0, FORM));
    }
    is_golden("conns", &shell.jq(&["conns"], 0, FORM));
    is_golden("top", &shell.jq(&["top", "-i", "300"], 0, &format!("del(.top.takeovers) | {FORM}")));
    let key = "del(.keys.paths[].counters) | ";
    is_golden("key-status", &shell.jq(&["key", "status"], 0, &format!("{key}{FORM}")));

    shell.jq(&["status"], 0, ".status.verdict == \"protected\" and .status.reasons == []");
    shell.jq(
        &["nodes"],
        0,
        "(.nodes | length) == 3 and ([.nodes[] | select(.role == \"primary\")] | length) == 1",
    );
    shell.jq(&["clones"], 0, "[.clones[].ready] | all");
    shell.jq(
        &["log"],
        0,
        ".log | .end >= .committed and .committed > 0 and .captured_frames > 300",
    );
    shell.jq(
        &["top", "-i", "300"],
        0,
        ".top | .rates.released_frames > 10 and (.waits.counts | add) > 3",
    );
    let config = shell.config.to_str().unwrap();
    shell.jq(
        &["-c", config, "doctor"],
        0,
        "[.doctor.checks[] | select(.name == \"adoption\").health] == [\"ok\"]",
    );
    shell.jq(
        &["-c", config, "doctor"],
        0,
        "[.doctor.checks[] | select(.health == \"fail\")] == []",
    );
    shell.jq(
        &["doctor"],
        0,
        "[.doctor.checks[] | select(.health != \"ok\" and .mend == null)] == []",
    );

    // Errors are documents too.
    shell.jq(
        &["-s", "/nonexistent/s", "nodes"],
        4,
        ".ok == false and .error.code == \"unreachable\"",
    );
    shell.jq(&["switchover", "--to", "zebra"], 2, ".error.message | test(\"zebra\")");
    shell.jq(&["no-such-command"], 2, ".error.code == \"usage\"");
    shell.jq(&["check", "/nonexistent.toml"], 3, ".ok == false and .check.valid == false");
    shell.jq(&["-c", "/nonexistent.toml", "doctor"], 3, ".error.code == \"invalid_config\"");

    let text = shell.understudy(&["status"]).stdout;
    assert!(text.starts_with("protected\nNode "), "{text}");
    for part in ["nodes", "clones", "log"] {
        let said = shell.understudy(&[part]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{part}");
        assert!(said.stdout.contains('b') && !said.stdout.contains('{'), "{}", said.stdout);
    }
}

/// The exposition is what Prometheus takes, and has every name that our rules and dashboard use.
fn exposition(shell: &Shell) {
    let text = get(&shell.netns, LISTEN, "/metrics").expect("metrics");
    cmd::run_with_input(&["promtool", "check", "metrics"], &text).unwrap();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    // There are none before the first checkpoint.
    let late = |name: &str| name.starts_with("understudy_checkpoint_");
    let names: Vec<String> = families.filter(|f| !late(f)).map(|f| format!("{f}\n")).collect();
    is_golden("metrics", &names.concat());
    for file in ["prometheus/alerts.yml", "grafana/understudy.json"] {
        let mut unknown = prometheus::unknown_names(file, &text).unwrap();
        unknown.retain(|name| !late(name));
        assert!(unknown.is_empty(), "{file} names what there is not: {unknown:?}");
    }
    let released = |le: &str| format!("le=\"{le}\"}} ");
    assert!(text.contains(&released("0.000001024")) && text.contains(&released("+Inf")), "{text}");
}

/// Who scrapes without a pause disturbs neither the clients nor anybody else who asks.
fn scrapes(shell: &Shell, task: &Task) {
    let (before, answers) = (task.progress(), AtomicU64::new(0));
    let until = Instant::now() + SCRAPED;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < until {
                    assert!(get(&shell.netns, LISTEN, "/metrics").is_some(), "no answer");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (answers, served) = (answers.into_inner(), task.progress() - before);
    println!("{answers} scrapes in {SCRAPED:?}, {served} replies to clients meanwhile");
    assert!(answers > 50 && served > 20, "{answers} scrapes, {served} replies");
}

/// The page as Chromium has it once its script has asked.
fn page(lab: &Lab, shell: &Shell) -> String {
    let url = format!("http://{LISTEN}/");
    let arguments = ["--virtual-time-budget=2500", "--dump-dom", &url];
    chromium(&shell.netns, &lab.dir().join("chromium"), &arguments).unwrap()
}

/// `top` on a terminal, until q.
fn top(lab: &Lab, shell: &Shell) -> String {
    let program = binary("understudy").unwrap();
    let line = format!("{} -s {} top -i 200", program.display(), shell.socket.display());
    let terminal = Terminal::start(&format!("{}-top", lab.prefix()), &line).unwrap();
    let mut screen = String::new();
    cmd::wait_until("rates in top", PATIENCE, || {
        screen = terminal.screen()?;
        Ok(screen.contains("frames/s, ") && screen.contains("% at once"))
    })
    .unwrap_or_else(|e| panic!("{e}\n{screen}"));
    terminal.press("q").unwrap();
    cmd::wait_until("the end of top", PATIENCE, || Ok(terminal.has_ended())).unwrap();
    screen
}

/// A drained primary gives the service away and stays away, also in its next life.
fn drain(scenario: &mut Scenario, shell: &Shell, primary: Member) -> Member {
    shell.jq(
        &["drain"],
        0,
        ".drained | .drained and .was_primary and (.switchover.to | length) == 1",
    );
    let next = scenario.trio.wait_primary(Some(primary), READY_TIMEOUT).unwrap();
    let kept = ".status | .drained and .role == \"replica\" and (.not_ready_because | any(test(\"drained\")))";
    cmd::wait_until("a drained replica", READY_TIMEOUT, || {
        let said = shell.understudy(&["-j", "status"]).stdout;
        Ok(cmd::run_with_input(&["jq", "-e", kept], &said).is_ok())
    })
    .unwrap();
    let new = Shell::on(&scenario.lab, next);
    let words = ["switchover", "--to", primary.name()];
    new.jq(&words, 5, ".error.message | test(\"not ready\")");
    shell.jq(&["undrain"], 0, ".drained.drained == false");
    scenario.trio.wait_ready().unwrap()
}

#[test]
fn operators_see_what_is() {
    if !can_run() {
        return;
    }
    prometheus::check_rules().unwrap();
    let (mut scenario, task) = start();
    scenario.trio.wait_protected().unwrap();
    let primary = scenario.primary().unwrap();
    let shell = Shell::on(&scenario.lab, primary);
    let watcher = Prometheus::start(&scenario.lab, &shell.netns).unwrap();
    commands(&shell);
    exposition(&shell);
    for (expression, filter) in [
        ("understudy_role == 1", ".data.result[0].metric.role == \"primary\""),
        ("understudy_protected", ".data.result[0].value[1] == \"1\""),
        (
            "rate(understudy_gate_wait_seconds_count[2s])",
            "(.data.result[0].value[1] | tonumber) > 10",
        ),
    ] {
        watcher.wait(expression, filter).unwrap();
    }
    watcher.check_dashboard("understudy.json", &[("$cluster", "trio")]).unwrap();
    scrapes(&shell, &task);
    let screen = top(&scenario.lab, &shell);
    assert!(screen.contains("protected") && screen.contains("wait at the gate"), "{screen}");
    let dom = page(&scenario.lab, &shell);
    assert!(dom.contains("class=\"protected\"") && dom.contains(">protected</h1>"), "{dom}");
    assert!(dom.contains("<td>replica</td>") && dom.contains("commit"), "{dom}");

    let second = drain(&mut scenario, &shell, primary);
    let shell = Shell::on(&scenario.lab, second);

    // A machine dies: everything says so.
    let lost = second.others().find(|&member| member != primary).unwrap();
    scenario.trio.crash(&scenario.lab, lost).unwrap();
    let exposed = format!(".status.reasons | any(test(\"no majority.*{lost} missing\"))");
    cmd::wait_until("exposed", READY_TIMEOUT, || {
        let said = shell.understudy(&["-j", "status"]).stdout;
        Ok(cmd::run_with_input(&["jq", "-e", &exposed], &said).is_ok())
    })
    .unwrap();
    watcher.wait("understudy_protected", ".data.result[0].value[1] == \"0\"").unwrap();
    let alive = format!("understudy_peer_alive{{peer=\"{lost}\"}}");
    watcher.wait(&alive, ".data.result[0].value[1] == \"0\"").unwrap();
    watcher.stop().unwrap();
    task.finish().unwrap().assert_pass();
    scenario.check_wire(1).unwrap();
}
