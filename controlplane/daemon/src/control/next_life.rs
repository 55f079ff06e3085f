//! What a life of the daemon tells the one that it becomes, in the environment. Only that one has it:
//! who is started after a crash may have acknowledged more meanwhile.

use std::ffi::OsString;

use super::{Held, MS};

/// A life shorter than this is a failure to start: the next one is delayed, ever longer.
const SHORT_LIFE_NS: u64 = 10_000 * MS;
const BACKOFF_FIRST_MS: u64 = 500;
const BACKOFF_LAST_MS: u64 = 30_000;
/// How long the life before was delayed.
pub const BACKOFF_VARIABLE: &str = "UNDERSTUDY_RESTART_BACKOFF_MS";
/// All that the life before can have acknowledged, if it knew.
pub const HELD_VARIABLE: &str = "UNDERSTUDY_RESTART_HELD";

/// How long to wait after a life that lasted `life_ns`.
pub(super) fn backoff_ms(life_ns: u64) -> u64 {
    if life_ns >= SHORT_LIFE_NS {
        return 0;
    }
    let last = std::env::var(BACKOFF_VARIABLE).ok().and_then(|v| v.parse::<u64>().ok());
    match last {
        // One quick return is no pattern: a switchover does that.
        None => 0,
        Some(0) => BACKOFF_FIRST_MS,
        Some(ms) => (2 * ms).min(BACKOFF_LAST_MS),
    }
}

/// For [`HELD_VARIABLE`].
pub fn write_held((epoch, position): Held) -> OsString {
    format!("{epoch} {position}").into()
}

fn read_held(text: &str) -> Option<Held> {
    let (epoch, position) = text.split_once(' ')?;
    Some((epoch.parse().ok()?, position.parse().ok()?))
}

/// What the life before held.
pub(super) fn held() -> Option<Held> {
    std::env::var(HELD_VARIABLE).ok().and_then(|text| read_held(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_reads_what_this_one_writes() {
        for held in [(0, 0), (7, u64::MAX)] {
            assert_eq!(read_held(write_held(held).to_str().unwrap()), Some(held));
        }
        assert_eq!(read_held("7"), None);
        assert_eq!(read_held("7 -1"), None);
    }
}
