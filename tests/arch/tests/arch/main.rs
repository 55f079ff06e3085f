//! What DESIGN section 9 promises about the tree, checked against the tree itself.
//!
//! Each test names every offence it finds, not only the first. Nothing is built and nothing is
//! fetched: the sources are read, and `cargo metadata` is asked offline.
#![forbid(unsafe_code)]

mod dependencies;
mod layout;
mod promises;
mod rust;
mod text;
mod tree;

/// Fails with one line per offence.
fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}
