//! What `understudy doctor` and `understudyd --doctor` find.
//!
//! `understudyd --doctor [--config FILE]` prints one line of JSON, a [`Diagnoses`], and exits with 0
//! (nothing fails) or 1.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::{Finding, Level};

/// How a thing that was looked at does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    #[default]
    Ok,
    /// Works, and is worth knowing.
    Note,
    /// Works, but not everything does, or not well.
    Warn,
    /// Does not work.
    Fail,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What was looked at, one word.
    pub name: String,
    /// How it does.
    pub health: Health,
    /// What was found, one sentence.
    pub found: String,
    /// What it is good for.
    pub means: String,
    /// What to do about it; `None` if it is as it should be.
    pub mend: Option<String>,
}

impl Diagnosis {
    /// As it should be.
    #[must_use]
    pub fn ok(name: &str, means: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            health: Health::Ok,
            found: found.into(),
            means: means.into(),
            mend: None,
        }
    }

    /// The same, but not as it should be.
    #[must_use]
    pub fn bad(
        name: &str,
        means: &str,
        health: Health,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { health, mend: Some(mend.into()), ..Self::ok(name, means, found) }
    }

    /// What `check` says of it; nothing if it is as it should be.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let level = match self.health {
            Health::Ok => return None,
            Health::Note => Level::Info,
            Health::Warn => Level::Warn,
            Health::Fail => Level::Error,
        };
        let mend = self.mend.as_ref().map_or(String::new(), |mend| format!("; {mend}"));
        Some(Finding::new(level, format!("{}{mend}", self.found)))
    }
}

/// What `understudyd --doctor` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnoses {
    /// Everything that was looked at.
    pub checks: Vec<Diagnosis>,
}

impl Diagnoses {
    /// The worst of all.
    #[must_use]
    pub fn worst(&self) -> Health {
        self.checks.iter().map(|c| c.health).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_the_diagnoses_that_are_not_ok() {
        assert_eq!(Diagnosis::ok("kernel", "m", "Linux 6.9").finding(), None);
        let bad = Diagnosis::bad("criu", "m", Health::Warn, "there is no criu", "install CRIU 4");
        let finding = Finding::new(Level::Warn, "there is no criu; install CRIU 4");
        assert_eq!(bad.finding(), Some(finding));
        let all = Diagnoses { checks: vec![bad, Diagnosis::default()] };
        assert_eq!(all.worst(), Health::Warn);
        assert_eq!(Diagnoses::default().worst(), Health::Ok);
    }
}
