//! The OCF resource agent as Pacemaker calls it: its actions, their exit codes, and a switchover.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use understudy_lab::node::{Trio, binary};
use understudy_lab::topology::Lab;
use understudy_lab::{Member, NodeOptions, cmd, proc, scenario};

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/ocf/understudy");
const TIMEOUT: Duration = Duration::from_secs(60);
const SUCCESS: i32 = 0;
const UNIMPLEMENTED: i32 = 3;
const NOT_INSTALLED: i32 = 5;
const CONFIGURED: i32 = 6;
const NOT_RUNNING: i32 = 7;
const PROMOTED: i32 = 8;

/// The resource on one node.
struct Resource<'a> {
    lab: &'a Lab,
    member: Member,
    config: PathBuf,
}

impl Resource<'_> {
    fn call(&self, action: &str, set: &[(&str, &Path)]) -> cmd::Output {
        let mut command = cmd::inside(&self.lab.node_netns(self.member), AGENT);
        command
            .arg(action)
            .env(proc::MARK, self.lab.prefix())
            .env("HA_RSCTMP", self.lab.dir())
            .env("OCF_RESOURCE_INSTANCE", format!("understudy:{}", self.member))
            .env("OCF_RESKEY_config", &self.config)
            .env("OCF_RESKEY_daemon", binary("understudyd").unwrap())
            .env("OCF_RESKEY_cli", binary("understudy").unwrap())
            .env("OCF_RESKEY_log", self.lab.dir().join(format!("{}-ocf.log", self.member)));
        command.envs(set.iter().map(|(name, value)| (*name, *value)));
        cmd::output(command, "", TIMEOUT).unwrap()
    }

    #[track_caller]
    fn expect(&self, action: &str, code: i32) {
        let said = self.call(action, &[]);
        assert_eq!(said.code, code, "{action} on {}: {}", self.member, said.stderr);
    }
}

#[test]
fn pacemaker_owns_a_group() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    scenario::prepare_machine().unwrap();
    let lab = Lab::new().unwrap();
    let trio = Trio::prepare(&lab, &NodeOptions::default()).unwrap();
    let resources: Vec<Resource> = Member::ALL
        .map(|member| Resource {
            lab: &lab,
            member,
            config: trio.nodes[member as usize].config().to_path_buf(),
        })
        .into();
    let a = &resources[0];
    a.expect("monitor", NOT_RUNNING);
    a.expect("stop", SUCCESS);
    a.expect("validate-all", SUCCESS);
    a.expect("recover", UNIMPLEMENTED);
    let broken = lab.dir().join("broken.toml");
    std::fs::write(&broken, "[cluster]\n").unwrap();
    assert_eq!(a.call("start", &[("OCF_RESKEY_config", &broken)]).code, CONFIGURED);
    let nowhere = Path::new("/nonexistent/understudyd");
    assert_eq!(a.call("start", &[("OCF_RESKEY_daemon", nowhere)]).code, NOT_INSTALLED);

    resources.iter().for_each(|r| r.expect("start", SUCCESS));
    let mut states = Vec::new();
    cmd::wait_until("one is promoted", TIMEOUT, || {
        states = resources.iter().map(|r| r.call("monitor", &[]).code).collect();
        Ok(states.contains(&PROMOTED))
    })
    .unwrap();
    states.sort_unstable();
    assert_eq!(states, [SUCCESS, SUCCESS, PROMOTED]);
    let primary = |others: Option<Member>| {
        let found = resources.iter().find(|r| r.call("monitor", &[]).code == PROMOTED);
        found.filter(|r| Some(r.member) != others)
    };
    let old = primary(None).unwrap();
    old.expect("start", SUCCESS);
    old.expect("promote", SUCCESS);
    // Whoever is to be next must be ready.
    cmd::wait_until("the others are ready", TIMEOUT, || {
        Ok(trio.nodes.iter().all(|node| node.status().is_ok_and(|s| s.ready)))
    })
    .unwrap();
    let next = resources.iter().find(|r| r.member != old.member).unwrap();
    let wish = Path::new(next.member.name());
    let said = old.call("demote", &[("OCF_RESKEY_CRM_meta_notify_promote_uname", wish)]);
    assert_eq!(said.code, SUCCESS, "{}", said.stderr);
    next.expect("promote", SUCCESS);
    old.expect("monitor", SUCCESS);
    next.expect("monitor", PROMOTED);
    old.expect("demote", SUCCESS);
    resources.iter().for_each(|r| r.expect("stop", SUCCESS));
    resources.iter().for_each(|r| r.expect("monitor", NOT_RUNNING));
}

#[test]
fn its_meta_data_names_every_action_and_parameter() {
    let said = cmd::output(
        {
            let mut command = Command::new(AGENT);
            command.arg("meta-data");
            command
        },
        "",
        TIMEOUT,
    )
    .unwrap();
    assert_eq!(said.code, SUCCESS, "{}", said.stderr);
    for action in ["start", "stop", "promote", "demote", "monitor", "validate-all", "meta-data"] {
        assert!(said.stdout.contains(&format!("<action name=\"{action}\"")), "{action}");
    }
    let agent = std::fs::read_to_string(AGENT).unwrap();
    for parameter in ["config", "daemon", "cli", "log"] {
        assert!(said.stdout.contains(&format!("<parameter name=\"{parameter}\"")), "{parameter}");
        assert!(agent.contains(&format!("OCF_RESKEY_{parameter}=")), "{parameter}");
    }
    let (opened, closed) =
        (said.stdout.matches("<action").count(), said.stdout.matches("/>").count());
    assert!(said.stdout.trim_end().ends_with("</resource-agent>") && closed > opened);
}
