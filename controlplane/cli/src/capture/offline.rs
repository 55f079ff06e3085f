//! The segments of a capture-only node without its daemon: it may be dead, or the disk elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use understudy_api::stream::{DiskRead, Piece};
use understudy_api::{ApiError, Capturing, ErrorCode, Request};
use understudy_pcap::Filter;
use understudy_segments::{Found, Needs, Scan, Segment, Wanted, list};

use super::session::Session;
use super::{CaptureArguments, Ended, request, session};

/// A directory that is read.
pub struct Reading {
    paths: Vec<PathBuf>,
    scan: Scan,
    stop: Arc<AtomicBool>,
}

pub fn begin(
    arguments: &CaptureArguments,
    directory: &Path,
    filter: Filter,
    stop: Arc<AtomicBool>,
) -> Result<(Session, Reading), ApiError> {
    let runtime = |text: String| ApiError::new(ErrorCode::Runtime, text);
    let asked = request(arguments).map_err(|text| ApiError::new(ErrorCode::Usage, text))?;
    let (from_ns, to_ns) = match asked {
        Request::Capture { from_ns, to_ns, .. } => {
            (from_ns.unwrap_or(0), to_ns.unwrap_or(u64::MAX))
        }
        _ => (0, u64::MAX),
    };
    let paths = list(directory)
        .map_err(|e| runtime(format!("cannot read {}: {e}", directory.display())))?;
    // The newest that can be read says what it is from.
    let Some(newest) = paths.iter().rev().find_map(|path| Segment::open(path).ok()) else {
        return Err(runtime(format!("there is no segment in {}", directory.display())));
    };
    let info = newest.info();
    let from = Capturing {
        node: info.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        clock: info.clock.clone(),
        links: info.links.clone(),
        node_filter: info.filter.clone(),
        ..Capturing::default()
    };
    let needs = Needs::of_filter(filter.text());
    let scan = Scan::new(Wanted { from_ns, to_ns, needs });
    Ok((session(arguments, &from, filter)?, Reading { paths, scan, stop }))
}

impl Reading {
    pub fn run(&mut self, session: &mut Session) -> Result<(), Ended> {
        let read = self.read(session);
        let s = &self.scan.scanned;
        let disk = DiskRead {
            segments_read: s.segments_read,
            segments_skipped: s.segments_skipped,
            blocks_read: s.blocks_read,
            blocks_skipped: s.blocks_skipped,
            bytes_read: s.bytes_read,
            damaged: s.damaged,
        };
        session.take(Piece::Read(disk))?;
        match read {
            Err(Ended::Stopped) => Ok(()),
            other => other,
        }
    }

    fn read(&mut self, session: &mut Session) -> Result<(), Ended> {
        let (stop, wanted) = (Arc::clone(&self.stop), self.scan.wanted.clone());
        for path in &self.paths {
            self.scan.segment(path, &mut |found| {
                if stop.load(Ordering::Relaxed) {
                    return Err(Ended::Stopped);
                }
                let is_over = match found {
                    Found::Block(_, block) => {
                        if block.header.lost > 0 {
                            session.take(Piece::Lost(block.header.lost))?;
                        }
                        let (position, bytes) = block.between(wanted.from_ns, wanted.to_ns);
                        session.take(Piece::Records { position, bytes })?
                    }
                    Found::Damaged(e) => {
                        let text = format!("not read: {e}");
                        session.take(Piece::Note { position: 0, text })?
                    }
                    Found::Segment(_) | Found::Skipped => false,
                };
                if is_over { Err(Ended::Stopped) } else { Ok(()) }
            })?;
        }
        Ok(())
    }
}
