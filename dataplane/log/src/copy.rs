//! Copying a frame into the log: short ones without a call.

/// Longer ones are the C library's, which chooses its code by what the CPU offers.
const SHORT_LEN_MAX: usize = 256;
const STEP_LEN: usize = 32;

/// As `to.copy_from_slice(from)`.
#[inline]
pub(crate) fn copy_frame(from: &[u8], to: &mut [u8]) {
    assert_eq!(from.len(), to.len());
    if from.len() <= SHORT_LEN_MAX
        && let (Some(from_end), Some(to_end)) = (from.last_chunk(), to.last_chunk_mut())
    {
        // The last step covers what is left of a whole number of steps, and some bytes twice.
        let end: [u8; STEP_LEN] = *from_end;
        *to_end = end;
        for (to, from) in to.chunks_exact_mut(STEP_LEN).zip(from.chunks_exact(STEP_LEN)) {
            to.copy_from_slice(from);
        }
    } else {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_whole() {
        let from: Vec<u8> = (0..2 * SHORT_LEN_MAX).map(|n| (n * 7 + n / 256) as u8).collect();
        for len in 0..from.len() {
            let mut to = vec![0xee; len + 1];
            copy_frame(&from[..len], &mut to[..len]);
            assert_eq!((&to[..len], to[len]), (&from[..len], 0xee));
        }
    }
}
