//! The Prometheus text exposition of a status. Names are stable: dashboards and alerts use them.

pub mod capture;

use std::fmt::Write as _;

use understudy_api::{Peer, Role, Status, Verdict};

/// Media type of the exposition.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const ROLES: [Role; 7] = [
    Role::Primary,
    Role::Replica,
    Role::Candidate,
    Role::Fenced,
    Role::Starting,
    Role::Recovering,
    Role::Witness,
];

/// Of [`Status::counters`], those that also fall.
const NOT_COUNTERS: [&str; 2] = ["flows", "retained_now"];
/// Of [`Status::counters`], those that are shown as part of the gate.
const SHOWN_ELSEWHERE: [&str; 3] = ["gate_released", "gate_zero_wait", "gate_fenced"];

/// Everything that a status says in numbers.
#[must_use]
pub fn exposition(s: &Status) -> String {
    let mut out = Exposition::new(s);
    node(s, &mut out);
    gate(s, &mut out);
    log(s, &mut out);
    peers(s, &mut out);
    checkpoints(s, &mut out);
    takeovers(s, &mut out);
    counters(s, &mut out);
    out.text
}

fn node(s: &Status, out: &mut Exposition) {
    out.family("understudy_info", "gauge", "Constant 1; its labels say what runs here.");
    out.sample("", &[("service", &s.service.name), ("version", &s.version)], 1);
    out.family(
        "understudy_role",
        "gauge",
        "1 for the role that the node has now, 0 for all others.",
    );
    for role in ROLES {
        out.sample("", &[("role", &role.to_string())], u64::from(role == s.role));
    }
    out.gauge(
        "understudy_protected",
        "1 if the service would survive the loss of any one node, as this node sees it.",
        s.verdict == Verdict::Protected,
    );
    out.gauge(
        "understudy_ready",
        "1 if this node does its part: serves, or could take over.",
        s.ready,
    );
    out.gauge(
        "understudy_application_running",
        "1 if the application runs here.",
        s.service.app_running,
    );
    out.gauge(
        "understudy_drained",
        "1 if an operator has taken the node out of service.",
        s.drained,
    );
    out.gauge("understudy_epoch", "Number of the reign the node is in.", s.epoch);
    out.family("understudy_uptime_seconds", "gauge", "Time since the daemon started.");
    out.seconds("", &[], s.uptime_ms, 3);
    if let Some(arbiter) = &s.arbiter {
        let reachable = arbiter.reachable == Some(true);
        out.gauge(
            "understudy_arbiter_reachable",
            "1 if the external arbiter answered last.",
            reachable,
        );
        out.gauge("understudy_alone", "1 if the node serves without the other one.", arbiter.alone);
    }
}

fn gate(s: &Status, out: &mut Exposition) {
    let gate = &s.gate;
    out.gauge("understudy_gate_open", "1 if output may leave.", gate.open);
    out.gauge(
        "understudy_gate_waiting_frames",
        "Output that waits for its cause to be committed.",
        gate.waiting_frames,
    );
    out.gauge(
        "understudy_gate_uncovered_frames",
        "Of it, what no checkpoint covers yet; commit by checkpoint only.",
        gate.uncovered_frames,
    );
    out.counter("understudy_gate_released_frames_total", "Output that has left.", gate.released);
    out.counter(
        "understudy_gate_zero_wait_frames_total",
        "Of it, what did not wait at all.",
        gate.released_zero_wait,
    );
    out.counter(
        "understudy_gate_dropped_frames_total",
        "Output dropped when a reign ended.",
        gate.dropped,
    );
    out.family(
        "understudy_gate_wait_seconds",
        "histogram",
        "How long output that has left had waited.",
    );
    let mut below = 0;
    for (count, bound_ns) in gate.waits.counts.iter().zip(&gate.waits.bounds_ns) {
        below += count;
        out.sample("_bucket", &[("le", &decimal(*bound_ns, 9))], below);
    }
    let total = gate.waits.total();
    out.sample("_bucket", &[("le", "+Inf")], total);
    out.seconds("_sum", &[], gate.waits.sum_ns, 9);
    out.sample("_count", &[], total);
    out.gauge(
        "understudy_commit_replicas_required",
        "Replicas that must hold the cause of an output, whatever was evicted.",
        gate.replicas_required,
    );
    out.gauge("understudy_commit_replicas", "Replicas in the commit set.", gate.replicas_in_set);
}

fn log(s: &Status, out: &mut Exposition) {
    let log = &s.log;
    for (name, help, value) in [
        ("start", "Oldest position in the capture log.", log.start),
        ("end", "End of the capture log.", log.end),
        ("committed", "Position up to which the commit set has acknowledged.", log.committed),
        ("applied", "Position up to which the application was given the log.", log.applied),
        ("capacity", "Memory of the capture log.", log.capacity_bytes),
    ] {
        out.gauge(&format!("understudy_log_{name}_bytes"), help, value);
    }
    let flows = s.counters.get("flows").copied().unwrap_or_default();
    out.gauge("understudy_connections", "Connections inherited or cloned.", flows);
    let retained = s.counters.get("retained_now").copied().unwrap_or_default();
    out.gauge("understudy_retained_frames", "Output of the clone kept for a takeover.", retained);
}

fn peers(s: &Status, out: &mut Exposition) {
    type Field = fn(&Peer) -> u64;
    let fields: [(&str, &str, Field); 6] = [
        ("alive", "1 if the other node was heard within the detection time.", |p| p.alive.into()),
        ("clone_ready", "1 if its clone could take over.", |p| p.clone_ready.into()),
        ("in_commit_set", "1 if output waits for it; known to the primary.", |p| {
            p.in_commit_set.into()
        }),
        ("lag_bytes", "How far its log is behind the primary's.", |p| p.lag_bytes),
        ("position_bytes", "End of its log.", |p| p.position),
        ("applied_bytes", "Position up to which its clone was given the log.", |p| p.applied),
    ];
    for (name, help, value) in fields {
        out.family(&format!("understudy_peer_{name}"), "gauge", help);
        for p in &s.peers {
            out.sample("", &[("peer", &p.name)], value(p));
        }
    }
    out.family(
        "understudy_peer_silence_seconds",
        "gauge",
        "Time since it was heard on a path; missing if it never was.",
    );
    for p in &s.peers {
        for (path, ms) in [("replica", p.replica_path_ms), ("second", p.second_path_ms)] {
            if let Some(ms) = ms {
                out.seconds("", &[("path", path), ("peer", &p.name)], ms, 3);
            }
        }
    }
}

fn checkpoints(s: &Status, out: &mut Exposition) {
    let Some(c) = &s.checkpoints else { return };
    out.counter(
        "understudy_checkpoints_taken_total",
        "Checkpoints taken of the application.",
        c.taken,
    );
    out.counter(
        "understudy_checkpoints_restored_total",
        "Times that the application was brought back from one.",
        c.restored,
    );
    out.gauge(
        "understudy_checkpoint_failed",
        "1 if the last attempt to take one failed.",
        c.failed_because.is_some(),
    );
    out.gauge(
        "understudy_restoring",
        "1 while the node needs one to be whole.",
        c.restoring.is_some(),
    );
    let Some(newest) = &c.newest else { return };
    if let Some(age_ms) = c.age_ms {
        out.family(
            "understudy_checkpoint_age_seconds",
            "gauge",
            "Time since the newest was taken.",
        );
        out.seconds("", &[], age_ms, 3);
    }
    out.gauge("understudy_checkpoint_bytes", "Size of the newest.", newest.bytes);
    out.family(
        "understudy_checkpoint_frozen_seconds",
        "gauge",
        "How long the application stood still for the newest.",
    );
    out.seconds("", &[], newest.frozen_us, 6);
}

fn takeovers(s: &Status, out: &mut Exposition) {
    let Some(last) = s.takeovers.last() else { return };
    out.family(
        "understudy_last_takeover_timestamp_seconds",
        "gauge",
        "When the newest reign was noticed to be needed.",
    );
    out.seconds("", &[], last.unix_ns, 9);
    if let Some(took_us) = s.takeovers.iter().rev().find_map(|t| t.took_us) {
        out.family(
            "understudy_last_takeover_duration_seconds",
            "gauge",
            "From notice to open gate, of the last takeover by this node.",
        );
        out.seconds("", &[], took_us, 6);
    }
}

/// What the data path and the control plane count, each under its own name.
fn counters(s: &Status, out: &mut Exposition) {
    let elsewhere = |name: &str| NOT_COUNTERS.contains(&name) || SHOWN_ELSEWHERE.contains(&name);
    for (name, value) in s.counters.iter().filter(|(name, _)| !elsewhere(name)) {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if plain && !name.is_empty() {
            let help = format!("Counter {name} of status.");
            out.counter(&format!("understudy_{name}_total"), &help, *value);
        }
    }
}

/// The text so far.
struct Exposition {
    text: String,
    /// Labels of every sample.
    node: String,
    family: String,
}

impl Exposition {
    fn new(s: &Status) -> Self {
        let node = format!("cluster=\"{}\",node=\"{}\"", escaped(&s.cluster), escaped(&s.node));
        Self::labelled(node)
    }

    /// `node`: the labels of every sample.
    fn labelled(node: String) -> Self {
        Self { text: String::with_capacity(32 * 1024), node, family: String::new() }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.family = name.to_owned();
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<u64>) {
        self.family(name, "gauge", help);
        self.sample("", &[], value.into());
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample("", &[], value);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: u64) {
        self.write(suffix, labels, &value.to_string());
    }

    /// A time: `value` in units of ten to the minus `digits` seconds.
    fn seconds(&mut self, suffix: &str, labels: &[(&str, &str)], value: u64, digits: usize) {
        self.write(suffix, labels, &decimal(value, digits));
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], value: &str) {
        let _ = write!(self.text, "{}{suffix}{{{}", self.family, self.node);
        for (name, value) in labels {
            let _ = write!(self.text, ",{name}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

/// `value` over ten to the `digits`, exactly and without trailing zeros.
fn decimal(value: u64, digits: usize) -> String {
    let text = format!("{value:0>width$}", width = digits + 1);
    let (whole, part) = text.split_at(text.len() - digits);
    let part = part.trim_end_matches('0');
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_api::{Gate, Waits};

    #[test]
    fn times_are_exact_seconds() {
        for (value, digits, text) in [
            (0, 9, "0"),
            (1024, 9, "0.000001024"),
            (1_500_000_000, 9, "1.5"),
            (12, 3, "0.012"),
            (u64::MAX, 9, "18446744073.709551615"),
            (7, 0, "7"),
        ] {
            assert_eq!(decimal(value, digits), text);
        }
    }

    #[test]
    fn one_series_for_each_role_and_one_of_them_is_1() {
        for role in ROLES {
            let text = exposition(&Status { role, ..Status::default() });
            let series: Vec<&str> =
                text.lines().filter(|l| l.starts_with("understudy_role{")).collect();
            assert_eq!(series.len(), ROLES.len());
            let ones: Vec<&&str> = series.iter().filter(|l| l.ends_with(" 1")).collect();
            assert_eq!(ones.len(), 1);
            assert!(ones[0].contains(&format!("role=\"{role}\"")), "{ones:?}");
        }
    }

    #[test]
    fn names_of_others_cannot_break_a_line() {
        let mut s = Status { cluster: "a\"} 1\nx{y=\"\\".into(), ..Status::default() };
        s.counters.insert("evil 1\nfake_total".into(), 3);
        s.counters.insert("naks_sent".into(), 5);
        let text = exposition(&s);
        assert!(
            text.contains(r#"understudy_naks_sent_total{cluster="a\"} 1\nx{y=\"\\",node=""} 5"#),
            "{text}"
        );
        assert!(!text.contains("fake"), "{text}");
        assert!(text.lines().all(|l| l.starts_with("understudy_") || l.starts_with("# ")));
    }

    #[test]
    fn the_histogram_is_cumulative() {
        let waits = Waits { bounds_ns: vec![1024, 2048], counts: vec![3, 2, 1], sum_ns: 9_000 };
        let gate = Gate { waits, ..Gate::default() };
        let text = exposition(&Status { gate, ..Status::default() });
        let lines: Vec<&str> =
            text.lines().filter(|l| l.starts_with("understudy_gate_wait_seconds")).collect();
        let expected = [
            r#"understudy_gate_wait_seconds_bucket{cluster="",node="",le="0.000001024"} 3"#,
            r#"understudy_gate_wait_seconds_bucket{cluster="",node="",le="0.000002048"} 5"#,
            r#"understudy_gate_wait_seconds_bucket{cluster="",node="",le="+Inf"} 6"#,
            r#"understudy_gate_wait_seconds_sum{cluster="",node=""} 0.000009"#,
            r#"understudy_gate_wait_seconds_count{cluster="",node=""} 6"#,
        ];
        assert_eq!(lines, expected);
    }
}
