//! A recorded log: what `understudy capture --raw` wrote.

use std::path::Path;

use anyhow::{Context, bail};
use understudy_segments::{BlockEntry, Needs, Segment};
use understudy_wire::Position;
use understudy_wire::record::{RECORD_HEADER_LEN, RecordHeader};

/// Whole records one after the other, as they were in the log.
pub struct Recording {
    segment: Segment,
    /// Blocks with how many bytes of their records are part of the log, in its order.
    blocks: Vec<(BlockEntry, usize)>,
    /// What is replayed begins here.
    from: Position,
    pub summary: Summary,
}

/// What is known of what is replayed.
#[derive(Default)]
pub struct Summary {
    pub node: String,
    pub from_ns: u64,
    pub to_ns: u64,
    pub records: u64,
    pub end: u64,
    /// Why it ends there.
    pub incomplete: Option<String>,
}

impl Recording {
    /// Opens it and looks how far it is whole, from a position of the log on.
    pub fn open(path: &Path, from: Position) -> anyhow::Result<Recording> {
        let segment = Segment::open(path).context("no recording of `understudy capture --raw`")?;
        let node = segment.info().node.clone();
        if !segment.info().links.is_empty() {
            bail!("{} is of a node that only captures, which has no service", path.display());
        }
        let summary = Summary { node, ..Summary::default() };
        let mut recording = Recording { segment, blocks: Vec::new(), from, summary };
        recording.lay_out(path)?;
        Ok(recording)
    }

    /// What a later block says of a position counts: what a deposed primary had there was taken back.
    fn lay_out(&mut self, path: &Path) -> anyhow::Result<()> {
        let entries = self.segment.blocks().to_vec();
        let Some(first) = entries.first() else { bail!("{} has no records", path.display()) };
        if first.position > self.from {
            let needed = match self.from {
                0 => "only from 0 on can a fresh application be fed (--checkpoint begins later)"
                    .into(),
                from => format!("the checkpoint needs it from {from} on"),
            };
            bail!(
                "{} begins at position {} of the log, and {needed}: what was before had been overwritten \
                 when it was recorded (log.size_mb), or --from left it out",
                path.display(),
                first.position
            );
        }
        self.summary.end = first.position;
        let (mut cut_at, mut ends) = (u64::MAX, Vec::new());
        for entry in entries.iter().rev() {
            ends.push(entry.end_position().min(cut_at));
            cut_at = cut_at.min(entry.position);
        }
        for (entry, end) in entries.into_iter().zip(ends.into_iter().rev()) {
            if end <= entry.position {
                continue;
            }
            if entry.position != self.summary.end && entry.position <= self.from {
                // What is lost is not needed.
                self.blocks.clear();
            } else if entry.position != self.summary.end {
                self.summary.incomplete = Some(format!(
                    "what the log held from there to position {} was overwritten before it was recorded",
                    entry.position
                ));
                break;
            }
            self.blocks.push((entry, (end - entry.position) as usize));
            self.summary.end = end;
        }
        Ok(())
    }

    /// Where the first record is.
    pub fn begins(&self) -> Position {
        self.blocks.first().map_or(self.summary.end, |(entry, _)| entry.position)
    }

    /// Every record, with its position, also those before what is replayed.
    pub fn for_each(
        &mut self,
        mut each: impl FnMut(Position, &RecordHeader, &[u8]),
    ) -> anyhow::Result<()> {
        let mut summary = Summary::default();
        for nth in 0..self.blocks.len() {
            let records = self.block(nth)?;
            let (mut position, mut at) = (self.blocks[nth].0.position, 0);
            while at < records.len() {
                let header = RecordHeader::decode(&records[at..])?;
                let payload = &records[at + RECORD_HEADER_LEN..][..header.len as usize];
                each(position, &header, payload);
                if position >= self.from {
                    if summary.records == 0 {
                        summary.from_ns = header.timestamp_ns;
                    }
                    summary.to_ns = header.timestamp_ns;
                    summary.records += 1;
                }
                (at, position) = (at + header.stored_len(), position + header.stored_len() as u64);
            }
        }
        let Summary { from_ns, to_ns, records, .. } = summary;
        (self.summary.from_ns, self.summary.to_ns, self.summary.records) =
            (from_ns, to_ns, records);
        Ok(())
    }

    /// The block in which what is replayed begins, and the byte of it.
    pub fn first(&self) -> (usize, usize) {
        let before = |(entry, len): &(BlockEntry, usize)| entry.position + *len as u64 <= self.from;
        let nth = self.blocks.iter().take_while(|block| before(block)).count();
        let at = self.blocks.get(nth).map_or(0, |(entry, _)| self.from - entry.position);
        (nth, at as usize)
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The records of a block.
    pub fn block(&self, nth: usize) -> anyhow::Result<Vec<u8>> {
        let (entry, len) = self.blocks[nth];
        let read = self.segment.read(&entry, &Needs::Any)?;
        let mut records = read.context("a block that holds nothing")?.records;
        records.truncate(len);
        Ok(records)
    }
}
