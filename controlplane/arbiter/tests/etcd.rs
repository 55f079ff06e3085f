//! The keeper against a real etcd on loopback.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use understudy_arbiter::{Etcd, EtcdConfig, Tls};
use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest, Register, Wish};

/// An etcd of its own, gone with the test.
struct Server {
    child: Child,
    dir: PathBuf,
    url: String,
}

impl Server {
    /// `None`, said aloud, where etcd is not installed and need not be.
    fn start(name: &str) -> Option<Server> {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (port(), port());
        let dir =
            std::env::temp_dir().join(format!("understudy-etcd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let url = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let child = Command::new("etcd")
            .args(["--name", "one", "--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}"), "--data-dir"])
            .arg(dir.join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Server { child, dir, url }),
            Err(e) => {
                let required = std::env::var_os("UNDERSTUDY_REQUIRE_ROOT").is_some();
                assert!(!required, "etcd cannot be started ({e}); install etcd-server");
                println!("skipped: etcd cannot be started ({e}); install etcd-server");
                None
            }
        }
    }

    fn keeper(&self, me: u16, cluster: &str, endpoints: &[&str]) -> Etcd {
        let mut endpoints: Vec<String> = endpoints.iter().map(|&e| e.to_owned()).collect();
        endpoints.push(self.url.clone());
        Etcd::new(EtcdConfig {
            endpoints,
            timeout: Duration::from_secs(2),
            cluster: cluster.into(),
            me,
            both: vec![1, 2],
            tls: Tls::default(),
        })
        .unwrap()
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        let mut keeper = self.keeper(1, "waiting", &[]);
        while let (ArbiterAnswer::Unreachable, e) = ask(&mut keeper, Wish::Probe, 1) {
            assert!(Instant::now() < until, "etcd does not come up: {e:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn ask(keeper: &mut Etcd, wish: Wish, epoch: u64) -> (ArbiterAnswer, Option<String>) {
    let (answer, error) = keeper.serve(&ArbiterRequest { wish, epoch });
    (answer, error.map(|e| e.to_string()))
}

fn register(epoch: u64, primary: u16, members: &[u16], since: u64) -> Register {
    Register { epoch, primary, members: members.to_vec(), since }
}

#[test]
fn the_register_names_one_of_two_once() {
    let Some(server) = Server::start("names") else { return };
    server.wait();
    let (mut a, mut b) = (server.keeper(1, "g", &[]), server.keeper(2, "g", &[]));
    assert_eq!(ask(&mut a, Wish::Claim, 1).0, ArbiterAnswer::Refused(None), "nobody was named yet");
    let both = register(1, 1, &[1, 2], 1);
    assert_eq!(ask(&mut a, Wish::Share, 1).0, ArbiterAnswer::Granted(both.clone()));
    assert_eq!(ask(&mut b, Wish::Probe, 2).0, ArbiterAnswer::Granted(both));
    let claimed = register(2, 2, &[1, 2], 1);
    assert_eq!(ask(&mut b, Wish::Claim, 2).0, ArbiterAnswer::Granted(claimed.clone()));
    for wish in [Wish::Claim, Wish::Seclude, Wish::Share] {
        assert_eq!(ask(&mut a, wish, 1).0, ArbiterAnswer::Refused(Some(claimed.clone())));
    }
    let alone = register(2, 2, &[2], 2);
    assert_eq!(ask(&mut b, Wish::Seclude, 2).0, ArbiterAnswer::Granted(alone.clone()));
    assert_eq!(ask(&mut a, Wish::Claim, 3).0, ArbiterAnswer::Refused(Some(alone)));
    let other = ask(&mut server.keeper(1, "another", &[]), Wish::Probe, 9);
    assert_eq!(other.0, ArbiterAnswer::Refused(None), "groups have registers of their own");
}

#[test]
fn of_two_that_seclude_themselves_at_once_one_is_named() {
    let Some(server) = Server::start("race") else { return };
    server.wait();
    for round in 1..=20u64 {
        let cluster = format!("race-{round}");
        ask(&mut server.keeper(1, &cluster, &[]), Wish::Share, 1);
        let claims = [1, 2].map(|me| {
            let mut keeper = server.keeper(me, &cluster, &[]);
            std::thread::spawn(move || ask(&mut keeper, Wish::Seclude, 1 + u64::from(me)).0)
        });
        let answers = claims.map(|claim| claim.join().unwrap());
        let granted = answers.iter().filter(|a| matches!(a, ArbiterAnswer::Granted(_))).count();
        assert_eq!(granted, 1, "{answers:?}");
    }
}

#[test]
fn what_is_not_a_register_is_left_alone_and_dead_endpoints_are_passed_by() {
    let Some(server) = Server::start("odd") else { return };
    server.wait();
    let dead = "http://127.0.0.1:9";
    let mut keeper = server.keeper(1, "odd", &[dead]);
    assert!(matches!(ask(&mut keeper, Wish::Share, 1).0, ArbiterAnswer::Granted(_)));
    let put = Command::new("etcdctl")
        .args(["--endpoints", &server.url, "put", "/understudy/odd/register", "{\"version\":9}"])
        .env("ETCDCTL_API", "3")
        .output()
        .expect("etcdctl of Debian's etcd-client");
    assert!(put.status.success(), "{put:?}");
    for wish in [Wish::Claim, Wish::Seclude, Wish::Share, Wish::Probe] {
        let (answer, error) = ask(&mut keeper, wish, 2);
        assert_eq!(answer, ArbiterAnswer::Unreachable);
        assert!(error.unwrap().contains("not overwritten"));
    }
}

#[test]
fn nobody_there_is_said_in_time() {
    // Accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut keeper = Etcd::new(EtcdConfig {
        endpoints: vec![
            format!("http://{}", silent.local_addr().unwrap()),
            "http://127.0.0.1:9".into(),
        ],
        timeout: Duration::from_millis(300),
        cluster: "g".into(),
        me: 1,
        both: vec![1, 2],
        tls: Tls::default(),
    })
    .unwrap();
    let begun = Instant::now();
    let (answer, error) = ask(&mut keeper, Wish::Claim, 1);
    assert_eq!(answer, ArbiterAnswer::Unreachable);
    assert!(error.is_some());
    assert!(begun.elapsed() < Duration::from_secs(5), "bounded: {:?}", begun.elapsed());
}
