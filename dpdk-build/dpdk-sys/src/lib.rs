//! Raw bindings to DPDK, generated at build time from the installed headers.
//!
//! Only what `understudy-dpdk` needs is here. Functions whose name begins with `shim_` are the
//! `static inline` functions of `wrapper.h`, compiled beside the bindings: they hide macros,
//! inline functions and structures that change between DPDK releases. DPDK's own structures are
//! opaque; the mbuf fields that are read on the fast path are reached by the offsets
//! `SHIM_MBUF_OFFSET_*`, which come from the C compiler.
//!
//! Use `understudy-dpdk`; nothing else should depend on this crate.
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]
#![allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
