//! Each supervised resource is broken in turn: the policy is carried out in its time, the events name the
//! cause, and the service does not go to and fro. The clients of all of it get every byte.
//!
//! Not here: a clock that steps or drifts. A time namespace has no time of day of its own, so that of the whole
//! machine would have to be set; `clocks.rs` of the daemon has tests of what is made of what is read.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use understudy_api::TimelineEvent;
use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{READY_TIMEOUT, state_dir, vip4, work_dir};
use understudy_lab::sys::StoppedThread;
use understudy_lab::{Lab, Member, Net, NodeOptions, Scenario, cmd, scenario, sys};

const REDIS: u16 = 6379;
/// No client is without service for longer.
const STALL_MAX: Duration = Duration::from_secs(10);
/// A policy is carried out by then, on a loaded machine; the times themselves are printed.
const SOON: Duration = Duration::from_secs(10);
/// The application says that it is not well while this is in its working directory.
const SICK: &str = "sick";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A trio whose resources are looked at often.
fn options() -> NodeOptions {
    let check = ["/usr/bin/test", "!", "-e", SICK].map(String::from).to_vec();
    let mut options = NodeOptions::default();
    let mut set =
        |key: &str, value: toml::Value| options.set.push((format!("supervise.{key}"), value));
    set("failover_interval_s", 1.into());
    set("health.check", "command".into());
    set("health.command", check.into());
    set("health.interval_ms", 100.into());
    set("application.interval_ms", 50.into());
    set("application.policy", "restart".into());
    set("checkpoint", true.into());
    set("links.rise", 3.into());
    set("paths.silent_ms", 300.into());
    set("paths.rise", 2.into());
    set("lag.interval_ms", 100.into());
    set("disk.policy", "failover".into());
    set("disk.interval_ms", 100.into());
    set("disk.free_mb", 8.into());
    set("core.stuck_ms", 500.into());
    set("cpu.interval_ms", 200.into());
    set("cpu.gap_ms", 120.into());
    set("cpu.fall", 2.into());
    options
}

/// A ready trio with its clients.
struct Broken {
    task: Task,
    scenario: Scenario,
    handovers: usize,
}

impl Broken {
    fn start(
        options: &NodeOptions,
        prepare: impl FnOnce(&Lab) -> anyhow::Result<()>,
    ) -> Option<Self> {
        if !scenario::can_run(&["understudyd", "understudy"]) {
            return None;
        }
        let scenario = Scenario::start_prepared(options, prepare).unwrap();
        let plan = Counter { target: vip4(REDIS), key: "count".into(), pause: ms(2) };
        let task = plan.start(&scenario.lab.client_netns()).unwrap();
        task.wait_progress(50, STALL_MAX).unwrap();
        Some(Broken { task, scenario, handovers: 0 })
    }

    fn primary(&mut self) -> Member {
        self.scenario.trio.wait_primary(None, READY_TIMEOUT).unwrap()
    }

    fn newest(&mut self, member: Member) -> u64 {
        self.scenario.trio.node(member).events(0).unwrap().newest_seq
    }

    fn sick(&self, member: Member) -> PathBuf {
        work_dir(&self.scenario.lab, member).join(SICK)
    }

    /// Waits for an event after a number, about a resource.
    #[track_caller]
    fn told(&mut self, member: Member, since: u64, event: &str, resource: &str) -> TimelineEvent {
        let mut found = None;
        let what = format!("{event} of {resource} on {member}");
        cmd::wait_until(&what, SOON, || {
            // A daemon that starts anew does not answer for a moment.
            let Ok(all) = self.scenario.trio.node(member).events(since) else { return Ok(false) };
            let is =
                |e: &TimelineEvent| e.event == event && e.resource.as_deref() == Some(resource);
            found = all.events.into_iter().find(is);
            Ok(found.is_some())
        })
        .unwrap();
        found.unwrap()
    }

    /// As after any reign. It does not answer meanwhile.
    fn starts_anew(&mut self, member: Member, since: u64) {
        cmd::wait_until("another life", SOON, || {
            let events = self.scenario.trio.node(member).events(since);
            Ok(events.is_ok_and(|all| all.events.iter().any(|e| e.event == "daemon_started")))
        })
        .unwrap();
    }

    /// Something is broken on the primary: another node serves soon, and the old one's events say why.
    fn fails_over(
        &mut self,
        resource: &str,
        cause: &str,
        what: impl FnOnce(&mut Self, Member),
    ) -> Member {
        let old = self.primary();
        let since = self.newest(old);
        let (broken_ns, begun) = (sys::unix_ns(), Instant::now());
        what(self, old);
        let bad = self.told(old, since, "resource_bad", resource);
        assert_eq!(bad.cause.as_deref(), Some(cause), "{bad:?}");
        let new = self.scenario.trio.wait_primary(Some(old), SOON).unwrap();
        self.handovers += 1;
        println!(
            "{resource} {cause}: known after {} ms, {new} serves after {} ms: {}",
            bad.unix_ns.saturating_sub(broken_ns) / 1_000_000,
            begun.elapsed().as_millis(),
            bad.detail
        );
        self.told(old, since, "failover", resource);
        self.task.wait_progress(20, STALL_MAX).unwrap();
        old
    }

    fn stop_application(&mut self, member: Member) {
        let pid = self.scenario.trio.node(member).status().unwrap().service.app_pid.unwrap();
        sys::kill(pid, libc::SIGSTOP).unwrap();
    }

    fn all_ready(&mut self) {
        self.scenario.trio.wait_ready().unwrap();
    }

    fn ends(mut self) {
        let verdict = self.task.finish().unwrap();
        let longest_ns = verdict.stall(0).longest_ns;
        println!("{verdict}  longest stall {:.1} ms", longest_ns as f64 / 1e6);
        verdict.assert_pass();
        assert!(longest_ns < STALL_MAX.as_nanos() as u64, "the service was gone");
        self.scenario.check_wire(self.handovers).unwrap();
    }
}

#[test]
fn application_and_health() {
    let Some(mut it) = Broken::start(&options(), |_| Ok(())) else { return };
    let follower = it.primary();
    let follow = it.scenario.trio.node(follower).follow_events().unwrap();

    let sick = it.fails_over("health", "failed", |it, old| fs::write(it.sick(old), "").unwrap());
    // The old one came back, is asked again, and says why it is not fit before it is needed.
    it.told(sick, 0, "failover", "health");
    cmd::wait_until("a node that says that it is not well", SOON, || {
        let status = it.scenario.trio.node(sick).status();
        let unfit = |s: &understudy_api::Status| {
            s.not_ready_because.iter().any(|r| r.starts_with("health: "))
        };
        Ok(status.is_ok_and(|s| unfit(&s) && s.faults.iter().any(|f| f.resource == "health")))
    })
    .unwrap();
    fs::remove_file(it.sick(sick)).unwrap();
    it.all_ready();
    // Followed through the restart of the daemon that its defeat means.
    let followed = fs::read_to_string(it.scenario.trio.node(follower).events_file()).unwrap();
    for event in ["failover", "daemon_ended", "daemon_started"] {
        assert!(
            followed.contains(&format!("\"event\":\"{event}\"")),
            "{event} is not in {followed}"
        );
    }
    drop(follow);

    it.fails_over("application", "stopped", Broken::stop_application);
    it.all_ready();
    // The policy is "restart": a clone is made anew.
    let replica = it.primary().others().next().unwrap();
    let since = it.newest(replica);
    it.stop_application(replica);
    it.told(replica, since, "application_restart", "application");
    it.all_ready();

    // All of them are sick: nobody is better, so the service stays where it is.
    let primary = it.primary();
    let since = it.newest(primary);
    // The others first, or there would be one to hand over to.
    for member in primary.others().chain([primary]) {
        let since = it.newest(member);
        fs::write(it.sick(member), "").unwrap();
        it.told(member, since, "resource_bad", "health");
    }
    let held = it.told(primary, since, "failover_held", "health");
    assert!(held.detail.contains("no other node is fit"), "{held:?}");
    std::thread::sleep(ms(1500));
    assert_eq!(it.scenario.primary().unwrap(), primary, "the service goes to and fro");
    let again = it.scenario.trio.node(primary).events(since).unwrap();
    assert!(again.events.iter().all(|e| e.event != "failover"), "{again:?}");
    // The primary first, or there would be one to hand over to.
    fs::remove_file(it.sick(primary)).unwrap();
    it.told(primary, since, "resource_good", "health");
    primary.others().for_each(|member| fs::remove_file(it.sick(member)).unwrap());
    it.all_ready();
    it.ends();
}

/// Gives each node a small disk of its own for its state.
fn small_disks(lab: &Lab) -> anyhow::Result<()> {
    Member::ALL.into_iter().try_for_each(|member| {
        let dir = state_dir(lab, member);
        fs::create_dir_all(&dir)?;
        let dir = dir.to_string_lossy();
        cmd::run(&["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", &dir]).map(drop)
    })
}

#[test]
fn links_disk_core_and_cpu() {
    let Some(mut it) = Broken::start(&options(), small_disks) else { return };

    // A replica loses one cable after the other: it says which, or the primary does.
    let primary = it.primary();
    let replica = primary.others().last().unwrap();
    let (here, there) = (it.newest(primary), it.newest(replica));
    it.scenario.lab.cut_link(replica, Net::Client).unwrap();
    let bad = it.told(replica, there, "resource_bad", "client_link");
    assert_eq!(bad.cause.as_deref(), Some("no_carrier"), "{bad:?}");
    it.scenario.lab.restore_link(replica, Net::Client).unwrap();
    it.scenario.lab.cut_link(replica, Net::Mgmt).unwrap();
    let bad = it.told(primary, here, "resource_bad", "second_path");
    assert!(bad.detail.starts_with(&format!("{replica} is not heard")), "{bad:?}");
    // While it is well itself, it takes a checkpoint; the primary leaves that to it.
    it.told(replica, there, "checkpoint_wanted", "second_path");
    cmd::wait_until("a checkpoint", SOON, || {
        let events = it.scenario.trio.node(replica).events(there)?.events;
        Ok(events.iter().any(|e| e.event == "checkpoint"))
    })
    .unwrap();
    it.scenario.lab.restore_link(replica, Net::Mgmt).unwrap();
    it.told(primary, here, "resource_good", "second_path");
    it.scenario.lab.cut_link(replica, Net::Replica).unwrap();
    it.told(replica, there, "resource_bad", "replica_link");
    let bad = it.told(primary, here, "resource_bad", "lag");
    assert!(bad.detail.starts_with(&format!("{replica} is out of the commit set")), "{bad:?}");
    it.scenario.lab.restore_link(replica, Net::Replica).unwrap();
    it.told(primary, here, "resource_good", "lag");
    it.told(replica, there, "resource_good", "replica_link");

    // Its disk is full to the last byte: it is not fit, and goes on following.
    let filler = |it: &Broken, member| state_dir(&it.scenario.lab, member).join("filler");
    let full = filler(&it, replica);
    let _ = fs::write(&full, vec![0x5a; 40 << 20]);
    let bad = it.told(replica, there, "resource_bad", "disk");
    assert_eq!(bad.cause.as_deref(), Some("no_space"), "{bad:?}");
    let status = it.scenario.trio.node(replica).status().unwrap();
    assert!(!status.ready && status.not_ready_because.iter().any(|r| r.starts_with("disk: ")));
    fs::remove_file(&full).unwrap();
    it.told(replica, there, "resource_good", "disk");
    it.all_ready();

    // A replica that gets the CPU late.
    let daemon = it.scenario.trio.node(replica).pid().unwrap();
    let since = it.newest(replica);
    for _ in 0..8 {
        sys::kill(daemon, libc::SIGSTOP).unwrap();
        std::thread::sleep(ms(160));
        sys::kill(daemon, libc::SIGCONT).unwrap();
        std::thread::sleep(ms(60));
    }
    it.told(replica, since, "resource_bad", "cpu");
    it.all_ready();

    // The primary's disk is nearly full, then another one's poll-mode core stands still.
    let old = it.fails_over("disk", "no_space", |it, old| {
        // It may be full to the last byte by that.
        let _ = fs::write(filler(it, old), vec![0x5a; 27 << 20]);
    });
    fs::remove_file(filler(&it, old)).unwrap();
    it.all_ready();
    it.fails_over("host_link", "no_carrier", |it, old| {
        let netns = it.scenario.lab.node_netns(old);
        cmd::run_inside(&netns, &["ip", "link", "set", "us-host", "down"]).unwrap();
    });
    it.all_ready();
    let mut stopped = None;
    it.fails_over("core", "no_progress", |it, old| {
        let daemon = it.scenario.trio.node(old).pid().unwrap();
        stopped = Some(StoppedThread::stop(daemon).unwrap());
    });
    drop(stopped);
    it.all_ready();
    it.ends();
}

#[test]
fn packet_buffers() {
    let mut options = options();
    options.set.push(("supervise.health.check".into(), format!("tcp/{REDIS}").into()));
    options.set.push(("supervise.health.command".into(), toml::Value::Array(Vec::new())));
    options.set.push(("dpdk.mbufs".into(), 512.into()));
    // Output waits for both replicas, so what it is held in runs out when one is away.
    options.set.push(("commit.min".into(), 2.into()));
    options.set.push(("supervise.memory.interval_ms".into(), 50.into()));
    options.set.push(("supervise.memory.buffers_percent".into(), 60.into()));
    let Some(mut it) = Broken::start(&options, |_| Ok(())) else { return };
    let primary = it.primary();
    let replica = primary.others().last().unwrap();
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections: 200,
        depth: 8,
        pause: ms(20),
        seed: 1,
    };
    let lanes = plan.start(&it.scenario.lab.client_netns()).unwrap();
    lanes.wait_progress(200, STALL_MAX).unwrap();
    let since = it.newest(primary);
    it.scenario.lab.cut_link(replica, Net::Replica).unwrap();
    let bad = it.told(primary, since, "resource_bad", "buffers");
    assert_eq!(bad.cause.as_deref(), Some("exhausted"), "{bad:?}");
    println!("{}", bad.detail);
    it.scenario.lab.restore_link(replica, Net::Replica).unwrap();
    it.told(primary, since, "resource_good", "buffers");
    lanes.wait_progress(1000, STALL_MAX).unwrap();
    lanes.finish().unwrap().assert_pass();
    assert_eq!(it.primary(), primary, "it is told, and nothing else");
    let counters = it.scenario.trio.node(primary).status().unwrap().counters;
    let checks = (counters["health_checks"], counters["health_checks_failed"]);
    assert!(checks.0 > 10 && checks.1 == 0, "connections, and those that failed: {checks:?}");
    it.ends();
}

/// The machine's huge pages, fewer for a while.
struct FewerPages(u64);

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl FewerPages {
    fn of(pages: u64) -> FewerPages {
        let all = fs::read_to_string(PAGES).unwrap().trim().parse().unwrap();
        fs::write(PAGES, pages.to_string()).unwrap();
        FewerPages(all)
    }
}

impl Drop for FewerPages {
    fn drop(&mut self) {
        let _ = fs::write(PAGES, self.0.to_string());
    }
}

#[test]
fn the_primarys_client_link_and_huge_pages() {
    let mut options = options();
    options.set.push(("supervise.memory.interval_ms".into(), 50.into()));
    options.set.push(("dpdk.memory_mb".into(), 128.into()));
    let Some(mut it) = Broken::start(&options, |_| Ok(())) else { return };

    // Those that are in use now are surplus: no node could start again.
    let primary = it.primary();
    let since = it.newest(primary);
    let fewer = FewerPages::of(63);
    let bad = it.told(primary, since, "resource_bad", "huge_pages");
    assert_eq!(bad.cause.as_deref(), Some("exhausted"), "{bad:?}");
    assert!(bad.detail.contains("has 63 huge pages, this node needs 64"), "{bad:?}");
    drop(fewer);
    it.told(primary, since, "resource_good", "huge_pages");
    assert_eq!(it.primary(), primary, "it is told, and nothing else");

    // Its clients' cable: handed over at once, and not back while it is out.
    let since = it.newest(primary);
    let begun = Instant::now();
    it.scenario.lab.cut_link(primary, Net::Client).unwrap();
    let new = it.scenario.trio.wait_primary(Some(primary), SOON).unwrap();
    it.handovers += 1;
    println!("client link: {new} serves after {} ms", begun.elapsed().as_millis());
    let bad = it.told(primary, since, "resource_bad", "client_link");
    assert_eq!(bad.cause.as_deref(), Some("no_carrier"), "{bad:?}");
    it.task.wait_progress(50, STALL_MAX).unwrap();
    it.starts_anew(primary, since);
    cmd::wait_until("a node without its clients' cable", SOON, || {
        let status = it.scenario.trio.node(primary).status();
        Ok(status.is_ok_and(|s| !s.ready && s.faults.iter().any(|f| f.resource == "client_link")))
    })
    .unwrap();
    it.scenario.lab.restore_link(primary, Net::Client).unwrap();
    it.told(primary, since, "resource_good", "client_link");
    it.all_ready();
    assert_eq!(it.primary(), new, "the service goes to and fro");
    it.ends();
}

#[test]
fn without_another_fit_node_the_application_is_started_anew() {
    let Some(mut it) = Broken::start(&options(), |_| Ok(())) else { return };
    let primary = it.primary();
    for member in primary.others() {
        let since = it.newest(member);
        fs::write(it.sick(member), "").unwrap();
        it.told(member, since, "resource_bad", "health");
    }
    // What follows ends connections, as a new process has none: clients until here, and some for that.
    let plan = Counter { target: vip4(REDIS), key: "other".into(), pause: ms(2) };
    let unlucky = plan.start(&it.scenario.lab.client_netns()).unwrap();
    std::mem::replace(&mut it.task, unlucky).finish().unwrap().assert_pass();
    let since = it.newest(primary);
    it.stop_application(primary);
    let bad = it.told(primary, since, "resource_bad", "application");
    assert!(bad.detail.contains("policy restart"), "{bad:?}");
    it.told(primary, since, "application_restart", "application");
    let events = it.scenario.trio.node(primary).events(since).unwrap().events;
    assert!(events.iter().all(|e| e.event != "failover"), "{events:?}");
    // Somebody serves again, and has what clients were told.
    let asked = || {
        let words = ["redis-cli", "-h", understudy_lab::topology::VIP4, "get", "count"];
        Ok(cmd::run_inside(&it.scenario.lab.client_netns(), &words).unwrap_or_default())
    };
    let asked: &dyn Fn() -> anyhow::Result<String> = &asked;
    cmd::wait_until("an answer", READY_TIMEOUT, || {
        Ok(asked()?.trim().parse::<u64>().is_ok_and(|count| count >= 50))
    })
    .unwrap();
    for member in primary.others() {
        fs::remove_file(it.sick(member)).unwrap();
    }
    it.all_ready();
}

#[test]
fn a_reload_changes_what_is_watched_and_what_is_done() {
    let mut options = options();
    options.set.push(("supervise.health.check".into(), "none".into()));
    options.set.push(("supervise.health.command".into(), toml::Value::Array(Vec::new())));
    let Some(mut it) = Broken::start(&options, |_| Ok(())) else { return };
    let old = it.primary();
    let since = it.newest(old);
    fs::write(it.sick(old), "").unwrap();
    std::thread::sleep(ms(500));
    let reload = |it: &mut Broken, member, changes: &[(&str, toml::Value)]| {
        let node = it.scenario.trio.node(member);
        for (key, value) in changes {
            node.edit(&format!("supervise.health.{key}"), value.clone()).unwrap();
        }
        assert!(node.reload().unwrap().applied);
    };
    // A check where there was none: it is told.
    let words = ["/usr/bin/test", "!", "-e", SICK].map(String::from).to_vec();
    let changes =
        [("check", "command".into()), ("command", words.into()), ("policy", "alert".into())];
    Member::ALL.into_iter().for_each(|member| reload(&mut it, member, &changes));
    let bad = it.told(old, since, "resource_bad", "health");
    assert!(bad.detail.contains("policy alert"), "{bad:?}");
    std::thread::sleep(ms(1000));
    assert_eq!(it.primary(), old);
    // Another policy for what is bad already.
    reload(&mut it, old, &[("policy", "failover".into())]);
    let new = it.scenario.trio.wait_primary(Some(old), SOON).unwrap();
    it.handovers += 1;
    it.told(old, since, "failover", "health");
    println!("{new} serves");
    it.task.wait_progress(20, STALL_MAX).unwrap();
    it.starts_anew(old, since);
    // No check, no fault: the node is fit again.
    reload(&mut it, old, &[("check", "none".into()), ("command", toml::Value::Array(Vec::new()))]);
    cmd::wait_until("a node without a fault", SOON, || {
        let status = it.scenario.trio.node(old).status();
        Ok(status.is_ok_and(|s| s.faults.iter().all(|f| f.resource != "health")))
    })
    .unwrap();
    fs::remove_file(it.sick(old)).unwrap();
    it.all_ready();
    it.ends();
}
