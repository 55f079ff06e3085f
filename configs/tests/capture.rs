//! The file of a node that only captures: the example loads, mistakes are named with their line.

use understudy_config::NodeFile;

const TAP: &str = include_str!("../capture/tap.toml");

fn parse(text: &str) -> Result<NodeFile, String> {
    NodeFile::parse(text, "x.toml").map_err(|e| e.to_string())
}

#[track_caller]
fn refused(from: &str, to: &str, words: &[&str]) {
    assert_eq!(TAP.matches(from).count(), 1, "{from:?} must occur once");
    let line = TAP[..TAP.find(from).unwrap()].matches('\n').count() + 1;
    let error = parse(&TAP.replace(from, to)).expect_err("must be refused");
    assert!(error.starts_with(&format!("x.toml:{line}:")), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn the_example_states_the_defaults() {
    let Ok(NodeFile::Capture(node)) = parse(TAP) else { panic!("{:?}", parse(TAP)) };
    assert_eq!(node.capture.devices, ["net_pcap_tap,rx_iface_in=us-tap"]);
    let c = &node.capture;
    let short = format!(
        "[capture]\nnode = \"tap\"\ndevices = {:?}\ndirectory = {:?}\n[control]\nsocket = {:?}\n",
        c.devices, c.directory, node.control.socket
    );
    assert_eq!(parse(&short), Ok(NodeFile::Capture(node)));
}

#[test]
fn a_service_is_another_kind_of_node() {
    let trio = include_str!("../trio/a.toml");
    assert!(matches!(parse(trio), Ok(NodeFile::Service(_))));
    let both = format!("{trio}\n[capture]\nnode = \"x\"\n");
    let error = parse(&both).unwrap_err();
    assert!(error.contains("a node that captures a link has no [service]"), "{error}");
    assert!(parse("").unwrap_err().contains("cluster"), "an empty file is a service's");
}

#[test]
fn values_are_checked() {
    refused("node = \"tap\"", "node = \"a b\"", &["capture.node"]);
    refused("directory = \"/var/lib/understudy/tap\"", "directory = \"tap\"", &["absolute"]);
    refused("frame_bytes_max = 1518", "frame_bytes_max = 20000", &["64..=16368"]);
    refused("snap_len = 0", "snap_len = 70000", &["0..=16368"]);
    refused("segment_mb = 64", "segment_mb = 0", &["1..=4096"]);
    refused("block_kb = 512", "block_kb = 1", &["4..=2048"]);
    refused("keep_mb = 4096", "keep_mb = 100", &["128..="]);
    refused("flush_ms = 200", "flush_ms = 0", &["1..=60000"]);
    refused("keep_minutes = 0", "keep_hours = 0", &["keep_hours"]);
    refused("size_mb = 64", "size_mb = 63", &["power of two"]);
    refused("socket = \"/run/understudy/tap.sock\"", "socket = \"x\"", &["absolute"]);
    let filter = format!("filter = \"{}\"", "x".repeat(1025));
    refused("filter = \"\"", &filter, &["1025 bytes", "1024"]);
    let device = "devices = [\"net_pcap_tap,rx_iface_in=us-tap\"]";
    refused(device, "devices = []", &["1..=8"]);
    refused(device, "devices = [\"\"]", &["not a device"]);
    refused(device, "devices = [\"net_x0,iface=a\", \"net_x1,iface=a\"]", &["twice"]);
    let nine: Vec<String> = (0..9).map(|i| format!("\"net_x{i}\"")).collect();
    refused(device, &format!("devices = [{}]", nine.join(", ")), &["9 devices"]);
}
