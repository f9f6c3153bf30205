//! The tables, and the steps from an older layout to this one.
//!
//! `user_version` counts the steps that a database has behind it. A step once released is never
//! edited: a change is a new step at the end.

use rusqlite::{Connection, TransactionBehavior};

use super::fault::{Fault, Told};
use crate::error::ScoreError;

/// Marks the file as ours, so that another program's database is never written to ("trsc").
const APPLICATION_ID: i32 = 0x7472_7363;

/// The steps, oldest first.
const MIGRATIONS: &[&str] = &[STEP_1, STEP_2];

const STEP_1: &str = "
-- Outlives its models: a version number is never given twice, even after a delete.
CREATE TABLE model_names (
    name TEXT PRIMARY KEY,
    last_version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE models (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of registration; clocks may jump
    name TEXT NOT NULL REFERENCES model_names (name),
    version INTEGER NOT NULL,
    description TEXT,
    tags TEXT NOT NULL,       -- JSON
    properties TEXT NOT NULL, -- JSON
    framework TEXT NOT NULL,
    framework_version TEXT,
    cpu REAL,
    memory_gb REAL,
    gpu INTEGER,
    fpga INTEGER,
    sample_input_dataset_id TEXT,
    sample_output_dataset_id TEXT,
    experiment_name TEXT,
    run_id TEXT,
    created_time TEXT NOT NULL,
    modified_time TEXT NOT NULL,
    UNIQUE (name, version)
) STRICT;

CREATE TABLE model_files (
    model INTEGER NOT NULL REFERENCES models (seq) ON DELETE CASCADE,
    path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (model, path)
) STRICT, WITHOUT ROWID;

-- One number line for the generations of all services: a service deleted and deployed anew under
-- its name never gets the number that its old process still holds.
CREATE TABLE generations (last INTEGER NOT NULL) STRICT;
INSERT INTO generations VALUES (0);

CREATE TABLE services (
    name TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    compute_type TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    description TEXT,
    tags TEXT NOT NULL,              -- JSON
    properties TEXT NOT NULL,        -- JSON
    deployment_config TEXT NOT NULL, -- JSON
    source_dir BLOB NOT NULL,        -- a path is bytes
    port INTEGER,
    pid INTEGER,
    pid_start_time INTEGER,
    device TEXT,
    created_time TEXT NOT NULL,
    updated_time TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE service_models (
    service TEXT NOT NULL REFERENCES services (name) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    model_id TEXT NOT NULL,
    PRIMARY KEY (service, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX service_models_by_model ON service_models (model_id);

CREATE TABLE service_keys (
    service TEXT PRIMARY KEY REFERENCES services (name) ON DELETE CASCADE,
    primary_key TEXT NOT NULL,
    secondary_key TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

const STEP_2: &str = "
-- What kind of error a service's reason is, and how the last update failed: JSON.
ALTER TABLE services ADD COLUMN error_kind TEXT;
ALTER TABLE services ADD COLUMN failed_update TEXT;

-- The next version of a service, beside the one that serves, until it takes its place or is given up.
CREATE TABLE service_candidates (
    service TEXT PRIMARY KEY REFERENCES services (name) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    stage TEXT NOT NULL,
    compute_type TEXT NOT NULL,
    description TEXT,
    tags TEXT NOT NULL,              -- JSON
    properties TEXT NOT NULL,        -- JSON
    deployment_config TEXT NOT NULL, -- JSON
    source_dir BLOB NOT NULL,
    primary_key TEXT,                -- both, or the service's stay
    secondary_key TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE candidate_models (
    service TEXT NOT NULL REFERENCES service_candidates (service) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    model_id TEXT NOT NULL,
    PRIMARY KEY (service, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX candidate_models_by_model ON candidate_models (model_id);
";

/// Brings the database to the newest layout, or says why it cannot be used.
pub(super) fn migrate(conn: &mut Connection) -> Told<()> {
    if steps_done(conn)? == MIGRATIONS.len() {
        return Ok(());
    }
    // Looked at again under the lock: another process may have done it meanwhile.
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in MIGRATIONS.iter().skip(steps_done(&tx)?) {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    Ok(tx.commit()?)
}

fn steps_done(conn: &Connection) -> Told<usize> {
    // One statement, so that all three are of one moment.
    let (ours, done, tables): (i32, i64, i64) = conn.query_row(
        "SELECT (SELECT application_id FROM pragma_application_id),
                (SELECT user_version FROM pragma_user_version),
                (SELECT count(*) FROM sqlite_schema)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    if ours != APPLICATION_ID && (ours, done, tables) != (0, 0, 0) {
        return Err(Fault::Told(ScoreError::bad_config(
            "is an SQLite database of another program, not a registry; choose another workspace folder",
        )));
    }
    usize::try_from(done).ok().filter(|done| *done <= MIGRATIONS.len()).ok_or_else(|| {
        Fault::Told(ScoreError::unsupported(format!(
            "was written by a newer version of this program (layout {done}; this one knows layouts up to {}); \
             use the newer one, or another workspace folder",
            MIGRATIONS.len()
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn told(outcome: Told<()>) -> ErrorKind {
        match outcome.unwrap_err() {
            Fault::Told(e) => e.kind(),
            Fault::Sql(e) => panic!("{e}"),
        }
    }

    #[test]
    fn a_new_database_is_brought_up_once() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).ok().unwrap();
        migrate(&mut conn).ok().unwrap();
        let done: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(done, 2);
    }

    /// A database of the first layout keeps what is in it.
    #[test]
    fn the_first_layout_is_brought_up_with_its_services() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(STEP_1).unwrap();
        conn.execute_batch(
            "INSERT INTO services (name, generation, compute_type, state, tags, properties, deployment_config,
                 source_dir, created_time, updated_time)
             VALUES ('abc', 1, 'local', 'Failed', '{}', '{}', '{}', x'2f', 't', 't')",
        )
        .unwrap();
        conn.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        migrate(&mut conn).ok().unwrap();
        let (name, kind): (String, Option<String>) = conn
            .query_row("SELECT name, error_kind FROM services", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!((name.as_str(), kind), ("abc", None));
    }

    #[test]
    fn strangers_and_the_future_are_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_eq!(told(migrate(&mut conn)), ErrorKind::BadConfig);

        for version in [3, 99, -1] {
            let mut conn = Connection::open_in_memory().unwrap();
            migrate(&mut conn).ok().unwrap();
            conn.pragma_update(None, "user_version", version).unwrap();
            assert_eq!(told(migrate(&mut conn)), ErrorKind::Unsupported, "{version}");
        }
    }
}
