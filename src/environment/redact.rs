//! Passwords in addresses, kept out of logs and messages.

use std::borrow::Cow;

/// The text with the user and password of every address in it replaced: `https://****@host/…`.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || "/\"'<>()[],".contains(c)).unwrap_or(after.len());
        let (authority, more) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("****@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = more;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_replaced_and_nothing_else() {
        for (text, shown) in [
            ("six==1.16", "six==1.16"),
            ("--index-url https://host/simple", "--index-url https://host/simple"),
            ("--index-url=https://user:p%40ss@host:1/simple", "--index-url=https://****@host:1/simple"),
            ("x @ git+https://token@host/a@b", "x @ git+https://****@host/a@b"),
            ("http://a:b@c, ('https://d:e@f')", "http://****@c, ('https://****@f')"),
            ("http://a:b@c@host/x", "http://****@host/x"),
            ("a://", "a://"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }
}
