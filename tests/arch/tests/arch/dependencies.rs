//! Who may depend on whom, and that our crates are found by path alone.

use serde_json::Value;

use crate::tree::{self, field};

/// Every crate of ours with all it may depend on: as a dependency of any kind.
const ALLOWED: [(&str, &[&str]); 26] = [
    ("dpdk-sys", &[]),
    ("understudy-dpdk", &["dpdk-sys"]),
    ("understudy-wire", &[]),
    ("understudy-seal", &["understudy-wire"]),
    ("understudy-log", &["understudy-wire"]),
    ("understudy-pcap", &[]),
    ("understudy-segments", &["understudy-wire"]),
    ("understudy-fastpath", &["understudy-wire", "understudy-log", "understudy-seal"]),
    ("understudy-proto", &["understudy-wire"]),
    ("understudy-arbiter", &["understudy-wire", "understudy-proto"]),
    ("understudy-image", &[]),
    ("understudy-linux", &["understudy-image"]),
    (
        "understudy-checkpoint",
        &["understudy-image", "understudy-linux", "understudy-seal", "understudy-wire"],
    ),
    ("understudy-api", &[]),
    ("understudy-web", &["understudy-api"]),
    ("understudy-config", &[]),
    (
        "understudy-cli",
        &[
            "understudy-api",
            "understudy-config",
            "understudy-seal",
            "understudy-pcap",
            "understudy-segments",
            "understudy-wire",
        ],
    ),
    (
        "understudy-daemon",
        &[
            "understudy-wire",
            "understudy-seal",
            "understudy-log",
            "understudy-fastpath",
            "understudy-dpdk",
            "understudy-proto",
            "understudy-arbiter",
            "understudy-linux",
            "understudy-image",
            "understudy-checkpoint",
            "understudy-api",
            "understudy-web",
            "understudy-config",
            "understudy-pcap",
            "understudy-segments",
        ],
    ),
    (
        "understudy-perf",
        &[
            "understudy-wire",
            "understudy-seal",
            "understudy-log",
            "understudy-segments",
            "understudy-fastpath",
            "understudy-linux",
            "understudy-checkpoint",
            "understudy-api",
            "understudy-lab",
            "understudy-perf-gate",
        ],
    ),
    (
        "understudy-perf-dpdk",
        &[
            "understudy-dpdk",
            "understudy-fastpath",
            "understudy-perf",
            "understudy-perf-gate",
            "understudy-wire",
        ],
    ),
    (
        "understudy-perf-gate",
        &["understudy-fastpath", "understudy-log", "understudy-seal", "understudy-wire"],
    ),
    (
        "understudy-sim",
        &[
            "understudy-wire",
            "understudy-seal",
            "understudy-log",
            "understudy-fastpath",
            "understudy-proto",
        ],
    ),
    (
        "understudy-model",
        &["understudy-wire", "understudy-log", "understudy-fastpath", "understudy-proto"],
    ),
    ("understudy-lab", &["understudy-api", "understudy-config"]),
    (
        "understudy-fuzz",
        &[
            "understudy-wire",
            "understudy-seal",
            "understudy-log",
            "understudy-fastpath",
            "understudy-proto",
            "understudy-api",
            "understudy-web",
            "understudy-config",
            "understudy-image",
            "understudy-pcap",
            "understudy-segments",
        ],
    ),
    ("understudy-arch", &[]),
];

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten()
}

#[test]
fn dependencies_run_one_way() {
    let packages = tree::packages();
    let mut offences = Vec::new();
    for package in &packages {
        let name = field(package, "name");
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            offences.push(format!("{name} is not in the table of tests/arch: say what it may use"));
            continue;
        };
        for dependency in dependencies(package) {
            let to = field(dependency, "name");
            let ours = ALLOWED.iter().any(|(known, _)| *known == to);
            if (ours || dependency["path"].is_string()) && !allowed.contains(&to) {
                offences.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    let gone =
        ALLOWED.iter().filter(|(name, _)| !packages.iter().any(|p| field(p, "name") == *name));
    offences.extend(gone.map(|(name, _)| format!("{name} is in the table and not in the tree")));
    crate::assert_none("the direction of dependencies (DESIGN section 9)", &offences);
}

#[test]
fn ours_come_by_path_and_without_a_version() {
    let mut offences = Vec::new();
    for package in tree::packages() {
        let name = field(&package, "name");
        for dependency in dependencies(&package) {
            let to = field(dependency, "name");
            let by_path = dependency["path"].is_string();
            if by_path && field(dependency, "req") != "*" {
                offences.push(format!("{name} -> {to}: a path and a version"));
            }
            if !by_path && ALLOWED.iter().any(|(known, _)| *known == to) {
                offences.push(format!("{name} -> {to}: ours, and not by path"));
            }
        }
        if package["publish"].as_array().is_none_or(|registries| !registries.is_empty()) {
            offences.push(format!("{name} could be published: publish.workspace = true"));
        }
    }
    // What the workspace offers and nobody uses yet is not in the metadata.
    for line in tree::text("Cargo.toml").expect("the root manifest is text").lines() {
        if line.contains("path =") && line.contains("version =") {
            offences.push(format!("Cargo.toml: {line}"));
        }
    }
    crate::assert_none("path dependencies carry no version", &offences);
}
