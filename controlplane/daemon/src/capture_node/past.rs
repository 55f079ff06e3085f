//! What is on disk, for captures of the past: only what a filter and a time may want of it is read.

use std::io;
use std::sync::Arc;

use understudy_api::stream::{DiskRead, Piece};
use understudy_log::LogView;
use understudy_segments::{Catalogue, Found, Needs, ReadBlock, Scan, Scanned, SegmentInfo, Wanted};
use understudy_wire::record::records;

use crate::capture::{Range, Sending};

/// How often it begins again because the log in memory has gone on beyond what was read.
const ROUNDS_MAX: usize = 64;
/// A block is sent in pieces of so many bytes at most.
const PIECE_BYTES: usize = 256 * 1024;

/// The segments of a node.
pub struct Past {
    catalogue: Arc<Catalogue>,
    /// This run: its positions are the log's.
    run_ns: u64,
    /// What is captured with now.
    info: SegmentInfo,
}

/// How far it has come in this run's log.
struct Reached {
    position: u64,
    last_ns: u64,
}

impl Past {
    pub fn new(catalogue: Arc<Catalogue>, run_ns: u64, info: SegmentInfo) -> Past {
        Past { catalogue, run_ns, info }
    }

    /// Sends what is wanted. Gives the position up to which the log has been dealt with, and the time
    /// of the record before it.
    pub fn send(
        &self,
        view: &LogView,
        range: &Range,
        out: &mut Sending<'_>,
    ) -> io::Result<(u64, u64)> {
        let wanted = Wanted {
            from_ns: range.from_ns.unwrap_or(0),
            to_ns: range.to_ns.unwrap_or(u64::MAX),
            needs: range.filter.as_deref().map_or(Needs::Any, Needs::of_filter),
        };
        let mut scan = Scan::new(wanted);
        let mut reached = Reached { position: 0, last_ns: 0 };
        for _ in 0..ROUNDS_MAX {
            let before = reached.position;
            self.round(&mut scan, range, &mut reached, out)?;
            // What is still in memory is read there.
            if view.extent().start <= reached.position || reached.position == before {
                break;
            }
            scan.after = Some((self.run_ns, reached.position));
        }
        out.piece(&Piece::Read(disk_read(&scan.scanned)))?;
        Ok((reached.position, reached.last_ns))
    }

    fn round(
        &self,
        scan: &mut Scan,
        range: &Range,
        reached: &mut Reached,
        out: &mut Sending<'_>,
    ) -> io::Result<()> {
        let is_first = scan.after.is_none();
        // The end of what is written is dealt with, read or not.
        let written = self.catalogue.written(self.run_ns);
        let (segments, others) = self.catalogue.in_time(&scan.wanted);
        if is_first {
            scan.scanned.segments_skipped += others;
        }
        for segment in segments.iter().filter(|s| is_first || s.run_ns == self.run_ns) {
            scan.segment(&segment.path, &mut |found| match found {
                Found::Segment(info) => self.begin(info, out),
                Found::Block(info, block) => {
                    if info.run_ns == self.run_ns {
                        let end = block.header.position + u64::from(block.header.records_bytes);
                        if end > reached.position {
                            (reached.position, reached.last_ns) = (end, block.header.last_ns);
                        }
                    }
                    send_block(range, block, out)
                }
                Found::Skipped => out.keep_alive(),
                Found::Damaged(e) => {
                    out.piece(&Piece::Note { position: 0, text: format!("not read: {e}") })
                }
            })?;
        }
        if let Some((position, last_ns)) = written
            && position > reached.position
        {
            (reached.position, reached.last_ns) = (position, last_ns);
        }
        Ok(())
    }

    /// What is not as it is now is said.
    fn begin(&self, info: &SegmentInfo, out: &mut Sending<'_>) -> io::Result<()> {
        out.keep_alive()?;
        let now = &self.info;
        let is_same =
            info.links == now.links && info.filter == now.filter && info.snap_len == now.snap_len;
        if is_same {
            return Ok(());
        }
        let filter = if info.filter.is_empty() { "none" } else { &info.filter };
        let text = format!(
            "segment {} was captured otherwise than now: devices {}, filter {filter}, snaplen {}",
            info.id,
            info.links.join(" "),
            info.snap_len
        );
        out.piece(&Piece::Note { position: 0, text })
    }
}

fn send_block(range: &Range, block: &ReadBlock, out: &mut Sending<'_>) -> io::Result<()> {
    if block.header.lost > 0 {
        out.piece(&Piece::Lost(block.header.lost))?;
    }
    let (position, records) =
        block.between(range.from_ns.unwrap_or(0), range.to_ns.unwrap_or(u64::MAX));
    let mut sent = 0;
    while sent < records.len() {
        let len = whole_records(&records[sent..]);
        let piece =
            Piece::Records { position: position + sent as u64, bytes: &records[sent..sent + len] };
        out.piece(&piece)?;
        sent += len;
    }
    Ok(())
}

/// Bytes of the records that fit in a piece; one at least.
fn whole_records(block: &[u8]) -> usize {
    let fitting = records(block).take_while(|record| record.at == 0 || record.next <= PIECE_BYTES);
    // The block was checked: it is whole records.
    fitting.last().map_or(block.len(), |record| record.next)
}

fn disk_read(scanned: &Scanned) -> DiskRead {
    DiskRead {
        segments_read: scanned.segments_read,
        segments_skipped: scanned.segments_skipped,
        blocks_read: scanned.blocks_read,
        blocks_skipped: scanned.blocks_skipped,
        bytes_read: scanned.bytes_read,
        damaged: scanned.damaged,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use understudy_api::Capturing;
    use understudy_api::stream::PieceBuffer;
    use understudy_log::{CaptureLog, LogReader, Read};
    use understudy_segments::{Limits, Store};
    use understudy_wire::record::{LinkFrame, RecordKind};

    use super::*;
    use crate::capture::Captures;

    const RUN_NS: u64 = 5;

    fn store(dir: &std::path::Path) -> Store {
        let limits = Limits {
            segment_bytes: 256 << 10,
            block_bytes: 16 << 10,
            keep_bytes: 1 << 30,
            keep_ns: 0,
            flush_ns: u64::MAX / 2,
            direct: false,
        };
        let info = SegmentInfo { run_ns: RUN_NS, ..SegmentInfo::default() };
        Store::open(dir, limits, info).unwrap().0
    }

    /// Frames at the times of a range, each 1000 bytes.
    fn append(log: &mut CaptureLog, times: std::ops::Range<u64>) {
        let frame = [&LinkFrame::default().encode()[..], &[7; 1000]].concat();
        for ns in times {
            log.append(RecordKind::LinkFrame, ns, &frame, u64::MAX).unwrap();
        }
    }

    /// What the writer thread does.
    fn write(reader: &mut LogReader, store: &mut Store) {
        while let Read::Records(position, bytes) = reader.read() {
            store.records(position, bytes, 1);
        }
    }

    /// The times of what a client is sent, and what was read of the disk.
    fn ask(captures: Arc<Captures>, range: Range) -> (Vec<u64>, DiskRead) {
        let (mut client, daemon) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || captures.serve(daemon, range));
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        served.join().unwrap().unwrap();
        let line_end = all.iter().position(|b| *b == b'\n').unwrap() + 1;
        let mut pieces = PieceBuffer::new(all[line_end..].to_vec());
        let (mut times, mut read) = (Vec::new(), DiskRead::default());
        while let Some(piece) = pieces.next_piece().unwrap() {
            match piece {
                Piece::Records { bytes, .. } => {
                    assert_eq!(whole_records(bytes), bytes.len());
                    times.extend(records(bytes).map(|record| record.header.timestamp_ns));
                }
                Piece::Read(disk) => read = disk,
                Piece::Lost(count) => panic!("{count} records lost"),
                _ => {}
            }
        }
        (times, read)
    }

    /// Of a range some is on disk alone, some on disk and in memory, some in memory alone: each record
    /// comes once, and in order.
    #[test]
    fn disk_and_memory_are_one_past() {
        let dir = std::env::temp_dir().join(format!("understudy-past-{}", std::process::id()));
        let mut log = CaptureLog::new(1 << 20).unwrap();
        let view = log.view().unwrap();
        let (mut reader, mut disk) = (view.reader(), store(&dir));
        for begin in (0..4000).step_by(500) {
            append(&mut log, begin..begin + 500);
            write(&mut reader, &mut disk);
        }
        // Some that no block is full of yet.
        append(&mut log, 4000..4020);
        assert!(view.extent().start_records > 2000, "the beginning is on disk alone");
        let past = Past::new(disk.catalogue(), RUN_NS, SegmentInfo::default());
        let captures =
            Arc::new(Captures::of_links(view, Arc::default(), Capturing::default(), past));
        let range = |from_ns, to_ns| Range {
            from_ns: Some(from_ns),
            to_ns: Some(to_ns),
            follow: false,
            filter: None,
        };
        for (from_ns, to_ns) in [(0, 10_000), (1234, 1240), (10, 3900), (3990, 4010), (4019, 4019)]
        {
            let (times, read) = ask(Arc::clone(&captures), range(from_ns, to_ns));
            let expected: Vec<u64> = (from_ns..=to_ns.min(4019)).collect();
            assert!(times == expected, "{from_ns}..={to_ns}: {} records", times.len());
            assert!(read.blocks_read as usize <= expected.len() / 15 + 3, "{read:?}");
        }
        // Nothing of it can match: nothing of the disk is read.
        let filtered = Range { filter: Some("host 10.0.0.7".into()), ..range(0, 3000) };
        assert_eq!(ask(captures, filtered).1.blocks_read, 0);
        disk.close(1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
