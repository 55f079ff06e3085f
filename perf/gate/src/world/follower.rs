//! A clone of many connections that is fed from a log, and takes them over.

use anyhow::{Context, Result, bail, ensure};
use understudy_fastpath::command::Command;
use understudy_fastpath::dataplane::Dataplane;
use understudy_log::CaptureLog;
use understudy_wire::record::{RecordHeader, RecordKind};

use super::crowd::Crowd;
use super::memory::MemoryPorts;
use super::{EPOCH, LOG_LEN, ME, POLLS_MAX, World, channel, config};

/// Connections that shake hands before the clone is polled.
const HANDSHAKES_AT_ONCE: usize = 500;
/// Records are so far apart.
const RECORD_NS: u64 = 10_000;

/// The clone and what was fed to it.
pub struct Follower {
    ports: MemoryPorts,
    plane: Dataplane<MemoryPorts>,
    crowd: Crowd,
    stamp_ns: u64,
}

impl Follower {
    /// So many connections are open.
    ///
    /// # Errors
    /// If there is no memory for its log, or it does not take them.
    pub fn new(connections: usize) -> Result<Follower> {
        let ports = MemoryPorts::with_kernel(4 * connections + 4096);
        let plane = Dataplane::new(config(), CaptureLog::new(LOG_LEN)?, channel(ME));
        let crowd = Crowd::new(connections);
        let mut clone = Follower { ports, plane, crowd, stamp_ns: 1_000_000 };
        clone.command(Command::Service { up: true });
        for n in 0..connections {
            clone.record(RecordKind::ClientFrame, &clone.crowd.syn(n))?;
            clone.record(RecordKind::SynAck, &clone.crowd.synack(n))?;
            clone.record(RecordKind::ClientFrame, &clone.crowd.ack(n))?;
            if n % HANDSHAKES_AT_ONCE == 0 {
                clone.apply()?;
            }
        }
        clone.apply()?;
        let adopted = clone.plane.counters().adoptions;
        ensure!(adopted == connections as u64, "{adopted} of {connections} were adopted");
        Ok(clone)
    }

    /// Each client asks in a frame of `len` bytes.
    ///
    /// # Errors
    /// If the log is full.
    pub fn ask(&mut self, len: usize) -> Result<()> {
        let frames = self.crowd.ask(len)?;
        frames.iter().try_for_each(|frame| self.record(RecordKind::ClientFrame, frame))
    }

    /// Polls until all that was fed is applied and answered.
    ///
    /// # Errors
    /// If that does not come.
    pub fn apply(&mut self) -> Result<()> {
        for _ in 0..POLLS_MAX {
            if self.plane.applied() == self.plane.log().end() && self.ports.is_drained() {
                return Ok(());
            }
            self.poll();
        }
        bail!("{} of {} bytes are applied", self.plane.applied(), self.plane.log().end())
    }

    /// The clone is elected, and sends each client what that has not acknowledged.
    ///
    /// # Errors
    /// If it does not serve, or somebody hears nothing.
    pub fn take_over(&mut self) -> Result<()> {
        self.ports.replicas_hold(self.plane.log().end());
        self.command(Command::Lead { epoch: EPOCH, serve: true });
        let owed = self.crowd.connections as u64;
        for _ in 0..POLLS_MAX {
            if self.ports.replied >= owed {
                return Ok(());
            }
            self.poll();
        }
        let counters = self.plane.counters();
        let (sent, dropped) = (counters.retained_sent, counters.retained_dropped);
        bail!("{sent} of {owed} answers were sent again, {dropped} given up")
    }

    fn poll(&mut self) {
        let now_ns = self.ports.tick();
        self.plane.poll(now_ns, &mut self.ports);
    }

    fn command(&mut self, command: Command) {
        let now_ns = self.ports.tick();
        self.plane.command(now_ns, command, &mut self.ports);
    }

    fn record(&mut self, kind: RecordKind, payload: &[u8]) -> Result<()> {
        self.stamp_ns += RECORD_NS;
        let header = RecordHeader { len: payload.len() as u32, kind, timestamp_ns: self.stamp_ns };
        let mut stored = header.encode().to_vec();
        stored.extend_from_slice(payload);
        stored.resize(header.stored_len(), 0);
        let now_ns = self.ports.tick();
        self.plane.feed(now_ns, &stored, self.stamp_ns).context("the log")
    }
}
