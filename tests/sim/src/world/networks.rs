//! The networks between the machines, and the clients on one of them.

use understudy_seal::Path;
use understudy_wire::frame::Ethernet;
use understudy_wire::pdu::TARGET_ALL;
use understudy_wire::tcp::Segment;

use super::*;
use crate::frames::replica_mac;
use crate::net::{Weather, arrivals};
use crate::tamper;

impl World {
    pub(super) fn send_replica(&mut self, from: NodeId, mut bytes: Vec<u8>) {
        let Some(eth) = Ethernet::parse(&bytes) else { return };
        if !self.machine(from).replica_carrier {
            return;
        }
        tamper::frame_sent(self.scenario.mutation, &mut bytes);
        let all = eth.dst[0] & 1 == 1;
        for to in (1..=self.scenario.nodes).filter(|to| *to != from) {
            if all || eth.dst == replica_mac(to) {
                let way = Way::Replica(from, to);
                self.send(way, self.scenario.replica, Event::Replica(to, bytes.clone()));
            }
        }
    }

    /// A frame has crossed the replica network.
    pub(super) fn on_replica(&mut self, id: NodeId, mut bytes: Vec<u8>) {
        if self.has(Mutation::AnyEpoch)
            && let Some(life) = &self.machine(id).life
        {
            let epoch = life.control.node.view(0).epoch;
            tamper::frame_taken(&mut bytes, epoch);
        }
        self.arrive(id, PortRole::Replica, SimFrame::new(bytes));
    }

    pub(super) fn send_second(&mut self, from: NodeId, target: NodeId, datagram: &[u8]) {
        let mut datagram = datagram.to_vec();
        tamper::sent(self.scenario.mutation, Path::Second, &mut datagram);
        for to in (1..=self.scenario.nodes).filter(|to| *to != from) {
            if target == TARGET_ALL || target == to {
                let way = Way::Second(from, to);
                self.send(way, self.scenario.second, Event::Datagram(to, datagram.clone()));
            }
        }
    }

    /// Between two nodes: cut, held, or subject to the weather.
    fn send(&mut self, way: Way, weather: Weather, arrival: Event) {
        if self.cuts.is_cut(way) {
            return;
        }
        if self.cuts.is_held(way) {
            return self.held.push(arrival);
        }
        for at in arrivals(&mut self.rng, &weather, self.now_ns) {
            self.push(at, arrival.clone());
        }
    }

    /// What waited in a queue arrives, in its order.
    pub fn flush(&mut self) {
        for (i, arrival) in std::mem::take(&mut self.held).into_iter().enumerate() {
            let at = self.now_ns + 20 * US + i as u64 * 100;
            self.push(at, arrival);
        }
    }

    pub(super) fn send_client(&mut self, from: Plug, bytes: Vec<u8>) {
        if let Plug::Node(id) = from
            && (!self.machine(id).client_carrier || self.cuts.is_cut(Way::FromNode(id)))
        {
            return;
        }
        for at in arrivals(&mut self.rng, &self.scenario.client, self.now_ns) {
            self.push(at, Event::AtSwitch(from, bytes.clone()));
        }
    }

    /// Prints a segment when everything is to be printed.
    pub(super) fn show(&mut self, place: &str, bytes: &[u8]) {
        if !self.verbose {
            return;
        }
        let Some(s) = Segment::parse(bytes) else { return };
        println!(
            "{:>12.3} ms    {place} {}>{} flags {:02x} seq {} ack {} len {} wnd {} ts {:?}",
            self.now_ns as f64 / 1e6,
            s.src_port,
            s.dst_port,
            s.flags,
            s.seq,
            s.ack,
            s.payload_len,
            s.window,
            s.options.timestamps
        );
    }

    pub(super) fn on_switch(&mut self, from: Plug, bytes: &[u8]) {
        self.show(&format!("{from:?}"), bytes);
        let witness = self.scenario.group.witness;
        let nodes = (1..=self.scenario.nodes).filter(|id| Some(*id) != witness).map(Plug::Node);
        let plugs: Vec<Plug> = nodes.chain((0..self.hosts.len()).map(Plug::Client)).collect();
        for to in self.switch.forward(from, bytes, &plugs) {
            if let Plug::Node(id) = to
                && self.cuts.is_cut(Way::ToNode(id))
            {
                continue;
            }
            let at = self.now_ns + US + self.rng.below(5 * US);
            self.push(at, Event::AtPlug(to, bytes.to_vec()));
        }
    }

    pub(super) fn after_host(&mut self, i: usize) {
        while let Some(bytes) = self.hosts[i].poll_out() {
            self.send_client(Plug::Client(i), bytes);
        }
        self.schedule_host(i);
        if let Some(text) = self.hosts[i].violation.take() {
            self.violate(text);
        }
    }

    /// Looks at a client machine's timers anew.
    pub fn schedule_host(&mut self, i: usize) {
        let due = self.hosts[i].due_ns().unwrap_or(u64::MAX).max(self.now_ns + US);
        if due < self.host_due[i] {
            self.host_due[i] = due;
            self.push(due, Event::Host(i));
        }
    }
}
