//! Error texts: what the parser said, in words that say what to do.

use crate::error::ScoreError;

/// A name from a body in a message is cut to so many characters.
const NAME_CHARS: usize = 64;

/// What is wrong with a body that is not JSON.
pub(super) fn syntax(body: &[u8], e: &serde_json::Error) -> ScoreError {
    if let Err(utf8) = std::str::from_utf8(body) {
        return ScoreError::bad_input(format!("Input cannot be decoded as UTF-8: {utf8}"));
    }
    let hint = match literal_at(body, e.line(), e.column()) {
        Some(literal) => format!(": {literal} is not JSON; send a finite number"),
        None => String::new(),
    };
    ScoreError::bad_input(format!("POST body could not be decoded as JSON: {e}{hint}"))
}

/// The Python literal on which the parser stopped, if it is one.
fn literal_at(body: &[u8], line: usize, column: usize) -> Option<&'static str> {
    let before = line.checked_sub(1)?;
    let start = match before {
        0 => 0,
        _ => body.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(before - 1)?.0 + 1,
    };
    // The column is that of the last byte read, which may be the second of the literal.
    let at = start + column;
    (at.saturating_sub(2)..=at).find_map(|i| {
        let rest = body.get(i..)?;
        ["NaN", "Infinity", "-Infinity"].into_iter().find(|l| rest.starts_with(l.as_bytes()))
    })
}

/// A name from outside, quoted and cut.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("'{}…'", name.get(..end).unwrap_or_default()),
        None => format!("'{name}'"),
    }
}

/// Names as `'a', 'b'`.
pub(super) fn name_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// The name that was probably meant: equal but for case, or at most two letters away.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > NAME_CHARS {
        return None;
    }
    let far = |name: &str| match name.eq_ignore_ascii_case(wrong) {
        true => 0,
        false => distance(wrong, name),
    };
    let close = names.filter(|n| n.len() <= NAME_CHARS).map(|n| (far(n), n));
    // Two letters away from a name of two letters is any name at all.
    close.filter(|(d, n)| *d <= 2 && *d < n.chars().count()).min_by_key(|(d, _)| *d).map(|(_, n)| n)
}

/// How many letters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.chars().count()).collect::<Vec<_>>();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (to, cell) in b.chars().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["input_ids", "attention_mask", "x"];
        let cases = [
            ("input_id", Some("input_ids")),
            ("Input_IDs", Some("input_ids")),
            ("inptu_ids", Some("input_ids")),
            ("atention_msk", Some("attention_mask")),
            ("X", Some("x")),
            ("y", None),
            ("tokens", None),
        ];
        for (wrong, meant) in cases {
            assert_eq!(nearest(wrong, names.into_iter()), meant, "{wrong}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "")), (3, 2, 2));
        assert_eq!(quoted(&"é".repeat(70)).chars().count(), 67);
    }
}
