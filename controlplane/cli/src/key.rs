//! `understudy key generate`: makes key files, on this machine alone.

use std::path::Path;

use serde::Serialize;
use understudy_api::{ApiError, ErrorCode};
use understudy_seal::entropy;
use understudy_seal::keyfile::{self, KeyFileError};

use crate::text::plain;

/// How keys are changed while the service runs.
pub const ROTATION: &str = "\
To change keys while the service runs, in three rounds; in each, give every node the same file and
run `understudy key reload` on every node before the next round begins:
  1. understudy key generate --add FILE    the new key is accepted everywhere
  2. move its line before the old one's    it seals; `key status` shows it for every node
  3. delete the old key's line             the old key opens nothing any more";

/// A key that was made.
#[derive(Debug, Serialize)]
pub struct Generated {
    /// The file.
    pub file: String,
    /// The key's id.
    pub id: String,
    /// Whether it was added to a file that existed.
    pub added: bool,
}

/// Makes a key file, or adds a key to one.
pub fn generate(file: &Path, added: bool) -> Result<Generated, ApiError> {
    let secret = entropy().map_err(|e| ApiError::new(ErrorCode::Runtime, e.to_string()))?;
    let made = if added { keyfile::add(file, secret) } else { keyfile::generate(file, secret) };
    let id = made.map_err(|e| {
        let code = match e {
            KeyFileError::Exists(_) => ErrorCode::RefusedUnsafe,
            KeyFileError::Exposed { .. } | KeyFileError::Invalid { .. } => ErrorCode::InvalidConfig,
            KeyFileError::Missing(_) | KeyFileError::Io { .. } => ErrorCode::Runtime,
        };
        ApiError::new(code, e.to_string())
    })?;
    Ok(Generated { file: file.display().to_string(), id: format!("{id:04x}"), added })
}

pub fn text(key: &Generated) -> String {
    let (file, id) = (plain(&key.file), &key.id);
    if key.added {
        format!("{file}: key {id} is added: accepted, not sealing, once it is reloaded\n")
    } else {
        format!("{file}: key {id} is made; give every node of the group this file\n")
    }
}
