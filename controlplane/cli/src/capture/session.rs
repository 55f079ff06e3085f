//! What becomes of the records of a capture: counted, filtered, and written or printed.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};

use serde::Serialize;
use understudy_api::Capturing;
use understudy_api::stream::{DiskRead, Piece};
use understudy_pcap::{
    Direction, Filter, Interface, Packet, Recorder, RotateError, Section, Statistics, line,
};
use understudy_wire::record::{
    CheckpointRecord, EpochRecord, LinkFrame, RECORD_HEADER_LEN, RecordHeader, RecordKind,
};

use super::raw::{RawError, RawLog};
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
    /// Packets that a device stamped.
    #[serde(skip_serializing_if = "is_zero")]
    pub device_stamped: u64,
    /// What the node read of its segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskRead>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Where packets go.
pub enum Sink {
    /// pcapng.
    Recorder(Box<Recorder>),
    /// A line each.
    Lines(Box<dyn Write + Send>),
    /// All records as they are.
    Raw(Box<RawLog>),
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The files, or the pipe.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// A recording.
    #[error(transparent)]
    Raw(#[from] RawError),
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
            Self::Record | Self::Raw(_) => false,
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
    interfaces: Vec<(u64, u64)>,
    /// A node that captures links: their number is the interface's.
    is_of_links: bool,
    start_ns: u64,
    newest_ns: u64,
    /// To be said at the next packet.
    comments: VecDeque<String>,
    /// Position behind the last record.
    at: u64,
    /// To be said at the first packet from a position on.
    notes: BTreeMap<u64, Vec<String>>,
}

/// What is written of a packet.
struct Seen<'a> {
    interface: u32,
    timestamp_ns: u64,
    wire_len: u32,
    bytes: &'a [u8],
    direction: Direction,
}

/// What a file says about where it is from.
pub fn section(from: &Capturing, filter: &Filter, snap_len: u32) -> Section {
    let interface = |name: &str, description: String| Interface {
        name: name.into(),
        description,
        filter: filter.text().into(),
        snap_len,
    };
    if !from.links.is_empty() {
        return links_section(from, interface);
    }
    let clients = format!(
        "frames that clients sent, from the capture log of node {}; client port {}; timestamps: {}",
        from.node, from.device, from.clock
    );
    let service = "SYN-ACKs of the primary's kernel; nothing else that the service sends is logged";
    Section {
        application: application(from),
        os: "Linux".into(),
        comment: format!("capture log of node {}", from.node),
        interfaces: vec![interface("clients", clients), interface("service", service.into())],
    }
}

/// Of a node that captures links.
fn links_section(from: &Capturing, interface: impl Fn(&str, String) -> Interface) -> Section {
    let filter = match from.node_filter.as_str() {
        "" => String::new(),
        filter => format!("; captured are only frames that match: {filter}"),
    };
    let link = |device: &String| {
        // The kernel's interface (iface=, rx_iface_in=), or the device.
        let argument = |a: &str| {
            a.split_once('=').filter(|(k, _)| k.contains("iface")).map(|(_, v)| v.to_owned())
        };
        let name = device.split(',').skip(1).find_map(argument);
        let name = name.unwrap_or_else(|| device.split(',').next().unwrap_or(device).to_owned());
        let description =
            format!("{device} at node {}; timestamps: {}{filter}", from.node, from.clock);
        interface(&name, description)
    };
    Section {
        application: application(from),
        os: "Linux".into(),
        comment: format!("captured by node {}", from.node),
        interfaces: from.links.iter().map(link).collect(),
    }
}

fn application(from: &Capturing) -> String {
    format!("understudy {} (understudyd {})", env!("CARGO_PKG_VERSION"), from.version)
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
            interfaces: vec![(0, 0); from.links.len().max(2)],
            is_of_links: !from.links.is_empty(),
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
                if let Some(Sink::Raw(raw)) = &mut self.sink {
                    raw.lost(count)?;
                }
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
            Piece::Read(read) => self.counted.disk = Some(read),
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
            if let Some(Sink::Raw(raw)) = &mut self.sink {
                let stored = bytes.get(at..at + header.stored_len()).ok_or(SinkError::Record)?;
                raw.push(position + at as u64, &header, stored)?;
                self.counted.received += 1;
                self.counted.captured += 1;
                at += stored.len();
                self.at = position + at as u64;
                continue;
            }
            self.notes_before(position + at as u64)?;
            match header.kind {
                RecordKind::Epoch => self.epoch(payload)?,
                RecordKind::Checkpoint => self.checkpoint(payload)?,
                // Between the nodes: no packet, and several a second.
                RecordKind::Audit | RecordKind::Said => {}
                RecordKind::ClientFrame => self.frame(CLIENTS, &header, payload)?,
                RecordKind::SynAck => self.frame(SERVICE, &header, payload)?,
                RecordKind::LinkFrame => self.link_frame(&header, payload)?,
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

    fn frame(
        &mut self,
        interface: u32,
        header: &RecordHeader,
        frame: &[u8],
    ) -> Result<(), SinkError> {
        let direction = if interface == CLIENTS { Direction::In } else { Direction::Out };
        let wire_len = frame.len() as u32;
        let timestamp_ns = header.timestamp_ns;
        self.packet(&Seen { interface, timestamp_ns, wire_len, bytes: frame, direction })
    }

    fn link_frame(&mut self, header: &RecordHeader, payload: &[u8]) -> Result<(), SinkError> {
        let (head, bytes) = LinkFrame::decode(payload).ok_or(SinkError::Record)?;
        // A link that the node does not have any more is shown as its last one.
        let interface = u32::from(head.link).min(self.interfaces.len() as u32 - 1);
        self.counted.device_stamped += u64::from(head.device_ns.is_some());
        self.packet(&Seen {
            interface,
            timestamp_ns: head.device_ns.unwrap_or(header.timestamp_ns),
            wire_len: head.wire_len,
            bytes,
            direction: Direction::In,
        })
    }

    fn packet(&mut self, seen: &Seen<'_>) -> Result<(), SinkError> {
        let (interface, timestamp_ns) = (seen.interface, seen.timestamp_ns);
        self.counted.received += 1;
        self.interfaces[interface as usize].0 += 1;
        if !self.filter.matches(seen.bytes) {
            self.counted.filtered += 1;
            return Ok(());
        }
        self.counted.captured += 1;
        self.interfaces[interface as usize].1 += 1;
        self.newest_ns = timestamp_ns;
        self.start_ns = self.start_ns.min(timestamp_ns);
        let counted = self.statistics();
        match &mut self.sink {
            Some(Sink::Recorder(recorder)) => {
                let packet = Packet {
                    interface,
                    timestamp_ns,
                    wire_len: seen.wire_len,
                    bytes: &seen.bytes[..seen.bytes.len().min(self.snap_len)],
                    direction: Some(seen.direction),
                    comments: self.comments.make_contiguous(),
                };
                recorder.packet(&packet, || counted)?;
                self.comments.clear();
            }
            Some(Sink::Lines(out)) => {
                let text = line(seen.bytes, seen.wire_len as usize);
                writeln!(out, "{} {text}", when::clock(timestamp_ns))?;
            }
            Some(Sink::Raw(_)) | None => {}
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
        let count = if self.is_of_links { self.interfaces.len() } else { 2 };
        (0..count as u32).map(of).collect()
    }

    /// Nothing more has come: who reads along shall see what there is.
    pub fn pause(&mut self) -> Result<(), SinkError> {
        match &mut self.sink {
            Some(Sink::Recorder(recorder)) => recorder.flush()?,
            Some(Sink::Lines(out)) => out.flush()?,
            Some(Sink::Raw(raw)) => raw.pause()?,
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
            Some(Sink::Raw(raw)) => {
                self.counted.files = 1;
                raw.finish()?;
            }
            None => {}
        }
        Ok(())
    }

    /// Position behind the last record.
    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn summary(&self) -> &Summary {
        &self.counted
    }
}
