//! What a changed file means for a node that runs.

use understudy_config::{Change, Config, Effect, Plan, fields};

const A: &str = include_str!("../trio/a.toml");
const PAIR: &str = include_str!("../pair/a.toml");

fn running() -> Config {
    Config::parse(A, "a.toml").unwrap()
}

/// `A` with the one occurrence of `from` replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(A.matches(from).count(), 1, "{from:?} must occur once");
    A.replace(from, to)
}

/// The order of nodes means nothing.
fn sorted(mut config: Config) -> Config {
    config.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    config
}

fn changes(text: &str) -> Vec<Change> {
    let plan = Plan::parse(&running(), text, "a.toml").unwrap();
    assert_eq!(plan.changes.is_empty(), sorted(plan.config) == sorted(running()));
    plan.changes
}

fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.starts_with(needle)).unwrap() + 1
}

#[track_caller]
fn one(from: &str, to: &str) -> Change {
    let text = with(from, to);
    let mut found = changes(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    let change = found.remove(0);
    assert_eq!(
        (change.effect == Effect::Live, change.why.is_empty()),
        (change.why.is_empty(), change.effect == Effect::Live)
    );
    change
}

#[test]
fn every_field_has_an_effect_and_stands_in_the_documented_files() {
    let all = fields();
    let sections: toml::Table = A.parse().unwrap();
    let arbiter: toml::Table = PAIR.parse().unwrap();
    for (name, about) in &all {
        assert_eq!(
            about.effect == Effect::Live && about.why.is_empty(),
            about.why.is_empty(),
            "{name}"
        );
        let mut words = name.split('.');
        let first = words.next().unwrap();
        let mut value = sections.get(first).or_else(|| arbiter.get(first));
        for word in words {
            let table = value.and_then(|v| if v.is_array() { v.get(0) } else { Some(v) });
            value = table.and_then(|v| v.get(word));
        }
        let last = name.rsplit('.').next().unwrap();
        let commented = [A, PAIR].iter().any(|text| text.contains(&format!("# {last} =")));
        let named = PAIR.contains(last) && first == "arbiter";
        assert!(value.is_some() || commented || named, "{name} is in no documented file");
    }
    let mut names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "a field twice");
    assert!(all.len() > 40, "{}", all.len());
}

/// Of each kind, and where it is.
#[test]
fn a_change_says_where_what_and_when() {
    let change = one("keep = 3", "keep = 5");
    assert_eq!(change.line, line_of(A, "keep = 3"));
    let seen = (change.field.as_str(), change.from.as_deref(), change.to.as_deref());
    assert_eq!(seen, ("checkpoint.keep", Some("3"), Some("5")));
    assert_eq!(change.effect, Effect::Live);
    for (from, to, field, effect) in [
        ("interval_s = 0", "interval_s = 9", "checkpoint.interval_s", Effect::Live),
        ("transfer_mb_s = 100", "transfer_mb_s = 0", "checkpoint.transfer_mb_s", Effect::Live),
        ("sleep_us = 100", "sleep_us = 0", "idle.sleep_us", Effect::Live),
        ("clone_wait_ms = 5000", "clone_wait_ms = 1", "service.clone_wait_ms", Effect::Live),
        ("evict_after_ms = 2000", "evict_after_ms = 9", "commit.evict_after_ms", Effect::Live),
        ("log_level = \"info\"", "log_level = \"debug\"", "control.log_level", Effect::Live),
        ("priority = 90", "priority = 91", "nodes[1].priority", Effect::Live),
        ("audit = \"heal\"", "audit = \"report\"", "service.audit", Effect::Live),
        ("audit = \"heal\"", "audit = \"off\"", "service.audit", Effect::Restart),
        ("size_mb = 64", "size_mb = 128", "log.size_mb", Effect::Restart),
        ("policy = \"quorum\"", "policy = \"all\"", "commit.policy", Effect::Restart),
        ("# min = 1", "min = 2", "commit.min", Effect::Restart),
        ("lease_ms = 120", "lease_ms = 100", "detect.lease_ms", Effect::Group),
        ("vrid = 51", "vrid = 52", "service.vrid", Effect::Group),
        ("name = \"redis\"", "name = \"cache\"", "service.name", Effect::Restart),
        ("state_dirs = []", "state_dirs = [\"/srv/x\"]", "service.state_dirs", Effect::Group),
        ("node = \"a\"", "node = \"b\"", "cluster.node", Effect::Group),
    ] {
        let change = one(from, to);
        assert_eq!((change.field.as_str(), change.effect), (field, effect), "{from} to {to}");
    }
    assert_eq!(one("# min = 1", "min = 2").from, None);
}

#[test]
fn a_policy_that_needs_another_application_is_the_groups() {
    let text = with("policy = \"quorum\"", "policy = \"checkpoint\"");
    let text = text.replace("clone = \"hot\"", "clone = \"warm\"");
    let found: Vec<(String, Effect)> =
        changes(&text).into_iter().map(|c| (c.field, c.effect)).collect();
    let wanted = [("service.clone", Effect::Restart), ("commit.policy", Effect::Group)];
    assert_eq!(found, wanted.map(|(field, effect)| (field.to_owned(), effect)));
}

#[test]
fn what_says_the_same_is_no_change() {
    assert_eq!(changes(A), []);
    assert_eq!(changes(&format!("# Another comment.\n{A}")), []);
    // A default that is left out.
    assert_eq!(changes(&with("clone = \"hot\"\n", "")), []);
    // The other nodes, the other way round.
    let b = "[[nodes]]\nname = \"b\"\nid = 2\npriority = 90\naddress = \"10.77.2.2:7400\"\n\n";
    let c = "[[nodes]]\nname = \"c\"\nid = 3\npriority = 80\naddress = \"10.77.2.3:7400\"\n\n";
    assert_eq!(changes(&with(&format!("{b}{c}"), &format!("{c}{b}"))), []);
    let swapped = with(&format!("{b}{c}"), &format!("{c}{}", b.replace("90", "7")));
    let found = changes(&swapped);
    assert_eq!((found.len(), found[0].field.as_str()), (1, "nodes[2].priority"));
    assert_eq!(found[0].line, line_of(&swapped, "priority = 7"));
}

#[test]
fn a_field_that_was_taken_out_points_at_its_section() {
    let text = with("interval_s = 0\n", "").replace("keep = 3\n", "");
    assert_eq!(changes(&text), [], "both were at their defaults");
    let mut other = running();
    other.checkpoint.keep = 7;
    let plan = Plan::parse(&other, &text, "a.toml").unwrap();
    assert_eq!(plan.changes.len(), 1);
    assert_eq!(plan.changes[0].line, line_of(&text, "[checkpoint]"));
    assert_eq!(plan.refused().count(), 0);
}

#[test]
fn another_group_is_refused_as_one_change() {
    let c = "[[nodes]]\nname = \"c\"\nid = 3\npriority = 80\naddress = \"10.77.2.3:7400\"\n";
    let d = c.replace("\"c\"", "\"d\"");
    let found = changes(&with(c, &d));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].field.as_str(), found[0].effect), ("nodes", Effect::Group));
    assert_eq!(found[0].to.as_deref(), Some("[\"a\", \"b\", \"d\"]"));
}

#[test]
fn a_bad_file_is_no_plan() {
    let error = Plan::parse(&running(), &with("keep = 3", "keep = 1"), "a.toml").unwrap_err();
    assert_eq!(error.line(), Some(line_of(A, "keep = 3")), "{error}");
    assert!(Plan::load(&running(), "/nonexistent/a.toml").is_err());
}

#[test]
fn long_values_are_cut_short() {
    let args = vec!["\"x\""; 400].join(", ");
    let command = A.lines().find(|line| line.starts_with("command = ")).unwrap();
    let change = one(command, &format!("command = [\"/bin/echo\", {args}]"));
    let to = change.to.unwrap();
    assert!(to.len() < 200 && to.ends_with("..."), "{to}");
}
