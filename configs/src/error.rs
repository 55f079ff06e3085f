//! What can be wrong with a configuration file.

use std::path::{Path, PathBuf};

/// Why a configuration file was refused: one sentence with file, line and column.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: the file cannot be read: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file breaks a rule.
    #[error("{}:{line}:{column}: {message}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// The file is well formed, but what it asks for would not be safe.
    #[error("{}:{line}:{column}: refused as unsafe: {message}", .path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is unsafe and what is allowed.
        message: String,
    },
}

impl ConfigError {
    pub(crate) fn at(path: &Path, (line, column): (usize, usize), message: String) -> Self {
        Self::Invalid { path: path.to_path_buf(), line, column, message }
    }

    /// The line of the error, from 1; `None` if the file could not be read.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Read { .. } => None,
            Self::Invalid { line, .. } | Self::Unsafe { line, .. } => Some(*line),
        }
    }

    /// The column of the error in characters, from 1; `None` if the file could not be read.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        match self {
            Self::Read { .. } => None,
            Self::Invalid { column, .. } | Self::Unsafe { column, .. } => Some(*column),
        }
    }

    /// Whether the file was refused because what it asks for is unsafe.
    #[must_use]
    pub fn is_unsafe(&self) -> bool {
        matches!(self, Self::Unsafe { .. })
    }
}
