//! Who has which MAC on the client side, learned from the log; answers the clone's questions.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;
use understudy_wire::frame::{ETH_LEN, ETHERTYPE_IPV4, Ethernet, Mac, be32, mac_word};
use understudy_wire::neighbor::{Solicitation, build_answer, learn};
use understudy_wire::tcp::SmallFrame;

use crate::hasher::hasher;

/// A power of two.
const RECENT: usize = 1024;
/// Where an IPv4 packet has its sender's address, as `learn` finds it.
const IPV4_SRC_AT: usize = ETH_LEN + 12;

/// A bounded table of neighbours.
pub struct Neighbors {
    table: HashMap<IpAddr, Mac, RandomState>,
    capacity: usize,
    /// What was learned last, IPv4 only, by the end of the address: most frames say again what one
    /// before them did.
    recent: Box<[(u32, SourceWord); RECENT]>,
    /// MAC of the newest frame: a router's, when the question is for an address never seen.
    newest: Option<SourceWord>,
}

/// A MAC and the EtherType of IPv4, as [`Ethernet::words`] has them.
type SourceWord = u64;

impl Neighbors {
    /// A table of at most `capacity` entries.
    pub fn new(capacity: usize) -> Neighbors {
        Neighbors {
            table: HashMap::with_capacity_and_hasher(capacity, hasher()),
            capacity,
            recent: Box::new([(0, 0); RECENT]),
            newest: None,
        }
    }

    /// Learns from a client frame. A full table keeps what it has.
    #[inline]
    pub fn observe(&mut self, frame: &[u8]) {
        if let (Some([_, source]), Some(ip)) = (Ethernet::words(frame), be32(frame, IPV4_SRC_AT))
            && self.recent[ip as usize % RECENT] == (ip, source)
        {
            self.newest = Some(source);
        } else {
            self.look_up(frame);
        }
    }

    #[inline(never)]
    fn look_up(&mut self, frame: &[u8]) {
        let Some((ip, mac)) = learn(frame) else { return };
        let source = mac_word(mac) | u64::from(ETHERTYPE_IPV4.swap_bytes()) << 48;
        self.newest = Some(source);
        if let Some(known) = self.table.get_mut(&ip) {
            *known = mac;
        } else if self.table.len() < self.capacity {
            self.table.insert(ip, mac);
        }
        if let IpAddr::V4(ip) = ip {
            let ip = u32::from(ip);
            self.recent[ip as usize % RECENT] = (ip, source);
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
        let newest = || {
            let [a, b, c, d, e, f, ..] = self.newest?.to_le_bytes();
            Some([a, b, c, d, e, f])
        };
        self.table.get(&ip).copied().or_else(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use understudy_wire::neighbor::build_announcement;

    /// An IPv4 packet without payload.
    fn packet(ip: u32, mac: Mac) -> Vec<u8> {
        let mut frame = vec![0, 0, 0x5e, 0, 1, 1];
        frame.extend(mac);
        frame.extend([8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(ip.to_be_bytes());
        frame.extend([10, 0, 0, 1]);
        frame
    }

    proptest! {
        /// The short way changes nothing: as if every frame were looked up.
        #[test]
        fn whoever_spoke_last_with_an_address_has_it(
            frames in prop::collection::vec((0u32..6, 0u8..3, any::<bool>()), 1..100),
        ) {
            let mut neighbors = Neighbors::new(4);
            let mut model = std::collections::HashMap::<u32, Mac>::new();
            for (n, owner, arp) in frames {
                // Some share a place among the recent ones.
                let (ip, mac) = (0x0a00_0001 + (n % 3) + (n / 3) * RECENT as u32, [2, 0, 0, 0, 0, owner]);
                let announced = build_announcement(std::net::Ipv4Addr::from(ip).into(), mac);
                let arp = announced.filter(|_| arp).map(|frame| frame.to_vec());
                neighbors.observe(&arp.unwrap_or_else(|| packet(ip, mac)));
                if model.len() < 4 || model.contains_key(&ip) {
                    model.insert(ip, mac);
                }
                let expected = model.get(&ip).copied().unwrap_or(mac);
                prop_assert_eq!(neighbors.mac(std::net::Ipv4Addr::from(ip).into()), Some(expected));
            }
        }
    }
}
