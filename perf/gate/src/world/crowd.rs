//! The frames of many connections to a service that answers as much as it is asked.

use anyhow::Result;
use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
use understudy_wire::tcp::{ACK, SYN, build_segment};

use super::{CLIENT, CLIENT_MAC, SERVICE, VMAC, WINDOW, payload_len};

/// What the service numbers its bytes from.
pub const SERVER_ISN: u32 = 0xffff_0000;
const CLIENT_ISN: u32 = 1_000;
/// Client ports from here on.
const PORT_FIRST: u16 = 10_000;

/// Where all connections stand.
pub struct Crowd {
    /// How many.
    pub connections: usize,
    /// Bytes that each client has sent, and was answered.
    asked: u32,
}

impl Crowd {
    /// None has sent anything.
    pub fn new(connections: usize) -> Crowd {
        Crowd { connections, asked: 0 }
    }

    /// The client's first word on connection `n`.
    pub fn syn(&self, n: usize) -> Vec<u8> {
        frame(n, true, (CLIENT_ISN, 0, SYN), 0)
    }

    /// The service's answer.
    pub fn synack(&self, n: usize) -> Vec<u8> {
        frame(n, false, (SERVER_ISN, CLIENT_ISN + 1, SYN | ACK), 0)
    }

    /// The client acknowledges all that it was sent.
    pub fn ack(&self, n: usize) -> Vec<u8> {
        frame(n, true, self.numbers(), 0)
    }

    /// Each client acknowledges its last answer, and asks in a frame of `len` bytes.
    ///
    /// # Errors
    /// If no frame is that long.
    pub fn ask(&mut self, len: usize) -> Result<Vec<Vec<u8>>> {
        let payload = payload_len(len)?;
        let numbers = self.numbers();
        self.asked += payload as u32;
        Ok((0..self.connections).map(|n| frame(n, true, numbers, payload)).collect())
    }

    fn numbers(&self) -> (u32, u32, u8) {
        (CLIENT_ISN + 1 + self.asked, SERVER_ISN.wrapping_add(1 + self.asked), ACK)
    }
}

fn frame(n: usize, is_client: bool, (seq, ack, flags): (u32, u32, u8), payload: usize) -> Vec<u8> {
    let client = (CLIENT.into(), PORT_FIRST + n as u16);
    let service = (SERVICE.0.into(), SERVICE.1);
    let (from, to) = if is_client { (client, service) } else { (service, client) };
    let (src, dst) = if is_client { (CLIENT_MAC, VMAC) } else { (VMAC, CLIENT_MAC) };
    let eth = Ethernet { dst, src, ethertype: ETHERTYPE_IPV4 };
    build_segment(&eth, from, to, (seq, ack, flags, WINDOW), &[], &vec![0x5a; payload])
}
