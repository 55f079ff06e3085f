//! Counts what the baseline's commit needs when built by the compiler that is here.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::gate::Counts;

/// Builds the last commit that changed the baseline, apart, and counts.
pub fn counts_of_baseline(baseline: &Path) -> Result<Counts> {
    let dir = tempfile::tempdir()?;
    let tree = dir.path().join("tree");
    let found = said(Command::new("git").args(["log", "-1", "--format=%H", "--"]).arg(baseline))?;
    let commit = found.trim();
    ensure!(!commit.is_empty(), "no commit has {}", baseline.display());
    let made = git_worktree(&["add", "--detach"], &tree, Some(commit));
    let counts = made.and_then(|()| count(&tree, &dir.path().join("target")));
    // Git keeps a note of it beside the directory itself.
    let _ = git_worktree(&["remove", "--force"], &tree, None);
    counts.with_context(|| format!("cannot count what {commit} needs"))
}

fn git_worktree(words: &[&str], tree: &Path, commit: Option<&str>) -> Result<()> {
    let mut command = Command::new("git");
    said(command.arg("worktree").args(words).arg(tree).args(commit)).map(drop)
}

fn count(tree: &Path, target: &Path) -> Result<Counts> {
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--release", "-p", "understudy-perf-gate"]);
    said(build.current_dir(tree).env("CARGO_TARGET_DIR", target))?;
    let mut gate = Command::new(target.join("release/perf-gate"));
    Ok(serde_json::from_str(&said(gate.arg("--json").current_dir(tree))?)?)
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
