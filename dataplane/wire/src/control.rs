//! The control plane's messages and their codec: heartbeats, votes and the step-down notice.
//!
//! What belongs here: the body of a control PDU. The header around it (cluster id, sender, the sender's epoch) is
//! someone else's; the same bytes travel on the replica port and on the second path (UDP).
//! Little-endian, every list has a bound, and a decoder refuses what an encoder could not have written.

use arrayvec::ArrayVec;

use crate::ids::{Epoch, NodeId, Position};

/// The longest encoding of any message, in bytes.
pub const CONTROL_LEN_MAX: usize = 1200;
/// How many epochs a history names: the newest ones.
pub const HISTORY_MAX: usize = 16;
/// How many voters a group may have.
pub const VOTERS_MAX: usize = 16;

/// Heartbeat with both lists full: tag, role, flags, priority, eight words, the heir, the lists and their lengths.
const HEARTBEAT_LEN_MAX: usize =
    4 + 8 * 8 + 3 + 1 + VOTERS_MAX * 11 + 1 + 8 + 2 + 1 + HISTORY_MAX * 16;
const _: () = assert!(HEARTBEAT_LEN_MAX <= CONTROL_LEN_MAX);
const _: () = assert!(HISTORY_MAX <= u8::MAX as usize && VOTERS_MAX <= u8::MAX as usize);

/// Where an epoch begins in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// Position of its first record (the epoch record).
    pub start: Position,
}

/// The newest epochs of a log, oldest first.
pub type History = ArrayVec<EpochStart, HISTORY_MAX>;

/// What a node says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Follows a primary, or waits for one.
    #[default]
    Replica = 0,
    /// Asks for votes, or has won and has not opened its reign yet.
    Candidate = 1,
    /// Leads; only with a [`Reign`].
    Primary = 2,
    /// Led, asked its dataplane to fence, and has no proof of it yet.
    Closing = 3,
    /// Led and has fenced itself.
    Fenced = 4,
    /// Votes, and holds no clone.
    Witness = 5,
}

impl Role {
    fn from_wire(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            0 => Self::Replica,
            1 => Self::Candidate,
            2 => Self::Primary,
            3 => Self::Closing,
            4 => Self::Fenced,
            5 => Self::Witness,
            value => return Err(DecodeError::BadValue { field: "role", value }),
        })
    }
}

/// What a node says of its own fitness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// The clone runs, is fit, and is level with the log.
    pub clone_ready: bool,
    /// The node lost its log and may have acknowledged what it no longer holds.
    pub recovering: bool,
    /// The client port has a link.
    pub client_link_up: bool,
    /// The replica port has a link.
    pub replica_link_up: bool,
    /// The node would stand in an election now.
    pub electable: bool,
    /// The node was recovering in this incarnation until it learnt that every voter had lost its log.
    pub all_lost: bool,
    /// The clone is dead, and its log cannot bring it back.
    pub clone_gone: bool,
    /// The node would stand if no electable one lived: something that it supervises is bad, and nothing else is.
    pub last_resort: bool,
}

impl Flags {
    fn to_wire(self) -> u8 {
        u8::from(self.clone_ready)
            | u8::from(self.recovering) << 1
            | u8::from(self.client_link_up) << 2
            | u8::from(self.replica_link_up) << 3
            | u8::from(self.electable) << 4
            | u8::from(self.all_lost) << 5
            | u8::from(self.clone_gone) << 6
            | u8::from(self.last_resort) << 7
    }

    fn from_wire(byte: u8) -> Self {
        Self {
            clone_ready: byte & 1 != 0,
            recovering: byte & 2 != 0,
            client_link_up: byte & 4 != 0,
            replica_link_up: byte & 8 != 0,
            electable: byte & 16 != 0,
            all_lost: byte & 32 != 0,
            clone_gone: byte & 64 != 0,
            last_resort: byte & 128 != 0,
        }
    }
}

/// A reign as its primary describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reign {
    /// The epoch of the reign; equal to the newest entry of the history.
    pub epoch: Epoch,
    /// Who leads.
    pub primary: NodeId,
    /// The newest epochs of the primary's log, oldest first.
    pub history: History,
}

/// A voter that the sender has heard of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heard {
    /// The voter.
    pub node: NodeId,
    /// Which of its lives was heard.
    pub incarnation: u64,
    /// It was heard on the replica port, not only on the second path.
    pub on_replica: bool,
}

/// "I live, and this is what I hold."
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// What the sender is.
    pub role: Role,
    /// How fit it is.
    pub flags: Flags,
    /// Higher is preferred as primary among equals.
    pub priority: u8,
    /// Distinguishes the lives of one node; grows with each.
    pub incarnation: u64,
    /// Grows with each heartbeat of one life.
    pub seq: u64,
    /// Epoch of the newest record in the log; 0 with an empty log.
    pub log_epoch: Epoch,
    /// Oldest position still in the log.
    pub log_start: Position,
    /// End of the log.
    pub position: Position,
    /// Committed position as the sender knows it.
    pub committed: Position,
    /// What the clone has consumed.
    pub applied: Position,
    /// Highest epoch whose primary is known to have fenced itself; 0 for none.
    pub released: Epoch,
    /// Whom that primary named as its successor.
    pub heir: Option<NodeId>,
    /// Who was heard within the suspicion time.
    pub heard: ArrayVec<Heard, VOTERS_MAX>,
    /// The sender's reign, if it leads one.
    pub reign: Option<Reign>,
}

/// What a candidate shows of itself, in a pre-vote and in a vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Candidacy {
    /// The epoch the candidate wants to lead.
    pub epoch: Epoch,
    /// Epoch of the newest record in its log.
    pub log_epoch: Epoch,
    /// End of its log.
    pub position: Position,
    /// Its priority.
    pub priority: u8,
    /// Highest epoch whose primary is known to have fenced itself (a transfer, if it is the reign now followed);
    /// 0 for none.
    pub released: Epoch,
    /// The newest epoch that the candidate itself led, if its log is intact since; 0 for none.
    pub led: Epoch,
}

/// The answer to a pre-vote or to a vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ballot {
    /// The epoch that was asked for.
    pub epoch: Epoch,
    /// Yes or no.
    pub granted: bool,
}

/// Why a primary gave up its reign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StepDownReason {
    /// The operator asked for it.
    #[default]
    Switchover = 0,
    /// The application is gone.
    AppExited = 1,
    /// A dataplane core makes no progress.
    DataplaneStuck = 2,
    /// No quorum acknowledged for too long.
    LeaseLost = 3,
    /// The replica port lost its link.
    ReplicaLinkDown = 4,
    /// The client port lost its link, and another node has one.
    ClientLinkDown = 5,
    /// A member has gone on to a higher epoch.
    HigherEpoch = 6,
}

impl StepDownReason {
    fn from_wire(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            0 => Self::Switchover,
            1 => Self::AppExited,
            2 => Self::DataplaneStuck,
            3 => Self::LeaseLost,
            4 => Self::ReplicaLinkDown,
            5 => Self::ClientLinkDown,
            6 => Self::HigherEpoch,
            value => return Err(DecodeError::BadValue { field: "reason", value }),
        })
    }
}

/// "I have fenced myself: elect now."
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepDown {
    /// The reign that ended.
    pub epoch: Epoch,
    /// Why.
    pub reason: StepDownReason,
    /// End of the log of the one that steps down.
    pub position: Position,
    /// Who is to stand, if anyone in particular.
    pub to: Option<NodeId>,
}

/// A control message.
#[expect(clippy::large_enum_variant, reason = "handled one at a time; a box would allocate")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Periodic, and at once on a change of role.
    Heartbeat(Heartbeat),
    /// "Would you vote for me?" Binds nobody.
    PreVote(Candidacy),
    /// The answer to it.
    PreVoteReply(Ballot),
    /// "Vote for me."
    Vote(Candidacy),
    /// The answer to it; a yes was persisted first.
    VoteReply(Ballot),
    /// The primary has fenced itself.
    StepDown(StepDown),
}

/// Why bytes are not a control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before its fields do.
    #[error("truncated control message")]
    Truncated,
    /// Bytes follow the message.
    #[error("{0} bytes after the control message")]
    Trailing(usize),
    /// Longer than any message.
    #[error("control message of {0} bytes")]
    TooLong(usize),
    /// The first byte names no message.
    #[error("unknown control message {0}")]
    UnknownMessage(u8),
    /// A field holds what it cannot.
    #[error("field {field} cannot be {value}")]
    BadValue {
        /// The field.
        field: &'static str,
        /// What it held.
        value: u8,
    },
}

impl Control {
    /// Appends the encoding, at most [`CONTROL_LEN_MAX`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        match self {
            Self::Heartbeat(m) => encode_heartbeat(&mut w, m),
            Self::PreVote(m) => encode_candidacy(&mut w, 2, m),
            Self::PreVoteReply(m) => encode_ballot(&mut w, 3, m),
            Self::Vote(m) => encode_candidacy(&mut w, 4, m),
            Self::VoteReply(m) => encode_ballot(&mut w, 5, m),
            Self::StepDown(m) => encode_step_down(&mut w, m),
        }
    }

    /// Reads one message that fills `bytes` exactly.
    ///
    /// # Errors
    /// If the bytes are not what [`Control::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > CONTROL_LEN_MAX {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let mut r = Reader(bytes);
        let message = match r.u8()? {
            1 => Self::Heartbeat(decode_heartbeat(&mut r)?),
            2 => Self::PreVote(decode_candidacy(&mut r)?),
            3 => Self::PreVoteReply(decode_ballot(&mut r)?),
            4 => Self::Vote(decode_candidacy(&mut r)?),
            5 => Self::VoteReply(decode_ballot(&mut r)?),
            6 => Self::StepDown(decode_step_down(&mut r)?),
            other => return Err(DecodeError::UnknownMessage(other)),
        };
        match r.0.len() {
            0 => Ok(message),
            rest => Err(DecodeError::Trailing(rest)),
        }
    }
}

fn encode_heartbeat(w: &mut Writer<'_>, m: &Heartbeat) {
    w.u8(1);
    w.u8(m.role as u8);
    w.u8(m.flags.to_wire());
    w.u8(m.priority);
    for word in [
        m.incarnation,
        m.seq,
        m.log_epoch,
        m.log_start,
        m.position,
        m.committed,
        m.applied,
        m.released,
    ] {
        w.u64(word);
    }
    w.node_option(m.heir);
    w.u8(m.heard.len() as u8);
    for heard in &m.heard {
        w.u16(heard.node);
        w.u64(heard.incarnation);
        w.u8(u8::from(heard.on_replica));
    }
    w.u8(u8::from(m.reign.is_some()));
    if let Some(reign) = &m.reign {
        w.u64(reign.epoch);
        w.u16(reign.primary);
        w.u8(reign.history.len() as u8);
        for entry in &reign.history {
            w.u64(entry.epoch);
            w.u64(entry.start);
        }
    }
}

fn decode_heartbeat(r: &mut Reader<'_>) -> Result<Heartbeat, DecodeError> {
    let mut m = Heartbeat {
        role: Role::from_wire(r.u8()?)?,
        flags: Flags::from_wire(r.u8()?),
        priority: r.u8()?,
        incarnation: r.u64()?,
        seq: r.u64()?,
        log_epoch: r.u64()?,
        log_start: r.u64()?,
        position: r.u64()?,
        committed: r.u64()?,
        applied: r.u64()?,
        released: r.u64()?,
        heir: r.node_option("heir")?,
        heard: ArrayVec::new(),
        reign: None,
    };
    for _ in 0..r.count("heard", VOTERS_MAX)? {
        let (node, incarnation) = (r.u16()?, r.u64()?);
        let on_replica = match r.u8()? {
            0 => false,
            1 => true,
            value => return Err(DecodeError::BadValue { field: "heard", value }),
        };
        m.heard.push(Heard { node, incarnation, on_replica });
    }
    if r.bool("reign")? {
        let mut reign = Reign { epoch: r.u64()?, primary: r.u16()?, history: History::new() };
        for _ in 0..r.count("history", HISTORY_MAX)? {
            reign.history.push(EpochStart { epoch: r.u64()?, start: r.u64()? });
        }
        m.reign = Some(reign);
    }
    Ok(m)
}

fn encode_candidacy(w: &mut Writer<'_>, tag: u8, m: &Candidacy) {
    w.u8(tag);
    w.u8(m.priority);
    for word in [m.epoch, m.log_epoch, m.position, m.released, m.led] {
        w.u64(word);
    }
}

fn decode_candidacy(r: &mut Reader<'_>) -> Result<Candidacy, DecodeError> {
    Ok(Candidacy {
        priority: r.u8()?,
        epoch: r.u64()?,
        log_epoch: r.u64()?,
        position: r.u64()?,
        released: r.u64()?,
        led: r.u64()?,
    })
}

fn encode_ballot(w: &mut Writer<'_>, tag: u8, m: &Ballot) {
    w.u8(tag);
    w.u8(u8::from(m.granted));
    w.u64(m.epoch);
}

fn decode_ballot(r: &mut Reader<'_>) -> Result<Ballot, DecodeError> {
    Ok(Ballot { granted: r.bool("granted")?, epoch: r.u64()? })
}

fn encode_step_down(w: &mut Writer<'_>, m: &StepDown) {
    w.u8(6);
    w.u8(m.reason as u8);
    w.u64(m.epoch);
    w.u64(m.position);
    w.node_option(m.to);
}

fn decode_step_down(r: &mut Reader<'_>) -> Result<StepDown, DecodeError> {
    Ok(StepDown {
        reason: StepDownReason::from_wire(r.u8()?)?,
        epoch: r.u64()?,
        position: r.u64()?,
        to: r.node_option("to")?,
    })
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn node_option(&mut self, node: Option<NodeId>) {
        self.u8(u8::from(node.is_some()));
        if let Some(node) = node {
            self.u16(node);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::BadValue { field, value }),
        }
    }

    fn node_option(&mut self, field: &'static str) -> Result<Option<NodeId>, DecodeError> {
        if self.bool(field)? { self.u16().map(Some) } else { Ok(None) }
    }

    fn count(&mut self, field: &'static str, max: usize) -> Result<usize, DecodeError> {
        let value = self.u8()?;
        if usize::from(value) > max {
            return Err(DecodeError::BadValue { field, value });
        }
        Ok(usize::from(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn heartbeat() -> impl Strategy<Value = Control> {
        let words = any::<[u64; 8]>();
        let heard = vec(any::<(u16, u64, bool)>(), 0..=VOTERS_MAX);
        let reign = proptest::option::of((
            any::<u64>(),
            any::<u16>(),
            vec(any::<(u64, u64)>(), 0..=HISTORY_MAX),
        ));
        (0u8..=5, any::<u8>(), any::<u8>(), words, heard, reign).prop_map(
            |(role, flags, priority, w, h, r)| {
                Control::Heartbeat(Heartbeat {
                    role: Role::from_wire(role).expect("in range"),
                    flags: Flags::from_wire(flags),
                    priority,
                    incarnation: w[0],
                    seq: w[1],
                    log_epoch: w[2],
                    log_start: w[3],
                    position: w[4],
                    committed: w[5],
                    applied: w[6],
                    released: w[7],
                    heir: (w[0] % 2 == 0).then_some(w[1] as u16),
                    heard: h
                        .into_iter()
                        .map(|(node, incarnation, on_replica)| Heard {
                            node,
                            incarnation,
                            on_replica,
                        })
                        .collect(),
                    reign: r.map(|(epoch, primary, history)| Reign {
                        epoch,
                        primary,
                        history: history
                            .into_iter()
                            .map(|(epoch, start)| EpochStart { epoch, start })
                            .collect(),
                    }),
                })
            },
        )
    }

    fn other() -> impl Strategy<Value = Control> {
        (
            0u8..5,
            any::<[u64; 5]>(),
            any::<(u8, bool)>(),
            0u8..=6,
            proptest::option::of(any::<u16>()),
        )
            .prop_map(|(kind, w, (priority, granted), reason, to)| {
                let candidacy = Candidacy {
                    epoch: w[0],
                    log_epoch: w[1],
                    position: w[2],
                    priority,
                    released: w[3],
                    led: w[4],
                };
                let ballot = Ballot { epoch: w[0], granted };
                match kind {
                    0 => Control::PreVote(candidacy),
                    1 => Control::Vote(candidacy),
                    2 => Control::PreVoteReply(ballot),
                    3 => Control::VoteReply(ballot),
                    _ => Control::StepDown(StepDown {
                        epoch: w[0],
                        reason: StepDownReason::from_wire(reason).expect("in range"),
                        position: w[1],
                        to,
                    }),
                }
            })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(message in prop_oneof![heartbeat(), other()]) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            prop_assert!(bytes.len() <= CONTROL_LEN_MAX);
            prop_assert_eq!(Control::decode(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Control::decode(&bytes[..cut]), Err(DecodeError::Truncated));
            }
            bytes.push(0);
            prop_assert_eq!(Control::decode(&bytes), Err(DecodeError::Trailing(1)));
        }

        #[test]
        fn garbage_is_refused_or_canonical(mut bytes in vec(any::<u8>(), 0..600), tag in 0u8..8) {
            if let Some(first) = bytes.first_mut() {
                *first = tag;
            }
            if let Ok(message) = Control::decode(&bytes) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn the_longest_heartbeat_fits() {
        let mut message =
            Heartbeat { heir: Some(1), reign: Some(Reign::default()), ..Heartbeat::default() };
        message.heard.extend([Heard::default(); VOTERS_MAX]);
        message.reign.as_mut().expect("set").history.extend([EpochStart::default(); HISTORY_MAX]);
        let mut bytes = Vec::new();
        Control::Heartbeat(message).encode(&mut bytes);
        assert!(bytes.len() <= HEARTBEAT_LEN_MAX);
        assert_eq!(
            Control::decode(&vec![0; CONTROL_LEN_MAX + 1]),
            Err(DecodeError::TooLong(CONTROL_LEN_MAX + 1))
        );
    }
}
