//! When a changed field counts, declared beside each type.

use std::fmt;

/// When a changed field counts on a node that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `understudy reload` applies it; nothing is interrupted.
    Live,
    /// When this node's daemon is started again, which hands the service over first.
    Restart,
    /// When the whole group is stopped and started: nodes that differ in it are not safe together,
    /// or not a group.
    Group,
}

impl Effect {
    /// As it is shown: one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Group => "group",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What holds for one field; the text says why it is not live.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    Live,
    Restart(&'static str),
    Group(&'static str),
    /// Live between these values, else a restart.
    LiveAmong(&'static [&'static str], &'static str),
    /// A restart between these values, else the group.
    RestartAmong(&'static [&'static str], &'static str),
    /// A table, whose fields have their own.
    Table(&'static [Field]),
    /// A list of tables with names.
    Named(&'static [Field]),
}

impl Rule {
    /// The effect of a change, and why it is not live.
    pub(crate) fn effect(self, from: Option<&str>, to: Option<&str>) -> (Effect, &'static str) {
        let among = |allowed: &[&str]| {
            [from, to].into_iter().flatten().all(|value| allowed.contains(&value))
        };
        match self {
            Self::Live => (Effect::Live, ""),
            Self::LiveAmong(allowed, _) if among(allowed) => (Effect::Live, ""),
            Self::Restart(why) | Self::LiveAmong(_, why) => (Effect::Restart, why),
            Self::RestartAmong(allowed, why) if among(allowed) => (Effect::Restart, why),
            Self::Group(why) | Self::RestartAmong(_, why) => (Effect::Group, why),
            Self::Table(_) | Self::Named(_) => (Effect::Group, "it is a section of its own"),
        }
    }
}

/// A field and its rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub name: &'static str,
    pub rule: Rule,
}

/// A section of the file.
pub(crate) trait Section {
    const FIELDS: &'static [Field];
}

/// Says of every field of a struct when a change of it counts. A field that is left out does not
/// compile.
macro_rules! effects {
    ($type:ident { $($field:ident: $rule:expr),* $(,)? }) => {
        impl crate::effect::Section for $type {
            const FIELDS: &'static [crate::effect::Field] = {
                use crate::effect::Rule::*;
                &[$(crate::effect::Field { name: stringify!($field), rule: $rule }),*]
            };
        }
        const _: fn(&$type) = |all| {
            let $type { $($field: _),* } = all;
        };
    };
}
pub(crate) use effects;

/// What is known of one field of the file, for its reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldEffect {
    /// When a change of it counts, for most values.
    pub effect: Effect,
    /// Why it is not always live; empty if it is.
    pub why: &'static str,
}

/// Every field of the file as `section.field`, those of `[[nodes]]` as `nodes.field`.
#[must_use]
pub fn fields() -> Vec<(String, FieldEffect)> {
    let mut out = Vec::new();
    collect("", <crate::Config as Section>::FIELDS, &mut out);
    out
}

fn collect(prefix: &str, fields: &[Field], out: &mut Vec<(String, FieldEffect)>) {
    for field in fields {
        let name = format!("{prefix}{}", field.name);
        match field.rule {
            Rule::Table(inner) | Rule::Named(inner) => collect(&format!("{name}."), inner, out),
            Rule::LiveAmong(_, why) => {
                out.push((name, FieldEffect { effect: Effect::Live, why }));
            }
            Rule::RestartAmong(_, why) => {
                out.push((name, FieldEffect { effect: Effect::Restart, why }));
            }
            rule => {
                let (effect, why) = rule.effect(None, None);
                out.push((name, FieldEffect { effect, why }));
            }
        }
    }
}
