//! What ends a transaction early.

use crate::error::ScoreError;

/// SQLite's error, not yet explained, or ours.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Told(ScoreError),
}

/// What happens inside a transaction.
pub(super) type Told<T> = std::result::Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl From<ScoreError> for Fault {
    fn from(e: ScoreError) -> Self {
        Self::Told(e)
    }
}
