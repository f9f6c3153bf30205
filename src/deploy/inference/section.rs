//! One object of a configuration file, read key by key: what is unknown is said, and what is not of the
//! right type is a violation that names its whole path.

use serde_json::{Map, Value};

use crate::deploy::report::{Report, describe, join};

/// An object and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Section<'v> {
    path: String,
    object: Option<&'v Map<String, Value>>,
}

impl<'v> Section<'v> {
    /// Reads an object; keys that are not among the known ones are warned of.
    pub(super) fn new(path: &str, value: &'v Value, known: &[&str], report: &mut Report) -> Self {
        let object = value.as_object();
        if object.is_none() && !value.is_null() {
            report.violation(path, "an object", describe(value, false));
        }
        for key in object.into_iter().flat_map(Map::keys).filter(|k| !known.contains(&k.as_str())) {
            report.unknown(path, key, known.iter().copied(), false);
        }
        Self { path: path.to_owned(), object }
    }

    /// The whole path of a key.
    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// A value that is there and not null.
    pub(super) fn value(&self, key: &str) -> Option<&'v Value> {
        self.object?.get(key).filter(|v| !v.is_null())
    }

    /// Whether something other than null, nothing and emptiness is there.
    pub(super) fn says(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(object) => object.values().any(|v| !v.is_null()),
            _ => true,
        })
    }

    /// A text. In templates an empty one stands for "not given", and Azure's tools took it so.
    pub(super) fn text(&self, key: &str, report: &mut Report) -> Option<&'v str> {
        match self.value(key)? {
            Value::String(text) if text.is_empty() => {
                report.warning(&self.at(key), "empty, taken as not given");
                None
            }
            Value::String(text) if text.contains(char::is_control) && !text.contains('\n') => {
                report.violation(&self.at(key), "a text without control characters", "one with");
                None
            }
            Value::String(text) => Some(text),
            other => {
                let hint = if other.is_object() || other.is_array() { "" } else { ", in quotes" };
                report.violation(&self.at(key), format!("a text{hint}"), describe(other, false));
                None
            }
        }
    }

    /// A text of one line.
    pub(super) fn line(&self, key: &str, report: &mut Report) -> Option<&'v str> {
        let text = self.text(key, report)?;
        if text.contains('\n') {
            report.violation(&self.at(key), "a text of one line", "one of several");
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str, report: &mut Report) -> Option<bool> {
        let value = self.value(key)?;
        if !value.is_boolean() {
            let hint = if matches!(value.as_str(), Some("true" | "false")) { ", without quotes" } else { "" };
            report.violation(&self.at(key), format!("true or false{hint}"), describe(value, false));
        }
        value.as_bool()
    }

    /// A list of texts of one line each. What stands in it is not shown: addresses may hold passwords.
    pub(super) fn lines(&self, key: &str, report: &mut Report) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            report.violation(&self.at(key), "a list of texts", describe(value, true));
            return Vec::new();
        };
        let mut lines = Vec::new();
        for (i, item) in list.iter().enumerate() {
            match item.as_str().map(str::trim).filter(|t| !t.is_empty() && !t.contains(is_break)) {
                Some(text) => lines.push(text.to_owned()),
                None => report.violation(
                    &format!("{}[{i}]", self.at(key)),
                    "a text of one line, not empty",
                    describe(item, true),
                ),
            }
        }
        lines
    }

    /// An object within this one.
    pub(super) fn section(&self, key: &str, known: &[&str], report: &mut Report) -> Option<Section<'v>> {
        Some(Section::new(&self.at(key), self.value(key)?, known, report))
    }
}

/// Control characters, and what Python takes for the end of a line besides.
fn is_break(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}
