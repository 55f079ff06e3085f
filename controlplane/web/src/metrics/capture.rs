//! The exposition of a node that only captures.

use understudy_api::{CaptureStatus, LinkStatus};

use super::{Exposition, escaped};

/// Everything that its status says in numbers.
#[must_use]
pub fn exposition(s: &CaptureStatus) -> String {
    let mut out = Exposition::labelled(format!("node=\"{}\"", escaped(&s.node)));
    out.family("understudy_info", "gauge", "Constant 1; its labels say what runs here.");
    out.sample("", &[("service", ""), ("version", &s.version)], 1);
    out.family("understudy_uptime_seconds", "gauge", "Time since the daemon started.");
    out.seconds("", &[], s.uptime_ms, 3);
    links(s, &mut out);
    disk(s, &mut out);
    out.text
}

fn links(s: &CaptureStatus, out: &mut Exposition) {
    type Field = fn(&LinkStatus) -> u64;
    let fields: [(&str, &str, &str, Field); 11] = [
        ("up", "gauge", "1 if the link is up, as far as its device says.", |l| l.up.into()),
        ("received_frames_total", "counter", "Frames received.", |l| l.received),
        ("received_bytes_total", "counter", "Bytes of them.", |l| l.received_bytes),
        ("filtered_frames_total", "counter", "Frames that the filter did not let pass.", |l| {
            l.filtered
        }),
        ("captured_frames_total", "counter", "Frames that were logged.", |l| l.captured),
        ("cut_frames_total", "counter", "Of them, those that were cut.", |l| l.cut),
        ("not_logged_frames_total", "counter", "Frames that did not fit in the log.", |l| {
            l.not_logged
        }),
        ("device_stamped_frames_total", "counter", "Frames that the device stamped.", |l| {
            l.device_stamped
        }),
        ("missed_frames_total", "counter", "Frames that the device had no room for.", |l| l.missed),
        ("error_frames_total", "counter", "Frames received with an error.", |l| l.errors),
        ("no_buffer_frames_total", "counter", "Frames without a packet buffer.", |l| l.no_buffer),
    ];
    for (name, kind, help, value) in fields {
        out.family(&format!("understudy_capture_link_{name}"), kind, help);
        for link in &s.links {
            out.sample("", &[("device", &link.device)], value(link));
        }
    }
}

fn disk(s: &CaptureStatus, out: &mut Exposition) {
    let store = &s.store;
    for (name, help, value) in [
        ("behind_bytes", "Records in memory that are not written yet.", s.behind_bytes),
        ("log_capacity_bytes", "Memory of the log.", s.log_bytes),
        ("segments", "Segments on disk.", store.segments),
        ("segments_bytes", "Their bytes.", store.bytes),
        ("segments_keep_bytes", "What they may be.", store.keep_bytes),
        ("disk_failed", "1 if the disk did not take what was written last.", {
            store.failed_because.is_some().into()
        }),
    ] {
        out.gauge(&format!("understudy_capture_{name}"), help, value);
    }
    for (name, help, value) in [
        ("written_records", "Records written.", store.written_records),
        ("written_bytes", "Bytes written.", store.written_bytes),
        ("blocks", "Blocks written.", store.blocks),
        ("lost_records", "Records overwritten in memory before they were written.", {
            store.lost_records
        }),
        ("unwritten_records", "Records that the disk did not take.", store.unwritten_records),
        ("removed_segments", "Segments deleted.", store.removed_segments),
        ("removed_for_space_segments", "Of them, because the disk was full.", {
            store.removed_for_space
        }),
        ("unsynced_segments", "Segments left to the kernel to bring to the disk.", {
            store.unsynced_segments
        }),
        ("disk_failures", "Attempts of all kinds that failed.", store.failures),
    ] {
        out.counter(&format!("understudy_capture_{name}_total"), help, value);
    }
    if let Some(free_bytes) = store.free_bytes {
        let help = "Room on the disk beside the segments.";
        out.gauge("understudy_capture_disk_free_bytes", help, free_bytes);
    }
    if let Some(oldest_ns) = store.oldest_unix_ns {
        let help = "Time of the oldest record on disk.";
        out.family("understudy_capture_oldest_timestamp_seconds", "gauge", help);
        out.seconds("", &[], oldest_ns, 9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_its_own_series_and_nothing_breaks_a_line() {
        let link = |device: &str, received| LinkStatus {
            device: device.into(),
            received,
            ..LinkStatus::default()
        };
        let links = vec![link("net_pcap_a,rx_iface_in=\"x\"", 3), link("b\ny 1", 4)];
        let s = CaptureStatus { node: "tap".into(), links, ..CaptureStatus::default() };
        let text = exposition(&s);
        let wanted = r#"understudy_capture_link_received_frames_total{node="tap",device="net_pcap_a,rx_iface_in=\"x\""} 3"#;
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains(r#"{node="tap",device="b\ny 1"} 4"#), "{text}");
        assert!(text.lines().all(|l| l.starts_with("understudy_") || l.starts_with("# ")));
    }
}
