//! Who has which MAC on the client side, learned from the log; answers the clone's questions.

use std::collections::HashMap;
use std::net::IpAddr;

use understudy_wire::frame::Mac;
use understudy_wire::neighbor::{Solicitation, build_answer, learn};
use understudy_wire::tcp::SmallFrame;

/// A bounded table of neighbours.
pub struct Neighbors {
    table: HashMap<IpAddr, Mac>,
    capacity: usize,
    /// MAC of the newest frame: a router's, when the question is for an address never seen.
    newest: Option<Mac>,
}

impl Neighbors {
    /// A table of at most `capacity` entries.
    pub fn new(capacity: usize) -> Neighbors {
        Neighbors { table: HashMap::with_capacity(capacity), capacity, newest: None }
    }

    /// Learns from a client frame. A full table keeps what it has.
    pub fn observe(&mut self, frame: &[u8]) {
        let Some((ip, mac)) = learn(frame) else { return };
        self.newest = Some(mac);
        if self.table.len() < self.capacity || self.table.contains_key(&ip) {
            self.table.insert(ip, mac);
        }
    }

    /// The answer to a question of the clone's kernel, if anything is known.
    pub fn answer(&self, question: &Solicitation) -> Option<SmallFrame> {
        // A question for its own address is a conflict probe: silence is the right answer.
        if question.sender.0 == question.target || question.sender.0.is_unspecified() {
            return None;
        }
        build_answer(question, self.mac(question.target)?)
    }

    /// Where frames for `ip` go: to it, or to whoever was heard last, a router perhaps.
    pub fn mac(&self, ip: IpAddr) -> Option<Mac> {
        self.table.get(&ip).copied().or(self.newest)
    }
}
