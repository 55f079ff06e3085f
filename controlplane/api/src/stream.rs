//! What follows the answer to [`Request::Capture`](crate::Request::Capture): pieces of the capture
//! log, until either side closes. Sans-IO.
//!
//! ```text
//! 0        4                8
//! | kind   | bytes of body  | body
//! ```
//! Little-endian. The daemon sends an [`Piece::Alive`] when there is nothing else, so that it notices
//! a client that has gone.

/// Bytes before a piece's body.
const HEAD_BYTES: usize = 8;
/// No body is longer.
pub const PIECE_BYTES_MAX: usize = 512 * 1024;
/// A note's text is no longer; the rest is cut off.
const NOTE_BYTES_MAX: usize = 4096;

const RECORDS: u32 = 1;
const LOST: u32 = 2;
const TAKEN_BACK: u32 = 3;
const NOTE: u32 = 4;
const ALIVE: u32 = 5;
const END: u32 = 6;
const READ: u32 = 7;

/// Part of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Whole records of the log, one after the other, the first at this position.
    Records {
        /// Position of the first.
        position: u64,
        /// Their bytes.
        bytes: &'a [u8],
    },
    /// So many records were overwritten before they could be sent.
    Lost(u64),
    /// So many of the records sent last are no part of the log any more.
    TakenBack(u64),
    /// Something that belongs before the record at this position, or after the one before it.
    Note {
        /// Position in the log.
        position: u64,
        /// One sentence.
        text: String,
    },
    /// Nothing new; frames that the node did not log since the capture began, for want of room.
    Alive {
        /// How many.
        not_logged: u64,
    },
    /// How much was read of what is on disk, and how much not.
    Read(DiskRead),
    /// The range has been sent.
    End,
}

/// What a capture-only node read of its segments to answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiskRead {
    /// Segments that something was read of.
    pub segments_read: u64,
    /// Segments that hold nothing of the time or of what the filter needs.
    pub segments_skipped: u64,
    /// Blocks whose records were read.
    pub blocks_read: u64,
    /// Blocks of segments that were opened that were not.
    pub blocks_skipped: u64,
    /// Bytes of records that were read.
    pub bytes_read: u64,
    /// Blocks and segments that could not be read.
    pub damaged: u64,
}

impl DiskRead {
    fn words(&self) -> [u64; 6] {
        [
            self.segments_read,
            self.segments_skipped,
            self.blocks_read,
            self.blocks_skipped,
            self.bytes_read,
            self.damaged,
        ]
    }

    fn from_body(body: &[u8]) -> Option<DiskRead> {
        let body: &[u8; 48] = body.try_into().ok()?;
        let word = |i: usize| body[8 * i..].first_chunk().map(|b| u64::from_le_bytes(*b));
        Some(DiskRead {
            segments_read: word(0)?,
            segments_skipped: word(1)?,
            blocks_read: word(2)?,
            blocks_skipped: word(3)?,
            bytes_read: word(4)?,
            damaged: word(5)?,
        })
    }
}

/// A piece that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPiece {
    /// Its kind is not known.
    #[error("a piece of the capture is of unknown kind {0}")]
    Kind(u32),
    /// Its body is too long or too short.
    #[error("a piece of the capture has a body of {0} bytes")]
    Length(usize),
}

impl Piece<'_> {
    /// The piece's head and what its body begins with; the body of [`Piece::Records`] ends with the
    /// records themselves, which are not copied here.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let word = |value: &u64| value.to_le_bytes().to_vec();
        let (kind, body, records) = match self {
            Self::Records { position, bytes } => (RECORDS, word(position), bytes.len()),
            Self::Lost(count) => (LOST, word(count), 0),
            Self::TakenBack(count) => (TAKEN_BACK, word(count), 0),
            Self::Note { position, text } => {
                let mut end = text.len().min(NOTE_BYTES_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                (NOTE, [&word(position), &text.as_bytes()[..end]].concat(), 0)
            }
            Self::Alive { not_logged } => (ALIVE, word(not_logged), 0),
            Self::Read(read) => (READ, read.words().map(u64::to_le_bytes).concat(), 0),
            Self::End => (END, Vec::new(), 0),
        };
        let len = (body.len() + records) as u32;
        [&kind.to_le_bytes()[..], &len.to_le_bytes(), &body].concat()
    }
}

/// Puts pieces together from what a socket gives; holds one piece and what came with it at most.
#[derive(Debug, Default)]
pub struct PieceBuffer {
    bytes: Vec<u8>,
    /// What was taken already.
    taken: usize,
}

impl PieceBuffer {
    /// Beginning with what came behind the answer.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 0 }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next piece, `None` until it is whole.
    ///
    /// # Errors
    /// If it is no piece; then nothing behind it can be understood either.
    pub fn next_piece(&mut self) -> Result<Option<Piece<'_>>, BadPiece> {
        let rest = &self.bytes[self.taken..];
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?))
        };
        let (Some(kind), Some(len)) = (word(0), word(4)) else { return Ok(None) };
        let len = len as usize;
        if len > PIECE_BYTES_MAX {
            return Err(BadPiece::Length(len));
        }
        let Some(body) = rest.get(HEAD_BYTES..HEAD_BYTES + len) else { return Ok(None) };
        self.taken += HEAD_BYTES + len;
        piece(kind, body).map(Some)
    }
}

fn piece(kind: u32, body: &[u8]) -> Result<Piece<'_>, BadPiece> {
    let bad = BadPiece::Length(body.len());
    let number = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let alone = number.filter(|_| body.len() == 8).ok_or(bad);
    Ok(match kind {
        RECORDS => Piece::Records { position: number.ok_or(bad)?, bytes: &body[8..] },
        LOST => Piece::Lost(alone?),
        TAKEN_BACK => Piece::TakenBack(alone?),
        NOTE => Piece::Note {
            position: number.ok_or(bad)?,
            text: String::from_utf8_lossy(&body[8..]).into_owned(),
        },
        ALIVE => Piece::Alive { not_logged: alone? },
        READ => Piece::Read(DiskRead::from_body(body).ok_or(bad)?),
        END if body.is_empty() => Piece::End,
        END => return Err(bad),
        other => return Err(BadPiece::Kind(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_they_went_in_however_they_are_cut() {
        let records = [7u8; 40];
        let pieces = [
            Piece::Records { position: 16, bytes: &records },
            Piece::Lost(3),
            Piece::TakenBack(2),
            Piece::Note { position: 56, text: "checkpoint 1".into() },
            Piece::Alive { not_logged: u64::MAX },
            Piece::Read(DiskRead { segments_read: 1, blocks_skipped: 9, ..DiskRead::default() }),
            Piece::End,
        ];
        let mut all = Vec::new();
        for piece in &pieces {
            all.extend(piece.head());
            if let Piece::Records { bytes, .. } = piece {
                all.extend_from_slice(bytes);
            }
        }
        for cut in 1..all.len() {
            let mut buffer = PieceBuffer::new(all[..cut].to_vec());
            let mut seen = 0;
            for more in [&[][..], &all[cut..]] {
                buffer.push(more);
                while let Some(piece) = buffer.next_piece().unwrap() {
                    assert_eq!(piece, pieces[seen]);
                    seen += 1;
                }
            }
            assert_eq!(seen, pieces.len());
        }
    }

    #[test]
    fn what_is_no_piece_is_refused() {
        let refused = |bytes: &[u8]| PieceBuffer::new(bytes.to_vec()).next_piece().unwrap_err();
        assert_eq!(refused(&[9, 0, 0, 0, 0, 0, 0, 0]), BadPiece::Kind(9));
        assert_eq!(refused(&[2, 0, 0, 0, 1, 0, 0, 0, 5]), BadPiece::Length(1));
        assert_eq!(refused(&[1, 0, 0, 0, 255, 255, 255, 255]), BadPiece::Length(u32::MAX as usize));
    }
}
