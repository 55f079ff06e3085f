//! Configuration files, from the shipped ones on.

use std::path::Path;

use understudy_config::{Config, NodeFile};
use understudy_fuzz::{Rng, fuzz, mutated};

fn seeds() -> Vec<Vec<u8>> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut out = Vec::new();
    for name in ["trio/a.toml", "trio/b.toml", "trio/c.toml", "witness/a.toml", "witness/w.toml"] {
        let text = std::fs::read_to_string(configs.join(name)).expect("a shipped configuration");
        // Without its comments, so that mutations hit what is read.
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        out.push(lines.collect::<Vec<_>>().join("\n").into_bytes());
    }
    out
}

/// Another value, as an operator may write it.
fn edit_value(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const VALUES: [&str; 14] = [
        "0",
        "-1",
        "1",
        "65535",
        "65536",
        "18446744073709551616",
        "1e9",
        "true",
        "\"\"",
        "[]",
        "{}",
        "\"fd77::1/129\"",
        "\"\\u0000\"",
        "1979-05-27",
    ];
    let signs: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] == b'=').collect();
    if signs.is_empty() {
        return;
    }
    let from = *rng.pick(&signs) + 1;
    let line = bytes[from..].iter().position(|&b| b == b'\n');
    let to = line.map_or(bytes.len(), |len| from + len);
    bytes.splice(from..to, rng.pick(&VALUES).bytes());
}

#[test]
fn configurations() {
    let seeds = seeds();
    let (mut understood, mut refused) = (0, 0);
    fuzz("config", 10, |rng| {
        let mut bytes = if rng.one_in(2) { mutated(rng, &seeds) } else { rng.pick(&seeds).clone() };
        for _ in 0..rng.below(3) {
            edit_value(rng, &mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        match Config::parse(&text, "node.toml") {
            Ok(config) => {
                understood += 1;
                assert_eq!(config.me().name, config.cluster.node);
                assert_eq!(config.peers().count() + 1, config.nodes.len());
                assert!(config.majority() * 2 > config.nodes.len());
                assert!(config.vips().count() > 0 && config.vmac()[5] != 0);
                let again = toml::to_string(&config).expect("a configuration is TOML");
                assert_eq!(Config::parse(&again, "again.toml").ok(), Some(config));
            }
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(said.starts_with("node.toml:"), "where is it? {said}");
                assert!(!said.contains('\n'), "more than one line: {said}");
            }
        }
    });
    println!("{understood} configurations were accepted, {refused} refused");
}

#[test]
fn capture_only_nodes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/capture/tap.toml");
    let text = std::fs::read_to_string(path).expect("a shipped configuration");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let seeds = [lines.collect::<Vec<_>>().join("\n").into_bytes()];
    let (mut understood, mut refused) = (0, 0);
    fuzz("capture config", 20, |rng| {
        let mut bytes = if rng.one_in(2) { mutated(rng, &seeds) } else { seeds[0].clone() };
        for _ in 0..rng.below(3) {
            edit_value(rng, &mut bytes);
        }
        match NodeFile::parse(&String::from_utf8_lossy(&bytes), "node.toml") {
            Ok(file) => {
                understood += 1;
                assert!(file.socket().is_absolute());
                if let NodeFile::Capture(node) = file {
                    assert!(node.capture.keep_mb >= 2 * u64::from(node.capture.segment_mb));
                    let again = toml::to_string(&node).expect("a configuration is TOML");
                    let parsed = NodeFile::parse(&again, "again.toml").ok();
                    assert_eq!(parsed, Some(NodeFile::Capture(node)));
                }
            }
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(said.starts_with("node.toml:") && !said.contains('\n'), "{said}");
            }
        }
    });
    println!("{understood} configurations were accepted, {refused} refused");
}
