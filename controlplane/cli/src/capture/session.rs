//! What becomes of the records of a capture: counted, filtered, and written or printed.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};

use serde::Serialize;
use understudy_api::Capturing;
use understudy_api::stream::Piece;
use understudy_pcap::{
    Direction, Filter, Interface, Packet, Recorder, RotateError, Section, Statistics, line,
};
use understudy_wire::record::{
    CheckpointRecord, EpochRecord, RECORD_HEADER_LEN, RecordHeader, RecordKind,
};

use super::when;
use crate::text::plain;

/// Comments that wait for a packet; the oldest are joined by no more than that.
const COMMENTS_MAX: usize = 64;
/// Index of the interface on which clients' frames are.
const CLIENTS: u32 = 0;
/// Index of the interface on which the service's SYN-ACKs are.
const SERVICE: u32 = 1;

/// What was counted, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Packets written or printed.
    pub captured: u64,
    /// Packets that the filter saw.
    pub received: u64,
    /// Packets that it did not let pass.
    pub filtered: u64,
    /// Records that were overwritten before they could be sent here.
    pub dropped: u64,
    /// Frames that the node did not log meanwhile, for want of room.
    pub not_logged: u64,
    /// Records that were captured and are no part of the log any more.
    pub taken_back: u64,
    /// Files begun.
    pub files: u32,
}

/// Where packets go.
pub enum Sink {
    /// pcapng.
    Recorder(Box<Recorder>),
    /// A line each.
    Lines(Box<dyn Write + Send>),
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The files, or the pipe.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// The standard output.
    #[error("the output cannot be written: {0}")]
    Lines(#[from] io::Error),
    /// The daemon sent something else.
    #[error("the daemon sent a record that is damaged")]
    Record,
}

impl SinkError {
    /// Whether the reader has gone: that ends a capture, and is no error.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Rotate(e) => e.is_broken_pipe(),
            Self::Lines(e) => e.kind() == io::ErrorKind::BrokenPipe,
            Self::Record => false,
        }
    }
}

/// A capture that runs.
pub struct Session {
    filter: Filter,
    snap_len: usize,
    count_max: u64,
    nodes: BTreeMap<u16, String>,
    sink: Option<Sink>,
    counted: Summary,
    /// Of each interface: seen, let pass.
    interfaces: [(u64, u64); 2],
    start_ns: u64,
    newest_ns: u64,
    /// To be said at the next packet.
    comments: VecDeque<String>,
    /// Position behind the last record.
    at: u64,
    /// To be said at the first packet from a position on.
    notes: BTreeMap<u64, Vec<String>>,
}

/// What a file says about where it is from.
pub fn section(from: &Capturing, filter: &Filter, snap_len: u32) -> Section {
    let interface = |name: &str, description: String| Interface {
        name: name.into(),
        description,
        filter: filter.text().into(),
        snap_len,
    };
    let clients = format!(
        "frames that clients sent, from the capture log of node {}; client port {}; timestamps: {}",
        from.node, from.device, from.clock
    );
    let service = "SYN-ACKs of the primary's kernel; nothing else that the service sends is logged";
    Section {
        application: format!(
            "understudy {} (understudyd {})",
            env!("CARGO_PKG_VERSION"),
            from.version
        ),
        os: "Linux".into(),
        comment: format!("capture log of node {}", from.node),
        interfaces: vec![interface("clients", clients), interface("service", service.into())],
    }
}

impl Session {
    pub fn new(
        from: &Capturing,
        filter: Filter,
        snap_len: u32,
        count_max: u64,
        sink: Sink,
        now_ns: u64,
    ) -> Session {
        Session {
            filter,
            snap_len: if snap_len == 0 { usize::MAX } else { snap_len as usize },
            count_max,
            nodes: from.nodes.clone(),
            sink: Some(sink),
            counted: Summary::default(),
            interfaces: [(0, 0); 2],
            start_ns: now_ns,
            newest_ns: 0,
            comments: VecDeque::new(),
            at: 0,
            notes: BTreeMap::new(),
        }
    }

    /// Takes a piece. True: that was all.
    pub fn take(&mut self, piece: Piece<'_>) -> Result<bool, SinkError> {
        match piece {
            Piece::Records { position, bytes } => return self.records(position, bytes),
            Piece::Lost(count) => {
                self.counted.dropped += count;
                self.say(format!("{count} records were overwritten before they could be read"))?;
            }
            Piece::TakenBack(count) => {
                self.counted.taken_back += count;
                self.say(format!(
                    "the last {count} records before this were a deposed primary's and are no part of the log any more"
                ))?;
            }
            Piece::Note { position, text } => {
                if self.notes.len() < COMMENTS_MAX {
                    self.notes.entry(position).or_default().push(text);
                }
            }
            Piece::Alive { not_logged } => self.counted.not_logged = not_logged,
            Piece::End => return Ok(true),
        }
        Ok(false)
    }

    fn records(&mut self, position: u64, bytes: &[u8]) -> Result<bool, SinkError> {
        let mut at = 0;
        while at < bytes.len() {
            let header = RecordHeader::decode(&bytes[at..]).map_err(|_| SinkError::Record)?;
            let payload = bytes[at + RECORD_HEADER_LEN..].get(..header.len as usize);
            let payload = payload.ok_or(SinkError::Record)?;
            self.notes_before(position + at as u64)?;
            match header.kind {
                RecordKind::Epoch => self.epoch(payload)?,
                RecordKind::Checkpoint => self.checkpoint(payload)?,
                // Between the nodes: no packet, and several a second.
                RecordKind::Audit => {}
                RecordKind::ClientFrame => self.packet(CLIENTS, &header, payload)?,
                RecordKind::SynAck => self.packet(SERVICE, &header, payload)?,
            }
            at += header.stored_len();
            self.at = position + at as u64;
            if self.counted.captured >= self.count_max {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn notes_before(&mut self, position: u64) -> Result<(), SinkError> {
        while self.notes.first_key_value().is_some_and(|(at, _)| *at <= position)
            && let Some((at, texts)) = self.notes.pop_first()
        {
            for text in texts {
                self.say(format!("{text}, at position {at} of the log"))?;
            }
        }
        Ok(())
    }

    fn epoch(&mut self, payload: &[u8]) -> Result<(), SinkError> {
        let record = EpochRecord::decode(payload).ok_or(SinkError::Record)?;
        let name = self.nodes.get(&record.primary).map_or("unknown", |name| name);
        self.say(format!("epoch {}: node {name} is primary from here on", record.epoch))
    }

    fn checkpoint(&mut self, payload: &[u8]) -> Result<(), SinkError> {
        let record = CheckpointRecord::decode(payload).ok_or(SinkError::Record)?;
        let position = record.position;
        self.say(format!("the checkpoint of the application at position {position} is whole"))
    }

    /// At the next packet of a file, or at once in a line of its own.
    fn say(&mut self, text: String) -> Result<(), SinkError> {
        match &mut self.sink {
            Some(Sink::Lines(out)) => writeln!(out, "# {}", plain(&text))?,
            _ => {
                if self.comments.len() == COMMENTS_MAX {
                    self.comments.pop_front();
                }
                self.comments.push_back(text);
            }
        }
        Ok(())
    }

    fn packet(
        &mut self,
        interface: u32,
        header: &RecordHeader,
        frame: &[u8],
    ) -> Result<(), SinkError> {
        self.counted.received += 1;
        self.interfaces[interface as usize].0 += 1;
        if !self.filter.matches(frame) {
            self.counted.filtered += 1;
            return Ok(());
        }
        self.counted.captured += 1;
        self.interfaces[interface as usize].1 += 1;
        self.newest_ns = header.timestamp_ns;
        self.start_ns = self.start_ns.min(header.timestamp_ns);
        let counted = self.statistics();
        match &mut self.sink {
            Some(Sink::Recorder(recorder)) => {
                let packet = Packet {
                    interface,
                    timestamp_ns: header.timestamp_ns,
                    wire_len: frame.len() as u32,
                    bytes: &frame[..frame.len().min(self.snap_len)],
                    direction: Some(if interface == CLIENTS {
                        Direction::In
                    } else {
                        Direction::Out
                    }),
                    comments: self.comments.make_contiguous(),
                };
                recorder.packet(&packet, || counted)?;
                self.comments.clear();
            }
            Some(Sink::Lines(out)) => {
                writeln!(out, "{} {}", when::clock(header.timestamp_ns), line(frame, frame.len()))?;
            }
            None => {}
        }
        Ok(())
    }

    fn statistics(&self) -> Vec<Statistics> {
        let of = |interface: u32| {
            let (received, accepted) = self.interfaces[interface as usize];
            let first = interface == CLIENTS;
            Statistics {
                interface,
                start_ns: self.start_ns,
                end_ns: self.newest_ns.max(self.start_ns),
                received,
                dropped: if first { self.counted.not_logged } else { 0 },
                os_dropped: if first { self.counted.dropped } else { 0 },
                accepted,
                delivered: accepted,
                comments: Vec::new(),
            }
        };
        vec![of(CLIENTS), of(SERVICE)]
    }

    /// Nothing more has come: who reads along shall see what there is.
    pub fn pause(&mut self) -> Result<(), SinkError> {
        match &mut self.sink {
            Some(Sink::Recorder(recorder)) => recorder.flush()?,
            Some(Sink::Lines(out)) => out.flush()?,
            None => {}
        }
        Ok(())
    }

    /// Ends the file with what was counted and what no packet came for.
    pub fn finish(&mut self) -> Result<(), SinkError> {
        self.notes_before(self.at)?;
        let mut counted = self.statistics();
        counted[0].comments = self.comments.drain(..).collect();
        match self.sink.take() {
            Some(Sink::Recorder(recorder)) => {
                self.counted.files = recorder.files();
                recorder.finish(&counted)?;
            }
            Some(Sink::Lines(mut out)) => out.flush()?,
            None => {}
        }
        Ok(())
    }

    pub fn summary(&self) -> &Summary {
        &self.counted
    }
}
