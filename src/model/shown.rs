//! Names out of a stranger's file, made fit for a message, a log line or a terminal.

/// How much of a name is shown.
const SHOWN_CHARS: usize = 100;

/// The name without control characters, cut where it is longer than anybody reads.
pub(crate) fn shown(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if i == SHOWN_CHARS {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_forge_a_log_line() {
        let cases = [
            ("conv1/Größe", "conv1/Größe".to_owned()),
            ("a\nERROR \u{1b}[31mb", "a\\nERROR \\u{1b}[31mb".to_owned()),
            (&"x".repeat(101), "x".repeat(100) + "…"),
            (&"x".repeat(100), "x".repeat(100)),
        ];
        for (name, expected) in cases {
            assert_eq!(shown(name), expected);
        }
    }
}
