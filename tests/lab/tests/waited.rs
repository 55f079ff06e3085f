//! `understudy wait` at real nodes: until one is there, until the group would survive a loss.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use understudy_lab::node::binary;
use understudy_lab::{Member, NodeOptions, Scenario, cmd, scenario};

const PATIENCE: Duration = Duration::from_secs(40);

fn command(scenario: &mut Scenario, member: Member, words: &[&str]) -> Command {
    let mut command = Command::new(binary("understudy").unwrap());
    command.arg("-s").arg(scenario.trio.node(member).socket()).arg("wait").args(words);
    command
}

fn waits(scenario: &mut Scenario, member: Member, words: &[&str]) -> cmd::Output {
    cmd::output(command(scenario, member, words), "", PATIENCE).unwrap()
}

/// Still waits when this returns.
fn begins(scenario: &mut Scenario, member: Member, words: &[&str]) -> Child {
    let mut command = command(scenario, member, words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(child.try_wait().unwrap(), None, "it has ended");
    child
}

/// For how long it has waited, ms.
fn ended(child: Child, until: &str) -> u64 {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let ms = said.strip_prefix(&format!("{until} after ")).unwrap().strip_suffix(" ms\n").unwrap();
    ms.parse().unwrap()
}

#[test]
fn scripts_wait_for_a_node_and_for_protection() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let two = [Member::A, Member::B];
    let mut scenario = Scenario::start_some(&NodeOptions::default(), &two).unwrap();
    let said = waits(&mut scenario, Member::A, &[]);
    assert_eq!((said.code, said.stdout.starts_with("ready after ")), (0, true), "{}", said.stderr);

    // Of three, two are there: what is missing is said, and comes.
    let said = waits(&mut scenario, Member::A, &["--protected", "-t", "500"]);
    assert_eq!(said.code, 1, "{}", said.stdout);
    assert!(said.stderr.contains("not protected within 5"), "{}", said.stderr);
    assert!(said.stderr.contains("no majority"), "{}", said.stderr);
    let said = waits(&mut scenario, Member::C, &["-t", "300"]);
    assert_eq!(said.code, 4, "{}{}", said.stdout, said.stderr);
    let of_c = begins(&mut scenario, Member::C, &[]);
    let of_all = begins(&mut scenario, Member::B, &["--protected"]);
    scenario.trio.node(Member::C).start().unwrap();
    assert!(ended(of_c, "ready") >= 700);
    assert!(ended(of_all, "protected") >= 700);
    let status = scenario.trio.node(Member::C).status().unwrap();
    assert!(status.ready, "{:?}", status.not_ready_because);

    // One dies, and comes back.
    let lost = scenario.primary().unwrap().others().next().unwrap();
    let left = lost.others().next().unwrap();
    assert_eq!(waits(&mut scenario, left, &["--protected"]).code, 0);
    scenario.trio.crash(&scenario.lab, lost).unwrap();
    cmd::wait_until("a loss that is noticed", PATIENCE, || {
        let mut command = command(&mut scenario, left, &["--protected", "-t", "1"]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.code() == Some(1))
    })
    .unwrap();
    let of_all = begins(&mut scenario, left, &["--protected"]);
    scenario.trio.revive(&scenario.lab, lost).unwrap();
    assert!(ended(of_all, "protected") >= 700);
    let said = waits(&mut scenario, lost, &["-j"]);
    let document: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &document["wait"]["until"]), (0, &"ready".into()), "{document}");
}
