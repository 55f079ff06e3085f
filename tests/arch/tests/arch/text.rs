//! Nothing in the tree knows the machine it was written on.

use crate::tree;

/// Folders of machines, as the first part of a path. Written in two halves: this file is text too.
const FOLDERS: [[&str; 2]; 5] =
    [["/wo", "rk"], ["/ro", "ot"], ["/ho", "me"], ["/Use", "rs"], ["/tmp", "/"]];

/// What the name of a package registry, its mirror or a proxy for it has in it.
const REGISTRIES: [[&str; 2]; 9] = [
    ["crates", ".io"],
    ["regis", "try"],
    ["mir", "ror"],
    ["arti", "factory"],
    ["nex", "us"],
    ["pro", "xy"],
    ["py", "pi"],
    ["npm", "js"],
    ["local", "host"],
];
const LOCK_SOURCE: &str =
    concat!("source = \"regis", "try+https://github.com/rust-lang/crates", ".io-index\"");

#[test]
fn no_file_names_a_machine() {
    let mut offences = Vec::new();
    for name in tree::files() {
        let Some(text) = tree::text(&name) else { continue };
        for (number, line) in text.lines().enumerate() {
            let found = machine_path(line).or_else(|| registry_host(line));
            let named = format!("{name}:{}", number + 1);
            offences.extend(found.map(|what| format!("{named}: {what}")));
        }
    }
    crate::assert_none("paths and hosts of one machine", &offences);
}

#[test]
fn packages_are_locked_to_the_public_index() {
    let lock = tree::text("Cargo.lock").expect("Cargo.lock is committed");
    let others = lock
        .lines()
        .filter(|line| line.starts_with("source = ") && *line != LOCK_SOURCE)
        .map(str::to_owned);
    crate::assert_none("Cargo.lock: other sources", &others.collect::<Vec<_>>());
}

/// The first absolute path into a folder of a machine.
fn machine_path(line: &str) -> Option<String> {
    FOLDERS.map(|halves| halves.concat()).into_iter().find(|folder| {
        line.match_indices(folder.as_str()).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            // A folder of that name further down a path is not the machine's.
            let begins = !before.is_some_and(|c| is_word(c) || "./*})>$".contains(c));
            begins && (folder.ends_with('/') || !after.is_some_and(is_word))
        })
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// The first host of a URL that looks like a registry's.
fn registry_host(line: &str) -> Option<String> {
    line.split("://").skip(1).find_map(|rest| {
        let end = rest.find(|c: char| !(is_word(c) || ".:@[]".contains(c))).unwrap_or(rest.len());
        let host = &rest[..end];
        let known = REGISTRIES.map(|halves| halves.concat());
        known.iter().any(|part| host.contains(part.as_str())).then(|| host.to_owned())
    })
}

#[test]
fn what_is_found_and_what_is_not() {
    let path =
        |halves: [&str; 2], tail: &str| machine_path(&format!("x = \"{}{tail}", halves.concat()));
    assert!(path(FOLDERS[0], "\"").is_some() && path(FOLDERS[2], "/me").is_some());
    assert!(path(FOLDERS[4], "x").is_some() && path(FOLDERS[0], "space").is_none());
    assert!(machine_path("/var/lib/understudy/a/work $dir/home/x").is_none());
    let url = |host: &str| registry_host(&format!("see https://{host}/path"));
    assert!(url(&["static.crates", ".io"].concat()).is_some());
    assert!(url("github.com").is_none() && url("doc.dpdk.org").is_none());
}
