//! Completions and manual pages, from the definition of the command line itself.

use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use serde::Serialize;
use understudy_api::{ApiError, ErrorCode};

use crate::text::plain;

/// A script that makes a shell complete our command lines.
#[derive(Debug, Serialize)]
pub struct Completions {
    /// For which shell.
    pub shell: String,
    /// The script.
    pub script: String,
}

/// Manual pages that were written.
#[derive(Debug, Serialize)]
pub struct Manuals {
    /// Where.
    pub directory: String,
    /// One for the command, and one for each of its commands.
    pub files: Vec<String>,
}

/// The script for a shell.
pub fn completions(shell: Shell, mut command: Command) -> Completions {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "understudy", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Completions { shell: shell.to_string(), script }
}

/// Writes every page into a directory, which is made if there is none.
pub fn manuals(directory: &Path, command: Command) -> Result<Manuals, ApiError> {
    let mut files = Vec::new();
    let failed = |path: &Path, e: std::io::Error| {
        ApiError::new(ErrorCode::Runtime, format!("{}: {e}", path.display()))
    };
    std::fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write(&command, directory, &mut files).map_err(|(path, e)| failed(&path, e))?;
    files.sort();
    Ok(Manuals { directory: directory.display().to_string(), files })
}

pub fn text(made: &Manuals) -> String {
    format!("{} pages in {}\n", made.files.len(), plain(&made.directory))
}

fn write(
    command: &Command,
    directory: &Path,
    files: &mut Vec<String>,
) -> Result<(), (PathBuf, std::io::Error)> {
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        write(inner, directory, files)?;
    }
    let page = clap_mangen::Man::new(command.clone());
    let path = directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).and_then(|()| std::fs::write(&path, text)).map_err(|e| (path, e))?;
    files.push(page.get_filename());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_shell_is_told_of_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = completions(shell, crate::Arguments::command()).script;
            for word in ["switchover", "doctor", "interval-ms", "json"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_has_its_page() {
        let directory = tempfile::tempdir().unwrap();
        let made = manuals(&directory.path().join("man"), crate::Arguments::command()).unwrap();
        for name in ["understudy.1", "understudy-status.1", "understudy-key-generate.1"] {
            assert!(made.files.iter().any(|f| f == name), "{name}: {:?}", made.files);
            let page = std::fs::read_to_string(directory.path().join("man").join(name)).unwrap();
            assert!(page.contains(".SH NAME") && page.contains("understudy"), "{page}");
        }
        assert!(!made.files.iter().any(|f| f.contains("help")), "{:?}", made.files);
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = manuals(&file, crate::Arguments::command()).unwrap_err();
        assert!(error.message.contains("file"), "{error}");
    }
}
