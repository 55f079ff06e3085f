//! `understudy check`: the file, and by `understudyd --check` this machine.

use std::ffi::OsStr;
use std::path::Path;

use understudy_api::check::{CheckReport, Finding, Findings, Group, Level};
use understudy_api::{ApiError, ErrorCode};
use understudy_config::{CaptureNode, CommitPolicy, Config, NodeFile, NodeRole};

use crate::probe;

/// What only the daemon can find out.
const NOT_CHECKED: &str = "not checked: devices, huge pages, CPUs, kernel and application of this \
                           machine";

pub fn check(file: &Path) -> (CheckReport, Option<ApiError>) {
    let mut report = CheckReport { file: file.display().to_string(), ..CheckReport::default() };
    let config = match NodeFile::load(file) {
        Ok(config) => config,
        Err(e) => {
            let error = crate::config_error(&e);
            report.findings.push(Finding::new(Level::Error, error.message.clone()));
            return (report, Some(error));
        }
    };
    match &config {
        NodeFile::Service(config) => {
            report.group = Some(group(config));
            report.findings = advice(config);
        }
        NodeFile::Capture(node) => report.findings = capture_advice(node),
    }
    let failure = check_machine(file, &mut report);
    let errors = report.findings.iter().filter(|f| f.level == Level::Error).count();
    report.valid = errors == 0;
    let error = match (failure, errors) {
        (Some(message), _) => Some(ApiError::new(ErrorCode::Runtime, message)),
        (None, 0) => None,
        (None, n) => {
            let first = report.findings.iter().find(|f| f.level == Level::Error);
            let first = first.map_or("", |f| f.message.as_str());
            let more = if n > 1 { format!(" (and {} more)", n - 1) } else { String::new() };
            Some(ApiError::new(ErrorCode::InvalidConfig, format!("{first}{more}")))
        }
    };
    (report, error)
}

fn group(config: &Config) -> Group {
    let voters = config.nodes.len();
    let losses_tolerated = voters - config.majority();
    Group {
        cluster: config.cluster.name.clone(),
        node: config.cluster.node.clone(),
        voters,
        majority: config.majority(),
        losses_tolerated,
        policy: config.commit.policy.to_string(),
        tolerance: tolerance(config, losses_tolerated),
    }
}

fn tolerance(config: &Config, losses: usize) -> String {
    let voters = config.nodes.len();
    let policy = config.commit.policy;
    if voters == 1 {
        return format!("1 voter, policy {policy}: no takeover, the service dies with this node");
    }
    let nodes = match losses {
        1 => "one node".to_owned(),
        n => format!("any {n} nodes"),
    };
    let but = match policy {
        CommitPolicy::Quorum | CommitPolicy::Any => "nothing that clients were told is lost".into(),
        CommitPolicy::All => format!(
            "nothing that clients were told is lost, but output waits for every replica, up to \
             {} ms for one that is silent",
            config.commit.evict_after_ms
        ),
        CommitPolicy::Checkpoint => {
            "nothing that clients were told is lost or contradicted; every reply waits for a checkpoint".into()
        }
        CommitPolicy::None => {
            "but what clients were told last may be lost and connections may break".into()
        }
    };
    let witness = config.nodes.iter().any(|n| n.role == NodeRole::Witness);
    let one = if witness { ", one a witness" } else { "" };
    format!("{voters} voters{one}, policy {policy}: survives the loss of {nodes}; {but}")
}

/// What two nodes with an arbiter do when one of the three is gone.
fn pair_advice(min: usize) -> &'static str {
    match min {
        0 => {
            "two nodes and an arbiter: a lost node is taken over, or done without, only if the arbiter answers; \
             without the arbiter the primary goes on with its replica and nobody takes over; without arbiter and \
             replica output stops until one is back; a primary alone is exposed (commit.min = 1 stops it instead)"
        }
        _ => {
            "two nodes and an arbiter, commit.min = 1: a lost primary is taken over only if the arbiter answers, and \
             output waits whenever one of the two nodes is gone"
        }
    }
}

/// What a node that only captures is, and what may not be meant.
fn capture_advice(node: &CaptureNode) -> Vec<Finding> {
    let c = &node.capture;
    let links = c.devices.len();
    let minutes = match c.keep_minutes {
        0 => String::new(),
        minutes => format!(" and {minutes} minutes"),
    };
    let mut findings = vec![Finding::new(
        Level::Info,
        format!(
            "a node that only captures: {links} link{}, {} MB{minutes} on disk; it protects no service",
            if links == 1 { "" } else { "s" },
            c.keep_mb
        ),
    )];
    if !c.filter.is_empty() {
        let text =
            format!("capture.filter: what does not match {:?} is never seen again", c.filter);
        findings.push(Finding::new(Level::Warn, text));
    }
    findings
}

/// What is valid but perhaps not meant.
fn advice(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |level, message: &str| findings.push(Finding::new(level, message));
    if config.nodes.len() == 1 {
        add(Level::Warn, "the group has one node: there is nobody to take over");
    } else if config.commit.policy == CommitPolicy::None {
        add(
            Level::Warn,
            "commit.policy \"none\": replies leave before a replica holds their cause",
        );
    }
    if let Some(arbiter) = &config.arbiter {
        add(Level::Info, pair_advice(config.commit_min()));
        if arbiter.etcd.iter().any(|endpoint| endpoint.starts_with("http://")) {
            add(
                Level::Warn,
                "arbiter.etcd over http://: whoever can write there decides who serves",
            );
        }
    } else if config.nodes.len() > 1 && config.nodes.len().is_multiple_of(2) {
        let less = config.nodes.len() - 1;
        let message = format!(
            "an even number of nodes tolerates no more losses than one node fewer ({less})"
        );
        add(Level::Info, &message);
    }
    if config.commit_min() > config.commit_min_least() {
        let (min, replicas) = (config.commit_min(), config.nodes.len() - 1);
        let message = format!(
            "commit.min = {min}: output stops while fewer than {min} of {replicas} replicas keep up"
        );
        add(Level::Info, &message);
    }
    if config.dpdk.memory_mb == 0 {
        add(Level::Warn, "dpdk.memory_mb = 0: no huge pages, slow and for tests only");
    }
    findings
}

/// Runs the daemon's own check. Gives the message of a failure to check.
fn check_machine(file: &Path, report: &mut CheckReport) -> Option<String> {
    let mut skip = |why: &str| {
        report.findings.push(Finding::new(Level::Info, format!("{NOT_CHECKED} ({why})")));
        None
    };
    let Some(daemon) = probe::daemon() else {
        return skip("understudyd is neither next to this program nor in PATH");
    };
    if !is_root() {
        return skip("only root can check them");
    }
    let asked = [OsStr::new("--check"), file.as_os_str()];
    match probe::ask::<Findings>(&daemon, &asked, &[0, 1, 3], probe::CHECK_TIMEOUT) {
        Ok((Findings { findings }, code)) => {
            let error = findings.iter().any(|f| f.level == Level::Error);
            report.environment_checked = code != 1 || error;
            report.findings.extend(findings);
            match code {
                1 if error => return Some("this machine cannot run it as it is".into()),
                1 => {
                    let message = format!("{} could not check this machine", daemon.display());
                    report.findings.push(Finding::new(Level::Error, message.clone()));
                    return Some(message);
                }
                3 if !error => {
                    let message = format!("{} refuses the file without a reason", daemon.display());
                    report.findings.push(Finding::new(Level::Error, message));
                }
                _ => {}
            }
            None
        }
        Err(e) => {
            let message = format!("{e:#}");
            report.findings.push(Finding::new(Level::Error, message.clone()));
            Some(message)
        }
    }
}

/// The effective user id, as the kernel tells it.
fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| effective_uid(&status) == Some(0))
}

fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::effective_uid;

    #[test]
    fn the_effective_uid_is_the_second() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Uid:\t0"), None);
        assert_eq!(effective_uid(""), None);
    }
}
