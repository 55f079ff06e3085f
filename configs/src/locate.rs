//! From a field or a parser's error to a line and a column.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::ConfigError;

/// A parsed file and where it came from.
pub(crate) struct Source<'a> {
    pub text: &'a str,
    pub path: &'a Path,
    pub document: &'a DeTable<'a>,
}

impl Source<'_> {
    /// An error at the field `keys`, or at the closest table around it that is in the file.
    pub fn invalid(&self, keys: &[&str], message: String) -> ConfigError {
        let message = one_line(&format!("{}: {message}", name(keys)));
        ConfigError::at(self.path, self.line_column(keys), message)
    }

    /// As [`Source::invalid`], for what is well formed but unsafe.
    pub fn refused(&self, keys: &[&str], message: String) -> ConfigError {
        let (line, column) = self.line_column(keys);
        let message = one_line(&format!("{}: {message}", name(keys)));
        ConfigError::Unsafe { path: self.path.to_path_buf(), line, column, message }
    }

    /// Where the field `keys` is, or the closest table around it.
    pub fn line_column(&self, keys: &[&str]) -> (usize, usize) {
        let mut start = 0;
        let mut value: Option<&DeValue<'_>> = None;
        for key in keys {
            let next = match value {
                None => self.document.get(*key),
                Some(DeValue::Table(table)) => table.get(*key),
                Some(DeValue::Array(array)) => key.parse().ok().and_then(|i: usize| array.get(i)),
                Some(_) => None,
            };
            let Some(next) = next else { break };
            start = next.span().start;
            value = Some(next.get_ref());
        }
        line_column(self.text, start)
    }
}

/// Line and column (in characters), both from 1, of a byte offset.
pub(crate) fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// One sentence from a parser's error.
pub(crate) fn describe(
    error: &toml::de::Error,
    text: &str,
    path: &Path,
    document: Option<&DeTable<'_>>,
) -> ConfigError {
    let mut span = error.span().unwrap_or(0..0);
    let mut message = allowed_in_words(error.message());
    if let Some(document) = document {
        let mut keys = Vec::new();
        if message.starts_with("missing field") {
            // The span of a missing field is that of its table.
            let found = table_at(document, &span, &mut keys);
            if found {
                message.push_str(&format!(" in [{}]", name(&keys)));
            }
        } else if let Some(at) = value_at(document, &span, &message, &mut keys) {
            span = at;
            message = format!("{}: {message}", name(&keys));
        }
    }
    ConfigError::at(path, line_column(text, span.start), one_line(&message))
}

/// `nodes[2].id` from its keys; entries of lists count from 0.
pub(crate) fn name(keys: &[impl AsRef<str>]) -> String {
    let mut out = String::new();
    for key in keys.iter().map(AsRef::as_ref) {
        if !out.is_empty() && key.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(&format!("[{key}]"));
        } else {
            out.push_str(if out.is_empty() { "" } else { "." });
            out.push_str(key);
        }
    }
    out
}

/// The name of the table that spans `span`, in `keys`.
fn table_at(table: &DeTable<'_>, span: &Range<usize>, keys: &mut Vec<String>) -> bool {
    find(table, keys, &mut |value, at| at == *span && (value.is_table() || value.is_array()))
}

/// The name, in `keys`, and the place of the plain value that spans `span`. Where
/// that is a list, our own errors begin with the entry they refuse.
fn value_at(
    table: &DeTable<'_>,
    span: &Range<usize>,
    message: &str,
    keys: &mut Vec<String>,
) -> Option<Range<usize>> {
    let mut found = None;
    find(table, keys, &mut |value, at| {
        let entry = span.start <= at.start
            && at.end <= span.end
            && value.as_str().is_some_and(|text| message.starts_with(&format!("{text:?} ")));
        let is = !span.is_empty() && (entry || at == *span);
        if is {
            found = Some(at);
        }
        is
    });
    found
}

fn find(
    table: &DeTable<'_>,
    keys: &mut Vec<String>,
    wanted: &mut dyn FnMut(&DeValue<'_>, Range<usize>) -> bool,
) -> bool {
    for (key, value) in table {
        keys.push(key.get_ref().to_string());
        if find_value(value, keys, wanted) {
            return true;
        }
        keys.pop();
    }
    false
}

fn find_value(
    value: &toml::Spanned<DeValue<'_>>,
    keys: &mut Vec<String>,
    wanted: &mut dyn FnMut(&DeValue<'_>, Range<usize>) -> bool,
) -> bool {
    // Inner first: the first entry of an array of tables may share its span.
    match value.get_ref() {
        DeValue::Table(table) if find(table, keys, wanted) => return true,
        DeValue::Array(array) => {
            for (i, item) in array.iter().enumerate() {
                keys.push(i.to_string());
                if find_value(item, keys, wanted) {
                    return true;
                }
                keys.pop();
            }
        }
        _ => {}
    }
    wanted(value.get_ref(), value.span())
}

/// serde names Rust's types; an operator wants to know what is allowed.
fn allowed_in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 11] = [
        ("expected u8", "expected an integer, 0..=255"),
        ("expected u16", "expected an integer, 0..=65535"),
        ("expected u32", "expected an integer, 0..=4294967295"),
        ("expected u64", "expected an integer, 0 or more"),
        ("expected a string", "expected a string in quotes"),
        ("expected path string", "expected a path in quotes"),
        ("expected a sequence", "expected a list in brackets"),
        ("expected a map", "expected a table of keys and values"),
        ("expected string or table", "expected a string in quotes"),
        ("wanted string or table", "expected a string in quotes"),
        ("expected enum", "expected a string in quotes"),
    ];
    let message = message.replace(" as i128", "");
    for (rust, words) in WORDS {
        if let Some(head) = message.trim_end().strip_suffix(rust) {
            return format!("{head}{words}");
        }
    }
    match message.trim_end().split_once(", expected struct ") {
        Some((head, _)) => format!("{head}, expected a table of keys and values"),
        None => message,
    }
}

/// Control characters of the file may not break the sentence, or the terminal.
fn one_line(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for c in message.trim().chars() {
        match c {
            '\n' => out.push_str("; "),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::line_column;

    #[test]
    fn offsets_become_lines_and_columns() {
        assert_eq!(line_column("", 0), (1, 1));
        assert_eq!(line_column("ab\ncd", 0), (1, 1));
        assert_eq!(line_column("ab\ncd", 4), (2, 2));
        assert_eq!(line_column("é\né", 4), (2, 1), "inside a character");
        assert_eq!(line_column("ab\n", 99), (2, 1));
    }
}
