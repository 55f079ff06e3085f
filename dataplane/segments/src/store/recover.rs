//! What is in the directory at the start, and the end of what a dead writer left open.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use understudy_wire::record::records;

use super::catalogue::SegmentMeta;
use super::keys_bytes;
use crate::block::frame_of;
use crate::bloom::Bloom;
use crate::format::{FILE_HEADER_BYTES, Footer, SegmentInfo, TRAILER_BYTES, Trailer};
use crate::keys::frame_keys;
use crate::query::Needs;
use crate::reader::{Segment, SegmentError};

const PREFIX: &str = "segment-";
const SUFFIX: &str = ".useg";

/// What was found at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments that had no end and were given one.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of theirs that were no whole block.
    pub cut_bytes: u64,
    /// Files that were no segment: they have another name now.
    pub damaged_files: u64,
}

pub(super) fn path_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{id:012}{SUFFIX}"))
}

/// The segments of a directory, oldest first.
///
/// # Errors
/// If it cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let Some(id) = id.and_then(|id| id.parse::<u64>().ok()) {
            found.push((id, dir.join(&name)));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

pub(super) fn recover(dir: &Path) -> io::Result<(Vec<SegmentMeta>, Recovered)> {
    let (mut segments, mut recovered) = (Vec::new(), Recovered::default());
    for path in list(dir)? {
        if let Ok(Some(meta)) = sealed(&path) {
            segments.push(meta);
            continue;
        }
        match end(&path, &mut recovered) {
            Ok(meta) => segments.extend(meta),
            // One file that cannot be read is no reason to capture nothing. If it cannot be given
            // another name either, it is met again at the next start.
            Err(_) => {
                recovered.damaged_files += 1;
                let _ = fs::rename(&path, path.with_extension("damaged"));
            }
        }
    }
    segments.sort_unstable_by_key(|s| s.id);
    Ok((segments, recovered))
}

/// A segment that was ended, by its header and trailer alone.
fn sealed(path: &Path) -> io::Result<Option<SegmentMeta>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes < (FILE_HEADER_BYTES + TRAILER_BYTES) as u64 {
        return Ok(None);
    }
    let (mut head, mut tail) = (vec![0; FILE_HEADER_BYTES], [0; TRAILER_BYTES]);
    file.read_exact_at(&mut head, 0)?;
    file.read_exact_at(&mut tail, bytes - TRAILER_BYTES as u64)?;
    let (Ok(info), Ok(trailer)) = (SegmentInfo::decode(&head), Trailer::decode(&tail)) else {
        return Ok(None);
    };
    Ok((trailer.segment == info.id).then(|| SegmentMeta {
        id: info.id,
        run_ns: info.run_ns,
        path: path.into(),
        bytes,
        records: trailer.records,
        first_ns: trailer.first_ns,
        last_ns: trailer.last_ns,
    }))
}

/// Ends a segment behind its last block that is whole and undamaged; one without any goes.
fn end(path: &Path, recovered: &mut Recovered) -> Result<Option<SegmentMeta>, SegmentError> {
    let failed = |source| SegmentError::Io { path: path.into(), source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len < FILE_HEADER_BYTES as u64 {
        // Nothing had been written yet.
        recovered.cut_bytes += len;
        fs::remove_file(path).map_err(failed)?;
        return Ok(None);
    }
    let segment = Segment::open(path)?;
    let mut footer = Footer { blocks: Vec::new(), keys: Bloom::with_bytes(keys_bytes(len)) };
    let mut cut_at = FILE_HEADER_BYTES as u64;
    for entry in segment.blocks() {
        match segment.read(entry, &Needs::Any) {
            Ok(Some(block)) => add_keys(&block.records, &mut footer.keys),
            Ok(None) | Err(SegmentError::Format { .. }) => break,
            Err(e) => return Err(e),
        }
        footer.blocks.push(*entry);
        cut_at = entry.offset + u64::from(entry.stored_bytes);
    }
    recovered.cut_bytes += len - cut_at;
    if footer.blocks.is_empty() {
        fs::remove_file(path).map_err(failed)?;
        return Ok(None);
    }
    let info = segment.info();
    let tail = footer.encode(info.id, cut_at, 1);
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let written = file
        .set_len(cut_at)
        .and_then(|()| file.write_all_at(&tail, cut_at))
        .and_then(|()| file.sync_all());
    let records: u64 = footer.blocks.iter().map(|b| u64::from(b.records)).sum();
    let bytes = if written.is_ok() {
        recovered.segments += 1;
        recovered.records += records;
        cut_at + tail.len() as u64
    } else {
        // The disk is full, perhaps: without its end it is read all the same, and it is given one at
        // the next start.
        let _ = file.set_len(cut_at);
        cut_at
    };
    Ok(Some(SegmentMeta {
        id: info.id,
        run_ns: info.run_ns,
        path: path.into(),
        bytes,
        records,
        first_ns: footer.blocks.iter().map(|b| b.first_ns).min().unwrap_or(0),
        last_ns: footer.blocks.iter().map(|b| b.last_ns).max().unwrap_or(0),
    }))
}

fn add_keys(block: &[u8], keys: &mut Bloom) {
    for record in records(block) {
        if let Some(frame) = frame_of(record.header.kind, record.payload) {
            frame_keys(frame, |key| keys.insert(key));
        }
    }
}
