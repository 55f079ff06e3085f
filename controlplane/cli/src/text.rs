//! Text for people, from the structs that are also the JSON.

mod capture_node;

use std::fmt::Write;

use understudy_api::check::CheckReport;
use understudy_api::{
    Arbiter, Checkpoint, Checkpoints, Conns, Drained, Events, Keys, Role, Status, SwitchoverDone,
    TimelineEvent,
};

pub use capture_node::capture_node;

/// Text of others, safe for a terminal.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// An aligned table; numbers are right-aligned.
pub struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns by their titles; one that begins with `>` is right-aligned.
    pub fn new(titles: &[&str]) -> Self {
        let right = titles.iter().map(|t| t.starts_with('>')).collect();
        let titles = titles.iter().map(|t| t.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![titles] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|c| plain(c)).collect());
    }

    pub fn write(&self, out: &mut String, indent: &str) {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&self.right) {
                // Writing to a String does not fail.
                let _ = if right {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

pub fn field(out: &mut String, name: &str, value: &str) {
    out.push_str(format!("{name:<9} {}", plain(value)).trim_end());
    out.push('\n');
}

pub fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

pub fn dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// `1d02h`, `2h03m`, `4m05s` or `6.789s`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}.{:03}s", ms % 1000),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `, 98.7 %`-style shares; nothing of nothing is no share.
fn share(part: u64, whole: u64) -> Option<String> {
    (whole != 0).then(|| format!("{:.1}%", part as f64 * 100.0 / whole as f64))
}

pub fn status(s: &Status) -> String {
    let mut out = plain(&s.verdict_line());
    out.push('\n');
    let primary = dash(s.primary.clone());
    field(&mut out, "Node", &format!("{} (id {}) of cluster {}", s.node, s.node_id, s.cluster));
    field(&mut out, "Role", &format!("{}, epoch {}, primary {primary}", s.role, s.epoch));
    if s.not_ready_because.is_empty() {
        field(&mut out, "Ready", yes(s.ready));
    } else {
        for (i, why) in s.not_ready_because.iter().enumerate() {
            let name = if i == 0 { "Ready" } else { "" };
            let lead = if i == 0 { format!("{}: ", yes(s.ready)) } else { "    ".to_owned() };
            field(&mut out, name, &format!("{lead}{why}"));
        }
    }
    let app = match (s.service.app_running, s.service.app_pid) {
        (true, Some(pid)) => format!("running, pid {pid}"),
        (true, None) => "running".to_owned(),
        (false, _) if s.role == Role::Witness => "not on a witness".to_owned(),
        (false, _) => "not running".to_owned(),
    };
    field(
        &mut out,
        "Service",
        &format!("{}  {}  {}  {app}", s.service.name, s.service.vip.join(" "), s.service.vmac),
    );
    let log = &s.log;
    let used = log.end.saturating_sub(log.start);
    field(
        &mut out,
        "Log",
        &format!(
            "start {}  committed {}  applied {}  end {}",
            log.start, log.committed, log.applied, log.end
        ),
    );
    field(
        &mut out,
        "",
        &format!(
            "{} of {} used, {} uncommitted, {} not applied",
            bytes(used),
            bytes(log.capacity_bytes),
            bytes(log.end.saturating_sub(log.committed)),
            bytes(log.end.saturating_sub(log.applied)),
        ),
    );
    let gate = &s.gate;
    let zero_wait = match share(gate.released_zero_wait, gate.released) {
        Some(share) => format!(" ({share} with zero wait)"),
        None => String::new(),
    };
    let uncovered = match gate.uncovered_frames {
        0 => String::new(),
        n => format!(" ({n} for a checkpoint)"),
    };
    let set = match (s.role, gate.alone) {
        (Role::Primary, true) => ", alone".to_owned(),
        (Role::Primary, false) if !s.peers.is_empty() => format!(
            ", commit set {} of {}, at least {}",
            gate.replicas_in_set,
            s.peers.len(),
            gate.replicas_required
        ),
        _ => String::new(),
    };
    field(
        &mut out,
        "Gate",
        &format!(
            "{}, policy {}{set}  waiting {}{uncovered}  released {}{zero_wait}  dropped {}",
            if gate.open { "open" } else { "closed" },
            gate.policy,
            gate.waiting_frames,
            gate.released,
            gate.dropped,
        ),
    );
    if let Some(arbiter) = &s.arbiter {
        field(&mut out, "Arbiter", &arbiter_line(arbiter));
    }
    if let Some(c) = &s.checkpoints {
        checkpoints(c, &mut out);
    }
    for f in &s.faults {
        let about = f.peer.as_ref().map_or(String::new(), |peer| format!(" of {peer}"));
        let line = format!(
            "{}{about} ({}) for {}: {}; policy {}",
            f.resource,
            f.cause,
            duration(f.since_ms),
            f.detail,
            f.policy
        );
        field(&mut out, "Fault", &line);
    }
    field(
        &mut out,
        "Daemon",
        &format!("version {}, pid {}, up {}", s.version, s.pid, duration(s.uptime_ms)),
    );

    if !s.peers.is_empty() {
        out.push('\n');
        peers(s, &mut out);
    }
    takeover(s, &mut out);
    if !s.counters.is_empty() {
        out.push_str("\nCounters\n");
        let width = s.counters.keys().map(|name| plain(name).chars().count()).max().unwrap_or(0);
        for (name, value) in &s.counters {
            let _ = writeln!(out, "  {:<width$}  {value}", plain(name));
        }
    }
    out
}

fn arbiter_line(arbiter: &Arbiter) -> String {
    let answers = match arbiter.reachable {
        Some(true) => "answers",
        Some(false) => "does not answer: nobody can take over without the other node",
        None => "not asked yet",
    };
    let named = match &arbiter.register {
        Some(r) => format!("names {} since epoch {}", r.members.join(" and "), r.since),
        None => "names nobody yet".to_owned(),
    };
    let exposed = if arbiter.alone { ", serving ALONE: exposed" } else { "" };
    format!("{answers}, {named}{exposed}")
}

fn peers(s: &Status, out: &mut String) {
    let mut table = Table::new(&[
        "Peer",
        ">Id",
        "Role",
        "Alive",
        ">Replica",
        ">Second",
        ">Epoch",
        ">Position",
        ">Applied",
        ">Lag",
        "Commit",
        "Clone",
    ]);
    let ago = |ms: Option<u64>| ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
    for p in &s.peers {
        table.row(vec![
            p.name.clone(),
            p.id.to_string(),
            dash(p.role.map(|r| r.to_string())),
            yes(p.alive).into(),
            ago(p.replica_path_ms),
            ago(p.second_path_ms),
            p.epoch.to_string(),
            p.position.to_string(),
            p.applied.to_string(),
            bytes(p.lag_bytes),
            if p.in_commit_set { "in" } else { "out" }.into(),
            if p.clone_ready { "ready" } else { "not ready" }.into(),
        ]);
    }
    table.write(out, "");
    for p in &s.peers {
        if let Some(why) = &p.evicted_because {
            let _ = writeln!(out, "{} is out of the commit set: {}", plain(&p.name), plain(why));
        }
    }
}

fn takeover(s: &Status, out: &mut String) {
    let events = s.last_takeover();
    let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
    let _ =
        writeln!(out, "\nLast takeover, epoch {}, from {} UTC", last.epoch, utc_of(first.unix_ns));
    let mut table = Table::new(&[">ms", ">Epoch", "Event", "Detail"]);
    for e in events {
        let offset_ns = i128::from(e.unix_ns) - i128::from(first.unix_ns);
        table.row(vec![
            format!("{:+.3}", offset_ns as f64 / 1e6),
            e.epoch.to_string(),
            e.event.clone(),
            e.detail.clone(),
        ]);
    }
    table.write(out, "  ");
}

/// A line.
pub fn event(e: &TimelineEvent) -> String {
    let at = utc_of(e.unix_ns);
    let about = match (&e.resource, &e.cause) {
        (Some(resource), Some(cause)) => format!("{resource} ({cause}): "),
        (Some(resource), None) => format!("{resource}: "),
        (None, _) => String::new(),
    };
    let line = format!("{about}{}", e.detail);
    let line =
        format!("{:>6}  {at}  {:>5}  {:<19} {}", e.seq, e.epoch, plain(&e.event), plain(&line));
    line.trim_end().to_owned() + "\n"
}

pub fn events(all: &Events) -> String {
    let mut out: String = all.events.iter().map(event).collect();
    if all.not_stored > 0 {
        let _ = writeln!(out, "{} events are not on disk", all.not_stored);
    }
    if all.damaged > 0 {
        let _ = writeln!(out, "{} lines of the file of events could not be read", all.damaged);
    }
    out
}

/// Date and time, UTC.
pub fn utc_of(unix_ns: u64) -> String {
    utc(unix_ns / 1_000_000_000, unix_ns % 1_000_000_000 / 1_000_000)
}

/// Date and time of a count of seconds since 1970 (days to civil, Gregorian).
fn utc(seconds: u64, millis: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years, years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{millis:03}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

pub fn conns(c: &Conns) -> String {
    let mut out = String::new();
    let mut table = Table::new(&[
        "Proto",
        "State",
        ">Rqueue",
        ">Wqueue",
        "Client",
        "Server",
        "Origin",
        ">RTT-us",
        ">Received",
        ">Acked",
        ">Retrans",
    ]);
    for conn in &c.conns {
        table.row(vec![
            conn.proto.clone(),
            conn.state.clone(),
            conn.rqueue.to_string(),
            conn.wqueue.to_string(),
            conn.client.clone(),
            conn.server.clone(),
            if conn.adopted { "adopted" } else { "accepted" }.into(),
            dash(conn.rtt_us.map(|us| us.to_string())),
            conn.bytes_received.to_string(),
            conn.bytes_acked.to_string(),
            conn.retrans.to_string(),
        ]);
    }
    table.write(&mut out, "");
    let adopted = c.conns.iter().filter(|conn| conn.adopted).count();
    let more = if c.truncated { " shown, there are more" } else { "" };
    let n = c.conns.len();
    let noun = if n == 1 { "connection" } else { "connections" };
    let _ = writeln!(out, "{n} {noun}{more}, {adopted} adopted, role {}", c.role);
    out
}

pub fn switchover(done: &SwitchoverDone) -> String {
    format!(
        "{} has taken over from {} in {} ms, epoch {}\n",
        plain(&done.to),
        plain(&done.from),
        done.took_ms,
        done.epoch
    )
}

pub fn drained(d: &Drained) -> String {
    let node = plain(&d.node);
    match (d.drained, &d.switchover) {
        (true, Some(done)) => format!("{}{node} serves nobody until undrain\n", switchover(done)),
        (true, None) => format!("{node} serves nobody until undrain\n"),
        (false, _) => format!("{node} may take over again\n"),
    }
}

pub fn checkpoint(c: &Checkpoint) -> String {
    format!("checkpoint {}: {}\n", c.generation, checkpoint_line(c))
}

fn checkpoint_line(c: &Checkpoint) -> String {
    let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    let pending = match c.pending {
        0 => String::new(),
        n => format!(", {n} connections not accepted"),
    };
    format!(
        "position {}, {}, frozen {}, held {}, took {}{pending}",
        c.position,
        bytes(c.bytes),
        ms(c.frozen_us),
        ms(c.held_us),
        duration(c.took_ms)
    )
}

fn checkpoints(c: &Checkpoints, out: &mut String) {
    if let Some(newest) = &c.newest {
        let age = c.age_ms.map_or_else(String::new, |ms| format!(", {} ago", duration(ms)));
        let line = format!("{}: {}{age}", newest.generation, checkpoint_line(newest));
        field(out, "Image", &line);
    }
    if c.under_way {
        field(out, "Image", "under way");
    }
    if let Some(why) = &c.failed_because {
        field(out, "Image", &format!("failed: {why}"));
    }
    if let Some(r) = &c.restoring {
        let so_far = match r.bytes_total {
            0 => String::new(),
            total => format!(", {} of {}", bytes(r.bytes_done), bytes(total)),
        };
        let line = format!("{} since {}{so_far}", r.stage, duration(r.since_ms));
        field(out, "Restore", &line);
        if let Some(why) = &r.failed_because {
            field(out, "Restore", &format!("attempt {}: {why}", r.attempts));
        }
    }
}

pub fn keys(k: &Keys) -> String {
    let mut out = String::new();
    field(&mut out, "Seals", &k.seals);
    field(&mut out, "Opens", &k.opens.join(" "));
    for path in &k.paths {
        let _ = writeln!(out, "{} path", plain(&path.path));
        let mut table = Table::new(&["Peer", "Heard", "Key"]);
        for peer in &path.peers {
            let heard = if peer.known { "yes" } else { "no" };
            table.row(vec![peer.name.clone(), heard.into(), dash(peer.key.clone())]);
        }
        table.write(&mut out, "  ");
        let counted = path.counters.iter().filter(|(_, count)| **count > 0);
        for (name, count) in counted {
            let _ = writeln!(out, "  {:<24}{count:>12}", plain(name));
        }
    }
    out
}

pub fn check(report: &CheckReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {}",
        plain(&report.file),
        match (report.valid, report.environment_checked) {
            (true, true) => "valid, and this machine can run it",
            (true, false) => "valid",
            (false, _) => "refused",
        }
    );
    if let Some(group) = &report.group {
        field(&mut out, "Cluster", &format!("{}, node {}", group.cluster, group.node));
        field(&mut out, "Group", &group.tolerance);
    }
    for finding in &report.findings {
        let _ = writeln!(out, "{:<9} {}", finding.level, plain(&finding.message));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{bytes, duration, plain, share, utc};

    #[test]
    fn values_read_well() {
        assert_eq!(duration(0), "0.000s");
        assert_eq!(duration(59_999), "59.999s");
        assert_eq!(duration(61_000), "1m01s");
        assert_eq!(duration(7_380_000), "2h03m");
        assert_eq!(duration(u64::MAX), "213503982334d14h");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(share(1, 0), None);
        assert_eq!(share(987, 1000).as_deref(), Some("98.7%"));
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0, 0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_782_400, 5), "2000-02-29 00:00:00.005");
        assert_eq!(utc(1_735_689_599, 999), "2024-12-31 23:59:59.999");
        assert_eq!(utc(1_763_888_400, 0), "2025-11-23 09:00:00.000");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("é\u{1b}[31m\n\u{9b}"), "é\\u{1b}[31m\\n\\u{9b}");
    }
}
