//! The rules of a capture-only node.

use super::{Source, absolute, device, device_name, machine, metrics, name, no_nul, range, socket};
use crate::capture::{CaptureNode, DEVICES_MAX, FRAME_BYTES_MAX};
use crate::{ConfigError, interface};

const FILTER_BYTES_MAX: usize = 1024;
const MINUTES_MAX: u64 = 10 * 366 * 24 * 60;
const KEEP_MB_MAX: u64 = 1 << 40;

pub(crate) fn capture(node: &CaptureNode, source: &Source<'_>) -> Result<(), ConfigError> {
    let c = &node.capture;
    name(source, &["capture", "node"], &c.node)?;
    devices(&c.devices, source)?;
    absolute(source, &["capture", "directory"], &c.directory)?;
    let frame = u64::from(c.frame_bytes_max);
    range(source, &["capture", "frame_bytes_max"], frame, 64..=FRAME_BYTES_MAX.into())?;
    range(source, &["capture", "snap_len"], c.snap_len.into(), 0..=FRAME_BYTES_MAX.into())?;
    no_nul(source, &["capture", "filter"], &c.filter)?;
    if c.filter.len() > FILTER_BYTES_MAX {
        return Err(source.invalid(
            &["capture", "filter"],
            format!("it has {} bytes, at most {FILTER_BYTES_MAX} are allowed", c.filter.len()),
        ));
    }
    range(source, &["capture", "segment_mb"], c.segment_mb.into(), 1..=4096)?;
    range(source, &["capture", "block_kb"], c.block_kb.into(), 4..=2048)?;
    range(source, &["capture", "keep_mb"], c.keep_mb, 2 * u64::from(c.segment_mb)..=KEEP_MB_MAX)?;
    range(source, &["capture", "keep_minutes"], c.keep_minutes, 0..=MINUTES_MAX)?;
    range(source, &["capture", "flush_ms"], c.flush_ms, 1..=60_000)?;
    machine(&node.dpdk, &node.idle, &node.log, source)?;
    metrics(node.metrics.as_ref(), std::iter::empty(), source)?;
    socket(&node.control.socket, source)
}

fn devices(devices: &[String], source: &Source<'_>) -> Result<(), ConfigError> {
    if !(1..=DEVICES_MAX).contains(&devices.len()) {
        return Err(source.invalid(
            &["capture", "devices"],
            format!("{} devices are given, 1..={DEVICES_MAX} are allowed", devices.len()),
        ));
    }
    for (i, text) in devices.iter().enumerate() {
        let at = i.to_string();
        let at = &["capture", "devices", at.as_str()];
        device(source, at, text)?;
        let same = |other: &&String| {
            device_name(other) == device_name(text)
                || interface(other).is_some_and(|name| interface(text) == Some(name))
        };
        if devices[..i].iter().any(|other| same(&other)) {
            return Err(source.invalid(at, format!("{text:?} is given twice, once is allowed")));
        }
    }
    Ok(())
}
