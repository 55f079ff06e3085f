//! `[supervise]`: what the service needs, when it is bad, and what is done then.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::decimal;

/// What is done about a bad resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The service is handed over to a fit node; a replica is unfit.
    Failover,
    /// As failover; where there is no fit node, and on a replica, the application is started anew.
    Restart,
    /// It is told.
    Alert,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failover => "failover",
            Self::Restart => "restart",
            Self::Alert => "alert",
        })
    }
}

/// What all resources have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// What is done.
    pub policy: Policy,
    /// Between two looks.
    pub interval_ms: u64,
    /// Bad looks in a row that make it bad.
    pub fall: u32,
    /// Good looks in a row that make it good again.
    pub rise: u32,
}

macro_rules! watched {
    ($(#[$doc:meta])* $type:ident [$policy:ident, $interval_ms:literal, $fall:literal, $rise:literal] {
        $($(#[$each:meta])* $field:ident: $of:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $type {
            $($(#[$each])* pub $field: $of,)*
            /// What is done.
            pub policy: Policy,
            /// Between two looks.
            pub interval_ms: u64,
            /// Bad looks in a row that make it bad.
            pub fall: u32,
            /// Good looks in a row that make it good again.
            pub rise: u32,
        }

        impl Default for $type {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    policy: Policy::$policy,
                    interval_ms: $interval_ms,
                    fall: $fall,
                    rise: $rise,
                }
            }
        }

        impl $type {
            /// What all resources have.
            #[must_use]
            pub fn watch(&self) -> Watch {
                Watch {
                    policy: self.policy,
                    interval_ms: self.interval_ms,
                    fall: self.fall,
                    rise: self.rise,
                }
            }
        }
    };
}

/// `[supervise]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuperviseConfig {
    /// A reign that began with a takeover lasts so long before supervision ends it.
    pub failover_interval_s: u64,
    /// A checkpoint is taken when redundancy is lost, or something else that does not spoil it.
    pub checkpoint: bool,
    /// The application's first process.
    pub application: ApplicationWatch,
    /// The application as it answers.
    pub health: HealthWatch,
    /// Carriers of the three ports.
    pub links: LinksWatch,
    /// The ways to other nodes.
    pub paths: PathsWatch,
    /// What is behind the primary's log.
    pub lag: LagWatch,
    /// The disk of the state directory.
    pub disk: DiskWatch,
    /// Packet buffers and huge pages.
    pub memory: MemoryWatch,
    /// The poll-mode core.
    pub core: CoreWatch,
    /// The machine's clocks.
    pub clock: ClockWatch,
    /// CPU time.
    pub cpu: CpuWatch,
}

impl Default for SuperviseConfig {
    fn default() -> Self {
        Self {
            failover_interval_s: 60,
            checkpoint: false,
            application: ApplicationWatch::default(),
            health: HealthWatch::default(),
            links: LinksWatch::default(),
            paths: PathsWatch::default(),
            lag: LagWatch::default(),
            disk: DiskWatch::default(),
            memory: MemoryWatch::default(),
            core: CoreWatch::default(),
            clock: ClockWatch::default(),
            cpu: CpuWatch::default(),
        }
    }
}

watched! {
    /// `[supervise.application]`
    ApplicationWatch [Failover, 100, 3, 3] {}
}

watched! {
    /// `[supervise.health]`
    HealthWatch [Failover, 1000, 3, 2] {
        /// How the application is asked.
        check: HealthCheck = HealthCheck::None,
        /// With check "command": program and arguments.
        command: Vec<String> = Vec::new(),
        /// How long an answer may take.
        timeout_ms: u64 = 1000,
    }
}

watched! {
    /// `[supervise.links]`
    LinksWatch [Failover, 100, 1, 10] {}
}

watched! {
    /// `[supervise.paths]`
    PathsWatch [Alert, 200, 2, 5] {
        /// Silence on one path of a node that is heard on the other.
        silent_ms: u64 = 1000,
    }
}

watched! {
    /// `[supervise.lag]`
    LagWatch [Alert, 500, 4, 4] {
        /// So much of the log behind, in hundredths of its size.
        log_percent: u64 = 25,
    }
}

watched! {
    /// `[supervise.disk]`
    DiskWatch [Alert, 5000, 2, 2] {
        /// Room that must be left.
        free_mb: u64 = 64,
        /// How long a small write may take.
        timeout_ms: u64 = 5000,
    }
}

watched! {
    /// `[supervise.memory]`
    MemoryWatch [Alert, 1000, 2, 5] {
        /// Packet buffers that must be free, in hundredths.
        buffers_percent: u64 = 10,
    }
}

watched! {
    /// `[supervise.core]`
    CoreWatch [Failover, 100, 1, 5] {
        /// Without progress for so long it is stuck.
        stuck_ms: u64 = 1000,
    }
}

watched! {
    /// `[supervise.clock]`
    ClockWatch [Alert, 5000, 1, 3] {
        /// The wall clock may be set by so much at once.
        step_ms: u64 = 500,
        /// The CPU's counter and the kernel's clock may run apart by so many millionths.
        drift_ppm: u64 = 1000,
    }
}

watched! {
    /// `[supervise.cpu]`
    CpuWatch [Alert, 1000, 3, 5] {
        /// A thread that did not run for so long was stalled.
        gap_ms: u64 = 100,
    }
}

/// How the application is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheck {
    /// Not at all.
    None,
    /// A connection to this port of the virtual address.
    Tcp(u16),
    /// GET on this port of the virtual address: 2xx and 3xx are well.
    Http {
        /// The port.
        port: u16,
        /// From its `/` on.
        path: String,
    },
    /// A program: it ends with 0.
    Command,
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Http { port, path } => write!(f, "http/{port}{path}"),
            Self::Command => f.write_str("command"),
        }
    }
}

impl FromStr for HealthCheck {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| u16::try_from(decimal(text)?).ok().filter(|&p| p != 0);
        let plain = |path: &str| path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic());
        let parsed = match text.split_once('/') {
            None if text == "none" => Some(Self::None),
            None if text == "command" => Some(Self::Command),
            Some(("tcp", rest)) => port(rest).map(Self::Tcp),
            Some(("http", rest)) => {
                let (number, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let path = if path.is_empty() { "/" } else { path };
                port(number)
                    .filter(|_| plain(path))
                    .map(|port| Self::Http { port, path: path.to_owned() })
            }
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "{text:?} is not a check, \"none\", \"tcp/PORT\", \"http/PORT/PATH\" or \
                 \"command\" is allowed"
            )
        })
    }
}

impl Serialize for HealthCheck {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HealthCheck {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::HealthCheck;

    #[test]
    fn checks_are_what_they_look_like() {
        for good in ["none", "command", "tcp/6379", "http/80/", "http/8080/healthz?x=1"] {
            assert_eq!(good.parse::<HealthCheck>().unwrap().to_string(), good);
        }
        assert_eq!("http/80".parse::<HealthCheck>().unwrap().to_string(), "http/80/");
        for bad in [
            "",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/+1",
            "udp/53",
            "http/",
            "http//x",
            "http/1/a b",
            "x/1",
        ] {
            assert!(bad.parse::<HealthCheck>().is_err(), "{bad}");
        }
    }
}
