//! What a run is made of: sizes, weather and faults by profile, and the bugs that tests plant.

use understudy_fastpath::MS;

use crate::net::Weather;
use crate::rng::Rng;

/// Which faults may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Nothing but planned switchovers.
    Calm,
    /// Loss, repetition, reordering, delay; a crash now and then.
    Lossy,
    /// Networks cut in one or both directions, carriers lost.
    Partitions,
    /// Nodes, threads and applications die or pause.
    Crashes,
    /// Everything, one victim at a time (two of five nodes), in bad weather.
    All,
    /// Everything at once, beyond what is tolerated: only safety is judged.
    Chaos,
}

impl Profile {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Profile); 6] = [
        ("calm", Profile::Calm),
        ("lossy", Profile::Lossy),
        ("partitions", Profile::Partitions),
        ("crashes", Profile::Crashes),
        ("all", Profile::All),
        ("chaos", Profile::Chaos),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Profile::NAMES.iter().find(|(_, p)| *p == self).map_or("", |(name, _)| name)
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
            Profile::Crashes => &[Crash, Crash, PauseBoth, PauseData, PauseControl, AppExit],
            Profile::All | Profile::Chaos => &[
                Switchover,
                Crash,
                Crash,
                PauseBoth,
                PauseData,
                PauseControl,
                AppExit,
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

    fn is_wet(self) -> bool {
        matches!(self, Profile::Lossy | Profile::All | Profile::Chaos)
    }
}

/// Something that happens to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operator moves the service.
    Switchover,
    /// Everything but what is persisted is lost.
    Crash,
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
    /// The replica network is cut, both ways.
    CutReplica,
    /// The second path is cut, both ways.
    CutSecond,
    /// The node hears nothing on the replica network.
    DeafReplica,
    /// Nobody hears the node on the replica network.
    MuteReplica,
    /// The client port loses its carrier.
    ClientCarrier,
    /// The replica port loses its carrier.
    ReplicaCarrier,
    /// Nothing of the node reaches the clients.
    ClientMute,
    /// Nothing of the clients reaches the node.
    ClientDeaf,
}

/// A bug planted in the glue, the networks or the configuration, to see that it is caught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// As shipped.
    #[default]
    None,
    /// Replicas acknowledge what they have not written.
    ForgedAcks,
    /// Output waits for nobody.
    NoCommit,
    /// The lease outlives the detection.
    LongLease,
    /// The poll-mode thread's clock almost stands still while the node is isolated.
    SlowClock,
    /// Nothing is persisted across a restart.
    LostVote,
    /// The second node's application answers wrongly.
    PoisonedClone,
    /// Nobody announces a takeover.
    NoAnnouncement,
    /// The primary tells its replicas that everything is committed.
    EarlyCommit,
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
    /// Faults of devices and buffers, of a million.
    pub trouble_ppm: u64,
    /// Adoptions lost to a full accept queue, of a million.
    pub adoption_loss_ppm: u64,
    /// Capture log of every node.
    pub log_len: usize,
    /// Receive buffer of the service's sockets.
    pub rcv_buf: u32,
    /// Longest that one request takes.
    pub service_ns_max: u64,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn new(seed: u64, profile: Profile, mutation: Mutation, rng: &mut Rng) -> Scenario {
        let wet = profile.is_wet();
        let suspect_ns = rng.pick(&[60, 100, 200]) * MS;
        let lease_ns = suspect_ns * 6 / 10;
        let five = matches!(profile, Profile::All | Profile::Chaos) && rng.percent(15);
        let weather = |rng: &mut Rng, loss_percent_max: u64| Weather {
            loss_ppm: if wet { rng.below(loss_percent_max * 10_000) } else { 0 },
            repeat_ppm: if wet { rng.below(20_000) } else { 0 },
            late_ppm: if wet { rng.below(10_000) } else { 0 },
            late_ns_max: suspect_ns / 4,
            jitter_ns_max: rng.pick(&[5_000, 100_000, 400_000]),
        };
        Scenario {
            seed,
            profile,
            mutation,
            nodes: if five { 5 } else { 3 },
            hosts: rng.range(1, 2) as usize,
            connections: rng.range(1, 3) as usize,
            episodes: if profile == Profile::Calm { 2 } else { rng.range(1, 4) },
            heartbeat_ns: 10 * MS,
            suspect_ns,
            lease_ns,
            commit_all: rng.percent(20),
            replica: weather(rng, 5),
            second: weather(rng, 10),
            client: weather(rng, 3),
            trouble_ppm: if wet { rng.below(2_000) } else { 0 },
            adoption_loss_ppm: if rng.percent(30) { rng.below(200_000) } else { 0 },
            log_len: 16 << 20,
            rcv_buf: rng.pick(&[8_000, 30_000, 65_000, 200_000]),
            service_ns_max: rng.pick(&[0, 50_000, 300_000]),
        }
    }

    /// Votes or acknowledgements that make a majority.
    pub fn majority(&self) -> usize {
        usize::from(self.nodes) / 2 + 1
    }
}
