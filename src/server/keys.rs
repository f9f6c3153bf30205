//! Keys: compared in constant time, and never printed.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use subtle::{Choice, ConstantTimeEq};

use super::tokens;
use crate::error::{Result, ScoreError};

/// What opens a service: one of its two keys, so that one can be changed while the other is in use; or a token
/// that was made of the first.
#[derive(Clone)]
pub struct Keys {
    primary: Box<[u8]>,
    secondary: Option<Box<[u8]>>,
    tokens: bool,
}

impl Keys {
    /// These keys.
    ///
    /// # Errors
    /// `BadConfig` when a key is empty or cannot stand in a header.
    pub fn new(primary: &str, secondary: Option<&str>) -> Result<Self> {
        for (name, key) in [("primary", Some(primary)), ("secondary", secondary)] {
            if let Some(key) = key
                && (key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()))
            {
                return Err(ScoreError::bad_config(format!(
                    "the {name} key must be visible ASCII characters without spaces, at least one"
                )));
            }
        }
        Ok(Self {
            primary: primary.as_bytes().into(),
            secondary: secondary.map(|k| k.as_bytes().into()),
            tokens: false,
        })
    }

    /// Tokens that are signed with this secret (JSON Web Tokens, HMAC-SHA256) and have not expired, and nothing
    /// else.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn tokens(secret: &str) -> Result<Self> {
        Ok(Self { tokens: true, ..Self::new(secret, None)? })
    }

    /// Whether the value of an `Authorization` header shows one of the keys or tokens, as `Bearer <key>`.
    pub fn open(&self, authorization: &[u8]) -> bool {
        let Some((scheme, key)) = authorization.split_at_checked(7) else { return false };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return false;
        }
        let key = key.trim_ascii();
        if self.tokens {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            return tokens::is_good(&self.primary, key, now.as_secs());
        }
        // Both are compared, so that the time does not tell which one it was.
        let secondary = self.secondary.as_deref().map_or(Choice::from(0), |k| k.ct_eq(key));
        (self.primary.as_ref().ct_eq(key) | secondary).into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} hidden)", 1 + usize::from(self.secondary.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_key_opens_and_nothing_else_does() {
        let keys = Keys::new("first", Some("second")).unwrap();
        let cases: &[(&[u8], bool)] = &[
            (b"Bearer first", true),
            (b"bearer second", true),
            (b"Bearer  first ", true),
            (b"Bearer firs", false),
            (b"Bearer firstt", false),
            (b"Bearer ", false),
            (b"Bearer", false),
            (b"first", false),
            (b"Basic first", false),
            (b"", false),
            (b"Bearer \xff", false),
        ];
        for (header, opens) in cases {
            assert_eq!(keys.open(header), *opens, "{}", String::from_utf8_lossy(header));
        }
        let tokens = Keys::tokens("first").unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = |key: &str, until| format!("Bearer {}", tokens::sign(key, "s", now, until));
        assert!(tokens.open(header("first", now + 60).as_bytes()));
        assert!(!tokens.open(header("first", now - 1).as_bytes()));
        assert!(!tokens.open(header("other", now + 60).as_bytes()));
        assert!(!tokens.open(b"Bearer first"), "a key is no token");
        assert!(!keys.open(header("first", now + 60).as_bytes()), "a token is no key");
        assert!(!format!("{keys:?} {tokens:?}").contains("first"));
        assert!(Keys::new("", None).is_err() && Keys::new("a b", None).is_err());
    }
}
