//! The second path: control messages over UDP.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use understudy_config::Config;
use understudy_seal::{Channel, ChannelView, Keyring, OpenError};
use understudy_wire::pdu::{PDU_HEADER_LEN, PDU_TAG_LEN, PduKind, TARGET_ALL};
use understudy_wire::{Epoch, NodeId};

/// What a look at the socket brought.
pub enum Received {
    /// Nothing is there.
    Nothing,
    /// Something that was dropped, or dealt with here.
    Nought,
    /// An authentic control message.
    Message { node: NodeId, epoch: Epoch, body: Vec<u8> },
}

/// The socket and this node's end of the path.
pub struct SecondPath {
    udp: UdpSocket,
    channel: Channel,
    peers: Vec<(NodeId, SocketAddr)>,
    malformed: u64,
    unknown_node: u64,
    send_failed: u64,
}

impl SecondPath {
    /// Binds this node's address.
    pub fn open(config: &Config, channel: Channel) -> anyhow::Result<SecondPath> {
        let address = config.me().address;
        let udp = UdpSocket::bind(address).with_context(|| {
            format!("cannot bind the second path to {address}; give this machine that address or correct nodes.address")
        })?;
        udp.set_nonblocking(true)?;
        let peers = config.peers().map(|p| (p.id, p.address)).collect();
        Ok(SecondPath { udp, channel, peers, malformed: 0, unknown_node: 0, send_failed: 0 })
    }

    /// What to wait for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }

    /// Takes one datagram. Who sent it is what its seal says; an address that is no node's is not
    /// worth opening it.
    pub fn receive(&mut self, now_ns: u64) -> Received {
        let mut buffer = [0u8; 2048];
        let Ok((len, from)) = self.udp.recv_from(&mut buffer) else { return Received::Nothing };
        if !self.peers.iter().any(|(_, address)| address.ip() == from.ip()) {
            self.unknown_node += 1;
            return Received::Nought;
        }
        match self.channel.open_in_place(now_ns, &mut buffer[..len]) {
            Ok(Some((header, body))) if header.kind == PduKind::Control => {
                let body = body.to_vec();
                return Received::Message { node: header.node, epoch: header.epoch, body };
            }
            Ok(Some(_)) | Err(OpenError::Pdu(_)) => self.malformed += 1,
            Err(OpenError::UnknownNode) => self.unknown_node += 1,
            // The handshake's, or counted by the channel.
            Ok(None) | Err(_) => {}
        }
        Received::Nought
    }

    /// Sends a control message to one or all.
    pub fn send(&mut self, target: NodeId, epoch: Epoch, body: &[u8]) {
        let mut pdu = [&[0; PDU_HEADER_LEN][..], body, &[0; PDU_TAG_LEN]].concat();
        match self.channel.seal_in_place(PduKind::Control, target, epoch, &mut pdu) {
            Ok(()) => self.send_pdu(target, &pdu),
            Err(_) => self.send_failed += 1,
        }
    }

    /// Sends the challenges and proofs that are due.
    pub fn shake_hands(&mut self, now_ns: u64) {
        while let Some(handshake) = self.channel.poll_handshake(now_ns) {
            self.send_pdu(handshake.target, &handshake.pdu);
        }
    }

    fn send_pdu(&mut self, target: NodeId, pdu: &[u8]) {
        for (id, address) in &self.peers {
            if (target == TARGET_ALL || target == *id) && self.udp.send_to(pdu, address).is_err() {
                self.send_failed += 1;
            }
        }
    }

    /// Takes other keys.
    pub fn set_keys(&mut self, keyring: &Keyring) {
        self.channel.set_keys(keyring);
    }

    /// Keys and peers.
    pub fn view(&self) -> ChannelView {
        self.channel.view()
    }

    /// Counts, by name.
    pub fn counters(&self) -> impl Iterator<Item = (String, u64)> {
        let own = [
            ("malformed", self.malformed),
            ("unknown_node", self.unknown_node),
            ("send_failed", self.send_failed),
        ];
        let all = own.into_iter().chain(self.channel.counters().iter());
        all.map(|(name, value)| (format!("second_path_{name}"), value))
    }
}
