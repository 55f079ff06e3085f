//! REFERENCE.md is made from the types and the comments of the documented examples, and must say
//! what they say. `UNDERSTUDY_WRITE=1 cargo test -p understudy-config --test reference` writes it.

use std::fmt::Write as _;
use std::path::Path;

use understudy_config::{Effect, fields};

const TRIO: &str = include_str!("../trio/a.toml");
const PAIR: &str = include_str!("../pair/a.toml");

/// The lines of a section of a file, without its head.
fn section<'a>(text: &'a str, head: &str) -> Vec<&'a str> {
    let is_head = |line: &&str| line.strip_prefix("# ").unwrap_or(line) == head;
    let lines = text.lines().skip_while(|line| !is_head(line)).skip(1);
    lines.take_while(|line| !line.starts_with('[')).collect()
}

/// A field, also one that is only shown.
fn is_field(line: &str) -> bool {
    let key = line.strip_prefix("# ").unwrap_or(line).split_once(" = ").map(|(key, _)| key);
    key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

/// The comment above a field, and the field as the file shows it.
fn described(lines: &[&str], field: &str) -> Option<(String, String)> {
    let shown = |line: &str| {
        let line = line.strip_prefix("# ").unwrap_or(line);
        line.strip_prefix(field).is_some_and(|rest| rest.starts_with(" = "))
    };
    let at = lines.iter().position(|line| shown(line))?;
    let above = lines[..at].iter().rev().take_while(|line| !is_field(line));
    let mut comment: Vec<&str> =
        above.map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    comment.reverse();
    let value = lines[at].strip_prefix("# ").unwrap_or(lines[at]);
    Some((comment.join(" "), value.to_owned()))
}

fn effect(effect: Effect, why: &str) -> String {
    let but = if why.is_empty() { String::new() } else { format!(": {why}") };
    match effect {
        Effect::Live if why.is_empty() => "live".into(),
        Effect::Live => format!("live between some values, else restart{but}"),
        Effect::Restart => format!("restart{but}"),
        Effect::Group => format!("group{but}"),
    }
}

fn reference() -> String {
    let mut out = String::from(
        "# The configuration, field by field\n\n\
         Made from the types and from the comments of [trio/a.toml](trio/a.toml) and\n\
         [pair/a.toml](pair/a.toml) by `tests/reference.rs`, which holds it to them.\n\n\
         When a changed field counts: **live**, `understudy reload` applies it; **restart**, when this\n\
         node's daemon is started again, which hands the service over first; **group**, when the whole\n\
         group was stopped and every node's file changed. `understudy plan FILE` says it of a file.\n",
    );
    let mut head = String::new();
    for (name, about) in fields() {
        let (table, field) = name.rsplit_once('.').unwrap();
        let wanted = if table == "nodes" { "[[nodes]]".into() } else { format!("[{table}]") };
        if wanted != head {
            head = wanted;
            write!(out, "\n## `{head}`\n").unwrap();
        }
        let file = if table == "arbiter" { PAIR } else { TRIO };
        let lines = section(file, &head);
        assert!(!lines.is_empty(), "{head} is in no documented file");
        write!(out, "\n**`{field}`**: {}  \n", effect(about.effect, about.why)).unwrap();
        if let Some((comment, value)) = described(&lines, field) {
            let comment = if comment.is_empty() { "As the fields above." } else { &comment };
            write!(out, "{comment}  \n`{value}`\n").unwrap();
        } else {
            writeln!(out, "A field of `{head}` that the example leaves out.").unwrap();
        }
    }
    out
}

#[test]
fn the_reference_says_what_the_types_and_examples_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md");
    let wanted = reference();
    if std::env::var("UNDERSTUDY_WRITE").as_deref() == Ok("1") {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "configs/REFERENCE.md is not what the types and examples say, first {differs:?}: run \
         UNDERSTUDY_WRITE=1 cargo test -p understudy-config --test reference"
    );
}
