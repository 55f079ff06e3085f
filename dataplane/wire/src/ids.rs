//! The scalar identities every room shares.

/// A node of the group; unique in the cluster, never 0.
pub type NodeId = u16;
/// Number of a reign; each election raises it. 0: no reign yet.
pub type Epoch = u64;
/// A byte offset in the capture log.
pub type Position = u64;
