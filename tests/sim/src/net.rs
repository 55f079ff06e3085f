//! The networks: what each way loses, repeats, delays and cuts, and a switch that learns.

use std::collections::{BTreeMap, BTreeSet};

use understudy_wire::NodeId;
use understudy_wire::frame::{Ethernet, Mac};

use crate::rng::Rng;

const US: u64 = 1_000;

/// How a network treats what passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Lost, of a million.
    pub loss_ppm: u64,
    /// Delivered twice, of a million.
    pub repeat_ppm: u64,
    /// Held back for long, of a million.
    pub late_ppm: u64,
    /// How long that may be.
    pub late_ns_max: u64,
    /// Ordinary jitter; more than the distance between frames reorders them.
    pub jitter_ns_max: u64,
}

/// When the copies of something sent now arrive.
pub fn arrivals(rng: &mut Rng, weather: &Weather, now_ns: u64) -> Vec<u64> {
    if rng.ppm(weather.loss_ppm) {
        return Vec::new();
    }
    let copies = if rng.ppm(weather.repeat_ppm) { 2 } else { 1 };
    (0..copies)
        .map(|_| {
            let late = if rng.ppm(weather.late_ppm) { rng.below(weather.late_ns_max) } else { 0 };
            now_ns + 20 * US + rng.below(weather.jitter_ns_max.max(1)) + late
        })
        .collect()
}

/// One of the ways between machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// On the replica network, from one node to another.
    Replica(NodeId, NodeId),
    /// On the second path.
    Second(NodeId, NodeId),
    /// Between a node and the arbiter.
    Arbiter(NodeId),
    /// From a node's client port to the switch.
    FromNode(NodeId),
    /// From the switch to a node's client port.
    ToNode(NodeId),
}

/// What is cut at the moment, and where what is sent waits in a queue.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    faults: BTreeSet<Way>,
    arranged: BTreeSet<Way>,
    held: BTreeSet<Way>,
}

impl Cuts {
    /// Cuts a way, by a fault.
    pub fn cut(&mut self, way: Way) {
        self.faults.insert(way);
    }

    /// Cuts a way until it is opened.
    pub fn sever(&mut self, way: Way) {
        self.arranged.insert(way);
    }

    /// Makes what goes this way wait, until it is opened; what waits already goes on waiting.
    pub fn hold(&mut self, way: Way) {
        self.held.insert(way);
    }

    /// Opens a way that was severed or held.
    pub fn open(&mut self, way: Way) {
        self.arranged.remove(&way);
        self.held.remove(&way);
    }

    /// Whether a way is cut.
    pub fn is_cut(&self, way: Way) -> bool {
        self.faults.contains(&way) || self.arranged.contains(&way)
    }

    /// Whether what goes this way waits.
    pub fn is_held(&self, way: Way) -> bool {
        self.held.contains(&way)
    }

    /// Mends what faults cut.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Opens all that was severed or held.
    pub fn open_all(&mut self) {
        self.arranged.clear();
        self.held.clear();
    }
}

/// Where a machine is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plug {
    /// A node's client port.
    Node(NodeId),
    /// A client machine.
    Client(usize),
}

/// The clients' switch: learns sources, floods what it does not know.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    table: BTreeMap<Mac, Plug>,
}

impl Switch {
    /// Where a frame from `from` goes, of all that are plugged in.
    pub fn forward(&mut self, from: Plug, frame: &[u8], plugs: &[Plug]) -> Vec<Plug> {
        let Some(eth) = Ethernet::parse(frame) else { return Vec::new() };
        if eth.src[0] & 1 == 0 {
            self.table.insert(eth.src, from);
        }
        match self.table.get(&eth.dst) {
            Some(to) if *to == from => Vec::new(),
            Some(to) => vec![*to],
            None => plugs.iter().copied().filter(|p| *p != from).collect(),
        }
    }

    /// A port lost its carrier: nothing is behind it any more.
    pub fn unplug(&mut self, plug: Plug) {
        self.table.retain(|_, p| *p != plug);
    }
}
