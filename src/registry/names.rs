//! Names, and what a person meant when no such name exists.
//!
//! Models and services have different rules, both Azure's. A model's name never holds a colon, so
//! `name:version` reads in one way only.

use std::fmt;
use std::str::FromStr;

use crate::error::{Result, ScoreError};

/// What is wrong with this name of a model, if anything is: `^[a-zA-Z0-9][a-zA-Z0-9\-\._]{0,254}$`.
pub(super) fn model_name_fault(name: &str) -> Option<String> {
    let mut chars = name.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let goes_on = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if starts && goes_on && name.len() <= 255 {
        return None;
    }
    Some(format!(
        "{} is not a model name: expected 1 to 255 letters, digits, '-', '.' and '_', the first a letter or digit",
        quoted(name)
    ))
}

/// What is wrong with this name of a service, if anything is: `^[a-z]([-a-z0-9]*[a-z0-9])?$`, 3 to 32.
pub(super) fn service_name_fault(name: &str) -> Option<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner)
        && !name.ends_with('-')
        && (3..=32).contains(&name.len());
    if fits {
        return None;
    }
    Some(format!(
        "{} is not a service name: expected 3 to 32 lower-case letters, digits and '-', \
         the first a letter, the last not '-'",
        quoted(name)
    ))
}

/// Checks the name of a service.
///
/// # Errors
/// `BadInput` with the rule.
pub fn check_service_name(name: &str) -> Result<()> {
    service_name_fault(name).map_or(Ok(()), |fault| Err(ScoreError::bad_input(fault)))
}

/// A name in quotes, its control characters escaped, cut where it is too long to print.
fn quoted(name: &str) -> String {
    let cut: String = name.chars().take(80).collect();
    let more = if cut.len() < name.len() { "…" } else { "" };
    format!("'{}{more}'", cut.escape_debug())
}

/// One registered model, or the latest of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelRef {
    name: String,
    version: Option<i64>,
}

impl ModelRef {
    /// The model of that name, at that version or (without one) the latest.
    ///
    /// # Errors
    /// `BadInput` when the name or the version cannot be one.
    pub fn new(name: impl Into<String>, version: Option<i64>) -> Result<Self> {
        let name = name.into();
        if let Some(fault) = model_name_fault(&name) {
            return Err(ScoreError::bad_input(fault));
        }
        match version {
            Some(v) if v < 1 => {
                Err(ScoreError::bad_input(format!("model '{name}': versions count from 1, got {v}")))
            }
            _ => Ok(Self { name, version }),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version; `None` means the latest.
    pub fn version(&self) -> Option<i64> {
        self.version
    }
}

impl FromStr for ModelRef {
    type Err = ScoreError;

    /// `name:version`, or a name alone for its latest version.
    fn from_str(text: &str) -> Result<Self> {
        let Some((name, version)) = text.split_once(':') else {
            return Self::new(text, None);
        };
        // Digits only: `parse` alone would also take a sign.
        let digits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
        match version.parse().ok().filter(|_| digits) {
            Some(version) => Self::new(name, Some(version)),
            None => Err(ScoreError::bad_input(format!(
                "{} is not a model id: expected 'name:version' with a whole number, or a name",
                quoted(text)
            ))),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}:{version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What a model was made with, as far as Azure has a name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[allow(missing_docs)] // the names say it
pub enum Framework {
    #[default]
    Custom,
    TensorFlow,
    ScikitLearn,
    Onnx,
    TfKeras,
    PyTorch,
    Multi,
}

impl Framework {
    /// Every framework, as Azure lists them.
    pub const ALL: [Framework; 7] = [
        Self::Custom,
        Self::TensorFlow,
        Self::ScikitLearn,
        Self::Onnx,
        Self::TfKeras,
        Self::PyTorch,
        Self::Multi,
    ];

    /// Its name as Azure spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Custom => "Custom",
            Self::TensorFlow => "TensorFlow",
            Self::ScikitLearn => "ScikitLearn",
            Self::Onnx => "Onnx",
            Self::TfKeras => "TfKeras",
            Self::PyTorch => "PyTorch",
            Self::Multi => "Multi",
        }
    }
}

impl FromStr for Framework {
    type Err = ScoreError;

    /// Upper and lower case do not matter.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            ScoreError::bad_input(format!(
                "unknown model framework {}: expected one of {known}",
                quoted(text)
            ))
        })
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The end of a "not found" message: the names that look like the one that was asked for, or what
/// there is.
pub(super) fn suggestion<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let wanted = wanted.to_lowercase();
    let bound = (wanted.chars().count() / 3).max(2);
    let mut near: Vec<(usize, &str)> =
        names.iter().map(|n| (edit_distance(&wanted, &n.to_lowercase()), *n)).collect();
    near.retain(|(distance, _)| *distance <= bound);
    near.sort();
    let list = |names: &mut dyn Iterator<Item = &str>| {
        names.map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
    };
    if !near.is_empty() {
        return format!("did you mean {}?", list(&mut near.iter().take(3).map(|(_, n)| *n)));
    }
    let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
    match names.is_empty() {
        true => "there is none yet".to_owned(),
        false => format!("there is {}{more}", list(&mut names.iter().take(8).copied())),
    }
}

/// How many characters must be put in, taken out or changed to make one text of the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        // `diagonal` is the cell above and to the left, `left` the one just written.
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let change = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = change.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn model_names() {
        let long = "a".repeat(255);
        for good in ["a", "9", "bidaf_onnx", "A.b-c_d", "resnet50.1.accelonnx", &long] {
            assert_eq!(model_name_fault(good), None, "{good}");
        }
        let too_long = "a".repeat(256);
        for bad in ["", "-a", ".a", "_a", "a b", "a:1", "a/b", "é", "aé", "a\n", &too_long] {
            assert!(model_name_fault(bad).is_some(), "{bad}");
        }
        assert!(!model_name_fault("a\n\u{1b}[31m").unwrap().contains('\u{1b}'), "escapes reach the terminal");
    }

    #[test]
    fn service_names() {
        let long = format!("a{}", "b".repeat(31));
        for good in ["abc", "a-c", "myservice", "s01", &long] {
            assert!(check_service_name(good).is_ok(), "{good}");
        }
        let too_long = format!("a{}", "b".repeat(32));
        for bad in ["", "ab", "Abc", "1bc", "ab-", "a_c", "a c", "abc\n", "../x", "äbc", &too_long] {
            assert_eq!(check_service_name(bad).unwrap_err().kind(), ErrorKind::BadInput, "{bad}");
        }
    }

    #[test]
    fn model_refs() {
        let parse = |text: &str| text.parse::<ModelRef>();
        assert_eq!(parse("digits:3").unwrap(), ModelRef::new("digits", Some(3)).unwrap());
        assert_eq!(parse("digits").unwrap().version(), None);
        assert_eq!(parse("d:9223372036854775807").unwrap().to_string(), "d:9223372036854775807");
        for bad in
            ["", ":", ":1", "d:", "d:0", "d:-1", "d:+1", "d: 1", "d:1:2", "d:x", "d:9223372036854775808"]
        {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::BadInput, "{bad}");
        }
    }

    #[test]
    fn frameworks_in_any_case() {
        for framework in Framework::ALL {
            assert_eq!(framework.name().to_uppercase().parse::<Framework>().unwrap(), framework);
        }
        let e = "sklearn".parse::<Framework>().unwrap_err().to_string();
        assert!(e.contains("ScikitLearn"), "{e}");
    }

    #[test]
    fn distances() {
        for (a, b, n) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("abc", "acb", 2),
            ("äb", "ab", 1),
        ] {
            assert_eq!(edit_distance(a, b), n, "{a} {b}");
            assert_eq!(edit_distance(b, a), n, "{b} {a}");
        }
    }

    #[test]
    fn suggestions() {
        let names = ["digits", "bidaf_onnx", "resnet50"];
        assert_eq!(suggestion("Digit", names), "did you mean 'digits'?");
        assert_eq!(suggestion("bidaf-onxx", names), "did you mean 'bidaf_onnx'?");
        assert_eq!(suggestion("x", names), "there is 'digits', 'bidaf_onnx', 'resnet50'");
        assert_eq!(suggestion("x", []), "there is none yet");
    }
}
