//! The capture log on disk: append-only segments, sequential writes, each block checksummed and with
//! the keys of its frames, each segment ended by a time index.
//!
//! `format`, `block`, `keys` and `query` touch no file; `reader`, `writer` and `store` are the thin
//! layer that does. A segment whose writer died is read up to its last whole block, and is ended there
//! by [`Store::open`].
#![forbid(unsafe_code)]

mod block;
mod bloom;
mod format;
mod keys;
mod query;
mod reader;
mod scan;
mod store;
mod writer;

pub use block::{BlockBuilder, frame_of};
pub use bloom::{BLOOM_BYTES_MAX, Bloom};
pub use format::{
    BLOCK_HEADER_BYTES, BLOCK_RECORDS_BYTES_MAX, BLOCKS_MAX, BlockEntry, BlockHeader,
    FILE_HEADER_BYTES, Footer, FormatError, LINKS_MAX, SegmentInfo, TRAILER_BYTES, Trailer,
};
pub use keys::{Key, frame_keys};
pub use query::Needs;
pub use reader::{ReadBlock, Segment, SegmentError, Wanted};
pub use scan::{Found, Scan, Scanned};
pub use store::{Catalogue, Kept, Limits, Recovered, SegmentMeta, Store, list};
pub use writer::SegmentWriter;
