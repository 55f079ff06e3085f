//! How fast a clone that catches up is given frames: its kernel's queues drop what is beyond them, and that
//! costs a redelivery.

use crate::MS;

/// Of these twice as many fit in the queue before a protocol (`netdev_max_backlog`, 1000).
const AT_ONCE_MAX: usize = 480;
/// In this time a kernel takes as many from its queue, whether it says so or not: of an application that does not
/// answer it acknowledges what it got only after 40 ms (delayed acknowledgements).
const QUEUED_NS: u64 = 5 * MS;

/// What may still be in the kernel's queue.
#[derive(Debug, Default)]
pub(super) struct Pace {
    given: usize,
    since_ns: u64,
}

impl Pace {
    /// A frame was given to the kernel.
    pub(super) fn note_given(&mut self, now_ns: u64) {
        if self.given == 0 {
            self.since_ns = now_ns;
        }
        self.given += 1;
    }

    /// So many were acknowledged.
    pub(super) fn note_confirmed(&mut self, frames: usize) {
        self.given = self.given.saturating_sub(frames);
    }

    /// What the kernel acknowledges lets the next frame go.
    pub(super) fn is_full(&self) -> bool {
        self.given >= AT_ONCE_MAX
    }

    /// The next frame has to wait.
    pub(super) fn is_ahead(&mut self, now_ns: u64) -> bool {
        if !self.is_full() {
            return false;
        }
        let waits = now_ns < self.since_ns + QUEUED_NS;
        if !waits {
            self.given = 0;
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives as much as it may in a time; a tenth of a millisecond is a poll.
    fn given_in(pace: &mut Pace, from_ns: u64, ms: u64, confirmed_a_poll: usize) -> usize {
        let mut given = 0;
        for poll in 0..ms * 10 {
            let now_ns = from_ns + poll * MS / 10;
            pace.note_confirmed(confirmed_a_poll);
            while !pace.is_ahead(now_ns) && given < 1_000_000 {
                pace.note_given(now_ns);
                given += 1;
            }
        }
        given
    }

    #[test]
    fn a_silent_kernel_is_given_a_queue_full_now_and_then() {
        let mut pace = Pace::default();
        assert_eq!(given_in(&mut pace, MS, 5, 0), AT_ONCE_MAX);
        assert_eq!(given_in(&mut pace, 6 * MS, 100, 0), 20 * AT_ONCE_MAX);
        // A word now and then must not slow it down.
        let slow = given_in(&mut pace, 106 * MS, 100, 1);
        assert!(slow >= 20 * AT_ONCE_MAX, "{slow}");
    }

    #[test]
    fn a_kernel_that_keeps_up_is_given_all_that_it_takes() {
        let mut pace = Pace::default();
        assert!(given_in(&mut pace, MS, 100, 300) >= 300 * 1000);
    }
}
