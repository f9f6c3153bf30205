//! What there is to say about a file: violations, which make one error, and warnings, which travel with
//! the result. Both are bounded, however large and wrong the file is.

use std::fmt;

use serde_json::Value;

use crate::error::{Result, ScoreError};

/// Something in the file that does not do what its author may think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The key, as a path: `containerResourceRequirements.fpga`.
    pub key: String,
    /// What about it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// So many violations, and so many warnings, are listed; the rest is counted.
const MOST: usize = 50;

/// Gathers what is found, so that one run names everything.
#[derive(Debug, Default)]
pub(super) struct Report {
    violations: Vec<String>,
    warnings: Vec<Warning>,
    more_violations: usize,
    more_warnings: usize,
}

impl Report {
    /// This key breaks a rule: what was expected, and what is there.
    pub(super) fn violation(&mut self, key: &str, expected: impl fmt::Display, got: impl fmt::Display) {
        self.fault(format!("{key}: expected {expected}, got {got}"));
    }

    /// Something is wrong that is best said in words of its own.
    pub(super) fn fault(&mut self, message: impl Into<String>) {
        if self.violations.len() < MOST {
            self.violations.push(message.into());
        } else {
            self.more_violations += 1;
        }
    }

    /// This key is accepted, but.
    pub(super) fn warning(&mut self, key: &str, message: impl Into<String>) {
        if self.warnings.len() < MOST {
            self.warnings.push(Warning { key: key.to_owned(), message: message.into() });
        } else {
            self.more_warnings += 1;
        }
    }

    /// This key is not known: a violation where the object is ours, a warning where it is Azure's, whose
    /// tools ignore such keys.
    pub(super) fn unknown<'k>(
        &mut self,
        path: &str,
        key: &str,
        known: impl Iterator<Item = &'k str>,
        ours: bool,
    ) {
        if ours && self.violations.len() >= MOST {
            self.more_violations += 1;
        } else if !ours && self.warnings.len() >= MOST {
            self.more_warnings += 1;
        } else {
            // Only what is listed is compared, or a file of unknown keys would take its time.
            let known = known.collect::<Vec<_>>();
            let near = nearest(key, known.iter().copied());
            let (path, hint) = (join(path, &plain_name(key)), near.map(|k| format!(": did you mean '{k}'?")));
            match (ours, hint) {
                (true, Some(hint)) => self.violations.push(format!("{path}: unknown key{hint}")),
                (true, None) => {
                    self.violations.push(format!("{path}: unknown key: expected {}", either(&known)))
                }
                (false, hint) => {
                    self.warning(&path, format!("unknown key, ignored{}", hint.unwrap_or_default()));
                }
            }
        }
    }

    /// The warnings if nothing is violated.
    ///
    /// # Errors
    /// `BadConfig` with every violation, one a line.
    pub(super) fn close(self) -> Result<Vec<Warning>> {
        let Self { mut violations, mut warnings, more_violations, more_warnings } = self;
        if more_warnings > 0 {
            let message = format!("{more_warnings} more warnings are not listed");
            warnings.push(Warning { key: "…".to_owned(), message });
        }
        if violations.is_empty() {
            return Ok(warnings);
        }
        if more_violations > 0 {
            violations.push(format!("and {more_violations} more"));
        }
        Err(ScoreError::bad_config(violations.join("\n")))
    }
}

/// A key below a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A text from a file, fit for a message: no control characters, and not without end.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = text.chars().take(LONGEST).flat_map(char::escape_debug).collect::<String>();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// A key that nobody knows, as far as it looks like one: where a quote is missing, a name goes on through the
/// values that follow it, and they may be secret.
pub(super) fn plain_name(key: &str) -> String {
    const LONGEST: usize = 60;
    let is_plain = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    let mut out = key.chars().take(LONGEST).take_while(is_plain).collect::<String>();
    if out.len() < key.len() {
        out.push('…');
    }
    out
}

/// What a value is, in words; its content only where it is no secret.
pub(super) fn describe(value: &Value, secret: bool) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(_) if secret => "a number".to_owned(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) if secret => "a text".to_owned(),
        Value::String(text) => format!("the text '{}'", short(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// `a, b or c`.
pub(super) fn either(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// The known name that `text` was probably meant to be.
pub(super) fn nearest<'k>(text: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // No name of the contract is near this long.
    if text.len() > 64 {
        return None;
    }
    let plain =
        |s: &str| s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let wanted = plain(text);
    known
        .map(|name| (distance(&wanted, &plain(name)), name))
        .filter(|(far, name)| *far <= name.len() / 4 + usize::from(name.len() > 2))
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// How many letters must be added, removed or changed to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.chars().count()).collect::<Vec<_>>();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_letters() {
        for (a, b, far) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("cname", "cnam", 1), ("port", "prot", 2)]
        {
            assert_eq!(distance(a, b), far, "{a} {b}");
            assert_eq!(distance(b, a), far, "{b} {a}");
        }
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["authEnabled", "cname", "cpu", "gpu", "gpuCores", "numReplicas"];
        for (text, meant) in [
            ("authenabled", Some("authEnabled")),
            ("authEnabld", Some("authEnabled")),
            ("gpu_cores", Some("gpuCores")),
            ("gpuCore", Some("gpuCores")),
            ("numReplica", Some("numReplicas")),
            ("CPU", Some("cpu")),
            ("comment", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, known.into_iter()), meant, "{text}");
        }
        assert_eq!(nearest(&"a".repeat(1_000_000), known.into_iter()), None);
    }

    #[test]
    fn a_report_is_bounded() {
        let mut report = Report::default();
        for i in 0..100_000 {
            report.unknown("", &format!("key{i}"), ["port"].into_iter(), false);
        }
        let warnings = report.close().unwrap();
        assert_eq!(warnings.len(), MOST + 1);
        assert_eq!(warnings[MOST].message, "99950 more warnings are not listed");
        let mut report = Report::default();
        for i in 0..100_000 {
            report.violation("k", "less", i);
        }
        let message = report.close().unwrap_err().to_string();
        assert_eq!(message.lines().count(), MOST + 1);
        assert!(message.ends_with("and 99950 more"), "{message}");
        assert_eq!(short("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(short(&"é".repeat(100)).chars().count(), 61);
    }
}
