//! What the words of a descriptor are called: read from the kernels' own sources, so that there is no second list that could drift.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::super::sources;

static WORDS: LazyLock<HashMap<String, usize>> = LazyLock::new(|| parse(&sources::engine()));

/// A descriptor whose words are found by their names in the kernels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor<'w>(&'w [i32]);

impl<'w> Descriptor<'w> {
    pub(super) fn new(words: &'w [i32]) -> Self {
        Self(words)
    }

    /// A word, by its name; 0 for one that is not there.
    pub(super) fn word(&self, name: &str) -> i64 {
        self.at(name, 0)
    }

    /// A word so many behind the named one.
    pub(super) fn at(&self, name: &str, behind: usize) -> i64 {
        let place = WORDS.get(name).map(|at| at + behind);
        place.and_then(|at| self.0.get(at)).copied().unwrap_or(0).into()
    }

    /// A word that is a length.
    pub(super) fn length(&self, name: &str) -> u64 {
        u64::try_from(self.word(name)).unwrap_or(0)
    }
}

/// The enumerations of the sources: each name is one more than the one before it, or what it is set to (`= 6`, `= M_Y + 2`).
fn parse(source: &str) -> HashMap<String, usize> {
    let mut words = HashMap::new();
    for block in source.split("enum {").skip(1).filter_map(|rest| rest.split_once('}')) {
        let mut next = 0;
        for entry in block.0.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let (name, value) = entry.split_once('=').map_or((entry, None), |(n, v)| (n.trim(), Some(v)));
            if let Some(value) = value {
                let term = |t: &str| t.trim().parse().ok().or_else(|| words.get(t.trim()).copied());
                next = value.split('+').filter_map(term).sum();
            }
            words.insert(name.to_owned(), next);
            next += 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_places_that_the_compiler_gives_them() {
        let words = parse("enum { A_X = 0, A_Y = 2, A_Z,\n A_W = A_Z + 2, A_V };\nenum { B_X, B_Y };");
        let expected = [("A_X", 0), ("A_Y", 2), ("A_Z", 3), ("A_W", 5), ("A_V", 6), ("B_X", 0), ("B_Y", 1)];
        assert_eq!(words, expected.map(|(n, v)| (n.to_owned(), v)).into());
        assert_eq!((WORDS["M_X_IMAGE"], WORDS["M_X_TYPE"], WORDS["M_W"], WORDS["M_IMAGES"]), (2, 6, 31, 52));
    }
}
