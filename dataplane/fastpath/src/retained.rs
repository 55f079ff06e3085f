//! What a clone has sent and its client has not acknowledged: sent at takeover at once,
//! instead of after a retransmission timer.

use std::collections::VecDeque;

use understudy_wire::tcp::{Segment, before, set_tsval};

use crate::flows::{FlowRef, FlowTable};
use crate::ports::Frame;

struct Entry<F> {
    flow: FlowRef,
    seq_end: u32,
    frame: F,
}

impl<F> Entry<F> {
    fn is_wanted(&self, flows: &FlowTable) -> bool {
        flows.get(self.flow).is_some_and(|f| before(f.client_acked, self.seq_end))
    }
}

/// A full queue is looked through for what nobody wants any more after so many parts of its room were pushed: looking
/// costs as much as it holds, and may find nothing.
const LOOKS: usize = 8;

/// A bounded queue of frames, in the order the clone sent them.
pub struct Retained<F> {
    entries: VecDeque<Entry<F>>,
    capacity: usize,
    pushed_since_look: usize,
}

impl<F: Frame> Retained<F> {
    /// Room for `capacity` frames; all memory is taken now.
    pub fn new(capacity: usize) -> Retained<F> {
        Retained { entries: VecDeque::with_capacity(capacity), capacity, pushed_since_look: 0 }
    }

    /// Retains a frame; returns how many wanted ones were dropped for it.
    pub fn push(&mut self, flow: FlowRef, seq_end: u32, frame: F, flows: &FlowTable) -> u64 {
        while self.entries.front().is_some_and(|e| !e.is_wanted(flows)) {
            self.entries.pop_front();
        }
        self.pushed_since_look += 1;
        if self.entries.len() == self.capacity && self.pushed_since_look > self.capacity / LOOKS {
            self.entries.retain(|e| e.is_wanted(flows));
            self.pushed_since_look = 0;
        }
        let full = self.entries.len() == self.capacity;
        if full {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { flow, seq_end, frame });
        u64::from(full)
    }

    /// The next frame its client still lacks, its TSval brought up to date so that
    /// it is not older than what the old primary sent last (RFC 7323, PAWS).
    pub fn pop_wanted(&mut self, now_ns: u64, flows: &FlowTable) -> Option<F> {
        while let Some(entry) = self.entries.pop_front() {
            if !entry.is_wanted(flows) {
                continue;
            }
            let mut frame = entry.frame;
            let now = flows.get(entry.flow).and_then(|f| f.takeover_tsval(now_ns));
            if let Some(now) = now
                && let Some(segment) = Segment::parse(frame.bytes())
                && segment.options.timestamps.is_some_and(|(own, _)| before(own, now))
            {
                set_tsval(frame.bytes_mut(), &segment, now);
            }
            return Some(frame);
        }
        None
    }

    /// What is held of a flow, in the order the clone sent it.
    pub fn of(&self, flow: FlowRef) -> impl Iterator<Item = &F> {
        self.entries.iter().filter(move |e| e.flow == flow).map(|e| &e.frame)
    }

    /// Frames held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets all; returns how many of them were wanted.
    pub fn clear(&mut self, flows: &FlowTable) -> u64 {
        let wanted = self.entries.iter().filter(|e| e.is_wanted(flows)).count();
        self.entries.clear();
        wanted as u64
    }
}

#[cfg(test)]
mod tests {
    use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
    use understudy_wire::tcp::{ACK, build_segment};

    use super::*;
    use crate::flows::FlowSeed;

    const CAPACITY: usize = 16;

    /// As many connections as asked, of which each has been sent one byte.
    fn table(connections: u16) -> (FlowTable, Vec<FlowRef>) {
        let mut flows = FlowTable::new(usize::from(connections));
        let open = |port: u16| {
            let key = understudy_wire::tcp::FlowKey {
                client: ([10, 0, 0, 1].into(), port),
                server: ([10, 0, 0, 2].into(), 80),
            };
            let seed = FlowSeed {
                key,
                rcv_nxt: 1,
                rcv_edge: 1000,
                snd_nxt: 2,
                client_acked: 1,
                client_edge: 1000,
                scales: None,
                tsval: None,
                client_closed: false,
                server_closed: false,
            };
            assert!(flows.restore(0, &seed));
            flows.find(&key).unwrap()
        };
        let refs = (0..connections).map(open).collect();
        (flows, refs)
    }

    fn acknowledge(flows: &mut FlowTable, at: FlowRef) {
        flows.get_mut(at).unwrap().client_acked = 2;
    }

    #[test]
    fn what_is_wanted_stays_as_long_as_there_is_room() {
        let (mut flows, refs) = table(100);
        let mut retained = Retained::new(CAPACITY);
        let dropped: u64 =
            refs[..CAPACITY].iter().map(|&at| retained.push(at, 2, vec![0], &flows)).sum();
        assert_eq!((retained.len(), dropped), (CAPACITY, 0));
        // The first is wanted; what others have got makes room for new ones.
        refs[1..9].iter().for_each(|&at| acknowledge(&mut flows, at));
        let dropped: u64 =
            refs[20..28].iter().map(|&at| retained.push(at, 2, vec![0], &flows)).sum();
        assert_eq!((retained.len(), dropped), (CAPACITY, 0));
        // Nothing to be found: the oldest go, and few of the pushes look for it.
        let dropped: u64 = refs[30..].iter().map(|&at| retained.push(at, 2, vec![0], &flows)).sum();
        assert_eq!((retained.len(), dropped), (CAPACITY, 70));
        let mut left = 0;
        while retained.pop_wanted(0, &flows).is_some() {
            left += 1;
        }
        assert_eq!(left, CAPACITY);
    }

    #[test]
    fn what_is_forgotten_though_wanted_is_told() {
        let (mut flows, refs) = table(5);
        let mut retained = Retained::new(CAPACITY);
        let eth = Ethernet { dst: [2; 6], src: [4; 6], ethertype: ETHERTYPE_IPV4 };
        for &at in &refs {
            let key = flows.get(at).unwrap().key;
            let frame = build_segment(&eth, key.server, key.client, (1, 1, ACK, 9), &[], b"x");
            assert_eq!(retained.push(at, 2, frame, &flows), 0);
        }
        acknowledge(&mut flows, refs[2]);
        assert_eq!((retained.clear(&flows), retained.len()), (4, 0));
    }
}
