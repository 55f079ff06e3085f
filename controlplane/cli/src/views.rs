//! `nodes`, `clones`, `log`: parts of a status, as text.

use std::fmt::Write as _;

use understudy_api::{CloneView, LogView, NodeView, Role};

use crate::text::{Table, bytes, dash, field, plain, yes};

fn role(role: Option<Role>) -> String {
    dash(role.map(|r| r.to_string()))
}

pub fn nodes(all: &[NodeView]) -> String {
    let mut table = Table::new(&[
        "Node",
        ">Id",
        "Role",
        "Alive",
        "Ready",
        ">Epoch",
        ">Position",
        ">Lag",
        "Commit",
        ">Replica",
        ">Second",
    ]);
    for n in all {
        let ago = |ms: Option<u64>| match (ms, n.this) {
            (Some(ms), _) => format!("{ms} ms"),
            (None, true) => "-".to_owned(),
            (None, false) => "never".to_owned(),
        };
        let commit = n.in_commit_set.map(|is| if is { "in" } else { "out" }.to_owned());
        table.row(vec![
            if n.this { format!("{} *", n.name) } else { n.name.clone() },
            n.id.to_string(),
            role(n.role),
            yes(n.alive).into(),
            yes(n.ready).into(),
            n.epoch.to_string(),
            n.position.to_string(),
            bytes(n.lag_bytes),
            dash(commit),
            ago(n.replica_path_ms),
            ago(n.second_path_ms),
        ]);
    }
    let mut out = String::new();
    table.write(&mut out, "");
    out
}

pub fn clones(all: &[CloneView]) -> String {
    let mut table = Table::new(&[
        "Node",
        "Role",
        "Ready",
        ">Applied",
        ">Behind",
        ">Same",
        ">Diverged",
        "Checkpoint",
    ]);
    for c in all {
        let count = |n: Option<u64>| dash(n.map(|n| n.to_string()));
        let checkpoint = match (&c.restoring, &c.checkpoint) {
            (Some(r), _) => {
                format!("{}, {} of {}", r.stage, bytes(r.bytes_done), bytes(r.bytes_total))
            }
            (None, Some(own)) => format!("{} at {}", own.generation, own.position),
            (None, None) => "-".to_owned(),
        };
        table.row(vec![
            if c.this { format!("{} *", c.node) } else { c.node.clone() },
            role(c.role),
            yes(c.ready).into(),
            c.applied.to_string(),
            bytes(c.behind_bytes),
            count(c.audit_same),
            count(c.audit_diverged),
            checkpoint,
        ]);
    }
    let mut out = String::new();
    table.write(&mut out, "");
    for c in all {
        for why in &c.not_ready_because {
            let _ = writeln!(out, "{} is not ready: {}", plain(&c.node), plain(why));
        }
    }
    out
}

pub fn log(l: &LogView) -> String {
    let mut out = String::new();
    field(&mut out, "Node", &format!("{}, epoch {}", l.node, l.epoch));
    field(
        &mut out,
        "Log",
        &format!(
            "start {}  committed {}  applied {}  end {}",
            l.start, l.committed, l.applied, l.end
        ),
    );
    field(
        &mut out,
        "",
        &format!(
            "{} of {} used, {} uncommitted, {} not applied",
            bytes(l.used_bytes),
            bytes(l.capacity_bytes),
            bytes(l.uncommitted_bytes),
            bytes(l.not_applied_bytes),
        ),
    );
    field(
        &mut out,
        "Captured",
        &format!(
            "{} frames, {}, {} dropped because it was full",
            l.captured_frames,
            bytes(l.captured_bytes),
            l.dropped_full
        ),
    );
    let mut table = Table::new(&["Peer", ">Position", ">Lag"]);
    for p in &l.peers {
        table.row(vec![p.name.clone(), p.position.to_string(), bytes(p.lag_bytes)]);
    }
    table.write(&mut out, "");
    out
}
