//! The data path's ports, with an ear at the host port.

use std::path::Path;

use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::audit::compare::Comparison;
use understudy_fastpath::ports::{Burst, Frame, PortRole, Ports};
use understudy_pcap::{Direction, Interface, Packet, Recorder, RotateError, Rotation, Section};
use understudy_wire::tcp::{FlowKey, Segment};

/// What hears, before there are ports.
pub struct Unplugged {
    recorder: Option<Recorder>,
}

/// Ports, and what the application said on them.
pub struct Heard<P> {
    ports: P,
    pub comparison: Comparison,
    recorder: Option<Recorder>,
    /// Of this poll: what was applied in it comes first.
    said: Vec<Vec<u8>>,
}

impl Unplugged {
    /// `write`: also to this file.
    pub fn new(write: Option<&Path>, node: &str) -> Result<Unplugged, RotateError> {
        let section = || Section {
            application: format!("understudyd {}", env!("CARGO_PKG_VERSION")),
            os: "Linux".into(),
            comment: format!("replay of a log recorded on node {node}"),
            interfaces: vec![Interface {
                name: "replay".into(),
                description:
                    "what the application sent when it was given the recorded log; timestamps: \
                              of the replay"
                        .into(),
                ..Interface::default()
            }],
        };
        let recorder =
            write.map(|file| Recorder::to_files(file, section(), Rotation::default(), 0));
        Ok(Unplugged { recorder: recorder.transpose()? })
    }

    pub fn plug<P: Ports>(self, ports: P, comparison: Comparison) -> Heard<P> {
        Heard { ports, comparison, recorder: self.recorder, said: Vec::new() }
    }
}

impl<P: Ports> Heard<P> {
    /// Compares what was said since the last call. True: some of it had not been said before.
    pub fn compare(&mut self, now_ns: u64) -> Result<bool, RotateError> {
        let mut any = false;
        for frame in self.said.drain(..) {
            if let Some(segment) = Segment::parse(&frame) {
                any |= self.comparison.said(&segment, &frame);
            }
            let Some(recorder) = &mut self.recorder else { continue };
            let packet = Packet {
                interface: 0,
                timestamp_ns: now_ns,
                wire_len: frame.len() as u32,
                bytes: &frame,
                direction: Some(Direction::Out),
                comments: &[],
            };
            recorder.packet(&packet, Vec::new)?;
        }
        Ok(any)
    }

    /// Nothing more is heard.
    pub fn finish(&mut self) -> (Comparison, Result<(), RotateError>) {
        self.comparison.finish();
        let written = self.recorder.take().map_or(Ok(()), |recorder| recorder.finish(&[]));
        (std::mem::take(&mut self.comparison), written)
    }
}

impl<P: Ports> Ports for Heard<P> {
    type Frame = P::Frame;

    fn rx(&mut self, port: PortRole, out: &mut Burst<P::Frame>) {
        let known = out.len();
        self.ports.rx(port, out);
        if port == PortRole::Host {
            self.said.extend(out[known..].iter().map(|frame| frame.bytes().to_vec()));
        }
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<P::Frame>) {
        self.ports.tx(port, frames);
    }

    fn clock_ns(&self) -> u64 {
        self.ports.clock_ns()
    }

    fn service_is_dying(&self) -> bool {
        self.ports.service_is_dying()
    }

    fn alloc(&mut self, parts: &[&[u8]]) -> Option<P::Frame> {
        self.ports.alloc(parts)
    }

    fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) -> bool {
        self.ports.adopt(key, attrs)
    }
}
