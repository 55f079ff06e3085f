//! Three daemons over networks that lose, delay, reorder and part, under real load; nodes that
//! are paused. As in `cluster`, no test asserts a speed: stalls are printed and bounded generously.
//!
//! The defaults suit CI. Longer runs:
//! - `UNDERSTUDY_KILLS=50`: kills of the primary over lossy links (default 2).
//! - `UNDERSTUDY_PARTITIONS=3`: rounds over all partitions (default 1).
//! - `UNDERSTUDY_PAUSES=50`: short pauses at random moments (default 4), each of
//!   `UNDERSTUDY_PAUSE_MIN_MS` (50) to `UNDERSTUDY_PAUSE_MAX_MS` (300).
//! - `UNDERSTUDY_SEED=N`: repeats the chances of a run; each test prints its seed.

use std::time::{Duration, Instant};

use understudy_lab::capture::Recording;
use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{Paused, READY_TIMEOUT, vip4};
use understudy_lab::pattern::Rng;
use understudy_lab::{Impairment, Member, Net, NodeOptions, Scenario, Verdict, scenario, sys};

const REDIS: u16 = 6379;
/// No client is without service for longer.
const STALL_MAX: Duration = Duration::from_secs(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seed() -> u64 {
    let seed = number("UNDERSTUDY_SEED", sys::unix_ns());
    println!("UNDERSTUDY_SEED={seed}");
    seed
}

/// A ready trio over forwarders, or nothing when the test cannot run here.
fn ready(nets: &[Net], seed: u64) -> Option<Scenario> {
    // Rooms for all of a long run: there are no checkpoints to come back from.
    let set = vec![("log.size_mb".into(), 256.into())];
    let options = NodeOptions { set, ..NodeOptions::default() };
    let can = scenario::can_run(&["understudyd", "understudy"]);
    can.then(|| Scenario::start_impaired(&options, nets, seed).unwrap())
}

fn pipelined(scenario: &Scenario, connections: usize, seed: u64) -> Task {
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections,
        depth: 8,
        pause: ms(20),
        seed,
    };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(connections as u64, STALL_MAX * 2).unwrap();
    task
}

fn counter(scenario: &Scenario) -> Task {
    let plan = Counter { target: vip4(REDIS), key: "count".into(), pause: ms(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    task
}

fn impair(scenario: &Scenario, net: Net, words: &str) {
    scenario.lab.forwarder(net).unwrap().set_all(&words.parse().unwrap());
}

/// Every node is ready within a generous time; says how long it took.
fn whole_again(scenario: &mut Scenario) -> Duration {
    let healed = Instant::now();
    scenario.trio.wait_ready().unwrap();
    healed.elapsed()
}

fn in_ms(ns: Option<u64>) -> String {
    ns.map_or("-".into(), |ns| format!("{:.1}", ns as f64 / 1e6))
}

/// Prints the verdict and the stall around a moment, and holds both to their bounds.
fn judge(verdict: &Verdict, moment_ns: u64) {
    let stall = verdict.stall(moment_ns);
    println!(
        "{verdict}  stall {} ms, longest {} ms",
        in_ms(stall.around_ns()),
        in_ms(Some(stall.longest_ns))
    );
    verdict.assert_pass();
    assert!(stall.longest_ns < STALL_MAX.as_nanos() as u64, "the service was gone");
}

/// Redis at full speed over impaired replica links, and the primary's machine dies.
fn survives_kills(words: &str, kills: u64) {
    let mut rng = Rng::new(seed());
    for kill in 0..kills {
        let Some(mut scenario) = ready(&[Net::Replica], rng.word()) else { return };
        impair(&scenario, Net::Replica, words);
        let task = pipelined(&scenario, 200, rng.word());
        let (begun, before) = (Instant::now(), task.progress());
        std::thread::sleep(ms(500) + Duration::from_micros(rng.below(1_000_000)));
        let (batches, took) = (task.progress() - before, begun.elapsed());
        let old = scenario.primary().unwrap();
        let killed_ns = scenario.trio.crash(&scenario.lab, old).unwrap();
        let rate = 8.0 * batches as f64 / took.as_secs_f64();
        println!("kill {kill} of {old} after {took:?}, {rate:.0} requests/s before it");
        task.wait_progress(1000, STALL_MAX * 2).unwrap();
        judge(&task.finish().unwrap(), killed_ns);
        print!("{}", scenario.lab.forwarder(Net::Replica).unwrap().report());
        scenario.check_wire(1).unwrap();
    }
}

#[test]
fn kills_over_lossy_reordering_links() {
    survives_kills("loss=5%,reorder=10%,reorder-by=1ms", number("UNDERSTUDY_KILLS", 2));
}

#[test]
fn kills_over_slow_duplicating_links() {
    let words = "delay=1ms,jitter=1ms,duplicate=5%";
    survives_kills(words, number("UNDERSTUDY_KILLS", 2).div_ceil(2));
}

/// The load would be about 30 Mbit/s of log: the limit holds it back, and drops bursts.
#[test]
fn kills_over_narrow_links() {
    let words = "rate=20mbit,queue=32k";
    survives_kills(words, number("UNDERSTUDY_KILLS", 2).div_ceil(2));
}

/// What of the primary's traffic is lost on one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Nothing,
    Output,
    Input,
    Both,
}

impl Lost {
    fn apply(self, scenario: &Scenario, net: Net, primary: Member, others: &[Member]) {
        let forwarder = scenario.lab.forwarder(net).unwrap();
        for &other in others {
            if matches!(self, Lost::Output | Lost::Both) {
                forwarder.set(primary, other, &Impairment::blocked());
            }
            if matches!(self, Lost::Input | Lost::Both) {
                forwarder.set(other, primary, &Impairment::blocked());
            }
        }
    }
}

/// A partition of the primary from one replica or both.
struct Partition {
    replicas: usize,
    replica_net: Lost,
    second_path: Lost,
    /// Another takes over, or nobody does.
    changes: bool,
}

impl Partition {
    /// What the clients may notice. A change takes detection (200 ms), an election and a client's
    /// retransmission timer; without one nothing is to be noticed. Both with room for a machine
    /// that is busy with other things.
    fn stall_max(&self) -> Duration {
        if self.changes { ms(5000) } else { ms(2000) }
    }
}

/// All of them that leave somebody who can serve. The second path alone decides nothing; one
/// replica alone leaves a majority.
fn partitions() -> Vec<Partition> {
    use Lost::{Both, Input, Nothing, Output};
    let from_both = [
        (Output, Nothing, true),
        (Input, Nothing, true),
        (Both, Nothing, true),
        (Nothing, Output, false),
        (Nothing, Input, false),
        (Nothing, Both, false),
        (Output, Output, true),
        (Input, Input, true),
        (Output, Input, true),
        (Input, Output, true),
        (Both, Both, true),
    ];
    let from_one = [(Output, Nothing), (Input, Nothing), (Output, Output), (Input, Input)];
    let from_both = from_both.into_iter().map(|(replica_net, second_path, changes)| Partition {
        replicas: 2,
        replica_net,
        second_path,
        changes,
    });
    let from_one = from_one.into_iter().map(|(replica_net, second_path)| Partition {
        replicas: 1,
        replica_net,
        second_path,
        changes: false,
    });
    from_both.chain(from_one).collect()
}

#[test]
fn partitions_of_the_primary() {
    let mut rng = Rng::new(seed());
    let Some(mut scenario) = ready(&[Net::Replica, Net::Mgmt], rng.word()) else { return };
    let tasks = [pipelined(&scenario, 20, rng.word()), counter(&scenario)];
    let mut moments = Vec::new();
    let rounds = number("UNDERSTUDY_PARTITIONS", 1);
    for partition in (0..rounds).flat_map(|_| partitions()) {
        let what = format!(
            "{} replicas, {:?} lost on the replica network, {:?} on the second path",
            partition.replicas, partition.replica_net, partition.second_path
        );
        println!("{what}");
        let moment_ns = part(&mut scenario, &partition, &tasks);
        moments.push((what, moment_ns, partition.stall_max()));
    }
    let all_parted_ns = all_parted(&mut scenario, ms(1000));
    moments.push(("nobody hears anybody for 1 s".into(), all_parted_ns, ms(6000)));
    tasks.iter().for_each(|task| task.wait_progress(100, STALL_MAX).unwrap());
    let verdicts = tasks.map(|task| task.finish().unwrap());
    for (what, moment_ns, most) in &moments {
        let stalls = [0, 1].map(|at| verdicts[at].stall(*moment_ns).around_ns());
        let [pipelined, counter] = stalls.map(in_ms);
        println!("stall {pipelined} / {counter} ms, bound {} ms  {what}", most.as_millis());
        let is_short = |ns: Option<u64>| ns.is_some_and(|ns| u128::from(ns) < most.as_nanos());
        assert!(stalls.into_iter().all(is_short), "{what}: {stalls:?}");
    }
    verdicts.iter().for_each(|verdict| judge(verdict, 0));
}

/// One partition, from a whole group to a whole group; gives its moment.
fn part(scenario: &mut Scenario, partition: &Partition, tasks: &[Task]) -> u64 {
    let (old, epoch) = reign(scenario);
    scenario.recording_so_far().unwrap();
    let replicas: Vec<Member> = old.others().take(partition.replicas).collect();
    let moment_ns = sys::unix_ns();
    partition.replica_net.apply(scenario, Net::Replica, old, &replicas);
    partition.second_path.apply(scenario, Net::Mgmt, old, &replicas);
    if partition.changes {
        scenario.trio.wait_primary(Some(old), STALL_MAX).unwrap();
    }
    for task in tasks {
        let begun = Instant::now();
        task.wait_progress(100, STALL_MAX).unwrap();
        assert!(begun.elapsed() < STALL_MAX && !task.is_finished(), "no service while parted");
    }
    std::thread::sleep(ms(500));
    let parted = reign(scenario);
    for net in [Net::Replica, Net::Mgmt] {
        impair(scenario, net, "none");
    }
    let whole = whole_again(scenario);
    let healed = reign(scenario);
    println!("   epoch {epoch} {old}, parted {parted:?}, healed {healed:?}, whole after {whole:?}");
    assert_eq!(parted.0 != old, partition.changes, "the primary is {parted:?}");
    let recording = scenario.recording_so_far().unwrap();
    one_answers(&recording, healed.1 - epoch);
    moment_ns
}

/// Without any majority nobody serves; whoever does after it, nothing is lost. Gives its moment.
fn all_parted(scenario: &mut Scenario, time: Duration) -> u64 {
    let (_, epoch) = reign(scenario);
    scenario.recording_so_far().unwrap();
    let moment_ns = sys::unix_ns();
    [Net::Replica, Net::Mgmt].into_iter().for_each(|net| impair(scenario, net, "block"));
    std::thread::sleep(time);
    let healed_ns = sys::unix_ns();
    [Net::Replica, Net::Mgmt].into_iter().for_each(|net| impair(scenario, net, "none"));
    let whole = whole_again(scenario);
    let healed = reign(scenario);
    println!("nobody hears anybody: healed {healed:?}, whole after {whole:?}");
    let recording = scenario.recording_so_far().unwrap();
    let lease_over_ns = moment_ns + ms(500).as_nanos() as u64;
    let answers = recording.answers();
    let unfounded = answers.iter().filter(|a| (lease_over_ns..healed_ns).contains(&a.unix_ns));
    assert_eq!(unfounded.count(), 0, "answers of a node that no majority hears");
    one_answers(&recording, healed.1 - epoch);
    moment_ns
}

/// A replica that is mute or deaf on the replica network, but well on the second path, while the
/// primary's application dies: it could win by its priority, but nobody would acknowledge it. The
/// other one can serve once the old primary's node is back: there is no other majority.
#[test]
fn a_successor_that_replicas_cannot_hear() {
    let mut rng = Rng::new(seed());
    for lost in [Lost::Output, Lost::Input, Lost::Both] {
        let Some(mut scenario) = ready(&[Net::Replica], rng.word()) else { return };
        let old = scenario.primary().unwrap();
        let mute = old.others().next().unwrap();
        let tasks = [pipelined(&scenario, 20, rng.word()), counter(&scenario)];
        lost.apply(&scenario, Net::Replica, mute, &mute.others().collect::<Vec<_>>());
        let after_ms = rng.below(1000);
        std::thread::sleep(ms(after_ms));
        let killed_ns = scenario.trio.node(old).kill_application().unwrap();
        let new = scenario.trio.wait_primary(Some(old), STALL_MAX).unwrap();
        println!("{lost:?} of {mute} lost, {after_ms} ms later {old}'s redis killed: {new}");
        for task in tasks {
            task.wait_progress(50, STALL_MAX).unwrap();
            judge(&task.finish().unwrap(), killed_ns);
        }
        assert_ne!(new, mute);
        impair(&scenario, Net::Replica, "none");
        println!("whole after {:?}", whole_again(&mut scenario));
        let (_, epoch) = reign(&mut scenario);
        one_answers(&scenario.recording().unwrap(), epoch - 1);
    }
}

/// The primary and its epoch.
fn reign(scenario: &mut Scenario) -> (Member, u64) {
    let primary = scenario.trio.wait_primary(None, READY_TIMEOUT).unwrap();
    (primary, scenario.trio.node(primary).status().unwrap().epoch)
}

/// Never two answer: no more changes than there were new epochs.
fn one_answers(recording: &Recording, epochs: u64) {
    let reigns = recording.check_one_answers(epochs as usize).unwrap();
    recording.check_tcp().unwrap();
    let names: Vec<String> = reigns.iter().map(|reign| reign.member.to_string()).collect();
    println!("   on the wire: {}", names.join(" "));
}

#[test]
fn replica_paused_10s() {
    let seed = seed();
    let Some(mut scenario) = ready(&[], seed) else { return };
    let (primary, epoch) = reign(&mut scenario);
    let replica = primary.others().next().unwrap();
    let tasks = [pipelined(&scenario, 20, seed), counter(&scenario)];
    let paused_ns = scenario.trio.node(replica).pause(Paused::Machine).unwrap();
    std::thread::sleep(ms(10_000));
    scenario.trio.node(replica).resume().unwrap();
    let whole = whole_again(&mut scenario);
    println!("{replica} ready {whole:?} after its pause");
    for task in tasks {
        task.wait_progress(50, STALL_MAX).unwrap();
        judge(&task.finish().unwrap(), paused_ns);
    }
    assert_eq!(reign(&mut scenario), (primary, epoch), "the primary has not changed");
    scenario.check_wire(0).unwrap();
}

#[test]
fn primary_paused_10s() {
    let seed = seed();
    for what in [Paused::Machine, Paused::Daemon] {
        let Some(mut scenario) = ready(&[], seed) else { return };
        primary_paused(&mut scenario, what, ms(10_000), seed);
    }
}

fn primary_paused(scenario: &mut Scenario, what: Paused, pause: Duration, seed: u64) {
    let old = scenario.primary().unwrap();
    let tasks = [pipelined(scenario, 20, seed), counter(scenario)];
    let paused_ns = scenario.trio.node(old).pause(what).unwrap();
    let end = Instant::now() + pause;
    let new = scenario.trio.wait_primary(Some(old), STALL_MAX).unwrap();
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    let resumed_ns = scenario.trio.node(old).resume().unwrap();
    let whole = whole_again(scenario);
    println!("{what:?}: {new} took over from {old}, whole {whole:?} after the pause");
    for task in tasks {
        task.wait_progress(50, STALL_MAX).unwrap();
        judge(&task.finish().unwrap(), paused_ns);
    }
    let recording = scenario.recording().unwrap();
    let stale = recording.after(old, resumed_ns);
    assert!(stale.is_empty(), "{} stale frames, the first {:?}", stale.len(), stale.first());
    one_answers(&recording, 1);
}

/// Around the lease and the detection time: some end before anybody takes over, some after.
#[test]
fn short_pauses_at_random_moments() {
    let mut rng = Rng::new(seed());
    let (least_ms, most_ms) =
        (number("UNDERSTUDY_PAUSE_MIN_MS", 50), number("UNDERSTUDY_PAUSE_MAX_MS", 300));
    let mut left = number("UNDERSTUDY_PAUSES", 4);
    while left > 0 {
        // The longer a group lives, the more a node that returns has to catch up with.
        let pauses = left.min(10);
        left -= pauses;
        let Some(mut scenario) = ready(&[], rng.word()) else { return };
        let tasks = [pipelined(&scenario, 50, rng.word()), counter(&scenario)];
        let mut moments = Vec::new();
        for _ in 0..pauses {
            std::thread::sleep(Duration::from_micros(rng.below(300_000)));
            let what = if rng.below(2) == 0 { Paused::Machine } else { Paused::Daemon };
            let span_us = 1000 * most_ms.saturating_sub(least_ms);
            let pause = ms(least_ms) + Duration::from_micros(rng.below(span_us));
            moments.push(paused_for(&mut scenario, what, pause, &tasks));
        }
        for verdict in tasks.map(|task| task.finish().unwrap()) {
            let stalls: Vec<String> =
                moments.iter().map(|&ns| in_ms(verdict.stall(ns).around_ns())).collect();
            println!("stalls {}", stalls.join(" "));
            judge(&verdict, 0);
        }
    }
}

/// Pauses the primary for a while, from a whole group to a whole group; gives the moment.
fn paused_for(scenario: &mut Scenario, what: Paused, pause: Duration, tasks: &[Task]) -> u64 {
    let (old, epoch) = reign(scenario);
    scenario.recording_so_far().unwrap();
    let moment_ns = scenario.trio.node(old).pause(what).unwrap();
    std::thread::sleep(pause);
    scenario.trio.node(old).resume().unwrap();
    tasks.iter().for_each(|task| task.wait_progress(100, STALL_MAX).unwrap());
    let whole = whole_again(scenario);
    let now = reign(scenario);
    println!("{what:?} of {old} {pause:?}: epoch {epoch} -> {now:?}, whole after {whole:?}");
    one_answers(&scenario.recording_so_far().unwrap(), now.1 - epoch);
    moment_ns
}
