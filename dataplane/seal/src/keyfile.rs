//! The key file: one key of 64 hexadecimal digits a line, `#` begins a comment.
//!
//! The first key seals, all of them open. It is for its owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use arrayvec::ArrayVec;

use crate::key::{ClusterKey, KEYS_MAX, Keyring, SECRET_LEN};

/// Longest key file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;
const FOR_ITS_OWNER: u32 = 0o600;

/// What is wrong with a key file, in one sentence that names it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It does not exist.
    #[error("{}: there is no key file; make one with: understudy key generate {}, and give every node of the group the same", .0.display(), .0.display())]
    Missing(PathBuf),
    /// It exists and must not be replaced.
    #[error("{}: the file exists and is not overwritten; to accept one more key: understudy key generate --add {}", .0.display(), .0.display())]
    Exists(PathBuf),
    /// It could not be read or written.
    #[error("{}: the key file cannot be {what}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{}: the key file has mode {mode:04o}, so that others than its owner may use it; run: chmod 600 {}", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line, or the whole, is not as it must be.
    #[error("{}:{line}: {message}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong. Never says what the line holds.
        message: String,
    },
}

/// Reads the keys of a file.
///
/// # Errors
/// If it cannot be read, is not for its owner alone, or does not hold 1 to [`KEYS_MAX`] keys.
pub fn load(path: &Path) -> Result<Keyring, KeyFileError> {
    parse(&read(path)?, path)
}

fn read(path: &Path) -> Result<String, KeyFileError> {
    let file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.into()),
        _ => io_error(path, "read", e),
    })?;
    let meta = file.metadata().map_err(|e| io_error(path, "read", e))?;
    let invalid = |message: &str| KeyFileError::Invalid {
        path: path.into(),
        line: 1,
        message: message.into(),
    };
    if !meta.is_file() {
        return Err(invalid("this is not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.into(), mode: meta.mode() & 0o7777 });
    }
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    match read {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(invalid("this is not text")),
        Err(e) => Err(io_error(path, "read", e)),
        Ok(len) if len as u64 > FILE_BYTES_MAX => Err(invalid("the file is too long")),
        Ok(_) => Ok(text),
    }
}

/// Reads the keys of a text; `path` is only named in errors.
///
/// # Errors
/// If a line is not a key, or there are not 1 to [`KEYS_MAX`] of them, or two have one id.
pub fn parse(text: &str, path: &Path) -> Result<Keyring, KeyFileError> {
    let invalid =
        |line: usize, message: String| KeyFileError::Invalid { path: path.into(), line, message };
    let mut keys: ArrayVec<(usize, ClusterKey), KEYS_MAX> = ArrayVec::new();
    for (i, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let secret = secret(content).ok_or_else(|| {
            invalid(i + 1, "this is not a key, 64 hexadecimal digits are allowed".into())
        })?;
        let key = ClusterKey::new(secret);
        if let Some((first, _)) = keys.iter().find(|(_, k)| k.id() == key.id()) {
            let message = format!(
                "this key has the id {:04x}, as has the one of line {first}; another key is needed",
                key.id()
            );
            return Err(invalid(i + 1, message));
        }
        keys.try_push((i + 1, key)).map_err(|_| {
            invalid(i + 1, format!("this is one key too many, 1..={KEYS_MAX} are allowed"))
        })?;
    }
    Keyring::new(keys.into_iter().map(|(_, key)| key)).map_err(|e| {
        let how = "make one with: understudy key generate --add";
        invalid(text.lines().count().max(1), format!("{e}; {how} {}", path.display()))
    })
}

fn secret(digits: &str) -> Option<[u8; SECRET_LEN]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * SECRET_LEN {
        return None;
    }
    let mut out = [0; SECRET_LEN];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(out)
}

/// Makes a file with one key of these random bytes; gives its id.
///
/// # Errors
/// If there is a file already, or it cannot be written.
pub fn generate(path: &Path, secret: [u8; SECRET_LEN]) -> Result<u16, KeyFileError> {
    let text = format!(
        "# Cluster key of Understudy. The first key seals, all open; the same on every node.\n{}\n",
        hex(&secret)
    );
    create(path, &text).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.into()),
        _ => io_error(path, "written", e),
    })?;
    Ok(ClusterKey::new(secret).id())
}

/// Appends a key of these random bytes, which opens and does not seal; gives its id. The file is
/// replaced in one step.
///
/// # Errors
/// If the file is not a good one, is full, or cannot be written. It is as it was then.
pub fn add(path: &Path, secret: [u8; SECRET_LEN]) -> Result<u16, KeyFileError> {
    let mut text = read(path)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&hex(&secret));
    text.push('\n');
    parse(&text, path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = create(&beside, &text).and_then(|()| fs::rename(&beside, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&beside);
        io_error(path, "written", e)
    })?;
    Ok(ClusterKey::new(secret).id())
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(FOR_ITS_OWNER).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn io_error(path: &Path, what: &'static str, source: io::Error) -> KeyFileError {
    KeyFileError::Io { path: path.into(), what, source }
}
