//! Runs valgrind's callgrind over a case and reads what it wrote.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Crates whose code depends on what the CPU offers.
const BY_CPU: [&str; 3] = ["ring::", "memchr::", "crc32fast::"];

/// A function and whether its instructions count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its path, demangled.
    pub name: String,
    /// Whether it is Rust of this program that no CPU's features choose.
    pub is_counted: bool,
}

/// Instructions of every function of a case, without those that it calls, as `program --work CASE`
/// runs it.
///
/// # Errors
/// If valgrind cannot run it, or saw nothing.
pub fn count(program: &Path, case: &str) -> Result<BTreeMap<Function, u64>> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--demangle=no", "--toggle-collect=*counted_slice*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--work", case])
        .output()
        .context("cannot run valgrind (dpdk-build/setup.sh installs it)")?;
    if !output.status.success() {
        bail!("valgrind failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = fs::read_to_string(&out).context("callgrind wrote nothing")?;
    let own = program.to_string_lossy();
    let functions = parse(&text, &own)?;
    ensure!(!functions.is_empty(), "callgrind counted nothing");
    Ok(functions)
}

/// The callgrind profile format: `ob=`, `fn=` say where the cost lines after them belong, `calls=`
/// that the next one is the called function's. A name is told once, with a number for it.
fn parse(text: &str, own: &str) -> Result<BTreeMap<Function, u64>> {
    let (mut objects, mut names) = (HashMap::new(), HashMap::new());
    let (mut object, mut function) = (String::new(), String::new());
    let mut costs: BTreeMap<Function, u64> = BTreeMap::new();
    let mut is_callee = false;
    for line in text.lines() {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "ob" => object = name(value, &mut objects)?,
                "fn" => function = name(value, &mut names)?,
                "cob" => drop(name(value, &mut objects)?),
                "cfn" => drop(name(value, &mut names)?),
                "calls" => is_callee = true,
                _ => {}
            }
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let mut words = line.split_whitespace().skip(1);
            if let Some(cost) = words.next().and_then(|word| word.parse::<u64>().ok())
                && !is_callee
            {
                *costs.entry(describe(&function, object == own)).or_default() += cost;
            }
            is_callee = false;
        }
    }
    Ok(costs)
}

/// `(12) name` or, later, `(12)`.
fn name(value: &str, known: &mut HashMap<String, String>) -> Result<String> {
    let Some((number, rest)) = value.strip_prefix('(').and_then(|v| v.split_once(')')) else {
        return Ok(value.into());
    };
    if !rest.is_empty() {
        known.insert(number.into(), rest.trim().into());
    }
    known.get(number).cloned().with_context(|| format!("callgrind: no name for {value}"))
}

fn describe(symbol: &str, is_own: bool) -> Function {
    // Recursion and clones of the compiler are marked behind a quote or a dot.
    let symbol = symbol.split('\'').next().unwrap_or(symbol);
    let demangled = rustc_demangle::try_demangle(symbol);
    let is_rust = demangled.is_ok();
    let name = demangled.map_or_else(|_| symbol.to_string(), |name| format!("{name:#}"));
    // Of `<ring::aead::... as ...>::f` too.
    let by_cpu = BY_CPU.iter().any(|part| name.trim_start_matches(['<', '&']).starts_with(part));
    Function { name, is_counted: is_own && is_rust && !by_cpu }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "events: Ir\n\nob=(1) /bin/perf\nfl=(1) a.rs\nfn=(1) _ZN3log6append17h0123456789abcdefE\n\
        16 400\n+3 4\ncob=(2) /lib/libc.so.6\ncfi=(2) ???\ncfn=(2) memcpy\ncalls=1 0\n+1 4000\n* 8\n\
        ob=(2)\nfn=(2)\n0 77\nob=(1)\nfn=(3) ring_core_aes\n0 5\n\
        fn=(4) _ZN4ring4aead4seal17h0123456789abcdefE\n7 9\nfn=(1)\n30 1\n";

    #[test]
    fn own_instructions_are_added_up_and_foreign_ones_left_out() {
        let costs = parse(EXAMPLE, "/bin/perf").unwrap();
        let of = |name: &str, is_counted| costs.get(&Function { name: name.into(), is_counted });
        assert_eq!(of("log::append", true), Some(&413));
        assert_eq!(of("memcpy", false), Some(&77));
        assert_eq!(of("ring_core_aes", false), Some(&5));
        assert_eq!(of("ring::aead::seal", false), Some(&9));
        assert_eq!(costs.len(), 4);
        assert!(parse("fn=(7)\n", "x").is_err());
    }
}
