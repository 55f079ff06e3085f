//! Nothing: the crate is its tests, which hold the layout and the direction of dependencies.
#![forbid(unsafe_code)]
