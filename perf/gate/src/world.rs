//! The world of a node without a network: replicas that acknowledge at once, and its set-up.
//!
//! [`Replicas`] answers for the replica network, [`Primary`] is the shipped data path in a group of
//! three, commit policy `quorum`, over any ports; [`follower`] is one that follows a log and takes over;
//! [`memory`] are ports in memory, [`kernel`] what answers come from, [`crowd`] what asks.

use anyhow::{Context, Result, bail, ensure};
use understudy_fastpath::MS;
use understudy_fastpath::audit::AuditConfig;
use understudy_fastpath::command::Command;
use understudy_fastpath::counters::Counters;
use understudy_fastpath::dataplane::{Dataplane, DataplaneConfig};
use understudy_fastpath::ports::Ports;
use understudy_fastpath::sender::{CommitPolicy, SenderConfig};
use understudy_log::CaptureLog;
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope};
use understudy_wire::NodeId;
use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet, Mac};
use understudy_wire::tcp::{ACK, build_segment};

pub mod crowd;
pub mod follower;
mod kernel;
pub mod memory;
mod replicas;

pub use replicas::Replicas;

const CLUSTER: u64 = 77;
const EPOCH: u64 = 1;
/// The primary.
pub const ME: NodeId = 1;
/// The replicas.
pub const REPLICAS: [NodeId; 2] = [2, 3];
const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 9];
const REPLICA_MAC: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT: [u8; 4] = [10, 77, 0, 1];
const VIP: [u8; 4] = [10, 77, 0, 100];
const SERVICE: ([u8; 4], u16) = (VIP, 6379);
const WINDOW: u16 = 512;
/// The shipped configuration's log.
const LOG_LEN: usize = 64 << 20;
const MTU: usize = 1500;
/// Polls within which whatever was begun comes to its end.
const POLLS_MAX: usize = 1_000_000;
/// Ethernet, IPv4 and TCP headers.
const HEADERS_LEN: usize = 54;

/// Ports with a clock and a replica network of their own.
pub trait World: Ports {
    /// The time of the next poll.
    fn tick(&mut self) -> u64;
    /// The other nodes.
    fn replicas(&self) -> &Replicas;
}

/// A primary that serves.
pub struct Primary<P: World> {
    /// Its world.
    pub ports: P,
    /// The data path.
    pub plane: Dataplane<P>,
}

impl<P: World> Primary<P> {
    /// Makes a data path the primary.
    ///
    /// # Errors
    /// If there is no memory for its log.
    pub fn new(ports: P) -> Result<Primary<P>> {
        let plane = Dataplane::new(config(), CaptureLog::new(LOG_LEN)?, channel(ME));
        let mut primary = Primary { ports, plane };
        primary.command(Command::Lead { epoch: EPOCH, serve: true });
        primary.command(Command::Service { up: true });
        for _ in 0..1000 {
            primary.poll();
            if primary.is_serving() {
                return Ok(primary);
            }
        }
        bail!("the data path does not become primary: {:?}", primary.plane.snapshot(0));
    }

    fn command(&mut self, command: Command) {
        let now_ns = self.ports.tick();
        self.plane.command(now_ns, command, &mut self.ports);
    }

    /// One turn.
    pub fn poll(&mut self) {
        let now_ns = self.ports.tick();
        self.plane.poll(now_ns, &mut self.ports);
    }

    /// Whether all that was captured is delivered and committed, and the gate is open.
    pub fn is_serving(&mut self) -> bool {
        let now_ns = self.ports.tick();
        let view = self.plane.snapshot(now_ns);
        view.gate_open && view.applied == view.log_end && view.committed == view.log_end
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        *self.plane.counters()
    }

    /// Whether everything captured was sent to the replicas.
    pub fn is_replicated(&self) -> bool {
        self.ports.replicas().sent_to() == self.plane.log().end()
    }

    /// Whether `frames` were captured, delivered and committed, each once.
    ///
    /// # Errors
    /// What was not.
    pub fn check(&mut self, frames: u64) -> Result<()> {
        let c = self.counters();
        ensure!(c.captured_frames == frames, "captured {} frames of {frames}", c.captured_frames);
        ensure!(c.delivered_frames == frames, "delivered {} of {frames}", c.delivered_frames);
        ensure!(c.host_tx_dropped + c.replica_tx_dropped == 0, "lost frames on the way out");
        ensure!(self.is_serving(), "not everything was committed");
        ensure!(c.data_retransmitted == 0, "{} PDUs were sent again", c.data_retransmitted);
        Ok(())
    }
}

/// A node's end of the replica port.
pub fn channel(me: NodeId) -> Channel {
    let keyring = Keyring::single(ClusterKey::new([7; 32]));
    let peers: Vec<NodeId> = [ME].into_iter().chain(REPLICAS).filter(|&n| n != me).collect();
    let scope = Scope { cluster: CLUSTER, path: Path::Replica };
    Channel::new(me, scope, &peers, &keyring, [me as u8; 32])
}

fn config() -> DataplaneConfig {
    DataplaneConfig {
        me: ME,
        cluster: CLUSTER,
        peers: REPLICAS.to_vec(),
        vmac: VMAC,
        vips: vec![VIP.into()],
        replica_mac: REPLICA_MAC,
        replica_mtu: MTU,
        sender: SenderConfig {
            policy: CommitPolicy::Quorum,
            voters: REPLICAS.len() + 1,
            min_replicas: 1,
            lease_ns: 120 * MS,
            evict_after_ns: 2000 * MS,
            heartbeat_interval_ns: 10 * MS,
            chunk_len: 0,
        },
        gate_frames_max: 16_384,
        retained_frames_max: 16_384,
        kept_frames_max: 4096,
        flows_max: 65_536,
        clone_wait_ns: 5_000 * MS,
        audit: Some(AuditConfig { seed: [9; 16], heal: true }),
        witness: false,
    }
}

/// A segment of an established connection, `len` bytes long without the frame check sequence.
///
/// # Errors
/// If no such frame is that long.
pub fn client_frame(len: usize) -> Result<Vec<u8>> {
    let eth = Ethernet { dst: VMAC, src: CLIENT_MAC, ethertype: ETHERTYPE_IPV4 };
    segment(len, &eth, (CLIENT, 40000), SERVICE)
}

/// What the application's kernel sends back on it.
///
/// # Errors
/// As [`client_frame`].
pub fn reply_frame(len: usize) -> Result<Vec<u8>> {
    let eth = Ethernet { dst: CLIENT_MAC, src: VMAC, ethertype: ETHERTYPE_IPV4 };
    segment(len, &eth, SERVICE, (CLIENT, 40000))
}

fn segment(
    len: usize,
    eth: &Ethernet,
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
) -> Result<Vec<u8>> {
    let payload = payload_len(len)?;
    let (from, to) = ((from.0.into(), from.1), (to.0.into(), to.1));
    Ok(build_segment(eth, from, to, (1000, 2000, ACK, WINDOW), &[], &vec![0x5a; payload]))
}

/// What a frame of this length carries.
fn payload_len(len: usize) -> Result<usize> {
    let payload = len.checked_sub(HEADERS_LEN).context("a frame is at least 54 bytes long")?;
    ensure!(payload <= MTU - 40, "a frame of {len} bytes exceeds the MTU");
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_long_as_asked() {
        for len in [64, 1500] {
            assert_eq!(client_frame(len).unwrap().len(), len);
            assert_eq!(reply_frame(len).unwrap().len(), len);
        }
        assert!(client_frame(20).is_err() && client_frame(9000).is_err());
    }
}
