//! The primary's way of a client frame: capture, log append, replicate, deliver.
//!
//! Measured until everything captured is acknowledged by the replicas. The baseline moves the same
//! frames from the client's ring to the capsule's side in the same bursts, and nothing else.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use understudy_fastpath::MS;
use understudy_fastpath::audit::AuditConfig;
use understudy_fastpath::command::Command;
use understudy_fastpath::dataplane::{Dataplane, DataplaneConfig};
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_fastpath::sender::{CommitPolicy, SenderConfig};
use understudy_log::CaptureLog;
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope};
use understudy_wire::NodeId;
use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet, Mac};
use understudy_wire::pdu::DATA_HEADER_LEN;
use understudy_wire::tcp::{ACK, build_segment};

use crate::auditing;
use crate::memory::MemoryPorts;
use crate::paired::{self, Spread};
use crate::sealing;

const CLUSTER: u64 = 77;
const EPOCH: u64 = 1;
const ME: NodeId = 1;
const REPLICAS: [NodeId; 2] = [2, 3];
const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 9];
/// The shipped configuration's log.
const LOG_LEN: usize = 64 << 20;
const MTU: usize = 1500;
/// The clock moves this much with each poll.
const POLL_NS: u64 = 10_000;
/// Ethernet, IPv4 and TCP headers.
const HEADERS_LEN: usize = 54;
/// Pairs that are run and not counted.
const WARM_UP_PAIRS: usize = 5;
/// A slice that takes more polls than this makes no progress.
const POLLS_MAX: usize = 1 << 20;

/// What is run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Bytes of a client frame.
    pub frame_len: usize,
    /// Frames in a slice.
    pub slice_frames: usize,
    /// Pairs of slices.
    pub pairs: usize,
}

/// What was found for one frame length.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was run.
    pub plan: Plan,
    /// Moving frames only, nanoseconds per packet.
    pub baseline_ns: Spread,
    /// The data path, nanoseconds per packet.
    pub capture_ns: Spread,
    /// What the data path adds to a packet, per pair, in nanoseconds.
    pub added_ns: Spread,
    /// The data path's time over the baseline's, per pair.
    pub ratio: Spread,
    /// DATA PDUs sent per client frame.
    pub pdus_per_frame: f64,
    /// Bytes of their bodies, on average.
    pub body_len: usize,
    /// What sealing costs a PDU of that length; `capture_ns` holds it already.
    pub sealing: sealing::Outcome,
    /// What the audit costs a frame of that length on its way out.
    pub auditing: auditing::Outcome,
    /// Whether the log was in huge pages.
    pub huge_pages: bool,
}

struct Bench {
    plan: Plan,
    frame: Vec<u8>,
    ports: MemoryPorts,
    plane: Dataplane<MemoryPorts>,
}

/// Runs a plan.
///
/// # Errors
/// If there is no memory, or if the data path loses a frame or does not come to an end.
pub fn run(plan: &Plan) -> Result<Outcome> {
    ensure!(plan.pairs > 0 && plan.slice_frames > 0, "there is nothing to run");
    let mut bench = Bench::new(plan)?;
    paired::run(WARM_UP_PAIRS, &mut bench, Bench::baseline_slice, Bench::capture_slice);
    let (frames, pdus, bytes) = (bench.captured(), bench.ports.replicated, bench.ports.sent_to());
    let pairs = paired::run(plan.pairs, &mut bench, Bench::baseline_slice, Bench::capture_slice);
    bench.check()?;
    let (frames, pdus) = (bench.captured() - frames, bench.ports.replicated - pdus);
    let body_len = DATA_HEADER_LEN + ((bench.ports.sent_to() - bytes) / pdus.max(1)) as usize;
    Ok(Outcome {
        plan: *plan,
        baseline_ns: Spread::of(pairs.iter().map(|pair| pair.baseline)),
        capture_ns: Spread::of(pairs.iter().map(|pair| pair.subject)),
        added_ns: Spread::of(pairs.iter().map(|pair| pair.subject - pair.baseline)),
        ratio: Spread::of(pairs.iter().map(|pair| pair.subject / pair.baseline)),
        pdus_per_frame: pdus as f64 / frames as f64,
        body_len,
        sealing: sealing::run(body_len, plan.pairs)?,
        auditing: auditing::run(plan.frame_len, plan.pairs)?,
        huge_pages: bench.plane.log().is_huge(),
    })
}

impl Bench {
    fn new(plan: &Plan) -> Result<Bench> {
        let log = CaptureLog::new(LOG_LEN)?;
        let ports = MemoryPorts::new(
            plan.slice_frames + 1024,
            CLUSTER,
            EPOCH,
            REPLICAS.map(channel).into(),
        );
        let plane = Dataplane::new(config(), log, channel(ME));
        let mut bench = Bench { plan: *plan, frame: client_frame(plan.frame_len)?, ports, plane };
        bench.command(Command::Lead { epoch: EPOCH, serve: true });
        bench.command(Command::Service { up: true });
        for _ in 0..1000 {
            bench.poll();
            if bench.is_serving() {
                return Ok(bench);
            }
        }
        bail!("the data path does not become primary: {:?}", bench.plane.snapshot(0));
    }

    fn command(&mut self, command: Command) {
        self.plane.command(self.ports.now_ns, command, &mut self.ports);
    }

    fn poll(&mut self) {
        self.ports.now_ns += POLL_NS;
        self.plane.poll(self.ports.now_ns, &mut self.ports);
    }

    fn is_serving(&self) -> bool {
        let view = self.plane.snapshot(self.ports.now_ns);
        view.gate_open && view.applied == view.log_end && view.committed == view.log_end
    }

    fn captured(&self) -> u64 {
        self.plane.counters().captured_frames
    }

    /// Nanoseconds per packet. Filling the ring is not timed.
    fn capture_slice(&mut self) -> f64 {
        self.ports.prefill(&self.frame, self.plan.slice_frames);
        let begun = Instant::now();
        for _ in 0..POLLS_MAX {
            self.poll();
            if self.ports.is_drained() && self.ports.sent_to() == self.plane.log().end() {
                break;
            }
        }
        // Takes the last acknowledgements.
        self.poll();
        self.per_packet(begun)
    }

    fn baseline_slice(&mut self) -> f64 {
        self.ports.prefill(&self.frame, self.plan.slice_frames);
        let begun = Instant::now();
        while !self.ports.is_drained() {
            let mut burst = Burst::new();
            self.ports.rx(PortRole::Client, &mut burst);
            self.ports.tx(PortRole::Host, &mut burst);
        }
        self.per_packet(begun)
    }

    fn per_packet(&self, begun: Instant) -> f64 {
        begun.elapsed().as_nanos() as f64 / self.plan.slice_frames as f64
    }

    /// Whether what was timed is what was meant: every frame captured, delivered and committed.
    fn check(&self) -> Result<()> {
        let slices = (self.plan.pairs + WARM_UP_PAIRS) as u64;
        let frames = slices * self.plan.slice_frames as u64;
        let c = self.plane.counters();
        ensure!(c.captured_frames == frames, "captured {} frames of {frames}", c.captured_frames);
        ensure!(c.delivered_frames == frames, "delivered {} of {frames}", c.delivered_frames);
        // The baseline delivers as many.
        ensure!(self.ports.delivered == 2 * frames, "{} frames arrived", self.ports.delivered);
        ensure!(self.is_serving(), "not everything was committed");
        ensure!(c.data_retransmitted == 0, "{} PDUs were sent again", c.data_retransmitted);
        Ok(())
    }
}

/// A node's end of the replica port.
pub(crate) fn channel(me: NodeId) -> Channel {
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
        vips: vec![[10, 77, 0, 100].into()],
        replica_mac: [2, 0, 0, 0, 0, 1],
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
        gate_frames_max: 4096,
        retained_frames_max: 4096,
        flows_max: 1024,
        clone_wait_ns: 5_000 * MS,
        audit: Some(AuditConfig { seed: [9; 16], heal: true }),
        witness: false,
    }
}

/// A segment of an established connection, `len` bytes long without the frame check sequence.
fn client_frame(len: usize) -> Result<Vec<u8>> {
    let payload = len.checked_sub(HEADERS_LEN).context("a frame is at least 54 bytes long")?;
    ensure!(payload <= MTU - 40, "a frame of {len} bytes exceeds the MTU");
    let eth = Ethernet { dst: VMAC, src: CLIENT_MAC, ethertype: ETHERTYPE_IPV4 };
    let (client, service) = (([10, 77, 0, 1].into(), 40000), ([10, 77, 0, 100].into(), 6379));
    Ok(build_segment(&eth, client, service, (1000, 2000, ACK, 512), &[], &vec![0x5a; payload]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_what_it_says() {
        for frame_len in [64, 1500] {
            let outcome = run(&Plan { frame_len, slice_frames: 300, pairs: 3 }).unwrap();
            assert!(outcome.capture_ns.min > 0.0 && outcome.baseline_ns.min > 0.0);
            assert!(outcome.ratio.min <= outcome.ratio.median);
            assert!(outcome.pdus_per_frame > 0.0);
            assert_eq!(client_frame(frame_len).unwrap().len(), frame_len);
        }
    }

    #[test]
    fn impossible_plans_are_refused() {
        for (frame_len, pairs) in [(20, 1), (9000, 1), (64, 0)] {
            assert!(run(&Plan { frame_len, slice_frames: 10, pairs }).is_err());
        }
    }
}
