//! What is in the Debian package. `tests/package.sh` installs it on a clean system.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use understudy_lab::node::binary;
use understudy_lab::{Lab, cmd, scenario};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const TIMEOUT: Duration = Duration::from_secs(60);

fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("DEB_COMPRESSION", "none");
    let said = cmd::output(command, "", TIMEOUT).unwrap();
    assert_eq!(said.code, 0, "{program} {arguments:?}: {}", said.stderr);
    said.stdout
}

#[test]
fn the_package_has_what_a_node_needs_and_starts_nothing() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let lab = Lab::new().unwrap();
    let binaries = binary("understudyd").unwrap();
    let binaries = binaries.parent().unwrap().to_str().unwrap();
    let build = format!("{ROOT}/configs/debian/build.sh");
    let out = lab.dir().to_str().unwrap();
    let package = run(&build, &["--bin-dir", binaries, "--out", out]);
    let package = package.trim();
    let listed = run("dpkg-deb", &["--contents", package]);
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/sbin/understudyd"),
        ("-rwxr-xr-x", "./usr/bin/understudy"),
        ("drwxr-x---", "./etc/understudy/"),
        ("-rw-r--r--", "./usr/lib/systemd/system/understudyd@.service"),
        ("-rwxr-xr-x", "./usr/lib/ocf/resource.d/understudy/node"),
        ("-rw-r--r--", "./usr/share/doc/understudy/examples/trio/a.toml"),
        ("-rw-r--r--", "./usr/share/doc/understudy/README.md"),
        ("-rw-r--r--", "./usr/share/doc/understudy/copyright"),
    ] {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {path}")));
        let line = line.unwrap_or_else(|| panic!("{path} is not in\n{listed}"));
        assert!(line.starts_with(mode) && line.contains("root/root"), "{line}");
    }
    let field = |name: &str| run("dpkg-deb", &["--field", package, name]).trim().to_owned();
    assert_eq!(field("Package"), "understudy");
    // The drivers are loaded by name: nothing is linked with them.
    for needed in ["libc6 (>=", "librte-eal", "librte-meta-net", "librte-meta-bus"] {
        assert!(field("Depends").contains(needed), "{needed}: {}", field("Depends"));
    }
    let control = lab.dir().join("control");
    run("dpkg-deb", &["--control", package, control.to_str().unwrap()]);
    for script in ["postinst", "prerm", "postrm"] {
        let path = control.join(script);
        run("sh", &["-n", path.to_str().unwrap()]);
        let text = std::fs::read_to_string(&path).unwrap();
        let started = |line: &&str| line.contains("start ") && !line.trim().starts_with("echo ");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.iter().find(|line| started(line)), None, "{script}");
    }
    run(binary("understudy").unwrap().to_str().unwrap(), &["--version"]);
}

/// The unit starts what the package installs, and says so the way the daemon does.
#[test]
fn the_unit_and_the_daemon_agree() {
    let unit = Path::new(ROOT).join("configs/systemd/understudyd@.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let set = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} is not set")).to_owned()
    };
    assert_eq!(set("ExecStart"), "/usr/sbin/understudyd --config /etc/understudy/%i.toml");
    assert_eq!(set("Type"), "notify");
    assert_eq!(set("KillMode"), "mixed", "the application outlives the daemon's SIGTERM");
    let source = Path::new(ROOT).join("controlplane/daemon/src/privileges.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let given_up = |text: &str| {
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        let mut caps: Vec<String> =
            words.filter(|w| w.starts_with("CAP_")).map(String::from).collect();
        caps.sort_unstable();
        caps
    };
    let table = source.split("const UNNEEDED").nth(1).unwrap().split("];").next().unwrap();
    assert_eq!(given_up(&set("CapabilityBoundingSet")), given_up(table));
}
