//! How much of a log belongs to a reign's history.
//!
//! What belongs here: the arithmetic of joining a primary. No state.

use understudy_wire::{Position, control::History};

/// Up to where a log with history `own` may agree with the primary's, whose history is `theirs`: the log must be cut
/// there. `u64::MAX` means that nothing need be cut.
///
/// An epoch has one primary, so two logs that both have it agree up to the shorter of their two ends of it.
pub(crate) fn cut(own: &History, own_position: Position, theirs: &History) -> Position {
    if own_position == 0 {
        return Position::MAX;
    }
    for entry in own.iter().rev() {
        if theirs.contains(entry) {
            return end_of(own, entry.epoch).min(end_of(theirs, entry.epoch));
        }
    }
    0
}

/// Where an epoch ends: where the next begins, or nowhere yet.
fn end_of(history: &History, epoch: u64) -> Position {
    history.iter().find(|entry| entry.epoch > epoch).map_or(Position::MAX, |entry| entry.start)
}

#[cfg(test)]
mod tests {
    use understudy_wire::control::EpochStart;

    use super::*;

    fn history(entries: &[(u64, u64)]) -> History {
        entries.iter().map(|&(epoch, start)| EpochStart { epoch, start }).collect()
    }

    #[test]
    fn an_empty_log_needs_no_cut() {
        assert_eq!(cut(&history(&[]), 0, &history(&[(1, 0)])), Position::MAX);
    }

    #[test]
    fn the_newest_epoch_has_no_end() {
        assert_eq!(cut(&history(&[(1, 0)]), 90, &history(&[(1, 0)])), Position::MAX);
    }

    #[test]
    fn a_suffix_past_the_end_of_its_epoch_is_cut() {
        assert_eq!(cut(&history(&[(1, 0)]), 90, &history(&[(1, 0), (2, 70)])), 70);
        assert_eq!(cut(&history(&[(1, 0)]), 60, &history(&[(1, 0), (2, 70)])), 70);
    }

    #[test]
    fn an_epoch_that_never_was_is_cut_where_it_began() {
        assert_eq!(cut(&history(&[(1, 0), (2, 50)]), 90, &history(&[(1, 0), (3, 70)])), 50);
        assert_eq!(cut(&history(&[(1, 0), (2, 80)]), 90, &history(&[(1, 0), (3, 70)])), 70);
    }

    #[test]
    fn a_log_with_nothing_in_common_is_cut_to_nothing() {
        assert_eq!(cut(&history(&[(2, 0)]), 90, &history(&[(1, 0), (3, 70)])), 0);
    }
}
