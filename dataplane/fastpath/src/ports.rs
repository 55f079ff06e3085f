//! What the data path needs from the world: three ports, frames, and adoption.

use arrayvec::ArrayVec;

use crate::adoption::AdoptAttrs;
use understudy_wire::tcp::FlowKey;

/// Frames handled at once.
pub const BURST: usize = 32;

/// A burst of frames, in order.
pub type Burst<F> = ArrayVec<F, BURST>;

/// Which of a node's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortRole {
    /// Towards the clients.
    Client,
    /// Towards the other nodes.
    Replica,
    /// Towards the capsule.
    Host,
}

/// A frame that is owned, moves, and is freed when dropped.
pub trait Frame: AsRef<[u8]> + AsMut<[u8]> {
    /// Its bytes.
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }

    /// Its bytes, to be changed in place.
    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_mut()
    }
}

impl<F: AsRef<[u8]> + AsMut<[u8]>> Frame for F {}

/// The world of one poll-mode thread.
pub trait Ports {
    /// Its frames.
    type Frame: Frame;
    /// Receives frames into what room `out` has.
    fn rx(&mut self, port: PortRole, out: &mut Burst<Self::Frame>);
    /// Sends from the front; what the device did not take stays, in order.
    fn tx(&mut self, port: PortRole, frames: &mut Burst<Self::Frame>);
    /// The clock of `now_ns` arguments, read now.
    fn clock_ns(&self) -> u64;
    /// Whether the application is being torn down: then a FIN or RST is not its own.
    fn service_is_dying(&self) -> bool;
    /// A frame of the concatenated parts; `None` when no buffer is free.
    fn alloc(&mut self, parts: &[&[u8]]) -> Option<Self::Frame>;
    /// Tells the capsule's kernel to adopt the flow at its next ACK; false if it cannot.
    fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) -> bool;
}

/// Frames on their way out of one port; what does not fit is dropped and counted.
pub struct Outbox<F> {
    port: PortRole,
    frames: Burst<F>,
}

impl<F> Outbox<F> {
    /// An empty outbox.
    pub fn new(port: PortRole) -> Outbox<F> {
        Outbox { port, frames: Burst::new() }
    }

    /// Nothing waits for the device.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Room left before frames would be dropped.
    pub fn room(&self) -> usize {
        BURST - self.frames.len()
    }

    /// Queues a frame, sending first when there is no room. False: dropped.
    pub fn push<P: Ports<Frame = F>>(&mut self, ports: &mut P, frame: F) -> bool {
        if self.frames.is_full() {
            self.flush(ports);
        }
        self.frames.try_push(frame).is_ok()
    }

    /// Queues all of a burst, sending first when there is no room; or none of it.
    pub fn try_push_all<P: Ports<Frame = F>>(
        &mut self,
        ports: &mut P,
        frames: &mut Burst<F>,
    ) -> bool {
        if self.room() < frames.len() {
            self.flush(ports);
        }
        if self.is_empty() {
            self.frames = std::mem::take(frames);
        } else if frames.len() <= self.room() {
            self.frames.extend(frames.drain(..));
        }
        frames.is_empty()
    }

    /// Hands everything to the device that it takes now.
    pub fn flush<P: Ports<Frame = F>>(&mut self, ports: &mut P) {
        if !self.frames.is_empty() {
            ports.tx(self.port, &mut self.frames);
        }
    }

    /// Drops what is queued; returns how many.
    pub fn clear(&mut self) -> usize {
        let n = self.frames.len();
        self.frames.clear();
        n
    }
}
