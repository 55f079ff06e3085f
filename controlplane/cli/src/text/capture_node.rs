//! The status of a node that only captures.

use understudy_api::{CaptureStatus, LinkStatus, StoreStatus};

use super::{Table, bytes, duration, field, utc, yes};

/// For people.
pub fn capture_node(s: &CaptureStatus) -> String {
    let mut out = String::new();
    field(&mut out, "Node", &format!("{}  captures only", s.node));
    let filter = match s.filter.as_str() {
        "" => "none".to_owned(),
        filter => format!("{filter}  ({})", s.filter_runs_as),
    };
    field(&mut out, "Filter", &filter);
    if s.snap_len > 0 {
        field(&mut out, "Snaplen", &s.snap_len.to_string());
    }
    let log =
        format!("{} of {} in memory not written yet", bytes(s.behind_bytes), bytes(s.log_bytes));
    field(&mut out, "Log", &log);
    store(&s.store, &mut out);
    let daemon = format!("version {}, pid {}, up {}", s.version, s.pid, duration(s.uptime_ms));
    field(&mut out, "Daemon", &daemon);
    out.push('\n');
    links(&s.links, &mut out);
    out
}

fn store(s: &StoreStatus, out: &mut String) {
    let oldest = s.oldest_unix_ns.map_or("nothing yet".to_owned(), |ns| {
        format!("since {} UTC", utc(ns / 1_000_000_000, ns / 1_000_000 % 1000))
    });
    let free = s.free_bytes.map_or(String::new(), |free| format!(", {} free", bytes(free)));
    let held = format!(
        "{}: {} segments, {} of {}{free}, {oldest}",
        s.directory,
        s.segments,
        bytes(s.bytes),
        bytes(s.keep_bytes)
    );
    field(out, "Disk", &held);
    let written = format!(
        "{} records written in {} blocks, {}; {} segments deleted",
        s.written_records,
        s.blocks,
        bytes(s.written_bytes),
        s.removed_segments
    );
    field(out, "", &written);
    // Only what should not be.
    for (count, what) in [
        (s.lost_records, "records LOST: overwritten in memory, the disk is too slow"),
        (s.unwritten_records, "records NOT WRITTEN: the disk did not take them"),
        (s.removed_for_space, "segments deleted early: the disk is full"),
        (s.recovered_segments, "segments of a daemon that died ended at the start"),
        (s.cut_bytes, "bytes cut off them: no whole block"),
        (s.damaged_files, "files that are no segments, now called .damaged"),
        (s.unsynced_segments, "segments left to the kernel to bring to the disk"),
        (s.failures, "failures so far"),
    ] {
        if count > 0 {
            field(out, "", &format!("{count} {what}"));
        }
    }
    if let Some(why) = &s.failed_because {
        field(out, "FAILS", why);
    }
}

fn links(links: &[LinkStatus], out: &mut String) {
    let mut table = Table::new(&[
        ">Link",
        "Up",
        ">Received",
        ">Filtered",
        ">Captured",
        ">Cut",
        ">Not logged",
        ">Missed",
        ">Errors",
        ">No buffer",
    ]);
    for (number, l) in links.iter().enumerate() {
        let counts = [
            l.received,
            l.filtered,
            l.captured,
            l.cut,
            l.not_logged,
            l.missed,
            l.errors,
            l.no_buffer,
        ];
        let mut row = vec![number.to_string(), yes(l.up).into()];
        row.extend(counts.map(|n| n.to_string()));
        table.row(row);
    }
    table.write(out, "");
    for (number, l) in links.iter().enumerate() {
        field(out, &format!("Link {number}"), &l.device);
        let stamped = match l.device_stamped {
            0 => String::new(),
            n => format!("; {n} frames stamped by the device"),
        };
        field(
            out,
            "",
            &format!("{} received; timestamps: {}{stamped}", bytes(l.received_bytes), l.clock),
        );
    }
}
