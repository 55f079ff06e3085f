//! `understudy conns -v` while clients press: nobody notices.

use std::time::Duration;

use understudy_api::{ConnImages, Role};
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::vip4;
use understudy_lab::{Member, NodeOptions, Scenario, scenario, sys};

const REDIS: u16 = 6379;
const CONNECTIONS: usize = 50;
const READS: usize = 20;
/// No client is without service for longer.
const STALL_MAX: Duration = Duration::from_secs(10);

/// What was read on one node.
#[derive(Default)]
struct Seen {
    conns: usize,
    refused: Vec<String>,
    bytes: u64,
    freezes: u64,
    frozen_us: u64,
    frozen_longest_us: u64,
}

impl Seen {
    fn add(&mut self, images: &ConnImages) {
        for conn in &images.conns {
            self.conns += 1;
            match (&conn.socket, &conn.unsavable) {
                (Some(s), None) => {
                    let counted = s.snd_una.wrapping_add(s.in_flight.len as u32);
                    assert_eq!((counted, s.fin.as_str()), (s.snd_nxt, "none"), "{conn:?}");
                    assert!(s.agreed.mss > 500 && s.options.congestion.len() > 2, "{conn:?}");
                    self.bytes += s.in_flight.len + s.pending.len + s.unread.len;
                }
                (None, Some(why)) => self.refused.push(why.clone()),
                _ => panic!("neither an image nor a reason: {conn:?}"),
            }
        }
        self.freezes += images.freezes;
        self.frozen_us += images.frozen_us;
        self.frozen_longest_us = self.frozen_longest_us.max(images.frozen_longest_us);
    }

    fn print(&self, node: Member, role: Role) {
        let (refused, ms) = (self.refused.len(), |us: u64| us as f64 / 1000.0);
        println!(
            "{node} ({role}): {} connections read in {} freezes, {refused} not; {} bytes in their \
             lists; frozen {:.2} ms on average, {:.2} ms at most",
            self.conns - refused,
            self.freezes,
            self.bytes,
            ms(self.frozen_us / self.freezes.max(1)),
            ms(self.frozen_longest_us)
        );
        for why in self.refused.iter().take(3) {
            println!("  {why}");
        }
    }
}

/// Reads all connections, and one of them by its client's address.
fn read(scenario: &mut Scenario, node: Member, role: Role) -> Seen {
    let mut seen = Seen::default();
    for round in 0..READS {
        let images = scenario.trio.node(node).conn_images(None).unwrap();
        assert_eq!((images.role, images.conns.len(), images.left_out), (role, CONNECTIONS, 0));
        assert!(images.conns.iter().all(|conn| conn.adopted == (role == Role::Replica)));
        seen.add(&images);
        let client = &images.conns[round % CONNECTIONS].client;
        let one = scenario.trio.node(node).conn_images(Some(client)).unwrap();
        assert_eq!(one.conns.len(), 1);
        assert_eq!(&one.conns[0].client, client);
        seen.add(&one);
    }
    seen.print(node, role);
    seen
}

#[test]
fn nobody_notices_conns_in_full() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let mut scenario = Scenario::start(&NodeOptions::default()).unwrap();
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections: CONNECTIONS,
        depth: 8,
        pause: Duration::from_millis(5),
        seed: 17,
    };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(1000, STALL_MAX).unwrap();
    let primary = scenario.primary().unwrap();
    let replica = primary.others().next().unwrap();
    let begun_ns = sys::unix_ns();
    for (node, role) in [(primary, Role::Primary), (replica, Role::Replica)] {
        let seen = read(&mut scenario, node, role);
        assert!(seen.refused.len() * 10 < seen.conns, "{:?}", seen.refused);
    }
    let took_ms = (sys::unix_ns() - begun_ns) / 1_000_000;
    task.wait_progress(500, STALL_MAX).unwrap();
    assert_eq!(scenario.primary().unwrap(), primary, "the primary has not changed");
    let verdict = task.finish().unwrap();
    let longest_ns = verdict.stall(begun_ns).longest_ns;
    println!("{took_ms} ms; {verdict}  longest {:.1} ms", longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert!(longest_ns < STALL_MAX.as_nanos() as u64, "the service was gone");
    scenario.check_wire(0).unwrap();
}
