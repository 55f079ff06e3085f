//! What a changed file would mean for a node that runs.

use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use crate::effect::{Effect, Field, Rule, Section};
use crate::locate::Source;
use crate::{CaptureNode, Config, ConfigError, NodeFile};

/// Longest value that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 120;

/// A file as it would be applied to a node that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<C = Config> {
    /// What the file says.
    pub config: C,
    /// Where that differs from what runs, in the order of the reference.
    pub changes: Vec<Change>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `checkpoint.keep`, `nodes[1].priority`; entries of lists count from 0.
    pub field: String,
    /// Its line in the new file, or that of the section it is missing from.
    pub line: usize,
    /// What runs; `None`: it is not given.
    pub from: Option<String>,
    /// What the file says; `None`: it is not given.
    pub to: Option<String>,
    /// When the change counts.
    pub effect: Effect,
    /// Why it is not live; empty if it is.
    pub why: &'static str,
}

impl Plan {
    /// Reads and validates all of `path`, and compares it with what runs.
    ///
    /// # Errors
    /// The first thing wrong with the file.
    pub fn load(running: &Config, path: impl AsRef<Path>) -> Result<Plan, ConfigError> {
        let path = path.as_ref();
        Self::parsed(running, &crate::read(path)?, path)
    }

    /// As [`Plan::load`], of `text`; `path` is only named in errors.
    ///
    /// # Errors
    /// The first thing wrong with the text.
    pub fn parse(
        running: &Config,
        text: &str,
        path: impl AsRef<Path>,
    ) -> Result<Plan, ConfigError> {
        Self::parsed(running, text, path.as_ref())
    }

    fn parsed(running: &Config, text: &str, path: &Path) -> Result<Plan, ConfigError> {
        let config = Config::parse(text, path)?;
        let document = crate::document(text, path)?;
        let source = Source { text, path, document: document.get_ref() };
        let changes = changes(running, &config, &source);
        Ok(Plan { config, changes })
    }
}

impl Plan<CaptureNode> {
    /// The same for a node that only captures.
    ///
    /// # Errors
    /// The first thing wrong with the file, or that it is of the other kind.
    pub fn load_capture(
        running: &CaptureNode,
        path: impl AsRef<Path>,
    ) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::parsed(running, &crate::read(path)?, path)
    }

    fn parsed(running: &CaptureNode, text: &str, path: &Path) -> Result<Self, ConfigError> {
        let document = crate::document(text, path)?;
        let source = Source { text, path, document: document.get_ref() };
        let NodeFile::Capture(config) = NodeFile::parse(text, path)? else {
            let why = "the daemon only captures, and this is the file of a node with a service";
            return Err(source.invalid(&["service"], why.into()));
        };
        let changes = changes(running, &*config, &source);
        Ok(Plan { config: *config, changes })
    }
}

impl<C> Plan<C> {
    /// The changes that are not live.
    pub fn refused(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.effect != Effect::Live)
    }
}

fn changes<C: Section + Serialize>(running: &C, new: &C, source: &Source<'_>) -> Vec<Change> {
    let mut found = Vec::new();
    let mut walk = Walk { source, found: &mut found };
    walk.tables(C::FIELDS, &mut Vec::new(), &table(running), &table(new));
    found
}

/// As the file would say it, defaults included.
fn table(config: &impl Serialize) -> Table {
    // Validated: no number is beyond what TOML has, and no path is not UTF-8.
    Table::try_from(config).unwrap_or_default()
}

struct Walk<'a, 'b> {
    source: &'a Source<'a>,
    found: &'b mut Vec<Change>,
}

impl Walk<'_, '_> {
    fn tables(&mut self, fields: &[Field], keys: &mut Vec<String>, from: &Table, to: &Table) {
        for field in fields {
            let (old, new) = (from.get(field.name), to.get(field.name));
            if old == new {
                continue;
            }
            keys.push(field.name.to_owned());
            match field.rule {
                Rule::Table(inner) => {
                    let empty = Table::new();
                    let of = |value: Option<&Value>| {
                        value.and_then(Value::as_table).unwrap_or(&empty).clone()
                    };
                    self.tables(inner, keys, &of(old), &of(new));
                }
                Rule::Named(inner) => self.lists(inner, keys, old, new),
                rule => self.differs(rule, keys, old, new),
            }
            keys.pop();
        }
    }

    /// Tables that are known by their names, whatever their order.
    fn lists(
        &mut self,
        fields: &[Field],
        keys: &mut Vec<String>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) {
        let (old, new) = (by_name(old), by_name(new));
        let sorted = |list: &[(String, Table)]| {
            let mut names: Vec<String> = list.iter().map(|(name, _)| name.clone()).collect();
            names.sort();
            names
        };
        if sorted(&old) != sorted(&new) {
            let names = |list: &[(String, Table)]| Value::from(sorted(list));
            let why = "another group has other majorities";
            return self.differs(Rule::Group(why), keys, Some(&names(&old)), Some(&names(&new)));
        }
        for (at, (name, to)) in new.iter().enumerate() {
            let Some((_, from)) = old.iter().find(|(known, _)| known == name) else { continue };
            keys.push(at.to_string());
            self.tables(fields, keys, from, to);
            keys.pop();
        }
    }

    fn differs(&mut self, rule: Rule, keys: &[String], old: Option<&Value>, new: Option<&Value>) {
        let (from, to) = (old.map(text), new.map(text));
        let plain = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let (effect, why) = rule.effect(plain(old).as_deref(), plain(new).as_deref());
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let (line, _) = self.source.line_column(&keys);
        let field = crate::locate::name(&keys);
        self.found.push(Change { field, line, from, to, effect, why });
    }
}

fn by_name(list: Option<&Value>) -> Vec<(String, Table)> {
    let tables = list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table);
    let name = |table: &Table| table.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    tables.map(|table| (name(table), table.clone())).collect()
}

/// The value as in the file, on one line, cut short if it is long.
fn text(value: &Value) -> String {
    let whole = value.to_string().replace('\n', " ");
    match whole.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}
