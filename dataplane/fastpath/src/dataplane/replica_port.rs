//! The replica port: PDUs in and out.

use super::*;

impl<P: Ports> Dataplane<P> {
    pub(super) fn poll_replica_port(&mut self, now_ns: u64, ports: &mut P) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS_PER_POLL {
            let mut burst = Burst::new();
            ports.rx(PortRole::Replica, &mut burst);
            busy |= !burst.is_empty();
            let full = burst.len() == BURST;
            for mut frame in burst {
                self.on_replica_frame(now_ns, frame.bytes_mut(), ports);
            }
            if !full {
                break;
            }
        }
        while let Some(handshake) = self.channel.poll_handshake(now_ns) {
            let frame = ports.alloc(&[&self.pdu_eth(handshake.target), &handshake.pdu]);
            self.send_frame(ports, frame);
        }
        busy
    }

    pub(super) fn on_replica_frame(&mut self, now_ns: u64, frame: &mut [u8], ports: &mut P) {
        let Some(eth) = Ethernet::parse(frame).filter(|_| in_frame(frame).is_some()) else {
            self.counters.pdu_not_ours += 1;
            return;
        };
        let (header, body) = match self.channel.open_in_place(now_ns, &mut frame[ETH_LEN..]) {
            Ok(Some(pdu)) => pdu,
            Ok(None) => return,
            Err(OpenError::Pdu(e)) => return self.count_pdu_error(e),
            Err(OpenError::UnknownNode) => {
                self.counters.pdu_unknown_node += 1;
                return;
            }
            // Counted by the channel.
            Err(_) => return,
        };
        self.learn_mac(now_ns, header.node, eth.src);
        let result = match header.kind {
            PduKind::Control => self.on_control(&header, body),
            PduKind::Data => self.on_data(now_ns, &header, body),
            PduKind::Ack => self.on_ack(now_ns, &header, body),
            PduKind::Nak => self.on_nak(now_ns, &header, body),
            PduKind::Frame => self.on_forwarded(now_ns, body, ports),
            // The channel keeps these to itself.
            PduKind::Challenge | PduKind::Proof => Ok(()),
        };
        if let Err(e) = result {
            self.count_pdu_error(e);
        }
    }

    pub(super) fn count_pdu_error(&mut self, error: PduError) {
        let c = &mut self.counters;
        match error {
            PduError::Magic => c.pdu_not_ours += 1,
            PduError::Version => c.pdu_version += 1,
            PduError::Short | PduError::Malformed => c.pdu_malformed += 1,
            PduError::Cluster => c.pdu_foreign_cluster += 1,
        }
    }

    pub(super) fn learn_mac(&mut self, now_ns: u64, node: NodeId, mac: Mac) {
        let neighbor = ReplicaNeighbor { node, mac, heard_at_ns: now_ns };
        match self.macs.iter_mut().find(|n| n.node == node) {
            Some(known) => *known = neighbor,
            None => {
                let _ = self.macs.try_push(neighbor);
            }
        }
    }

    pub(super) fn on_control(&mut self, header: &PduHeader, body: &[u8]) -> Result<(), PduError> {
        if body.len() > CONTROL_LEN_MAX {
            return Err(PduError::Malformed);
        }
        let body: ControlBody = body.iter().copied().collect();
        self.push_event(Event::Control { node: header.node, epoch: header.epoch, body });
        Ok(())
    }

    /// A client frame that reached a deposed primary.
    fn on_forwarded(&mut self, now_ns: u64, body: &[u8], ports: &mut P) -> Result<(), PduError> {
        if !self.learn_for_service(body) {
            return Err(PduError::Malformed);
        }
        let Some(frame) = ports.alloc(&[body]) else { return Ok(()) };
        self.counters.forwarded_in += 1;
        match self.role {
            Role::Lead(ref r) if r.serve => {
                let floor = self.floor(now_ns);
                self.capture(now_ns, frame, floor, ports);
            }
            Role::Fenced => {}
            _ => self.keep(now_ns, frame),
        }
        Ok(())
    }

    /// Whether a PDU belongs to the reign `epoch`; counts it if not.
    pub(super) fn is_current(&mut self, header: &PduHeader, epoch: Epoch) -> bool {
        if header.epoch < epoch {
            self.counters.pdu_old_epoch += 1;
        } else if header.epoch > epoch {
            self.counters.pdu_future_epoch += 1;
        }
        header.epoch == epoch
    }

    pub(super) fn on_data(
        &mut self,
        now_ns: u64,
        header: &PduHeader,
        body: &[u8],
    ) -> Result<(), PduError> {
        let (data, bytes) = DataHeader::decode(body)?;
        let (epoch, primary) = match &self.role {
            Role::Follow(r) => (r.epoch, r.primary),
            _ => (self.promised.max(1), header.node),
        };
        if !self.is_current(header, epoch) {
            return Ok(());
        }
        let floor = self.own_floor();
        let Role::Follow(receiver) = &mut self.role else {
            self.counters.pdu_unexpected += 1;
            return Ok(());
        };
        if header.node != primary || !receiver.acknowledging {
            self.counters.pdu_unexpected += 1;
            return Ok(());
        }
        let full = self.counters.data_log_full;
        receiver.on_data(now_ns, &data, bytes, &mut self.log, floor, &mut self.counters);
        if self.counters.data_log_full > full {
            let limit = self.committed.min(self.log.boundary());
            self.apply.yield_room(limit, &mut self.counters);
        }
        // The primary lives: what clients sent until a moment ago, it has.
        self.kept.expire(now_ns.saturating_sub(2 * self.config.sender.heartbeat_interval_ns));
        Ok(())
    }

    pub(super) fn on_ack(
        &mut self,
        now_ns: u64,
        header: &PduHeader,
        body: &[u8],
    ) -> Result<(), PduError> {
        let mut ack = Ack::decode(body)?;
        if ack.echo_ns > 0 {
            // The lease runs on this node's own clock.
            ack.echo_ns = ack.echo_ns.saturating_add_signed(-self.log_clock_ahead_ns);
        }
        let epoch = self.reign_epoch();
        if !self.is_current(header, epoch) {
            return Ok(());
        }
        self.counters.acks_received += 1;
        if let Role::Lead(reign) = &mut self.role {
            reign.sender.on_ack(now_ns, header.node, &ack);
        }
        Ok(())
    }

    pub(super) fn on_nak(
        &mut self,
        now_ns: u64,
        header: &PduHeader,
        body: &[u8],
    ) -> Result<(), PduError> {
        let nak = Nak::decode(body)?;
        let epoch = self.reign_epoch();
        if !self.is_current(header, epoch) {
            return Ok(());
        }
        self.counters.naks_received += 1;
        if let Role::Lead(reign) = &mut self.role {
            reign.sender.on_nak(now_ns, header.node, &nak, &self.log, &mut self.counters);
        }
        Ok(())
    }

    /// The reign of this node; otherwise an epoch whose acknowledgements are all old.
    pub(super) fn reign_epoch(&self) -> Epoch {
        match &self.role {
            Role::Lead(r) => r.epoch,
            _ => Epoch::MAX,
        }
    }

    /// Ethernet header of a PDU to `target`.
    pub(super) fn pdu_eth(&self, target: NodeId) -> [u8; ETH_LEN] {
        let dst = self.macs.iter().find(|n| n.node == target).map(|n| n.mac);
        let eth = Ethernet {
            dst: dst.unwrap_or(group_mac(self.config.cluster)),
            src: self.config.replica_mac,
            ethertype: ETHERTYPE_REPLICA,
        };
        eth.bytes()
    }

    pub(super) fn send_pdu(
        &mut self,
        ports: &mut P,
        kind: PduKind,
        target: NodeId,
        epoch: Epoch,
        body: &[&[u8]],
    ) {
        let eth = self.pdu_eth(target);
        let mut parts: ArrayVec<&[u8], 6> = ArrayVec::from_iter([&eth[..], &HEADER_ROOM]);
        parts.extend(body.iter().copied());
        parts.push(&TAG_ROOM);
        let frame = ports.alloc(&parts);
        self.seal_and_send(ports, frame, kind, target, epoch);
    }

    /// Seals the PDU in a frame that has room for header and tag, and sends it.
    pub(super) fn seal_and_send(
        &mut self,
        ports: &mut P,
        frame: Option<P::Frame>,
        kind: PduKind,
        target: NodeId,
        epoch: Epoch,
    ) {
        let sealed = frame.and_then(|mut frame| {
            let pdu = &mut frame.bytes_mut()[ETH_LEN..];
            self.channel.seal_in_place(kind, target, epoch, pdu).ok().map(|()| frame)
        });
        self.send_frame(ports, sealed);
    }

    fn send_frame(&mut self, ports: &mut P, frame: Option<P::Frame>) {
        let sent = frame.is_some_and(|f| self.replica_out.push(ports, f));
        self.counters.replica_tx_dropped += u64::from(!sent);
    }
}
