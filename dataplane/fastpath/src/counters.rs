//! Every counted drop, limit and event of the data path, by name.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since start; each only grows.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Names and values, in the order of the source.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Client frames for the service, logged.
    captured_frames,
    /// Their bytes.
    captured_bytes,
    /// Frames on the client port for somebody else.
    not_for_service,
    /// Client frames dropped because no room in the log is free.
    log_full,
    /// Client frames dropped because they exceed a record.
    frame_too_long,
    /// Client frames that came while this node is not the primary, kept briefly.
    kept_frames,
    /// Kept frames dropped: too old, or too many.
    kept_dropped,
    /// Kept frames captured at takeover.
    kept_applied,
    /// Client frames that reached this node after it was deposed, passed on to the others.
    forwarded,
    /// Such frames that do not fit a PDU; their clients retransmit.
    forward_too_long,
    /// Client frames that a deposed primary passed on to this node.
    forwarded_in,
    /// Frames given to the capsule.
    delivered_frames,
    /// Frames lost between here and the capsule: no buffer or a full device.
    host_tx_dropped,
    /// Frames lost towards the clients: a full device.
    client_tx_dropped,
    /// PDUs lost on the way out: no buffer or a full device.
    replica_tx_dropped,
    /// DATA PDUs sent.
    data_sent,
    /// DATA PDUs sent again.
    data_retransmitted,
    /// DATA PDUs received.
    data_received,
    /// DATA PDUs whose bytes were all held already.
    data_duplicate,
    /// DATA bytes dropped: too many gaps at once.
    data_gaps_full,
    /// DATA bytes dropped: the log cannot make room, the clone is behind.
    data_log_full,
    /// Acknowledgements received.
    acks_received,
    /// NAKs sent.
    naks_sent,
    /// NAKs received.
    naks_received,
    /// NAKs for bytes that the log no longer holds.
    naks_beyond_log,
    /// NAKs for bytes that are under way again already.
    naks_repeated,
    /// Replicas that left the commit set: not heard for too long.
    commit_set_evicted_silent,
    /// Replicas that left the commit set: alive, but too far behind for too long.
    commit_set_evicted_lagging,
    /// Replicas that entered the commit set during a reign.
    commit_set_admitted,
    /// Times replication stopped at its window.
    window_stalls,
    /// PDUs with another magic, or not PDUs at all.
    pdu_not_ours,
    /// PDUs of another version.
    pdu_version,
    /// PDUs cut short or malformed.
    pdu_malformed,
    /// PDUs of another cluster.
    pdu_foreign_cluster,
    /// PDUs from a node that is not configured, or from ourselves.
    pdu_unknown_node,
    /// PDUs of an epoch that is over.
    pdu_old_epoch,
    /// PDUs of an epoch not yet followed.
    pdu_future_epoch,
    /// PDUs that mean nothing in this role.
    pdu_unexpected,
    /// Control messages dropped: the control plane does not read fast enough.
    control_in_dropped,
    /// Frames from the capsule that went into the gate.
    gate_in,
    /// Frames released by the gate.
    gate_released,
    /// Of these, released in the same poll in which they were read: no wait.
    gate_zero_wait,
    /// Frames the gate dropped because it was closed for good (fence).
    gate_fenced,
    /// Checkpoints in the log for which output waited.
    checkpoints_recorded,
    /// Frames of a dying application's sockets, withheld: the connection goes on elsewhere.
    death_withheld,
    /// Polls in which the gate was full and the capsule was not read.
    gate_full,
    /// Polls in which output was held because the TX lease had run out or the link was down.
    lease_holds,
    /// Frames a clone sent, which went nowhere.
    clone_muted,
    /// Clone frames retained for a takeover.
    retained,
    /// Retained frames dropped for lack of room; their peers wait for a retransmission timer.
    retained_dropped,
    /// Retained frames sent at takeover.
    retained_sent,
    /// Segments that restored connections had sent and clients had not acknowledged.
    owed,
    /// Of these, sent at takeover.
    owed_sent,
    /// Connections that the service agreed to, here or as its clone knows.
    handshakes,
    /// Connections handed to the clone's kernel.
    adoptions,
    /// Connections handed over again because the clone's kernel seemed not to have them.
    adoptions_repeated,
    /// Connections that could not be adopted.
    adoptions_failed,
    /// Frames that waited until the clone had sent what they acknowledge.
    ack_waits,
    /// Such waits that passed their limit.
    ack_waits_expired,
    /// Bare ACKs made to move a clone forward.
    partial_acks,
    /// Frames parked: the clone's window, or its output, was behind.
    parked,
    /// Frames for which the ring of parked and unconfirmed frames has no room: a clone waits, a primary drops.
    parked_overflow,
    /// Frames given to the clone again because it did not acknowledge them.
    redelivered,
    /// Such frames given up.
    redelivery_given_up,
    /// Frames of the log that a restored clone has in its state already.
    seen_before,
    /// Connections reset by the clone's own kernel.
    clone_resets,
    /// SYNs forgotten because too many were unanswered.
    syns_dropped,
    /// Connections not tracked: the flow table is full.
    flows_full,
    /// Records of how far the application's output had come, written to the log as the primary.
    said_notes,
    /// Such records that found no room in the log: a clone may take effect before cause.
    said_dropped,
    /// Connections of such records for which there was no room here, as the clone.
    said_overflow,
    /// Times that a client's data waited for what came before it on other connections of the clone.
    order_waits,
    /// Such waits that passed their limit: the data went first.
    order_waits_expired,
    /// Digests of the application's output written to the log, as the primary.
    audit_notes,
    /// Records of them that found no room in the log; later ones cover the same bytes.
    audit_dropped,
    /// The primary's digests that this clone's output matches.
    audit_same,
    /// Such digests that say other bytes.
    audit_diverged,
    /// Such digests that began elsewhere: bytes before are not compared, those after are.
    audit_aligned,
    /// Such digests that came too late, or for a connection not known here; later ones cover the same bytes.
    audit_skipped,
    /// Times that output was lost before this node read it: the digest begins again.
    audit_gaps,
    /// Connections forgotten by the audit because there are too many.
    audit_evicted,
    /// Connections that ended, or were forgotten, with output that no digest covers.
    audit_uncovered,
    /// Neighbour questions of the clone answered by this node.
    neighbor_answers,
    /// Records that could not be read.
    corrupt_records,
}
