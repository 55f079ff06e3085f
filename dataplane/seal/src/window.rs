//! Which counters of a session were seen.

/// How far behind the newest PDU another one may be and still be taken.
pub const WINDOW_COUNTERS: u64 = 1024;
const WORDS: usize = (WINDOW_COUNTERS / 64) as usize;

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Seen before.
    Replayed,
    /// So old that it is not known whether it was seen.
    Stale,
}

/// The newest counters of a session, a bit each.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    newest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// Takes what comes after `counter`, and nothing before.
    pub(crate) fn after(counter: u64) -> Window {
        Window { newest: counter, seen: [u64::MAX; WORDS] }
    }

    pub(crate) fn check(&self, counter: u64) -> Result<(), Refused> {
        if counter > self.newest {
            Ok(())
        } else if self.newest - counter >= WINDOW_COUNTERS {
            Err(Refused::Stale)
        } else if self.seen[word(counter)] & bit(counter) != 0 {
            Err(Refused::Replayed)
        } else {
            Ok(())
        }
    }

    /// A PDU with this counter is authentic. [`Window::check`] has let it pass.
    pub(crate) fn mark(&mut self, counter: u64) {
        let ahead = counter.saturating_sub(self.newest);
        if ahead >= WINDOW_COUNTERS {
            self.seen = [0; WORDS];
        } else {
            for skipped in counter - ahead + 1..=counter {
                self.seen[word(skipped)] &= !bit(skipped);
            }
        }
        self.newest = self.newest.max(counter);
        self.seen[word(counter)] |= bit(counter);
    }
}

fn word(counter: u64) -> usize {
    (counter % WINDOW_COUNTERS / 64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set of everything seen: never one twice, and never one refused without cause.
        #[test]
        fn agrees_with_a_set(start in 0u64..5000, steps in proptest::collection::vec(0u64..6000, 1..400)) {
            let mut window = Window::after(start);
            let mut seen = BTreeSet::new();
            let mut newest = start;
            for counter in steps {
                let expected = if counter > newest {
                    Ok(())
                } else if newest - counter >= WINDOW_COUNTERS {
                    Err(Refused::Stale)
                } else if counter <= start || seen.contains(&counter) {
                    Err(Refused::Replayed)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.check(counter), expected, "counter {}", counter);
                if expected.is_ok() {
                    window.mark(counter);
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        let mut window = Window::after(u64::MAX - 1);
        assert_eq!(window.check(u64::MAX), Ok(()));
        window.mark(u64::MAX);
        assert_eq!(window.check(u64::MAX), Err(Refused::Replayed));
        assert_eq!(window.check(0), Err(Refused::Stale));
    }
}
