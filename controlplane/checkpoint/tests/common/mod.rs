//! What the tests with a real redis share: nodes, the application, a client. Needs root and ip.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use understudy_linux::capsule::AppSpec;
use understudy_linux::netns::NetNs;
use understudy_linux::rtnl::{self, VethSpec};

pub const SERVER: &str = "10.88.0.1:7001";
pub const LIMIT: Duration = Duration::from_secs(10);
const VMAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x51];

/// Root, or the reason not to run.
pub fn root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let is_root = status.lines().any(|l| l.starts_with("Uid:\t0\t"));
    if !is_root {
        assert_ne!(std::env::var("UNDERSTUDY_REQUIRE_ROOT").as_deref(), Ok("1"), "must be root");
        println!("skipped: needs root");
    }
    is_root
}

/// A node's capsule with the service's address, joined to the client's namespace.
pub fn node(client: &NetNs) -> NetNs {
    let node = NetNs::create().unwrap();
    let spec = VethSpec { outer: "us-host", inner: "eth0", inner_mac: VMAC, mtu: 1500 };
    client.run(|| rtnl::create_veth(&node, &spec)).unwrap().unwrap();
    rtnl::configure_capsule(&node, "eth0", &[("10.88.0.1".parse().unwrap(), 24)], &[]).unwrap();
    let ip = |args: &[&str]| assert!(Command::new("ip").args(args).status().unwrap().success());
    client
        .run(|| {
            ip(&["addr", "replace", "10.88.0.2/24", "dev", "us-host"]);
            ip(&["link", "set", "us-host", "up"]);
        })
        .unwrap();
    node
}

/// A redis that works in `dir`, with these words more.
pub fn redis(dir: &Path, words: &[&str]) -> AppSpec {
    let (_, port) = SERVER.split_once(':').unwrap();
    let fixed =
        ["redis-server", "--bind", "*", "--port", port, "--save", "", "--protected-mode", "no"];
    let command = fixed.iter().chain(words).map(|&word| word.into()).collect();
    AppSpec { command, work_dir: dir.into(), env: vec![], stdout_log: dir.join("output") }
}

/// Speaks the inline protocol.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn connect(ns: &NetNs) -> Client {
        let to: SocketAddr = SERVER.parse().unwrap();
        let end = Instant::now() + LIMIT;
        let stream = loop {
            match ns.run(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap() {
                Ok(stream) => break stream,
                Err(e) => assert!(Instant::now() < end, "{e}"),
            }
            sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(stream))
    }

    pub fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    pub fn ask(&mut self, request: &str) -> String {
        self.say(&format!("{request}\r\n"));
        self.hear()
    }
}
