//! What is promised, and whether a run kept it.

use crate::findings::Run;

/// A row of the main table.
pub struct Target {
    /// Name, for reasons of a miss.
    pub id: &'static str,
    /// The measurement that measures it.
    pub measurement: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// What it is compared with.
    pub against: &'static str,
    /// All of these must hold.
    pub criteria: &'static [Criterion],
}

/// A bound.
pub struct Criterion {
    /// Distinguishes the criteria of a target; may be empty.
    pub label: &'static str,
    /// Which figure.
    pub source: Source,
    /// Its bound.
    pub bound: Bound,
    /// Unit of both.
    pub unit: &'static str,
}

/// Where a figure is, by id.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The ratio of a comparison.
    Ratio(&'static str),
    /// A figure's median.
    Figure(&'static str),
    /// A distribution's median, in ms.
    P50(&'static str),
    /// A distribution's 99th percentile, in ms.
    P99(&'static str),
}

/// A limit and its side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Not above it.
    AtMost(f64),
    /// Not below it.
    AtLeast(f64),
    /// Not even as much.
    Below(f64),
}

impl Bound {
    /// Whether a value keeps it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= limit,
            Bound::AtLeast(limit) => value >= limit,
            Bound::Below(limit) => value < limit,
        }
    }
}

/// A value with its interval of confidence or its extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The value that is judged.
    pub value: f64,
    /// Low and high end, where there are some.
    pub range: Option<(f64, f64)>,
}

impl Source {
    /// The figure, if the run has it.
    pub fn find(self, run: &Run) -> Option<Measured> {
        let plain = |value| Measured { value, range: None };
        match self {
            Source::Ratio(id) => run.comparison(id).map(|c| Measured {
                value: c.ratio.median,
                range: Some((c.ratio.low, c.ratio.high)),
            }),
            Source::Figure(id) => run.figure(id).map(|f| Measured {
                value: f.value.median,
                range: (f.value.min < f.value.max).then_some((f.value.min, f.value.max)),
            }),
            Source::P50(id) => run.times(id).map(|times| plain(times.p50_ms)),
            Source::P99(id) => run.times(id).map(|times| plain(times.p99_ms)),
        }
    }
}

const fn criterion(
    label: &'static str,
    source: Source,
    bound: Bound,
    unit: &'static str,
) -> Criterion {
    Criterion { label, source, bound, unit }
}

use Bound::{AtLeast, AtMost, Below};
use Source::{Figure, P50, P99, Ratio};

/// The main table, in its order.
pub const TARGETS: &[Target] = &[
    Target {
        id: "capture",
        measurement: "capture",
        what: "capture + timestamp + parse + log append + multicast, cycles per 64 B packet",
        against: "testpmd io, same prefilled pool",
        criteria: &[criterion("", Ratio("capture/unsealed"), AtMost(3.0), "x")],
    },
    Target {
        id: "capture-sealed",
        measurement: "capture",
        what: "the same with sealed PDUs",
        against: "testpmd io",
        criteria: &[criterion("", Ratio("capture/sealed"), AtMost(5.0), "x")],
    },
    Target {
        id: "dumpcap",
        measurement: "dumpcap",
        what: "packets captured without loss, content verified",
        against: "dpdk-dumpcap",
        criteria: &[
            criterion("64 B", Ratio("dumpcap/64"), AtLeast(4.0), "x"),
            criterion("1514 B", Ratio("dumpcap/1514"), AtLeast(4.0), "x"),
        ],
    },
    Target {
        id: "veth",
        measurement: "veth",
        what: "the same",
        against: "best of tcpdump, netsniff-ng on the same veth",
        criteria: &[
            criterion("64 B", Ratio("veth/64"), AtLeast(1.5), "x"),
            criterion("1514 B", Ratio("veth/1514"), AtLeast(1.5), "x"),
        ],
    },
    Target {
        id: "iperf3",
        measurement: "iperf3",
        what: "iperf3 goodput through a protected service, gate on",
        against: "testpmd forwarding the same ports",
        criteria: &[criterion("", Ratio("iperf3/goodput"), AtLeast(0.9), "x")],
    },
    Target {
        id: "redis",
        measurement: "redis",
        what: "redis-benchmark ops/s",
        against: "the same without replicas",
        criteria: &[
            criterion("pipeline 1", Ratio("redis/pipeline-1"), AtLeast(0.85), "x"),
            criterion("pipeline 16", Ratio("redis/pipeline-16"), AtLeast(0.85), "x"),
        ],
    },
    Target {
        id: "latency",
        measurement: "latency",
        what: "added reply latency",
        against: "raw ping-pong on the replica port",
        criteria: &[
            criterion("p50", Ratio("latency/p50"), AtMost(1.5), "x"),
            criterion("p99", Ratio("latency/p99"), AtMost(3.0), "x"),
        ],
    },
    Target {
        id: "zero-wait",
        measurement: "latency",
        what: "replies released with zero wait",
        against: "application with 20 us of service time",
        criteria: &[criterion("", Figure("latency/zero-wait"), AtLeast(99.0), "%")],
    },
    Target {
        id: "host-death",
        measurement: "stopwatch",
        what: "client stall, node killed",
        against: "keepalived at 10 ms (its connections die)",
        criteria: &[
            criterion("p50", P50("stopwatch/host-death"), Below(25.0), "ms"),
            criterion("p99", P99("stopwatch/host-death"), Below(50.0), "ms"),
            criterion("connections lost", Figure("stopwatch/lost"), AtMost(0.0), ""),
        ],
    },
    Target {
        id: "planned",
        measurement: "stopwatch",
        what: "client stall, planned switchover and process death",
        against: "",
        criteria: &[
            criterion("switchover p99", P99("stopwatch/switchover"), Below(10.0), "ms"),
            criterion("process death p99", P99("stopwatch/process-death"), Below(10.0), "ms"),
        ],
    },
    Target {
        id: "takeover",
        measurement: "takeover",
        what: "takeover of 10,000 live connections",
        against: "",
        criteria: &[
            criterion("connections", Figure("takeover/connections"), AtLeast(10_000.0), ""),
            criterion("lost", Figure("takeover/lost"), AtMost(0.0), ""),
            criterion("rate", Figure("takeover/rate"), AtLeast(20_000.0), "/s"),
        ],
    },
    Target {
        id: "memory",
        measurement: "memory",
        what: "memory, one-hour soak",
        against: "",
        criteria: &[
            criterion("growth", Figure("memory/growth"), AtMost(1.0), "%"),
            criterion("soak", Figure("memory/soak"), AtLeast(60.0), "min"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(AtMost(3.0).holds(3.0) && !AtMost(3.0).holds(3.1));
        assert!(AtLeast(3.0).holds(3.0) && !AtLeast(3.0).holds(2.9));
        assert!(Below(3.0).holds(2.9) && !Below(3.0).holds(3.0));
    }
}
