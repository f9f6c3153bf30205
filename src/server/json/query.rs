//! A query string as the body that it stands for.

use serde::de::IgnoredAny;

/// `x=[[1,2]]&name=fox` as `{"x":[[1,2]],"name":"fox"}`: each value as JSON where it is JSON and as text
/// where it is not; a name that stands more than once becomes an array.
pub fn query_to_json(query: &str) -> Vec<u8> {
    let mut values: Vec<(String, Vec<String>)> = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        let is_json = serde_json::from_str::<IgnoredAny>(&value).is_ok();
        let value = if is_json { value } else { text(&value) };
        match values.iter_mut().find(|(n, _)| *n == name) {
            Some((_, all)) => all.push(value),
            None => values.push((name, vec![value])),
        }
    }
    let entry = |(name, all): &(String, Vec<String>)| match all.as_slice() {
        [one] => format!("{}:{one}", text(name)),
        _ => format!("{}:[{}]", text(name), all.join(",")),
    };
    format!("{{{}}}", values.iter().map(entry).collect::<Vec<_>>().join(",")).into_bytes()
}

/// A JSON string.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// `+` is a space and `%C3%BC` is an ü; what is no valid escape stands for itself.
fn decoded(part: &str) -> String {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(*first),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_as_a_body() {
        let cases = [
            ("", "{}"),
            ("x=1", r#"{"x":1}"#),
            ("x=[[1,2]]&y=fox", r#"{"x":[[1,2]],"y":"fox"}"#),
            ("x=%5B1%2C+2%5D", r#"{"x":[1, 2]}"#),
            ("x=1&x=two&x=", r#"{"x":[1,"two",""]}"#),
            ("q%22=a%22b+%C3%BC", r#"{"q\"":"a\"b ü"}"#),
            ("x=%zz%4", r#"{"x":"%zz%4"}"#),
            ("flag", r#"{"flag":""}"#),
        ];
        for (query, body) in cases {
            assert_eq!(String::from_utf8(query_to_json(query)).unwrap(), body, "{query}");
        }
    }
}
