//! What a channel counts.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of a channel since start; each only grows.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct SealCounters { $($(#[$doc])* pub $name: u64,)* }

        impl SealCounters {
            /// Names and values, in the order of the source.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((concat!("seal_", stringify!($name)), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// PDUs opened: authentic, fresh, seen for the first time.
    opened,
    /// PDUs that do not open: forged, or changed on the way.
    forged,
    /// PDUs that were opened before.
    replayed,
    /// PDUs so far behind the newest that it is not known whether they were opened before.
    stale,
    /// PDUs of a session that has not proved that it lives: an earlier life, or a new one.
    unknown_session,
    /// PDUs under a key that is not in the key file (any more).
    unknown_key,
    /// Sessions of other nodes accepted.
    sessions,
    /// Challenges sent.
    challenges_sent,
    /// Authentic challenges received.
    challenges_received,
    /// Proofs sent.
    proofs_sent,
    /// Proofs that answer no open challenge of ours.
    proofs_unasked,
}
