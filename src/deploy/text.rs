//! From the bytes of a file to a checked [`Value`], whatever the bytes are.
//!
//! Azure's tools read YAML first and JSON second. YAML is almost a superset of JSON, and the "almost"
//! hurts: tabs are no indentation in YAML, and its messages speak of block mappings to somebody who
//! forgot a comma. So what opens with a brace is read as JSON first; only when that fails is it
//! tried as YAML (flow style, comments, a trailing comma), and when both fail the JSON message stands.
//!
//! Both ways end in the same visitor, which refuses what a plain `Value` would swallow: a key given twice
//! (the last one would win, silently) and nesting without end.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{ErrorKind, Result, ScoreError};

/// The largest file that is read. Real ones have a few hundred bytes; certificates are named, not held.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// The deepest nesting that is read. The deepest of the contracts, a pip requirement in an
/// environment, lies at 7.
const MAX_DEPTH: usize = 16;

/// The bytes of a configuration file, for [`parse`], or of another file that is small where nothing is wrong: all of
/// them, or [`MAX_BYTES`] and one more of a larger one.
///
/// # Errors
/// `NotFound` or `Io` with what was to be done.
pub(crate) fn read(path: &Path, doing: &str) -> Result<Vec<u8>> {
    let io = |e| ScoreError::io(doing, path, e);
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that a larger file (or a device without end) shows.
    let most = MAX_BYTES as u64 + 1;
    File::open(path).map_err(io)?.take(most).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Reads JSON or YAML into a value without duplicate keys.
///
/// # Errors
/// `TooLarge` over [`MAX_BYTES`]; else `BadConfig` with line and column where there is one. No message
/// repeats the text of the file: it may hold keys.
pub(super) fn parse(bytes: &[u8]) -> Result<Value> {
    if bytes.len() > MAX_BYTES {
        return Err(ScoreError::new(
            ErrorKind::TooLarge,
            format!("expected at most {MAX_BYTES} bytes, got {}", bytes.len()),
        ));
    }
    let text = decode(bytes)?;
    let start = text.trim_start();
    if start.is_empty() {
        return Err(ScoreError::bad_config("expected a JSON or YAML object, got an empty file"));
    }
    if !start.starts_with('{') {
        return yaml(text);
    }
    match json(text) {
        Ok(value) => Ok(value),
        // Not a matter of syntax: YAML would find the same.
        Err(e) if e.is_data() => Err(ScoreError::bad_config(e.to_string())),
        Err(e) => yaml(text).map_err(|_| ScoreError::bad_config(format!("not valid JSON: {e}"))),
    }
}

/// UTF-8, with or without a byte order mark.
pub(super) fn decode(bytes: &[u8]) -> Result<&str> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        let message = "expected UTF-8 text, got UTF-16 (as PowerShell's '>' writes it): save it as UTF-8";
        return Err(ScoreError::bad_config(message));
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|e| {
        let message = format!("expected UTF-8 text, got something else at byte {}", e.valid_up_to());
        ScoreError::bad_config(message)
    })
}

fn json(text: &str) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Checked { parent: None, depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

fn yaml(text: &str) -> Result<Value> {
    let options = serde_saphyr::options! {
        // What it may cost to read a file that was written to be expensive.
        budget: serde_saphyr::budget! {
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: 100,
            max_anchors: 100,
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_events: 200_000,
            max_merge_keys: 100,
            max_nodes: 100_000,
            max_total_scalar_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: MAX_DEPTH,
        },
        // The visitor below finds them, and names the whole path.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        // Nothing is guessed: `yes` and `0123` are texts, and a key that wants something else says so.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        emit_comments: false,
        // A snippet would show the keys in the file.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Document>(text, options)
        .map(|Document(value)| value)
        .map_err(|e| ScoreError::bad_config(format!("not valid YAML: {}", first_line(&e.to_string()))))
}

/// Enough of a parser's message to act on, and never more than one line of it.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(200).collect()
}

struct Document(Value);

impl<'de> serde::Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> std::result::Result<Self, D::Error> {
        Checked { parent: None, depth: 0 }.deserialize(reader).map(Document)
    }
}

/// Where the visitor is: a list that grows down the stack, so that it costs nothing until it is printed.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    key: &'a str,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}.")?;
        }
        f.write_str(&super::report::plain_name(self.key))
    }
}

/// Reads any value, and refuses duplicate keys and deep nesting on the way.
#[derive(Clone, Copy)]
struct Checked<'a> {
    parent: Option<&'a Place<'a>>,
    depth: usize,
}

impl Checked<'_> {
    fn descend<E: serde::de::Error>(&self) -> std::result::Result<usize, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("expected at most {MAX_DEPTH} levels of nesting, got more")));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, true, false, a number, a text, a list or an object")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("expected a finite number"))
    }
    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let depth = self.descend()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Checked { parent: self.parent, depth })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let depth = self.descend()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = Place { parent: self.parent, key: &key };
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key '{place}' is given twice: remove one")));
            }
            let value = entries.next_value_seed(Checked { parent: Some(&place), depth })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_and_yaml_give_the_same_value() {
        let expected = json!({ "a": 1, "b": { "c": [true, null, "x", 0.5] } });
        for text in [
            r#"{"a": 1, "b": {"c": [true, null, "x", 0.5]}}"#,
            "\u{FEFF}{\n\t\"a\": 1,\n\t\"b\": {\n\t\t\"c\": [true, null, \"x\", 0.5]\n\t}\n}\n",
            "\r\n  {\"a\": 1,\r\n \"b\": {\"c\": [true, null, \"x\", 0.5]}}\r\n",
            "a: 1\nb:\n  c: [true, ~, x, 0.5]\n",
            "\u{FEFF}---\n# a comment\na: 1\nb: {c: [true, null, 'x', 5e-1]}\n...\n",
        ] {
            assert_eq!(parse(text.as_bytes()).expect(text), expected, "{text}");
        }
        assert_eq!(parse(b"{a: 1, # flow style, and a comma too many\n}").unwrap(), json!({ "a": 1 }));
    }

    #[test]
    fn yaml_guesses_nothing() {
        let text =
            "a: yes\nb: No\nc: on\nd: 0123\ne: 1_000\nf: '1'\ng: TRUE\nh:\ni: 0x10\nj: 1e3\nk: 2021-01-01\n";
        let expected = json!({
            "a": "yes", "b": "No", "c": "on", "d": "0123", "e": "1_000", "f": "1", "g": true, "h": null,
            "i": 16, "j": 1000.0, "k": "2021-01-01",
        });
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        let merged = parse(b"base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n").unwrap();
        assert_eq!(merged["use"], json!({ "x": 1, "y": 3 }));
    }

    #[test]
    fn what_is_wrong_is_named_and_never_shown() {
        let many = "x: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned() + &bomb();
        let deep_json = format!("{{\"a\":{}1{}}}", "[".repeat(40), "]".repeat(40));
        let deep_yaml = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));
        let deeper = format!("{{\"a\":{}", "[".repeat(500_000));
        let block = (0..40).map(|i| format!("{}k:\n", " ".repeat(i))).collect::<String>();
        let cases: [(&[u8], &str); 21] = [
            (b"", "empty file"),
            (b" \n\t", "empty file"),
            (b"\xEF\xBB\xBF", "empty file"),
            (b"\xFF\xFE{\0}\0", "UTF-16"),
            (b"{\"a\": \"\xC3\x28\"}", "UTF-8 text, got something else at byte 7"),
            (b"{\"a\": 1, \"a\": 2}", "the key 'a' is given twice"),
            (b"{\"k\": {\"a\": 1, \"b\": 1, \"a\": 2}}", "the key 'k.a' is given twice"),
            (b"k:\n  a: 1\n  a: 1\n", "the key 'k.a' is given twice"),
            (b"{\n  \"a\": 1\n  \"b\": 2\n}", "not valid JSON: expected `,` or `}` at line 3 column 3"),
            (b"{\"a\": 1} x", "not valid JSON: trailing characters at line 1 column 10"),
            (b"{\"a\": NaN: 1}", "not valid JSON: expected value at line 1 column 7"),
            (b"{\"a\": 1e999}", "not valid JSON: number out of range"),
            (b"a: .nan\n", "not valid YAML"),
            (b"a: [1\n", "not valid YAML"),
            (b"a: 1\n---\nb: 2\n", "not valid YAML"),
            (b"a: *nothing\n", "not valid YAML"),
            (deep_json.as_bytes(), "16 levels"),
            (deep_yaml.as_bytes(), "not valid YAML"),
            (deeper.as_bytes(), "16 levels"),
            (block.as_bytes(), "not valid YAML"),
            (many.as_bytes(), "not valid YAML"),
        ];
        for (bytes, expected) in cases {
            let text = String::from_utf8_lossy(bytes).chars().take(60).collect::<String>();
            let e = parse(bytes).expect_err(&text);
            assert_eq!(e.kind(), ErrorKind::BadConfig, "{text}");
            assert!(e.to_string().contains(expected), "{text}\n  expected: {expected}\n  got: {e}");
        }
        for text in
            ["primaryKey: s3cret: 1\n", "{\"primaryKey\": \"s3cret\" 1}", "primaryKey: !!int s3cret\n"]
        {
            let e = parse(text.as_bytes()).expect_err(text);
            assert!(!format!("{e:?} {e}").contains("s3cret"), "{e:?}");
        }
        assert_eq!(parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    /// Ten lists of ten times the one before: ten thousand million numbers in 400 bytes.
    fn bomb() -> String {
        let line = |(a, b): (char, char)| format!("{b}: &{b} [{}]\n", vec![format!("*{a}"); 10].join(","));
        ('a'..'j').zip('b'..='j').map(line).collect()
    }
}
