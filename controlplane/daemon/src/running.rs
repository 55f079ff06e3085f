//! What the daemon runs with, and its file read again: everything that takes a disk's time. The
//! control thread applies what is found.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use understudy_api::{self as api, ApiError, ErrorCode, Response};
use understudy_config::{Change, Config, ConfigError, Effect, NodeFile, Plan};
use understudy_seal::Keyring;

use crate::keys;

/// Names the file that the next life runs with.
const VARIABLE: &str = "UNDERSTUDY_RESTART_CONFIG";
const RESTART_FILE: &str = "restart.toml";
/// Refused fields that one answer names.
const NAMED_MAX: usize = 8;

/// The configuration of now.
pub struct Running {
    file: PathBuf,
    config: Mutex<Arc<Config>>,
    /// Held by the reload that is under way.
    reloading: Mutex<()>,
}

/// A file that may be applied: every change in it is live.
pub struct Reload {
    /// What it was compared with.
    pub base: Arc<Config>,
    /// What is to run.
    pub config: Arc<Config>,
    /// What differs.
    pub plan: api::Plan,
    /// What another key file holds.
    pub keys: Option<Keyring>,
}

/// What this life runs with: the configured file, or what the life before it left when it started
/// itself anew. Nobody asked then for what the file says by now.
pub fn load(file: &Path) -> Result<NodeFile, ConfigError> {
    let Some(kept) = std::env::var_os(VARIABLE) else { return NodeFile::load(file) };
    NodeFile::load(kept).or_else(|e| {
        tracing::warn!("what ran before cannot be read: {e}; starting with {}", file.display());
        NodeFile::load(file)
    })
}

impl Running {
    pub fn new(file: &Path, config: Config) -> Running {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        Running { file, config: Mutex::new(Arc::new(config)), reloading: Mutex::new(()) }
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set(&self, config: Arc<Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// What a file would change; the daemon's own, if none is given.
    pub fn plan(&self, file: Option<&str>) -> Response {
        let file = match asked_for(file, &self.file) {
            Ok(file) => file,
            Err(error) => return error.into(),
        };
        match read(&self.config(), file) {
            Ok(plan) => describe(file, &plan, false).into(),
            Err(error) => error.into(),
        }
    }

    /// Reads the daemon's own file and everything that it names, and hands it to `apply` if all of
    /// it can be applied. One at a time.
    pub fn reload(&self, apply: impl FnOnce(Reload) -> Response) -> Response {
        let Ok(_one) = self.reloading.try_lock() else {
            let text = "another reload is under way";
            return ApiError::new(ErrorCode::RefusedUnsafe, text).into();
        };
        match self.read_own() {
            Ok(reload) => apply(reload),
            Err(mut error) => {
                error.message.push_str("; nothing was changed");
                error.into()
            }
        }
    }

    fn read_own(&self) -> Result<Reload, ApiError> {
        let base = self.config();
        let plan = read(&base, &self.file)?;
        refuse(&self.file, &plan)?;
        let keys = match plan.config.cluster.key_file == base.cluster.key_file {
            true => None,
            false => keys::load(&plan.config).map_err(|e| {
                ApiError::new(ErrorCode::InvalidConfig, format!("cluster.key_file: {e}"))
            })?,
        };
        let told = describe(&self.file, &plan, true);
        Ok(Reload { base, config: Arc::new(plan.config), plan: told, keys })
    }

    /// What the next life is to be told, when this one starts itself anew.
    pub fn note_for_next_life(&self) -> (&'static str, Option<OsString>) {
        let config = self.config();
        let path = config.control.state_dir.join(RESTART_FILE);
        match keep(&config, &path) {
            Ok(()) => (VARIABLE, Some(path.into())),
            Err(e) => {
                tracing::warn!(
                    "{}: {e}; starting anew with {}",
                    path.display(),
                    self.file.display()
                );
                (VARIABLE, None)
            }
        }
    }

    /// Nothing is left for another life.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.config().control.state_dir.join(RESTART_FILE));
    }
}

/// Writes a configuration whole, or not at all. Its environment may hold secrets.
fn keep(config: &Config, path: &Path) -> std::io::Result<()> {
    let text = toml_text(config)?;
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
}

fn toml_text(config: &Config) -> std::io::Result<String> {
    config.to_text().map_err(std::io::Error::other)
}

fn read(running: &Config, file: &Path) -> Result<Plan, ApiError> {
    read_plan(file, || Plan::load(running, file))
}

/// Only a plain file: what a pipe gives may never end.
pub fn read_plan<C>(
    file: &Path,
    load: impl FnOnce() -> Result<Plan<C>, ConfigError>,
) -> Result<Plan<C>, ApiError> {
    if fs::metadata(file).is_ok_and(|meta| !meta.is_file()) {
        let text = format!("{}: this is not a file", file.display());
        return Err(ApiError::new(ErrorCode::InvalidConfig, text));
    }
    load().map_err(|e| {
        let code = if e.is_unsafe() { ErrorCode::RefusedUnsafe } else { ErrorCode::InvalidConfig };
        ApiError::new(code, e.to_string())
    })
}

/// The file that is asked for; the daemon's own, if none is.
pub fn asked_for<'a>(file: Option<&'a str>, own: &'a Path) -> Result<&'a Path, ApiError> {
    match file.map(Path::new) {
        Some(file) if file.is_relative() => {
            let text = format!("file: {file:?} is relative, an absolute path is allowed");
            Err(ApiError::new(ErrorCode::Usage, text))
        }
        Some(file) => Ok(file),
        None => Ok(own),
    }
}

/// One change that is not live, and nothing is applied.
pub fn refuse<C>(file: &Path, plan: &Plan<C>) -> Result<(), ApiError> {
    let refused: Vec<&Change> = plan.refused().collect();
    if refused.is_empty() {
        return Ok(());
    }
    let mut text: Vec<String> = refused
        .iter()
        .take(NAMED_MAX)
        .map(|change| {
            let what = effect(change.effect).what_to_do();
            let (line, field, why) = (change.line, &change.field, change.why);
            format!("{}:{line}: {field}: not while it runs: {why}; {what}", file.display())
        })
        .collect();
    if refused.len() > NAMED_MAX {
        text.push(format!("and {} more", refused.len() - NAMED_MAX));
    }
    Err(ApiError::new(ErrorCode::RefusedUnsafe, text.join("; ")))
}

/// The plan as it is told.
pub fn describe<C>(file: &Path, plan: &Plan<C>, applied: bool) -> api::Plan {
    let change = |c: &Change| api::Change {
        field: c.field.clone(),
        line: c.line as u64,
        from: c.from.clone(),
        to: c.to.clone(),
        effect: effect(c.effect),
        why: c.why.into(),
    };
    let changes = plan.changes.iter().map(change).collect();
    api::Plan { file: file.display().to_string(), applied, changes }
}

fn effect(effect: Effect) -> api::Effect {
    match effect {
        Effect::Live => api::Effect::Live,
        Effect::Restart => api::Effect::Restart,
        Effect::Group => api::Effect::Group,
    }
}
