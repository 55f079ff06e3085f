//! What one replica asked for again: bounded, paced, served from the log.

use understudy_wire::Position;
use understudy_wire::pdu::Nak;

use crate::MS;

/// What one replica may have under way to it again: queued here or sent and not acknowledged.
pub const RESEND_BYTES_MAX: u64 = 128 << 10;
/// What was sent again is not sent once more within this time, whoever asks.
const HOLDOFF_NS: u64 = MS;

/// The retransmissions of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resend {
    /// Still to be sent.
    from: Position,
    to: Position,
    /// Begin of what was asked for last; it ends at `to`.
    begin: Position,
    /// When its last PDU was sent.
    sent_at_ns: u64,
}

impl Resend {
    /// Takes a NAK for what lies before `sent`. False: all of it is under way already.
    pub fn ask(&mut self, now_ns: u64, nak: &Nak, sent: Position) -> bool {
        let from = nak.position.min(sent);
        let to = (from + nak.length.min(RESEND_BYTES_MAX)).min(sent);
        let under_way = !self.is_empty() || now_ns < self.sent_at_ns + HOLDOFF_NS;
        if under_way && self.begin <= from && from <= self.to {
            let to = to.min(self.from + RESEND_BYTES_MAX);
            let more = to > self.to;
            self.to = self.to.max(to);
            return more;
        }
        if from >= to || !self.is_empty() {
            return false;
        }
        *self = Resend { from, to, begin: from, sent_at_ns: self.sent_at_ns };
        true
    }

    /// Bytes left to be sent.
    pub fn pending(&self) -> u64 {
        self.to - self.from
    }

    /// Nothing is left to be sent.
    pub fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// The next range to send, of at most `chunk` bytes.
    pub fn take(&mut self, now_ns: u64, chunk: u64) -> Option<(Position, Position)> {
        if self.is_empty() {
            return None;
        }
        let range = (self.from, self.to.min(self.from + chunk));
        self.from = range.1;
        self.sent_at_ns = now_ns;
        Some(range)
    }

    /// Forgets what is left: the log no longer holds it.
    pub fn clear(&mut self) {
        *self = Resend::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nak(position: Position, length: u64) -> Nak {
        Nak { position, length }
    }

    fn drain(r: &mut Resend, now_ns: u64) -> Vec<(Position, Position)> {
        std::iter::from_fn(|| r.take(now_ns, 1000)).collect()
    }

    #[test]
    fn a_repeated_nak_is_paced_and_a_later_one_served() {
        let mut r = Resend::default();
        assert!(r.ask(0, &nak(0, 1500), 10_000));
        assert!(!r.ask(0, &nak(0, 1500), 10_000), "still queued");
        assert_eq!(drain(&mut r, 5), [(0, 1000), (1000, 1500)]);
        assert!(!r.ask(6, &nak(0, 1500), 10_000), "just sent");
        assert!(!r.ask(6, &nak(1000, 500), 10_000), "the end of it too");
        assert!(r.ask(5 + MS, &nak(1000, 500), 10_000), "it must have been lost");
        assert_eq!(drain(&mut r, 6 + MS), [(1000, 1500)]);
    }

    #[test]
    fn asking_on_while_it_arrives_sends_only_what_is_new() {
        let mut r = Resend::default();
        assert!(r.ask(0, &nak(0, 1 << 30), 1 << 20));
        assert_eq!(drain(&mut r, 1).last(), Some(&(131_000, RESEND_BYTES_MAX)));
        assert!(r.ask(2, &nak(2000, 1 << 30), 1 << 20));
        assert_eq!(
            drain(&mut r, 3),
            [
                (RESEND_BYTES_MAX, RESEND_BYTES_MAX + 1000),
                (RESEND_BYTES_MAX + 1000, RESEND_BYTES_MAX + 2000)
            ]
        );
    }

    #[test]
    fn nothing_beyond_what_was_sent_and_nothing_for_nothing() {
        let mut r = Resend::default();
        assert!(!r.ask(0, &nak(500, 0), 1000));
        assert!(!r.ask(0, &nak(2000, 10), 1000));
        assert!(r.ask(0, &nak(900, 500), 1000));
        assert_eq!(drain(&mut r, 0), [(900, 1000)]);
    }
}
