//! What a run is made of: sizes, weather and faults by profile, and the bugs that tests plant.

use clap::ValueEnum;
use understudy_fastpath::MS;

use crate::group::Group;
use crate::net::Weather;
use crate::rng::Rng;

/// The lease is 6 tenths of the detection time: clocks may differ in rate by less than that.
const DRIFT_PPM_MAX: u64 = 100_000;

/// Which faults may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Nothing but planned switchovers.
    Calm,
    /// Loss, repetition, reordering, delay; a crash now and then.
    Lossy,
    /// Networks cut in one or both directions, carriers lost.
    Partitions,
    /// Nodes, threads and applications die or pause; disks tear what is being written.
    Crashes,
    /// Disks, loops and clones that are slow, and stand still now and then.
    Slow,
    /// A log so small that it runs over itself, and replicas that fall behind it.
    Wrap,
    /// Everything, one victim at a time (two of five nodes), in bad weather.
    All,
    /// Everything at once, beyond what is tolerated: only safety is judged.
    Chaos,
    /// Short reigns, and what follows on the events of an election (see `course`): only safety is judged.
    Elections,
    /// A witness, more replicas than a majority, or two nodes and an arbiter: one victim at a time, or beyond what
    /// is tolerated.
    Groups,
}

impl Profile {
    /// Its name.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
    }

    /// The faults it draws from.
    pub fn faults(self) -> &'static [Fault] {
        use Fault::*;
        match self {
            Profile::Calm => &[Switchover],
            Profile::Lossy => &[Switchover, Crash],
            Profile::Partitions => &[
                Isolate,
                CutReplica,
                CutSecond,
                DeafReplica,
                MuteReplica,
                ClientCarrier,
                ReplicaCarrier,
                ClientMute,
                ClientDeaf,
            ],
            Profile::Crashes => {
                &[Crash, Crash, TornDisk, PauseBoth, PauseData, PauseControl, AppExit]
            }
            Profile::Slow => &[SlowDisk, DiskStall, SlowLoop, SlowClone, SlowClone, Crash],
            Profile::Groups => &[
                Switchover,
                Crash,
                Crash,
                TornDisk,
                PauseBoth,
                PauseData,
                PauseControl,
                AppExit,
                DiskStall,
                SlowLoop,
                SlowClone,
                Isolate,
                Isolate,
                CutReplica,
                CutSecond,
                CutArbiter,
                DeafReplica,
                MuteReplica,
                ClientCarrier,
                ReplicaCarrier,
            ],
            Profile::Wrap => {
                &[SlowLoop, SlowClone, CutReplica, PauseBoth, PauseData, Switchover, Crash]
            }
            Profile::Chaos => &[
                Switchover,
                Crash,
                Crash,
                Crash,
                Crash,
                Crash,
                TornDisk,
                PauseBoth,
                PauseData,
                PauseControl,
                AppExit,
                SlowDisk,
                DiskStall,
                Isolate,
                Isolate,
                CutReplica,
                DeafReplica,
                MuteReplica,
                ReplicaCarrier,
            ],
            Profile::Elections => &[
                Switchover,
                Crash,
                Crash,
                TornDisk,
                PauseBoth,
                PauseData,
                PauseControl,
                AppExit,
                SlowDisk,
                DiskStall,
                SlowClone,
                Isolate,
                Isolate,
                Estrange,
                Estrange,
                CutReplica,
                DeafReplica,
                MuteReplica,
                ClientCarrier,
                ReplicaCarrier,
            ],
            Profile::All => &[
                Switchover,
                Crash,
                Crash,
                TornDisk,
                PauseBoth,
                PauseData,
                PauseControl,
                AppExit,
                SlowDisk,
                DiskStall,
                SlowLoop,
                SlowClone,
                Isolate,
                CutReplica,
                CutSecond,
                DeafReplica,
                MuteReplica,
                ClientCarrier,
                ReplicaCarrier,
                ClientMute,
                ClientDeaf,
            ],
        }
    }

    fn is_beyond(self) -> bool {
        matches!(self, Profile::Chaos | Profile::Elections)
    }

    fn tolerates_seconds(self) -> bool {
        use Profile::*;
        matches!(self, Partitions | Crashes | Slow | All | Groups)
    }

    fn is_wet(self) -> bool {
        matches!(self, Profile::Lossy | Profile::Wrap | Profile::All | Profile::Chaos)
    }
}

/// What may happen to a second node while the first one's failure is being dealt with, in a group
/// that tolerates one: nothing by which a log is lost.
pub const SECOND_FAULTS: [Fault; 9] = [
    Fault::PauseBoth,
    Fault::PauseData,
    Fault::PauseControl,
    Fault::Isolate,
    Fault::CutReplica,
    Fault::DeafReplica,
    Fault::MuteReplica,
    Fault::DiskStall,
    Fault::SlowLoop,
];

/// Something that happens to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operator moves the service.
    Switchover,
    /// Everything but what is persisted is lost.
    Crash,
    /// The same, and the disk had not written what it said it had.
    TornDisk,
    /// Writes take long.
    SlowDisk,
    /// No write is ever done.
    DiskStall,
    /// The poll-mode thread gets little of the processor.
    SlowLoop,
    /// The capsule is slow: its frames, both ways, and what it computes.
    SlowClone,
    /// Both threads stand still; clocks go on.
    PauseBoth,
    /// The poll-mode thread stands still.
    PauseData,
    /// The control-plane thread stands still.
    PauseControl,
    /// The application dies.
    AppExit,
    /// Replica network and second path are cut, both ways.
    Isolate,
    /// The node and the next one do not hear each other; everybody else hears both.
    Estrange,
    /// The replica network is cut, both ways.
    CutReplica,
    /// The second path is cut, both ways.
    CutSecond,
    /// The node hears nothing on the replica network.
    DeafReplica,
    /// Nobody hears the node on the replica network.
    MuteReplica,
    /// The node does not reach the arbiter.
    CutArbiter,
    /// The client port loses its carrier.
    ClientCarrier,
    /// The replica port loses its carrier.
    ReplicaCarrier,
    /// Nothing of the node reaches the clients.
    ClientMute,
    /// Nothing of the clients reaches the node.
    ClientDeaf,
}

/// A bug planted in the glue, the networks, the disks or the configuration, to see that it is caught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mutation {
    /// As shipped.
    #[default]
    None,
    /// Replicas acknowledge what they have not written.
    ForgedAcks,
    /// Acknowledgements and data count whatever their epoch.
    AnyEpoch,
    /// Output waits for nobody.
    NoCommit,
    /// The primary tells its replicas that everything is committed.
    EarlyCommit,
    /// Output leaves in another order than the application sent it.
    UnorderedRelease,
    /// The lease outlives the detection.
    LongLease,
    /// There is no lease: it never ends.
    NoLease,
    /// The poll-mode thread's clock almost stands still while the node is isolated.
    SlowClock,
    /// Nothing is persisted across a restart.
    LostVote,
    /// A vote is cast before it is on disk.
    UnwrittenVote,
    /// A vote is cast without the data path's promise to the old reign's end.
    VoteWithoutPromise,
    /// Every vote is granted, whoever had one before.
    EveryVoteGranted,
    /// A candidate claims a log that it does not have.
    StaleCandidate,
    /// A node that lost its log votes as if it had not.
    RecoveringVotes,
    /// A damaged epoch file counts as none.
    DamageIgnored,
    /// A replica keeps what it has beyond where its log left history.
    UncutLog,
    /// The clone of another reign is kept when the node starts anew.
    KeptClone,
    /// The second node's application answers wrongly.
    PoisonedClone,
    /// The same, and nothing audits it.
    UnseenPoison,
    /// What a dying application's kernel says of its connections leaves.
    LeakedEnd,
    /// Nobody announces a takeover.
    NoAnnouncement,
    /// `commit.min` is not heeded: a majority will do.
    IgnoredMin,
    /// A node goes on alone when it asks the arbiter, not when that has answered.
    EarlyAlone,
    /// The arbiter's register is written whatever it holds by then.
    BlindWrites,
}

impl Mutation {
    /// The second node's application answers wrongly.
    pub fn poisons(self) -> bool {
        matches!(self, Mutation::PoisonedClone | Mutation::UnseenPoison)
    }
}

/// A whole run, before it runs.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the run is a function of.
    pub seed: u64,
    /// Which faults.
    pub profile: Profile,
    /// Which planted bug.
    pub mutation: Mutation,
    /// Voters.
    pub nodes: u16,
    /// What they are.
    pub group: Group,
    /// More is broken than a group bears: there may be no primary, and every log may be lost.
    pub is_beyond: bool,
    /// Client machines.
    pub hosts: usize,
    /// Connections on each.
    pub connections: usize,
    /// Faults to come.
    pub episodes: u64,
    /// Between two heartbeats.
    pub heartbeat_ns: u64,
    /// Silence that is a suspicion.
    pub suspect_ns: u64,
    /// The lease.
    pub lease_ns: u64,
    /// All replicas, or a quorum.
    pub commit_all: bool,
    /// The replica network.
    pub replica: Weather,
    /// The second path.
    pub second: Weather,
    /// The clients' network.
    pub client: Weather,
    /// Between nodes and arbiter.
    pub arbiter: Weather,
    /// Faults of devices and buffers, of a million.
    pub trouble_ppm: u64,
    /// Adoptions lost to a full accept queue, of a million.
    pub adoption_loss_ppm: u64,
    /// How far the rate of a node's clock may be off, in parts per million.
    pub drift_ppm: u64,
    /// Longest that a write takes.
    pub disk_ns_max: u64,
    /// Silence after which a replica leaves the commit set.
    pub evict_after_ns: u64,
    /// How often the primary's failure is followed by another one before the takeover is over.
    pub second_percent: u64,
    /// Client machines that talk IPv6: the first so many.
    pub v6_hosts: usize,
    /// Datagram clients on each machine.
    pub datagrams: usize,
    /// Capture log of every node.
    pub log_len: usize,
    /// Receive buffer of the service's sockets.
    pub rcv_buf: u32,
    /// Longest that one request takes.
    pub service_ns_max: u64,
    /// Longest that one in a hundred takes.
    pub slow_service_ns_max: u64,
    /// Longest rest of a poll-mode thread that has nothing to do.
    pub rest_ns_max: u64,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn new(seed: u64, profile: Profile, mutation: Mutation, rng: &mut Rng) -> Scenario {
        let groups = profile == Profile::Groups;
        let wet = profile.is_wet() || groups && rng.percent(50);
        let suspect_ns = rng.pick(&[60, 100, 200]) * MS;
        let lease_ns = suspect_ns * 6 / 10;
        let elections = profile == Profile::Elections;
        // What a ballot of an earlier epoch is held back for.
        let late = elections && rng.percent(50);
        let group = group(profile, rng);
        let is_beyond = profile.is_beyond() || groups && rng.percent(50);
        let weather = |rng: &mut Rng, loss_percent_max: u64| Weather {
            loss_ppm: if wet { rng.below(loss_percent_max * 10_000) } else { 0 },
            repeat_ppm: if wet { rng.below(20_000) } else { 0 },
            late_ppm: match (late, wet) {
                (true, _) => rng.below(150_000),
                (_, true) => rng.below(10_000),
                _ => 0,
            },
            late_ns_max: if late { 6 * suspect_ns } else { suspect_ns / 4 },
            jitter_ns_max: rng.pick(&[5_000, 100_000, 400_000]),
        };
        let arbiter = match groups {
            true => arbiter_weather(rng, suspect_ns, is_beyond),
            false => Weather::default(),
        };
        let wrap = profile == Profile::Wrap;
        let hosts = rng.range(1, 2) as usize;
        Scenario {
            seed,
            profile,
            mutation,
            nodes: group.nodes,
            group,
            is_beyond,
            hosts,
            connections: rng.range(1, 3) as usize,
            episodes: episodes(profile, is_beyond, rng),
            heartbeat_ns: 10 * MS,
            suspect_ns,
            lease_ns,
            commit_all: rng.percent(if wrap { 50 } else { 20 }),
            replica: weather(rng, 5),
            second: weather(rng, 10),
            client: weather(rng, 3),
            arbiter,
            trouble_ppm: if wet { rng.below(2_000) } else { 0 },
            adoption_loss_ppm: if rng.percent(30) { rng.below(200_000) } else { 0 },
            drift_ppm: if rng.percent(25) { DRIFT_PPM_MAX } else { 200 },
            disk_ns_max: if rng.percent(if elections { 40 } else { 20 }) {
                60 * MS
            } else {
                4 * MS
            },
            evict_after_ns: rng.pick(&[300, 1_000, 2_000]) * MS,
            second_percent: if profile.tolerates_seconds() && !group.arbiter { 30 } else { 0 },
            v6_hosts: rng.below(hosts as u64 + 1) as usize,
            datagrams: rng.below(3) as usize,
            log_len: if wrap { rng.pick(&[128 << 10, 256 << 10, 1 << 20]) } else { 16 << 20 },
            rcv_buf: rng.pick(&[8_000, 30_000, 65_000, 200_000]),
            service_ns_max: rng.pick(&[0, 50_000, 300_000]),
            slow_service_ns_max: rng.pick(&[0, 20, 60]) * MS,
            rest_ns_max: rng.pick(&[400_000, 2 * MS, 3 * MS, 3 * MS]),
        }
    }
}

fn group(profile: Profile, rng: &mut Rng) -> Group {
    let five = rng.percent(match profile {
        Profile::Chaos | Profile::Elections => 30,
        Profile::All => 15,
        _ => 0,
    });
    match profile {
        Profile::Groups => Group::draw(rng),
        _ => Group::of(if five { 5 } else { 3 }),
    }
}

fn episodes(profile: Profile, is_beyond: bool, rng: &mut Rng) -> u64 {
    match profile {
        Profile::Calm => 2,
        Profile::Elections => rng.range(4, 8),
        _ if is_beyond => rng.range(1, 8),
        _ => rng.range(1, 4),
    }
}

/// Requests, writes and answers that are lost, or wait for as long as the arbiter has no leader of its own.
fn arbiter_weather(rng: &mut Rng, suspect_ns: u64, is_beyond: bool) -> Weather {
    Weather {
        loss_ppm: rng.below(50_000),
        late_ppm: rng.below(if is_beyond { 600_000 } else { 200_000 }),
        late_ns_max: rng.pick(&[10, 40]) * suspect_ns,
        jitter_ns_max: 2 * MS,
        ..Weather::default()
    }
}
