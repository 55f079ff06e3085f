//! Folders at the top: the owner's names and no others.

use std::collections::BTreeSet;

use crate::tree;

const FOLDERS: [&str; 6] = ["configs", "controlplane", "dataplane", "dpdk-build", "perf", "tests"];

#[test]
fn top_level_folders_are_the_owners() {
    let entries = std::fs::read_dir(tree::root()).expect("the root can be read");
    let found: BTreeSet<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.') && !tree::OUTPUT_FOLDERS.contains(&name.as_str()))
        .collect();
    let wanted: BTreeSet<String> = FOLDERS.map(String::from).into();
    assert_eq!(found, wanted, "folders at the top of the tree (left) and those that belong there");
}

#[test]
fn every_crate_is_in_one_of_them() {
    let root = tree::root();
    let outside: Vec<String> = tree::packages()
        .iter()
        .map(|package| tree::field(package, "manifest_path").to_owned())
        .filter(|path| {
            let below = std::path::Path::new(path).strip_prefix(&root).ok();
            let top = below.and_then(|path| path.iter().next()?.to_str());
            !top.is_some_and(|top| FOLDERS.contains(&top))
        })
        .collect();
    crate::assert_none("crates outside the six folders", &outside);
}
