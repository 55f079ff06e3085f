//! SPECIFICATION.md names tests and benchmarks that exist, and every promise has one.

use crate::tree;

const FILE: &str = "SPECIFICATION.md";

/// `path#function` in backquotes.
fn tests_named(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once('#'))
}

fn benchmarks_named(line: &str) -> impl Iterator<Item = &str> {
    line.split("perf ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).next())
}

fn has_function(path: &str, name: &str) -> bool {
    tree::text(path).is_some_and(|text| text.contains(&format!("fn {name}(")))
}

/// The rows of the tables, without their heads.
fn promises(text: &str) -> Vec<(usize, &str)> {
    let rows = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let rows = rows.filter(|(_, line)| line.starts_with("| "));
    rows.filter(|(_, line)| !line.starts_with("| ---") && *line != "| promise | held by |")
        .collect()
}

#[test]
fn every_promise_is_held_by_what_exists() {
    let text = tree::text(FILE).expect("SPECIFICATION.md");
    let targets = tree::text("perf/src/targets.rs").expect("the table of benchmarks");
    let promises = promises(&text);
    assert!(promises.len() > 30, "{} promises", promises.len());
    let mut offences = Vec::new();
    for (number, line) in promises {
        let (_, held) = line.trim_matches('|').rsplit_once('|').unwrap_or(("", ""));
        let (tests, benchmarks): (Vec<_>, Vec<_>) =
            (tests_named(held).collect(), benchmarks_named(held).collect());
        if tests.is_empty() && benchmarks.is_empty() {
            offences.push(format!("{FILE}:{number}: held by nothing"));
        }
        let gone = tests.iter().filter(|(path, name)| !has_function(path, name));
        offences.extend(gone.map(|(path, name)| format!("{FILE}:{number}: no {name} in {path}")));
        let gone = benchmarks.iter().filter(|id| !targets.contains(&format!("id: \"{id}\"")));
        offences.extend(gone.map(|id| format!("{FILE}:{number}: no benchmark {id}")));
    }
    crate::assert_none("promises that nothing holds", &offences);
}

#[test]
fn what_does_not_exist_is_found() {
    assert_eq!(
        tests_named("x `a/b.rs#c`, `d`, `e.rs#f`").collect::<Vec<_>>(),
        [("a/b.rs", "c"), ("e.rs", "f")]
    );
    assert_eq!(
        benchmarks_named("`x#y`, perf host-death, perf planned").collect::<Vec<_>>(),
        ["host-death", "planned"]
    );
    assert!(has_function("tests/arch/tests/arch/promises.rs", "has_function"));
    assert!(!has_function("tests/arch/tests/arch/promises.rs", "has_another"));
    assert!(!has_function("no/such/file.rs", "x"));
}
