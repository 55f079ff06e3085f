//! The tree as the tests see it: its root, its files, its crates.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Folders that hold no sources.
pub const OUTPUT_FOLDERS: [&str; 2] = ["target", "lab-out"];

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("tests/arch is two folders below the root").to_path_buf()
}

/// Every file that git has or would take, relative to the root; without git, every file.
pub fn files() -> Vec<String> {
    let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let said =
        Command::new("git").args(["-c", "safe.directory=*", "-C"]).arg(root()).args(words).output();
    let mut files = match said {
        Ok(said) if said.status.success() => {
            let text = String::from_utf8_lossy(&said.stdout);
            text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        _ => walk(&root(), ""),
    };
    // git also lists what was deleted and not committed yet.
    files.retain(|name| root().join(name).is_file());
    assert!(files.len() > 50, "the sources are not found below {}", root().display());
    files.sort_unstable();
    files
}

fn walk(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the tree").flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            if name != ".git" && !OUTPUT_FOLDERS.contains(&name.as_str()) {
                found.extend(walk(&entry.path(), &format!("{path}/")));
            }
        } else {
            found.push(path);
        }
    }
    found
}

/// The text of a file of the tree; `None` if it is not text.
pub fn text(name: &str) -> Option<String> {
    let bytes = std::fs::read(root().join(name)).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// The packages of the workspace, as `cargo metadata` describes them.
pub fn packages() -> Vec<Value> {
    let said = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(said.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&said.stderr));
    let mut metadata: Value = serde_json::from_slice(&said.stdout).expect("metadata is JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        _ => panic!("cargo metadata has no packages"),
    }
}

/// A field of cargo's metadata that is always text.
pub fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("cargo metadata has no text `{name}`"))
}
