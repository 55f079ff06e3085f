//! What the data path must know of an application that was restored: where it stood, its
//! connections, and what it had sent that clients may lack.

use std::net::SocketAddr;

use understudy_checkpoint::Generation;
use understudy_fastpath::command::{Barrier, Handshake, Resume};
use understudy_fastpath::flows::FlowSeed;
use understudy_image::{Fin, SocketImage};
use understudy_wire::control::EpochStart;
use understudy_wire::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Mac};
use understudy_wire::tcp::{ACK, FIN, FlowKey, build_segment};

/// NOP, NOP, and the timestamp option (RFC 7323); its values are filled in when it is sent.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];

/// Of one segment, so that it fits any link.
const PAYLOAD_MAX: usize = 1400;
/// Of one connection: more than this a client's kernel asks for.
const OWED_BYTES_MAX: usize = 64 << 10;
/// Of all: the data path keeps no more.
const OWED_MAX: usize = 16_384;

/// `vmac`: whose frames they are.
pub fn resume(generation: &Generation, connections: &[SocketImage], vmac: Mac) -> Resume {
    let m = &generation.manifest;
    Resume {
        barrier: Barrier {
            position: m.position,
            floor: m.floor,
            at_ns: m.at_ns,
            history: m
                .reigns
                .iter()
                .map(|r| EpochStart { epoch: r.epoch, start: r.start })
                .collect(),
            handshakes: Vec::new(),
        },
        flows: connections.iter().map(seed).collect(),
        pending: m
            .pending
            .iter()
            .map(|p| Handshake { key: key(p.client, p.server), from: p.from })
            .collect(),
        owed: connections.iter().flat_map(|image| owed(image, vmac)).take(OWED_MAX).collect(),
    }
}

/// As the data path names a connection.
pub fn key(client: SocketAddr, server: SocketAddr) -> FlowKey {
    FlowKey { client: end(client), server: end(server) }
}

fn end(address: SocketAddr) -> (std::net::IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// What is in flight, in segments; their destination is not filled in.
fn owed(image: &SocketImage, vmac: Mac) -> Vec<Vec<u8>> {
    let (from, to) = (end(image.local), end(image.remote));
    let ethertype = if from.0.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let eth = Ethernet { dst: [0; 6], src: vmac, ethertype };
    let options = if image.agreed.timestamps.is_some() { &TIMESTAMPS[..] } else { &[] };
    let payload_max =
        usize::from(image.agreed.mss).saturating_sub(options.len()).clamp(1, PAYLOAD_MAX);
    let bytes = &image.in_flight[..image.in_flight.len().min(OWED_BYTES_MAX)];
    let scale = image.agreed.scales.map_or(0, |(_, ours)| ours);
    let window = (image.window.rcv_wnd >> scale).min(u32::from(u16::MAX)) as u16;
    let closes = image.fin == Fin::InFlight && bytes.len() == image.in_flight.len();
    let pieces = bytes.len().div_ceil(payload_max).max(usize::from(closes));
    let piece = |n: usize| {
        let at = n * payload_max;
        let payload = &bytes[at..bytes.len().min(at + payload_max)];
        let last = n + 1 == pieces;
        let flags = if last && closes { ACK | FIN } else { ACK };
        let seq = image.snd_una.wrapping_add(at as u32);
        build_segment(&eth, from, to, (seq, image.rcv_nxt, flags, window), options, payload)
    };
    (0..pieces).map(piece).collect()
}

fn seed(image: &SocketImage) -> FlowSeed {
    let clock = image.agreed.timestamps.filter(|clock| !clock.micros);
    FlowSeed {
        key: FlowKey { client: end(image.remote), server: end(image.local) },
        rcv_nxt: image.rcv_nxt,
        rcv_edge: image.window.rcv_wup.wrapping_add(image.window.rcv_wnd),
        snd_nxt: image.snd_nxt(),
        client_acked: image.snd_una,
        client_edge: image.snd_una.wrapping_add(image.window.snd_wnd),
        scales: image.agreed.scales,
        tsval: clock.map(|clock| clock.value),
        client_closed: image.state.peer_has_closed(),
        server_closed: matches!(image.fin, Fin::InFlight | Fin::Acked),
    }
}
