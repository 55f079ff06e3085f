//! A port with no interface of the kernel's below it, as a network card has none: its link is what the
//! driver says. Here the card is a memif, and the cable a testpmd that may be pulled.

use std::time::Duration;

use understudy_lab::clients::counter::Counter;
use understudy_lab::node::{READY_TIMEOUT, vip4};
use understudy_lab::proc::Proc;
use understudy_lab::{Member, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
const STALL_MAX: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(10);
/// An abstract socket: each network namespace has its own.
const CARD: &str = "net_memif_cl,role=server,id=0,socket=understudy-client";

/// Frames go to and fro between the node's card and its place on the clients' switch.
fn cable(scenario: &Scenario, member: Member) -> Proc {
    let mut command = cmd::inside(&scenario.lab.node_netns(member), "dpdk-testpmd");
    command.args(["--lcores=0@0-1,1@0-1", "--no-huge", "-m", "128", "--no-pci", "--no-telemetry"]);
    command.args(["--no-shconf", "--file-prefix=cable", "--log-level=error"]);
    command.arg("--vdev=net_memif_cable,role=client,id=0,socket=understudy-client");
    command.arg("--vdev=net_af_packet_cable,iface=us-cl,blocksz=65536,framesz=2048,framecnt=512");
    command.args(["--", "--forward-mode=io", "--total-num-mbufs=8192"]);
    command.args(["--auto-start", "--stats-period=10"]);
    Proc::start(command, &scenario.lab.dir().join("cable.log"), scenario.lab.prefix()).unwrap()
}

fn is_fit(scenario: &mut Scenario, member: Member) {
    scenario.trio.wait_protected().unwrap();
    cmd::wait_until("a node that may take over", READY_TIMEOUT, || {
        let status = scenario.trio.node(member).status()?;
        Ok(status.ready && status.not_ready_because.is_empty())
    })
    .unwrap();
}

#[test]
fn a_link_that_only_the_driver_knows_decides_who_serves() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let mut it = Scenario::start(&NodeOptions::default()).unwrap();
    let plan =
        Counter { target: vip4(REDIS), key: "count".into(), pause: Duration::from_millis(2) };
    let task = plan.start(&it.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();

    // The replica gets a card, without a cable at first.
    let member = it.primary().unwrap().others().next().unwrap();
    let node = it.trio.node(member);
    node.stop().unwrap();
    node.edit("ports.client.device", CARD).unwrap();
    node.start().unwrap();
    cmd::wait_until("a node that misses its cable", READY_TIMEOUT, || {
        let Ok(status) = node.status() else { return Ok(false) };
        Ok(status.not_ready_because.iter().any(|why| why.contains(CARD)))
    })
    .unwrap();
    let mut plugged = cable(&it, member);
    is_fit(&mut it, member);

    // It serves by it.
    let since = it.trio.node(member).events(0).unwrap().newest_seq;
    let old = it.primary().unwrap();
    it.trio.node(old).switchover(Some(member)).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    it.trio.wait_protected().unwrap();
    assert_eq!(it.primary().unwrap(), member);

    // And does not any more when it is pulled.
    plugged.kill_tree(&[]);
    let new = it.trio.wait_primary(Some(member), SOON).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    assert_ne!(new, member);
    let _plugged = cable(&it, member);
    is_fit(&mut it, member);
    let told = it.trio.node(member).events(since).unwrap().events;
    let bad = told.iter().find(|e| e.event == "resource_bad").expect("it says why");
    assert_eq!(bad.resource.as_deref(), Some("client_link"), "{bad:?}");
    let verdict = task.finish().unwrap();
    println!("{verdict}");
    verdict.assert_pass();
    it.check_wire(2).unwrap();
}
