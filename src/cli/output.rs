//! How results and errors look: tables for people, JSON for programs.

use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use triscore::{Result, ScoreError};

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the reader is a program.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: its JSON, or what `text` makes for a person.
    pub(crate) fn result(self, json: &Value, text: impl FnOnce() -> String) -> Result<()> {
        let mut line = if self.json { pretty(json) } else { text() };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        super::print(line.as_bytes())
    }

    /// A remark that is not the result: to standard error, and not at all for programs.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// An error: what, where, and what caused it.
    pub(crate) fn error(self, e: &ScoreError) {
        let row = e.row();
        let error = json!({
            "kind": row.name,
            "message": e.message(),
            "at": e.at(),
            "retryable": row.retryable,
            "exitCode": row.exit_code,
        });
        self.to_stderr(&e.to_string(), error);
    }

    /// Arguments that cannot be read.
    pub(crate) fn misused(self, text: &str, exit_code: u8) {
        let error = json!({
            "kind": "usage", "message": text, "at": null, "retryable": false, "exitCode": exit_code,
        });
        self.to_stderr(text, error);
    }

    fn to_stderr(self, text: &str, error: Value) {
        let line = match self.json {
            true => pretty(&json!({ "error": error })),
            false => format!("error: {text}"),
        };
        // Not `eprintln`, which panics where standard error is closed or full.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

fn pretty(json: &Value) -> String {
    // Serialising a value that is JSON already cannot fail.
    serde_json::to_string_pretty(json).unwrap_or_default()
}

/// A table without lines, one row a line, so that `grep` and `cut` work on it.
pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !head.is_empty() {
        table.set_header(head.iter().map(|h| h.to_uppercase()));
    }
    table
}

/// A size for people: `127.9 kB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).unwrap_or(&"TB"))
}

/// A table's text without the blanks around it.
pub(crate) fn text(table: &Table) -> String {
    table
        .lines()
        .map(|l| l.trim_end().strip_prefix(' ').unwrap_or_default().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (127_864, "127.9 kB"),
            (999_999, "1.0 MB"),
            (2_500_000_000, "2.5 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
