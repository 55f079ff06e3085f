//! What is supervised, what may be wrong with it, and what is done then.

use std::fmt;

use understudy_wire::NodeId;

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $variant:ident => $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$each])* $variant,)* }

        impl $type {
            /// Its name, one word with underscores.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// Something that the service needs; those that say most of it first.
    Resource {
        /// A poll-mode core.
        Core => "core",
        /// The application's first process.
        Application => "application",
        /// What the health check says of the application.
        Health => "health",
        /// The client port's link.
        ClientLink => "client_link",
        /// The host port's link, to the capsule.
        HostLink => "host_link",
        /// The replica port's link.
        ReplicaLink => "replica_link",
        /// The replica port's way to another node.
        ReplicaPath => "replica_path",
        /// The second path to another node.
        SecondPath => "second_path",
        /// How far a log or a clone is behind the primary's log.
        Lag => "lag",
        /// The disk of the state directory.
        Disk => "disk",
        /// Packet buffers.
        Buffers => "buffers",
        /// Huge pages for the next start of the daemon.
        HugePages => "huge_pages",
        /// The machine's clocks.
        Clock => "clock",
        /// The CPU time that this daemon gets.
        Cpu => "cpu",
    }
}

/// How many resources there are.
pub const RESOURCES: usize = Resource::Cpu as usize + 1;

impl Resource {
    /// The node's own rules act on it, at once: supervision tells, and keeps the node from standing.
    pub(super) fn is_handed_over_by_the_node(self) -> bool {
        matches!(self, Self::ClientLink | Self::ReplicaLink)
    }

    /// Without it nothing is served, whoever else is there.
    pub(super) fn is_the_data_path(self) -> bool {
        matches!(self, Self::Core)
    }

    /// A checkpoint taken now may be of use, and what is bad does not spoil it: redundancy is less, the
    /// application itself is well.
    pub(super) fn is_worth_a_checkpoint(self) -> bool {
        matches!(
            self,
            Self::ReplicaLink
                | Self::ReplicaPath
                | Self::SecondPath
                | Self::Lag
                | Self::HugePages
                | Self::Clock
        )
    }
}

names! {
    /// What is wrong.
    Cause {
        /// It makes no progress.
        NoProgress => "no_progress",
        /// It was stopped by a signal.
        Stopped => "stopped",
        /// It refused a connection.
        Refused => "refused",
        /// It did not answer in time.
        TimedOut => "timed_out",
        /// It answered, and said that it is not well.
        Failed => "failed",
        /// It could not be looked at.
        Unknown => "unknown",
        /// The carrier is gone.
        NoCarrier => "no_carrier",
        /// A node that is heard another way is not heard on this one.
        Silent => "silent",
        /// It is too far behind.
        Behind => "behind",
        /// There is too little room.
        NoSpace => "no_space",
        /// It cannot be written to.
        WriteFailed => "write_failed",
        /// There are too few left.
        Exhausted => "exhausted",
        /// It is not what it was.
        Changed => "changed",
        /// It was set to another time.
        Stepped => "stepped",
        /// It runs at another rate.
        Drifted => "drifted",
        /// This daemon waits for the CPU.
        Stalled => "stalled",
    }
}

names! {
    /// What is done about a bad resource.
    Policy {
        /// The service is handed over to a fit node; a replica is unfit.
        Failover => "failover",
        /// As failover; where there is no fit node, and on a replica, the application is started anew.
        Restart => "restart",
        /// It is told.
        Alert => "alert",
    }
}

/// When a resource is bad or good, and what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is done.
    pub policy: Policy,
    /// Bad samples in a row that make it bad.
    pub fall: u32,
    /// Good samples in a row that make it good again.
    pub rise: u32,
    /// From bad to what is done: where the same is wrong everywhere, others must have the time to find it too.
    pub settle_ns: u64,
}

impl Default for Rule {
    fn default() -> Self {
        Self { policy: Policy::Alert, fall: 3, rise: 3, settle_ns: 0 }
    }
}

/// A rule for each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules([Rule; RESOURCES]);

impl Rules {
    /// The rule of a resource.
    #[must_use]
    pub fn of(&self, resource: Resource) -> &Rule {
        &self.0[resource as usize]
    }

    /// Sets it.
    pub fn set(&mut self, resource: Resource, rule: Rule) {
        self.0[resource as usize] = rule;
    }
}

/// A resource of this node, or of what it sees of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What.
    pub resource: Resource,
    /// The other node that it is about; 0 for none.
    pub peer: NodeId,
}

impl Key {
    /// Of this node.
    #[must_use]
    pub const fn own(resource: Resource) -> Self {
        Self { resource, peer: 0 }
    }

    /// Of another one, as this node sees it.
    #[must_use]
    pub const fn of_peer(resource: Resource, peer: NodeId) -> Self {
        Self { resource, peer }
    }

    /// Whether it is this node's.
    #[must_use]
    pub const fn is_own(self) -> bool {
        self.peer == 0
    }
}

/// What was seen of a bad resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub cause: Cause,
    /// For people.
    pub text: String,
}

impl Fault {
    /// One with its text.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into() }
    }
}
