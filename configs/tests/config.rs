//! The schema as an operator meets it: examples load, mistakes are named with their line.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use understudy_config::{CheckpointMethod, CommitPolicy, Config, ConfigError, Proto};

const A: &str = include_str!("../trio/a.toml");

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("trio")
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "x.toml")
}

/// `A` with the one occurrence of `from` replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(A.matches(from).count(), 1, "{from:?} must occur once");
    A.replace(from, to)
}

/// The line of the first line of `text` that has `needle`.
fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|l| l.contains(needle)).unwrap_or_else(|| panic!("no {needle:?}")) + 1
}

#[track_caller]
fn refused(text: &str, line: usize, words: &[&str]) {
    let error = parse(text).expect_err("must be refused");
    let message = error.to_string();
    assert_eq!(error.line(), Some(line), "{message}");
    assert!(message.starts_with(&format!("x.toml:{line}:")), "{message}");
    assert!(!message.contains('\n'), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// Replaces one line's text and expects an error at it.
#[track_caller]
fn refused_line(from: &str, to: &str, words: &[&str]) {
    let before = &A[..A.find(from).expect("in a.toml")];
    let line = before.matches('\n').count() + to.matches('\n').count() + 1;
    refused(&with(from, to), line, words);
}

#[test]
fn examples_load_and_agree() {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.cluster.node, path.file_stem().unwrap().to_str().unwrap());
        assert_eq!(config.peers().count(), 2);
        seen.push(config);
    }
    assert_eq!(seen.len(), 3);
    for config in &seen[1..] {
        assert_eq!(config.nodes, seen[0].nodes);
        assert_eq!(config.cluster_id(), seen[0].cluster_id());
        assert_ne!(config.ports.client, seen[0].ports.client);
        assert_ne!(config.control, seen[0].control);
        let mut service = config.service.clone();
        service.work_dir.clone_from(&seen[0].service.work_dir);
        assert_eq!(service, seen[0].service);
    }
}

#[test]
fn node_a_means_what_it_says() {
    let config = Config::load(examples().join("a.toml")).unwrap();
    assert_eq!((config.me().id, config.me().priority), (1, 100));
    assert_eq!(config.majority(), 2);
    assert_eq!(config.vmac(), [0, 0, 0x5e, 0, 1, 51]);
    assert_eq!(config.vmac_v6(), [0, 0, 0x5e, 0, 2, 51]);
    assert_eq!(config.client_interface(), Some("us-cl"));
    assert_eq!(config.replica_interface(), Some("us-rp"));
    let vips: Vec<(IpAddr, u8)> = config.vips().collect();
    assert_eq!(vips, [("10.77.0.100".parse().unwrap(), 24), ("fd77::100".parse().unwrap(), 64)]);
    assert_eq!((config.service.ports[0].proto, config.service.ports[0].port), (Proto::Tcp, 6379));
    assert_eq!(config.commit.policy, CommitPolicy::Quorum);
    assert_eq!(config.log.size_bytes(), 64 << 20);
}

#[test]
fn a_group_needs_a_key_file_and_a_node_on_its_own_does_not() {
    const KEY: &str = "key_file = \"/etc/understudy/cluster.key\"";
    let line = line_of(A, "[cluster]");
    refused(&with(KEY, ""), line, &["cluster.key_file", "understudy key generate"]);
    refused_line(KEY, "key_file = \"cluster.key\"", &["cluster.key_file", "absolute"]);
    let mut alone: toml::Table = A.parse().unwrap();
    alone["nodes"].as_array_mut().unwrap().truncate(1);
    alone["cluster"].as_table_mut().unwrap().remove("key_file");
    assert_eq!(parse(&toml::to_string(&alone).unwrap()).unwrap().cluster.key_file, None);
}

#[test]
fn the_witness_examples_load_agree_and_differ_from_the_trio_in_the_witness() {
    let dir = examples().join("../witness");
    let load = |name: &str| Config::load(dir.join(format!("{name}.toml"))).unwrap();
    let trio = Config::load(examples().join("a.toml")).unwrap();
    for name in ["a", "b", "w"] {
        let config = load(name);
        assert_eq!((config.me().name.as_str(), config.is_witness()), (name, name == "w"));
        assert_eq!(config.nodes, load("a").nodes);
        assert_eq!(config.client_interface().is_some(), name != "w");
        assert!(config.replica_interface().is_some());
        let mut service = config.service.clone();
        service.work_dir.clone_from(&trio.service.work_dir);
        assert_eq!(service, trio.service);
        assert_eq!((config.log, config.commit, config.detect), {
            (trio.log.clone(), trio.commit.clone(), trio.detect.clone())
        });
    }
}

#[test]
fn witnesses_are_few_and_beside_two_that_serve() {
    let roles = |roles: &[&str]| {
        let mut table: toml::Table = A.parse().unwrap();
        let nodes = table["nodes"].as_array_mut().unwrap();
        nodes.truncate(roles.len());
        for (node, role) in nodes.iter_mut().zip(roles) {
            node.as_table_mut().unwrap().insert("role".into(), (*role).into());
        }
        parse(&table.to_string())
    };
    assert!(!roles(&["data", "data", "witness"]).unwrap().is_witness());
    assert!(roles(&["witness", "data", "data"]).unwrap().is_witness());
    let refused = |given: &[&str], why: &str| {
        let error = roles(given).unwrap_err().to_string();
        assert!(error.contains(".role: ") && error.contains(why), "{error}");
    };
    refused(&["data", "witness", "witness"], "nodes[1] is a witness already");
    refused(&["witness"], "two nodes with role \"data\"");
    refused_line("role = \"data\"", "role = \"arbiter\"", &["role", "`data` or `witness`"]);
}

#[test]
fn a_service_with_ipv6_only_has_the_ipv6_mac() {
    let config =
        parse(&with(r#"["10.77.0.100/24", "fd77::100/64"]"#, r#"["fd77::100/64"]"#)).unwrap();
    assert_eq!(config.vmac(), config.vmac_v6());
}

#[test]
fn defaults_are_the_documented_values() {
    const SECTIONS: [&str; 6] = ["dpdk", "idle", "log", "commit", "detect", "supervise"];
    let full = parse(A).unwrap();
    let mut table: toml::Table = A.parse().unwrap();
    for section in SECTIONS {
        table.remove(section).unwrap();
    }
    let service = table["service"].as_table_mut().unwrap();
    for key in ["gateway", "env", "ready_timeout_ms", "clone_wait_ms", "audit"] {
        service.remove(key).unwrap();
    }
    let ports = table["ports"].as_table_mut().unwrap();
    ports.remove("host").unwrap();
    ports["replica"].as_table_mut().unwrap().remove("mtu").unwrap();
    table["nodes"][0].as_table_mut().unwrap().remove("priority").unwrap();
    assert_eq!(parse(&table.to_string()).unwrap(), full);
    for section in SECTIONS {
        let emptied = format!("{table}\n[{section}]\n");
        assert_eq!(parse(&emptied).unwrap(), full);
    }
}

#[test]
fn nothing_listens_for_others_unless_it_was_meant() {
    let with = |lines: &str| format!("{A}\n[metrics]\n{lines}\n");
    assert_eq!(parse(A).unwrap().metrics, None);
    for listen in ["127.0.0.1:9464", "[::1]:9464", "127.8.0.1:1"] {
        let metrics = parse(&with(&format!("listen = \"{listen}\""))).unwrap().metrics.unwrap();
        assert_eq!((metrics.listen.to_string().as_str(), metrics.allow_remote), (listen, false));
    }
    for listen in ["0.0.0.0:9464", "10.77.2.1:9464", "[::]:9464", "[fd77::1]:9464"] {
        let text = with(&format!("listen = \"{listen}\""));
        refused(&text, line_of(&text, listen), &["unsafe", "allow_remote"]);
        assert!(parse(&text).unwrap_err().is_unsafe());
        let meant = parse(&with(&format!("listen = \"{listen}\"\nallow_remote = true"))).unwrap();
        assert_eq!(parse(&toml::to_string(&meant).unwrap()).unwrap(), meant);
    }
    for (listen, words) in
        [("127.0.0.1:0", "port 0"), ("9464", "ADDRESS:PORT"), ("10.77.0.100:9464", "the service's")]
    {
        let text = with(&format!("listen = \"{listen}\"\nallow_remote = true"));
        refused(&text, line_of(&text, &format!("\"{listen}\"")), &[words]);
    }
    let text = with("allow_remote = true");
    refused(&text, text.lines().count() - 1, &["missing field `listen`"]);
}

#[test]
fn the_values_survive_a_round_trip() {
    let config = parse(&with("env = {}", "env = { A = \"1\", \"b.c\" = \"\" }")).unwrap();
    assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn syntax_and_types_name_the_line() {
    refused_line("vrid = 51", "vrid = ", &[]);
    refused_line("vrid = 51", "vrid = 51\nvrid = 52", &["duplicate key"]);
    refused_line("vrid = 51", "vrid = \"51\"", &["service.vrid", "an integer, 0..=255"]);
    refused_line("vrid = 51", "vrid = 256", &["256", "0..=255"]);
    refused_line("vrid = 51", "vird = 51", &["unknown field `vird`", "`vrid`"]);
    refused_line("memory_mb = 128", "memory_mb = -1", &["-1", "an integer"]);
    refused_line(
        "policy = \"quorum\"",
        "policy = \"most\"",
        &["`none`", "`any`", "`quorum`", "`all`"],
    );
    refused_line("policy = \"quorum\"", "policy = 1", &["commit.policy", "string"]);
    refused_line("env = {}", "env = { A = 1 }", &["string"]);
    refused_line("gateway = []", "gateway = \"10.77.0.1\"", &["list in brackets"]);
    refused_line("gateway = []", "gateway = [\"router\"]", &["router", "IPv4 or IPv6 address"]);
    refused_line(
        "address = \"10.77.2.2:7400\"",
        "address = \"b:7400\"",
        &["b:7400", "ADDRESS:PORT"],
    );
    refused_line("socket = \"/run/understudy/a.sock\"", "socket = 5", &["control.socket", "path"]);
    refused_line("gateway = []", "gateway = [\n\"10.77.0.1\",\n\"x\"]", &["service.gateway[1]"]);
    refused_line("[\"tcp/6379\"]", "[\n\"tcp/1\",\n\"tcp/x\"]", &["service.ports[1]"]);
    let text = with("vrid = 51\n", "");
    refused(&text, line_of(&text, "[service]"), &["missing field `vrid`", "[service]"]);
    let text = with("id = 2\n", "");
    refused(&text, line_of(&text, "name = \"b\"") - 1, &["missing field `id` in [nodes[1]]"]);
    let text = format!("{A}\n[extra]\nx = 1\n");
    refused(&text, line_of(&text, "[extra]"), &["unknown field `extra`", "`cluster`"]);
    refused("", 1, &["missing field"]);
    refused("cluster = 1", 1, &["cluster", "table"]);
    refused("nodes = [1]", 1, &[]);
}

#[test]
fn supervision_is_checked() {
    let at = |section: &str| A.find(&format!("[supervise.{section}]\n")).expect("in a.toml");
    // The first line with `from` behind the section's head.
    let refused_in = |section: &str, from: &str, to: &str, words: &[&str]| {
        let begins = at(section);
        let place = begins + A[begins..].find(from).expect("in the section");
        let text = format!("{}{to}{}", &A[..place], &A[place + from.len()..]);
        refused(&text, A[..place].matches('\n').count() + 1, words);
    };
    refused_line("failover_interval_s = 60", "failover_interval_s = 86401", &["0..=86400"]);
    refused_line("check = \"none\"", "check = \"ping\"", &["supervise.health.check", "tcp/PORT"]);
    refused_line("check = \"none\"", "check = \"tcp/0\"", &["tcp/0", "http/PORT/PATH"]);
    refused_in("health", "command = []", "command = [\"/bin/true\"]", &["check is \"none\""]);
    refused_in("health", "fall = 3", "fall = 0", &["supervise.health.fall", "1..=1000"]);
    refused_in("health", "interval_ms = 1000", "interval_ms = 9", &["10..=3600000"]);
    refused_in(
        "disk",
        "policy = \"alert\"",
        "policy = \"restart\"",
        &["\"failover\" or \"alert\""],
    );
    refused_in("paths", "policy = \"alert\"", "policy = \"failover\"", &["supervise.paths.policy"]);
    refused_in("core", "stuck_ms = 1000", "stuck_ms = 5", &["50..=60000"]);
    refused_in("cpu", "gap_ms = 100", "gap = 100", &["unknown field `gap`"]);
    let with_command = with("check = \"none\"", "check = \"command\"");
    let refusal = parse(&with_command).unwrap_err().to_string();
    assert!(refusal.contains("supervise.health.command"), "{refusal}");
    let with_command = with_command.replacen("command = []", "command = [\"true\"]", 1);
    assert!(parse(&with_command).unwrap_err().to_string().contains("absolute"));
    let with_command = with_command.replacen("[\"true\"]", "[\"/bin/true\"]", 1);
    assert_eq!(parse(&with_command).unwrap().supervise.health.command, ["/bin/true"]);
}

#[test]
fn the_group_is_checked() {
    refused_line("name = \"trio\"", "name = \"\"", &["1..=64 characters"]);
    refused_line("name = \"trio\"", "name = \"t o\"", &["1..=64 characters"]);
    refused_line("name = \"trio\"", &format!("name = \"{}\"", "é".repeat(65)), &["1..=64"]);
    assert!(parse(&with("name = \"trio\"", &format!("name = \"{}\"", "é".repeat(64)))).is_ok());
    refused_line("node = \"a\"", "node = \"z\"", &["\"z\"", "\"a\", \"b\", \"c\""]);
    let text = with("name = \"c\"", "name = \"b\"");
    refused(&text, line_of(&text, "id = 3") - 1, &["nodes[2].name: name b", "nodes[1]", "unique"]);
    let text = with("id = 3", "id = 2");
    refused(&text, line_of(&text, "priority = 80") - 1, &["id 2", "nodes[1]", "unique"]);
    let text = with("10.77.2.3:7400", "10.77.2.2:7400");
    refused(&text, line_of(&text, "priority = 80") + 1, &["10.77.2.2:7400", "unique"]);
    refused_line("id = 3", "id = 0", &["1..=65534"]);
    refused_line("id = 3", "id = 65535", &["1..=65534"]);
    refused_line("10.77.2.3:7400", "10.77.2.3:0", &["1..=65535"]);
    refused_line("10.77.2.3:7400", "0.0.0.0:7400", &["unicast"]);
    refused_line("10.77.2.3:7400", "10.77.0.100:7400", &["service"]);
}

#[test]
fn sizes_of_groups() {
    let group = |n: usize, policy: &str| {
        let mut table: toml::Table = A.parse().unwrap();
        let nodes = table["nodes"].as_array_mut().unwrap();
        let first = nodes[0].clone();
        nodes.truncate(1);
        for i in 2..=n {
            let mut node = first.clone();
            node["name"] = format!("n{i}").into();
            node["id"] = i64::try_from(i).unwrap().into();
            node["address"] = format!("10.77.2.{i}:7400").into();
            nodes.push(node);
        }
        if n == 0 {
            nodes.clear();
        }
        table["commit"]["policy"] = policy.into();
        parse(&table.to_string())
    };
    for n in [1, 3, 4, 16] {
        assert_eq!(group(n, "quorum").unwrap().nodes.len(), n);
    }
    for n in [0, 2, 17] {
        let error = group(n, "quorum").unwrap_err();
        let says = if n == 2 { "no majority" } else { "1..=16" };
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.is_unsafe(), n == 2);
    }
    assert!(group(3, "any").is_ok());
    for n in [4, 5, 16] {
        assert!(group(n, "any").unwrap_err().is_unsafe());
    }
    assert!(!group(1, "any").unwrap_err().is_unsafe());
    assert_eq!(group(5, "none").unwrap().majority(), 3);
}

#[test]
fn hooks_need_both_commands_and_criu_takes_none() {
    let hooks = |snapshot: &str, restore: &str| {
        let method = format!("method = \"hooks\"\n{snapshot}\n{restore}");
        parse(&with("method = \"criu\"", &method))
    };
    assert_eq!(parse(A).unwrap().checkpoint.method, CheckpointMethod::Criu);
    let (snapshot, restore) = ("snapshot_command = [\"/s\", \"1\"]", "restore_command = [\"/r\"]");
    let config = hooks(snapshot, restore).unwrap();
    assert_eq!(config.checkpoint.method, CheckpointMethod::Hooks);
    assert_eq!(config.checkpoint.snapshot_command, ["/s", "1"]);
    for (snapshot, restore, says) in [
        ("", restore, "checkpoint.snapshot_command"),
        (snapshot, "", "checkpoint.restore_command"),
        ("snapshot_command = [\"s\"]", restore, "an absolute path is allowed"),
        (snapshot, "restore_command = [\"/r\", \"\\u0000\"]", "zero character"),
    ] {
        let error = hooks(snapshot, restore).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let given = with("method = \"criu\"", &format!("method = \"criu\"\n{snapshot}"));
    let error = parse(&given).unwrap_err().to_string();
    assert!(error.contains("method \"criu\" runs none"), "{error}");
    let relative = hooks(snapshot, &format!("{restore}\nready_command = [\"w\"]")).unwrap_err();
    assert!(relative.to_string().contains("checkpoint.ready_command"), "{relative}");
    let both = hooks(snapshot, &format!("{restore}\nready_command = [\"/w\"]")).unwrap();
    assert_eq!(both.checkpoint.command_timeout_ms, 10_000);
    let by_checkpoint = with("policy = \"quorum\"", "policy = \"checkpoint\"")
        .replace("clone = \"hot\"", "clone = \"warm\"")
        .replace("method = \"criu\"", &format!("method = \"hooks\"\n{snapshot}\n{restore}"));
    let error = parse(&by_checkpoint).unwrap_err();
    assert!(error.is_unsafe() && error.to_string().contains("checkpoint.method = \"criu\""));
}

#[test]
fn commit_min_is_at_least_a_majority_and_at_most_every_replica() {
    let trio = |policy: &str, min: &str| {
        parse(&with("policy = \"quorum\"", &format!("policy = \"{policy}\"\n{min}")))
    };
    assert_eq!(parse(A).unwrap().commit_min(), 1, "the default");
    let warm = |text: &str| {
        let text = text.replace("clone = \"hot\"", "clone = \"warm\"");
        parse(&text)
    };
    let by_checkpoint = with("policy = \"quorum\"", "policy = \"checkpoint\"");
    let error = parse(&by_checkpoint).unwrap_err().to_string();
    assert!(error.contains("needs service.clone = \"warm\""), "{error}");
    let config = warm(&by_checkpoint).unwrap();
    assert_eq!(config.commit.policy, CommitPolicy::Checkpoint);
    let error = warm(&by_checkpoint.replace("keep = 3", "keep = 2")).unwrap_err().to_string();
    assert!(error.contains("needs checkpoint.keep of 3..=16"), "{error}");
    for policy in ["any", "quorum", "all"] {
        for min in [1, 2] {
            assert_eq!(trio(policy, &format!("min = {min}")).unwrap().commit_min(), min);
        }
        let error = trio(policy, "min = 0").unwrap_err();
        assert!(error.is_unsafe() && error.to_string().contains("1..=2 is allowed"), "{error}");
        let error = trio(policy, "min = 3").unwrap_err();
        assert!(!error.is_unsafe() && error.to_string().contains("1..=2 is allowed"), "{error}");
    }
    let error = trio("none", "min = 1").unwrap_err().to_string();
    assert!(error.contains("commit.min") && error.contains("leave it out"), "{error}");
}

#[test]
fn two_nodes_name_the_second() {
    let at = A.find("[[nodes]]\nname = \"c\"").unwrap();
    let end = A.find("[service]").unwrap();
    let text = format!("{}{}", &A[..at], &A[end..]);
    refused(&text, line_of(&text, "name = \"b\"") - 1, &["arbiter", "unsafe"]);
}

#[test]
fn two_nodes_and_an_arbiter_are_a_group() {
    let at = A.find("[[nodes]]\nname = \"c\"").unwrap();
    let end = A.find("[service]").unwrap();
    let two = format!("{}{}", &A[..at], &A[end..]);
    let with = |arbiter: &str| Config::parse(&format!("{two}\n{arbiter}"), "a.toml");
    let pair = with("[arbiter]\netcd = [\"http://10.77.2.9:2379\"]").unwrap();
    assert_eq!((pair.commit_min_least(), pair.commit_min()), (0, 0));
    assert_eq!(pair.arbiter.unwrap().timeout_ms, 1000);
    for (arbiter, words) in [
        ("[arbiter]\netcd = []", "1..=8"),
        ("[arbiter]\netcd = [\"10.77.2.9:2379\"]", "http://HOST:PORT"),
        ("[arbiter]\netcd = [\"http://\"]", "http://HOST:PORT"),
        ("[arbiter]\netcd = [\"http://x\"]\nca_file = \"/ca\"", "https://"),
        ("[arbiter]\netcd = [\"https://x\"]\ncert_file = \"/c\"", "together"),
        ("[arbiter]\netcd = [\"http://x\"]\ntimeout_ms = 1", "10..=60000"),
        ("[arbiter]\netcd = [\"http://x\"]\nlease = 1", "lease"),
    ] {
        let error = with(arbiter).unwrap_err().to_string();
        assert!(error.contains(words), "{arbiter}: {error}");
    }
    let three = Config::parse(&format!("{A}\n[arbiter]\netcd = [\"http://x\"]"), "a.toml");
    assert!(three.unwrap_err().to_string().contains("for two"));
    for name in ["a", "b"] {
        let file = format!("{}/pair/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(Config::load(file).unwrap().me().name, name);
    }
}

#[test]
fn the_service_is_checked() {
    let vip = r#"vip = ["10.77.0.100/24", "fd77::100/64"]"#;
    refused_line("vrid = 51", "vrid = 0", &["1..=255"]);
    refused_line(vip, "vip = []", &["one IPv4, one IPv6, or both"]);
    refused_line(vip, "vip = [\"10.77.0.100\"]", &["ADDRESS/LENGTH"]);
    refused_line(vip, "vip = [\"10.77.0.100/33\"]", &["1..=32"]);
    refused_line(vip, "vip = [\"10.77.0.100/0\"]", &["1..=32"]);
    refused_line(vip, "vip = [\"fd77::1/129\"]", &["1..=128"]);
    refused_line(vip, "vip = [\"10.77.0.100/+4\"]", &["ADDRESS/LENGTH"]);
    refused_line(vip, "vip = [\"10.77.0.1/24\", \"10.78.0.1/24\"]", &["second IPv4", "one is"]);
    refused_line(vip, "vip = [\"fd77::1/64\", \"fd78::1/64\"]", &["second IPv6"]);
    for bad in ["10.77.0.0/24", "10.77.0.255/24", "127.0.0.1/8", "224.0.0.1/24", "0.0.0.0/8"] {
        refused_line(vip, &format!("vip = [\"{bad}\"]"), &[bad, "unicast"]);
    }
    for bad in ["fd77::/64", "::1/128", "ff02::1/64", "::ffff:10.0.0.1/96"] {
        refused_line(vip, &format!("vip = [\"{bad}\"]"), &["unicast"]);
    }
    for good in ["10.77.0.0/31", "10.77.0.1/32", "fd77::/127", "fd77::1/128", "10.77.0.1/1"] {
        assert!(parse(&with(vip, &format!("vip = [\"{good}\"]"))).is_ok(), "{good}");
    }
    refused_line("gateway = []", "gateway = [\"10.78.0.1\"]", &["outside", "10.77.0.100/24"]);
    refused_line("gateway = []", "gateway = [\"10.77.0.1\", \"10.77.0.2\"]", &["second IPv4"]);
    refused_line("gateway = []", "gateway = [\"10.77.0.100\"]", &["router"]);
    refused_line("gateway = []", "gateway = [\"10.77.0.255\"]", &["router"]);
    assert!(parse(&with("gateway = []", "gateway = [\"10.77.0.1\", \"fd77::1\"]")).is_ok());
    for bad in ["6379", "tcp/0", "tcp/65536", "sctp/1", "tcp/", "/1", "tcp/+1", "TCP/1", "tcp/1/2"]
    {
        refused_line("[\"tcp/6379\"]", &format!("[\"{bad}\"]"), &["tcp/65535"]);
    }
    refused_line("[\"tcp/6379\"]", "[\"udp/1\", \"udp/1\"]", &["udp/1", "unique"]);
    refused_line("[\"tcp/6379\"]", "[]", &["1..=64"]);
    refused_line("\"/usr/bin/redis-server\"", "\"redis-server\"", &["absolute path"]);
    let start = A.find("command = [").unwrap();
    let end = start + A[start..].find('\n').unwrap();
    let text = format!("{}command = []{}", &A[..start], &A[end..]);
    refused(&text, line_of(&text, "command = []"), &["empty", "absolute path"]);
    refused_line("work_dir = \"/var", "work_dir = \"var", &["absolute path"]);
    refused_line("env = {}", "env = { \"A=B\" = \"\" }", &["variable"]);
    refused_line("env = {}", "env = { A = \"\\u0000\" }", &["U+0000"]);
    refused_line("ready_timeout_ms = 30000", "ready_timeout_ms = 0", &["1..=3600000"]);
    refused_line("clone_wait_ms = 5000", "clone_wait_ms = 0", &["1..=3600000"]);
    refused_line("audit = \"heal\"", "audit = \"mend\"", &["heal", "report", "off"]);
}

#[test]
fn ports_and_devices_are_checked() {
    let start = "device = \"net_af_packet_rp,iface=us-rp,";
    refused_line(start, "device = \"net_af_packet_cl,iface=us-rp,", &["client port's device"]);
    refused_line(start, "device = \"net_af_packet_rp,iface=us-cl,", &["client port's interface"]);
    refused_line(start, "device = \",iface=us-rp,", &["PCI address"]);
    refused_line(start, "device = \"net af,iface=us-rp,", &["without blanks"]);
    refused_line(start, "device = \"net_rp,iface=a234567890123456,", &["1..=15 bytes"]);
    refused_line("rx_queues = 1", "rx_queues = 0", &["1..=16"]);
    refused_line("rx_queues = 1", "rx_queues = 17", &["1..=16"]);
    let client = "framecnt=4096,qdisc_bypass=1\"";
    for fed in ["qpairs=2", "queue_count=2"] {
        let text = A.replacen(client, &format!("framecnt=4096,{fed}\""), 1);
        refused(&text, line_of(&text, "rx_queues = 1"), &["1 queues", fed]);
        let text = text.replace("rx_queues = 1", "rx_queues = 2");
        assert_eq!(parse(&text).unwrap().ports.client.rx_queues, 2);
    }
    let host = A.find("[ports.host]").unwrap();
    let (before, after) = A.split_at(host);
    for mtu in [0, 1279, 1501, 9000, 65535] {
        let text = format!("{}{after}", before.replace("mtu = 1500", &format!("mtu = {mtu}")));
        refused(&text, line_of(&text, &format!("mtu = {mtu}")), &["1280..=1500"]);
        let text = format!("{before}{}", after.replace("mtu = 1500", &format!("mtu = {mtu}")));
        refused(&text, line_of(&text, &format!("mtu = {mtu}")), &["1280..=1500"]);
    }
}

#[test]
fn numbers_are_checked() {
    refused_line("lcores = \"0@0-1\"", "lcores = \"0@\"", &["EAL's form"]);
    refused_line("mbufs = 32768", "mbufs = 10", &["256..=8388608"]);
    refused_line("sleep_us = 100", "sleep_us = 1000001", &["0..=1000000"]);
    for size_mb in ["0", "3", "63", "131072"] {
        refused_line(
            "size_mb = 64",
            &format!("size_mb = {size_mb}"),
            &["power of two", "1..=65536"],
        );
    }
    refused_line("evict_after_ms = 2000", "evict_after_ms = 0", &["1..=3600000"]);
    refused_line("lease_ms = 120", "lease_ms = 200", &["less than suspect_after_ms = 200"]);
    refused_line("lease_ms = 120", "lease_ms = 0", &["1..=3600000"]);
    refused_line("lease_ms = 120", "lease_ms = 10", &["more than heartbeat_interval_ms = 10"]);
    refused_line(
        "heartbeat_interval_ms = 10",
        "heartbeat_interval_ms = 67",
        &["three heartbeats", "at most 66"],
    );
    refused_line("heartbeat_interval_ms = 10", "heartbeat_interval_ms = 0", &["1..=60000"]);
    // The default that breaks a rule is not in the file: its section is named.
    let text =
        with("lease_ms = 120\n", "").replace("suspect_after_ms = 200", "suspect_after_ms = 100");
    refused(&text, line_of(&text, "[detect]"), &["120", "suspect_after_ms = 100"]);
}

#[test]
fn control_paths_are_checked() {
    let socket = "socket = \"/run/understudy/a.sock\"";
    refused_line(socket, "socket = \"a.sock\"", &["absolute path"]);
    let of_length = |n: usize| format!("socket = \"/{}\"", "s".repeat(n - 1));
    refused_line(socket, &of_length(108), &["108 bytes", "at most 107"]);
    assert!(parse(&with(socket, &of_length(107))).is_ok());
    refused_line("state_dir = \"/var", "state_dir = \"var", &["absolute path"]);
}

#[test]
fn unreadable_files_are_errors() {
    let missing = Config::load("/nonexistent/a.toml").unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/a.toml: "), "{missing}");
    assert_eq!(missing.line(), None);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join("not-utf8.toml");
    std::fs::write(&path, b"# one\n# \xff\n").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!((error.line(), error.column()), (Some(2), Some(3)), "{error}");
    let path = dir.join("long.toml");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("too long"));
    assert!(Config::load(dir).is_err(), "a directory");
}

/// Every path to a value in the document.
fn paths(value: &toml::Value, here: &[String], out: &mut Vec<Vec<String>>) {
    let mut child = |key: String, value: &toml::Value| {
        let path: Vec<String> = here.iter().cloned().chain([key]).collect();
        paths(value, &path, out);
        out.push(path);
    };
    match value {
        toml::Value::Table(t) => t.iter().for_each(|(k, v)| child(k.clone(), v)),
        toml::Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| child(i.to_string(), v)),
        _ => {}
    }
}

fn slot<'a>(value: &'a mut toml::Value, path: &[String]) -> &'a mut toml::Value {
    path.iter().fold(value, |v, key| match v {
        toml::Value::Array(a) => &mut a[key.parse::<usize>().unwrap()],
        v => &mut v[key.as_str()],
    })
}

fn valid_or_located(text: &str) {
    if let Err(error) = parse(text) {
        let line = error.line().expect("a line");
        assert!(line >= 1 && line <= text.lines().count().max(1) + 1, "{error}");
        assert!(error.column().unwrap() >= 1);
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}

#[test]
fn every_field_removed_or_replaced_is_valid_or_located() {
    let document: toml::Value = toml::Value::Table(A.parse().unwrap());
    let mut all = Vec::new();
    paths(&document, &[], &mut all);
    assert!(all.len() > 60, "{}", all.len());
    for path in &all {
        let mut removed = document.clone();
        let (last, parent) = path.split_last().unwrap();
        match slot(&mut removed, parent) {
            toml::Value::Table(t) => drop(t.remove(last)),
            toml::Value::Array(a) => drop(a.remove(last.parse().unwrap())),
            _ => unreachable!(),
        }
        valid_or_located(&toml::to_string(&removed).unwrap());
        let replacements: [toml::Value; 10] = [
            0.into(),
            (-1).into(),
            i64::MAX.into(),
            1.5.into(),
            true.into(),
            "".into(),
            "\u{0}\n\u{1b}[31m".into(),
            toml::Value::Array(vec![]),
            toml::Value::Table(toml::Table::new()),
            "1979-05-27".parse::<toml::value::Datetime>().unwrap().into(),
        ];
        for replacement in replacements {
            let mut mutated = document.clone();
            *slot(&mut mutated, path) = replacement;
            valid_or_located(&toml::to_string(&mutated).unwrap());
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        valid_or_located(&text);
    }

    #[test]
    fn toml_like_text_never_panics(text in "[a-z0-9\\[\\]{}=\",.'#\\\\ \n-]{0,200}") {
        valid_or_located(&text);
    }

    #[test]
    fn a_damaged_example_is_valid_or_located(
        at in any::<prop::sample::Index>(),
        cut in 0usize..40,
        insert in "[ -~\n]{0,8}",
    ) {
        let at = at.index(A.len());
        let mut text = A.to_owned();
        if text.is_char_boundary(at) && text.is_char_boundary((at + cut).min(A.len())) {
            text.replace_range(at..(at + cut).min(A.len()), &insert);
        }
        valid_or_located(&text);
    }

    #[test]
    fn a_removed_line_is_valid_or_located(line in any::<prop::sample::Index>()) {
        let lines: Vec<&str> = A.lines().collect();
        let gone = line.index(lines.len());
        let text: String = lines.iter().enumerate().filter(|(i, _)| *i != gone)
            .map(|(_, l)| format!("{l}\n")).collect();
        valid_or_located(&text);
    }

    #[test]
    fn numbers_are_refused_or_kept(vrid in any::<i64>(), size_mb in any::<u32>()) {
        let text = A.replace("vrid = 51", &format!("vrid = {vrid}"));
        prop_assert_eq!(parse(&text).is_ok(), (1..=255).contains(&vrid));
        let text = A.replace("size_mb = 64", &format!("size_mb = {size_mb}"));
        prop_assert_eq!(parse(&text).is_ok(), size_mb.is_power_of_two() && size_mb <= 65_536);
    }
}
