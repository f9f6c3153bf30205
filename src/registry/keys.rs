//! The two keys of a service. They are given out where they are asked for by name, and nowhere else:
//! no `Debug`, no `Display` and no JSON of any record holds them.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use crate::error::{Result, ScoreError};

/// Text that is not shown by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A key as somebody chose it. It travels in an `Authorization` header, so it must fit into one.
    ///
    /// # Errors
    /// `BadInput` unless it is 1 to 1024 visible ASCII characters. The message does not hold it.
    pub fn new(key: impl Into<String>) -> Result<Self> {
        let key = key.into();
        match (1..=1024).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Self(key)),
            false => {
                Err(ScoreError::bad_input("a key is 1 to 1024 visible ASCII characters, without spaces"))
            }
        }
    }

    /// A new key of 32 characters, 122 bits of which are random.
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the key, found out in a time that tells nothing but its length.
    pub fn matches(&self, key: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(key).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Both keys. Either opens the service, so one can be changed while clients use the other.
#[derive(Debug, Clone)]
pub struct ServiceKeys {
    /// The first.
    pub primary: Secret,
    /// The second.
    pub secondary: Secret,
}

impl ServiceKeys {
    /// Two new keys.
    pub fn generate() -> Self {
        Self { primary: Secret::generate(), secondary: Secret::generate() }
    }

    /// Whether this is one of them. Both are compared, whatever the first says.
    pub fn accept(&self, key: &[u8]) -> bool {
        self.primary.matches(key) | self.secondary.matches(key)
    }
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The first.
    Primary,
    /// The second.
    Secondary,
}

impl FromStr for KeyKind {
    type Err = ScoreError;

    /// Upper and lower case do not matter.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "primary" => Ok(Self::Primary),
            "secondary" => Ok(Self::Secondary),
            _ => Err(ScoreError::bad_input("unknown key: expected 'Primary' or 'Secondary'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_show() {
        let keys = ServiceKeys { primary: Secret::new("hunter2").unwrap(), secondary: Secret::generate() };
        let shown = format!("{keys:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(keys.secondary.expose()), "{shown}");
        let e = Secret::new("hunter 2").unwrap_err();
        assert!(!format!("{e} {e:?}").contains("hunter"), "{e:?}");
    }

    #[test]
    fn either_key_is_accepted() {
        let keys =
            ServiceKeys { primary: Secret::new("one").unwrap(), secondary: Secret::new("two").unwrap() };
        for (key, ok) in
            [("one", true), ("two", true), ("", false), ("on", false), ("ones", false), ("onetwo", false)]
        {
            assert_eq!(keys.accept(key.as_bytes()), ok, "{key}");
        }
    }

    #[test]
    fn keys_fit_into_a_header() {
        let long = "k".repeat(1024);
        for good in ["k", "a+/=~!", &long] {
            assert!(Secret::new(good).is_ok(), "{good}");
        }
        let too_long = "k".repeat(1025);
        for bad in ["", " ", "a b", "a\n", "é", "\u{7f}", &too_long] {
            assert!(Secret::new(bad).is_err(), "{bad:?}");
        }
        let (a, b) = (Secret::generate(), Secret::generate());
        assert!(a.expose().len() == 32 && a.expose() != b.expose());
        assert_eq!("PRIMARY".parse::<KeyKind>().unwrap(), KeyKind::Primary);
        assert!("third".parse::<KeyKind>().is_err());
    }
}
