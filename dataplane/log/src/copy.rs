//! Copying a frame into the log: short ones without a call.

/// As `to.copy_from_slice(from)`. What is longer is left to the C library, which chooses its code by
/// what the CPU offers.
#[inline]
pub(crate) fn copy_frame(from: &[u8], to: &mut [u8]) {
    assert_eq!(from.len(), to.len());
    match from.len() {
        32..=64 => copy_ends::<32>(from, to),
        65..=128 => copy_ends::<64>(from, to),
        129..=256 => {
            copy_ends::<64>(&from[..128], &mut to[..128]);
            // These overlap where they must.
            copy_ends::<64>(&from[from.len() - 128..], last(to, 128));
        }
        _ => copy_any(from, to),
    }
}

/// Not inlined: short copies would be made calls of the same function as this one.
#[inline(never)]
fn copy_any(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(from);
}

/// Copies the first `N` bytes and the last, which are all if there are no more than twice as many.
#[inline]
fn copy_ends<const N: usize>(from: &[u8], to: &mut [u8]) {
    if let (Some(first), Some(end)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
        to[..N].copy_from_slice(first);
        last(to, N).copy_from_slice(end);
    }
}

#[inline]
fn last(bytes: &mut [u8], count: usize) -> &mut [u8] {
    let at = bytes.len() - count;
    &mut bytes[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_whole() {
        let from: Vec<u8> = (0..520).map(|n| (n * 7 + n / 256) as u8).collect();
        for len in 0..from.len() {
            let mut to = vec![0xee; len + 1];
            copy_frame(&from[..len], &mut to[..len]);
            assert_eq!((&to[..len], to[len]), (&from[..len], 0xee));
        }
    }
}
