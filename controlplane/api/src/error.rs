//! Errors on the wire, and their exit codes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of thing went wrong; each kind has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request or the command line is not understood.
    Usage,
    /// The configuration is not valid.
    InvalidConfig,
    /// The daemon cannot be reached, or does not answer in time.
    Unreachable,
    /// It could be done, but would not be safe.
    RefusedUnsafe,
    /// Anything else. Codes this version does not know are read as this one.
    #[serde(other)]
    Runtime,
}

impl ErrorCode {
    /// The process exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Runtime => 1,
            Self::Usage => 2,
            Self::InvalidConfig => 3,
            Self::Unreachable => 4,
            Self::RefusedUnsafe => 5,
        }
    }

    /// The code as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Usage => "usage",
            Self::InvalidConfig => "invalid_config",
            Self::Unreachable => "unreachable",
            Self::RefusedUnsafe => "refused_unsafe",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of error.
    pub code: ErrorCode,
    /// One sentence for the operator.
    pub message: String,
}

impl ApiError {
    /// An error of the kind `code`.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
