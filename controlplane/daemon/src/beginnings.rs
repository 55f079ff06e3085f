//! Where the log has the beginnings of connections that an application had not got when it was saved: from there
//! on whoever restores it hands them to its kernel.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use anyhow::{Result, bail};
use understudy_checkpoint::{Manifest, Pending};
use understudy_fastpath::command::Handshake;
use understudy_log::{LogView, Read};
use understudy_wire::Position;
use understudy_wire::record::{RecordKind, records};
use understudy_wire::tcp::{ACK, FlowKey, SYN, Segment};

use crate::resume::key;

/// How far back of the barrier is looked, one after the other: most have just begun, and the log is long.
const LOOK_BACK_NS: [u64; 3] = [1_000_000_000, 30_000_000_000, u64::MAX];

/// A SYN that was repeated begins where it came first.
type Begun = HashMap<FlowKey, (u32, Position)>;

/// What the manifest is to say of connections that the application had not got. `handshakes`: those of which its
/// kernel knew nothing, with their beginnings; `pending`: those that it held (client and service).
///
/// # Errors
/// If the log has not got the beginning of one any more: then nobody could go on with it.
pub fn find(
    log: &LogView,
    manifest: &Manifest,
    handshakes: &[Handshake],
    pending: &[(SocketAddr, SocketAddr)],
) -> Result<Vec<Pending>> {
    let begun = search(log, manifest, pending);
    let mut found: Vec<Pending> = handshakes.iter().map(as_pending).collect();
    for &(client, server) in pending {
        let Some(&(_, from)) = begun.get(&key(client, server)) else {
            bail!(
                "the log does not reach back to the beginning of the connection from {client}, which the application \
                 has not accepted"
            );
        };
        found.retain(|p| key(p.client, p.server) != key(client, server));
        found.push(Pending { client, server, from });
    }
    Ok(found)
}

fn as_pending(handshake: &Handshake) -> Pending {
    let FlowKey { client, server } = handshake.key;
    Pending { client: client.into(), server: server.into(), from: handshake.from }
}

/// The beginnings of those connections whose SYN is found.
fn search(log: &LogView, manifest: &Manifest, pending: &[(SocketAddr, SocketAddr)]) -> Begun {
    let wanted: HashSet<FlowKey> =
        pending.iter().map(|&(client, server)| key(client, server)).collect();
    let mut begun = Begun::new();
    for look_back_ns in LOOK_BACK_NS {
        if begun.len() == wanted.len() {
            break;
        }
        begun.clear();
        let mut reader = log.reader();
        reader.seek_time(manifest.at_ns.saturating_sub(look_back_ns));
        while reader.at() < manifest.position {
            match reader.read() {
                Read::Records(from, bytes) => {
                    note(from, bytes, manifest.position, &wanted, &mut begun)
                }
                // What was written over meanwhile is missed if it was wanted.
                Read::Lost(_) => {}
                Read::TakenBack(_) | Read::Nothing => break,
            }
        }
    }
    begun
}

/// Takes the SYNs of whole records, which begin at `at`, as far as the barrier.
fn note(
    at: Position,
    bytes: &[u8],
    barrier: Position,
    wanted: &HashSet<FlowKey>,
    begun: &mut Begun,
) {
    let before = records(bytes).take_while(|record| at + (record.at as u64) < barrier);
    for record in before.filter(|record| record.header.kind == RecordKind::ClientFrame) {
        let segment = Segment::parse(record.payload);
        let Some(syn) = segment.filter(|segment| segment.has(SYN) && !segment.has(ACK)) else {
            continue;
        };
        let key = syn.key_from_client();
        let known = begun.get(&key).is_some_and(|(isn, _)| *isn == syn.seq);
        if !known && wanted.contains(&key) {
            begun.insert(key, (syn.seq, at + record.at as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use understudy_log::CaptureLog;
    use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
    use understudy_wire::tcp::build_segment;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const LOG_LEN: usize = 1 << 20;

    fn ends(port: u16) -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([10, 0, 0, 1], port)), SocketAddr::from(([10, 0, 0, 100], 6379)))
    }

    fn frame(port: u16, seq: u32, flags: u8) -> Vec<u8> {
        let (client, server) = ends(port);
        let eth = Ethernet { dst: [2; 6], src: [4; 6], ethertype: ETHERTYPE_IPV4 };
        let (from, to) = ((client.ip(), client.port()), (server.ip(), server.port()));
        build_segment(&eth, from, to, (seq, 0, flags, 1000), &[], &[])
    }

    fn append(log: &mut CaptureLog, at_ns: u64, frame: &[u8]) -> Position {
        log.append(RecordKind::ClientFrame, at_ns, frame, Position::MAX).unwrap()
    }

    /// Of a checkpoint taken at this moment.
    fn taken(log: &CaptureLog, at_ns: u64) -> Manifest {
        Manifest { position: log.end(), at_ns, ..Manifest::default() }
    }

    #[test]
    fn a_connection_begins_at_the_first_of_its_own_syns() {
        let mut log = CaptureLog::new(LOG_LEN).unwrap();
        append(&mut log, SECOND_NS, &frame(7, 100, SYN));
        let other = append(&mut log, SECOND_NS, &frame(8, 1, SYN));
        let own = append(&mut log, SECOND_NS, &frame(7, 900, SYN));
        append(&mut log, 2 * SECOND_NS, &frame(7, 900, SYN));
        append(&mut log, 2 * SECOND_NS, &frame(7, 901, ACK));
        let manifest = taken(&log, 2 * SECOND_NS);
        append(&mut log, 2 * SECOND_NS, &frame(7, 5000, SYN));
        let (client, server) = ends(8);
        let handshake = Handshake { key: key(client, server), from: other };
        let found = find(&log.view().unwrap(), &manifest, &[handshake], &[ends(7)]).unwrap();
        let begins = |port: u16, from| {
            let (client, server) = ends(port);
            Pending { client, server, from }
        };
        assert_eq!(found, [begins(8, other), begins(7, own)]);
    }

    #[test]
    fn it_is_looked_for_as_far_back_as_the_log_reaches() {
        let mut log = CaptureLog::new(LOG_LEN).unwrap();
        let syn = append(&mut log, SECOND_NS, &frame(7, 100, SYN));
        for nth in 0..5_000 {
            append(&mut log, (50 + nth / 100) * SECOND_NS, &frame(8, 1, ACK));
        }
        let manifest = taken(&log, 100 * SECOND_NS);
        let view = log.view().unwrap();
        assert_eq!(find(&view, &manifest, &[], &[ends(7)]).unwrap()[0].from, syn);
        while log.start() <= syn {
            append(&mut log, 100 * SECOND_NS, &frame(8, 1, ACK));
        }
        let error = find(&view, &taken(&log, 100 * SECOND_NS), &[], &[ends(7)]).unwrap_err();
        assert!(error.to_string().contains("10.0.0.1:7"), "{error}");
    }
}
