//! Rules for Rust sources: where `unsafe` may be, who forbids it, how long a file may get.

use crate::tree::{self, field};

/// Crates whose every target forbids unsafe code.
const FORBIDDING: [&str; 16] = [
    "understudy-wire",
    "understudy-pcap",
    "understudy-segments",
    "understudy-seal",
    "understudy-fastpath",
    "understudy-proto",
    "understudy-arbiter",
    "understudy-image",
    "understudy-checkpoint",
    "understudy-api",
    "understudy-config",
    "understudy-cli",
    "understudy-daemon",
    "understudy-perf",
    "understudy-perf-dpdk",
    "understudy-perf-gate",
];
const FORBID: &str = "#![forbid(unsafe_code)]";

/// Folders and files whose code may say `unsafe`.
const UNSAFE_ALLOWED: [&str; 5] = [
    "dpdk-build/dpdk-sys/",
    "dataplane/dpdk/",
    "controlplane/linux/",
    "dataplane/log/",
    "tests/lab/src/sys.rs",
];

const LINES_MAX: usize = 800;

fn rust_files() -> impl Iterator<Item = (String, String)> {
    let files = tree::files().into_iter().filter(|name| name.ends_with(".rs"));
    files.filter_map(|name| tree::text(&name).map(|text| (name, text)))
}

#[test]
fn crates_that_need_no_unsafe_forbid_it() {
    let packages = tree::packages();
    let mut offences = Vec::new();
    for name in FORBIDDING {
        let package = packages.iter().find(|package| field(package, "name") == name);
        let package = package.unwrap_or_else(|| panic!("{name} is not in the workspace"));
        for target in package["targets"].as_array().into_iter().flatten() {
            let shipped = target["kind"].as_array().into_iter().flatten();
            if !shipped.clone().any(|kind| kind == "lib" || kind == "bin") {
                continue;
            }
            let path = field(target, "src_path");
            let text = std::fs::read_to_string(path).expect("a target's source can be read");
            if !text.lines().any(|line| line == FORBID) {
                offences.push(format!("{name}: {} lacks {FORBID}", short(path)));
            }
        }
    }
    crate::assert_none("crates without unsafe code say so", &offences);
}

fn short(path: &str) -> String {
    let root = tree::root();
    std::path::Path::new(path).strip_prefix(root).map_or(path.into(), |p| p.display().to_string())
}

#[test]
fn unsafe_is_only_where_it_may_be() {
    let mut offences = Vec::new();
    for (name, text) in rust_files() {
        if UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        for (number, line) in code(&text).lines().enumerate() {
            if has_word(line, "unsafe") {
                offences.push(format!("{name}:{}", number + 1));
            }
        }
    }
    crate::assert_none("unsafe outside dpdk-sys, dpdk, linux, log and the lab's sys.rs", &offences);
}

#[test]
fn files_stay_short() {
    let long = rust_files()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines"));
    crate::assert_none(&format!("Rust files over {LINES_MAX} lines"), &long.collect::<Vec<_>>());
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.split(|c| !part_of_word(c)).any(|found| found == word)
}

/// The source with comments and the contents of literals blanked, line for line.
fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let len = literal_or_comment(rest, out.chars().next_back());
        if len > 0 {
            out.extend(rest[..len].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[len..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Bytes of the comment, string or character at the start; 0 if there is none.
fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let to_the_end = rest.len();
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(to_the_end)
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else if rest.starts_with('"') {
        quoted(rest, '"')
    } else if !in_word && (rest.starts_with('r') || rest.starts_with("br")) {
        raw_string(rest)
    } else if let Some(inner) = rest.strip_prefix('\'') {
        let escaped = inner.starts_with('\\');
        let closed = rest.chars().nth(2) == Some('\'');
        if escaped || closed { quoted(rest, '\'') } else { 0 }
    } else {
        0
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

fn raw_string(rest: &str) -> usize {
    let from = rest.find('r').expect("the caller saw it") + 1;
    let hashes = rest[from..].chars().take_while(|c| *c == '#').count();
    if !rest[from + hashes..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let body = from + hashes + 1;
    rest[body..].find(&close).map_or(rest.len(), |at| body + at + close.len())
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = if rest[at..].starts_with("/*") {
            depth += 1;
            2
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

#[test]
fn only_code_counts() {
    let source = r##"
        // unsafe
        /* unsafe /* unsafe */ unsafe */
        let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; let c = ['"', '\'', 'u'];
        fn f<'a>(x: &'a str) -> is_unsafe { unsafe_code }
    "##;
    assert!(!has_word(&code(source), "unsafe"), "{}", code(source));
    assert_eq!(code(source).lines().count(), source.lines().count());
    let real = "let q = '\"'; unsafe { call(\"x\") } // why";
    assert!(has_word(&code(real), "unsafe"));
}
