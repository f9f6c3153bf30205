//! The one database of a workspace: how it is opened, read, written, and what its errors mean.
//!
//! It keeps a rollback journal rather than a write-ahead log: registrations are rare, a reader then
//! needs no right to write, and a crash at any moment leaves one file and at most its journal, which
//! the next to open it rolls back. Every change begins with `BEGIN IMMEDIATE`, so two writers queue
//! up where they begin, and nobody fails half-way for a lock.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::fault::{Fault, Told};
use super::schema;
use crate::error::{ErrorKind, Result, ScoreError};

#[derive(Debug)]
pub(super) struct Db {
    conn: Mutex<Connection>,
    path: PathBuf,
    busy_timeout: Duration,
}

impl Db {
    /// Opens or creates the database of a workspace.
    pub(super) fn open(path: PathBuf, busy_timeout: Duration) -> Result<Self> {
        // The file is looked at by name only: closing a handle of our own to it would drop every
        // lock that SQLite holds on it in this process (the way POSIX locks are).
        if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(ScoreError::bad_config("is not a regular file; choose another workspace folder")
                .with_at(path.display().to_string()));
        }
        // rusqlite counts the milliseconds in an i32.
        let busy_timeout = busy_timeout.min(Duration::from_secs(3600));
        let explain = |fault| explain(&path, busy_timeout, fault);
        let conn = (|| -> Told<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut conn = Connection::open_with_flags(&path, flags)?;
            conn.busy_timeout(busy_timeout)?;
            // A new file is guarded before anything is in it (keys will be), and the journal takes the
            // mode of the database. Another program's file stays as it is: it is refused below.
            if path.metadata().is_ok_and(|meta| meta.len() == 0) {
                guard(&path);
            }
            // EXTRA also syncs the folder once the journal is gone, so a commit outlives a power cut.
            // Secure delete overwrites what is deleted: keys.
            conn.execute_batch(
                "PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;
                 PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;",
            )?;
            schema::migrate(&mut conn).map_err(|fault| match fault {
                Fault::Told(e) => Fault::Told(e.with_at(path.display().to_string())),
                sql => sql,
            })?;
            guard(&path);
            Ok(conn)
        })()
        .map_err(explain)?;
        Ok(Self { conn: Mutex::new(conn), path, busy_timeout })
    }

    /// Runs a reader: everything it sees is of one moment.
    pub(super) fn read<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Told<T>) -> Result<T> {
        self.run(TransactionBehavior::Deferred, f)
    }

    /// Runs a writer: all of it is kept, or nothing.
    pub(super) fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Told<T>) -> Result<T> {
        self.run(TransactionBehavior::Immediate, f)
    }

    fn run<T>(&self, how: TransactionBehavior, f: impl FnOnce(&Transaction<'_>) -> Told<T>) -> Result<T> {
        // A transaction of a thread that panicked was rolled back as it unwound.
        let mut conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        (|| {
            let tx = conn.transaction_with_behavior(how)?;
            let out = f(&tx)?;
            tx.commit()?;
            Ok(out)
        })()
        .map_err(|fault| explain(&self.path, self.busy_timeout, fault))
    }

    /// The error for a stored value that cannot be read back.
    pub(super) fn damaged(what: impl std::fmt::Display) -> Fault {
        Fault::Told(ScoreError::new(
            ErrorKind::Io,
            format!("the registry is damaged: {what}; restore registry.sqlite from a backup"),
        ))
    }
}

/// Lets only the owner at the database.
fn guard(path: &Path) {
    if path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        // Where this fails it is not our file, and then it is not ours to guard either.
        let _ = std::fs::set_permissions(path, Permissions::from_mode(0o600));
    }
}

/// What SQLite's error means to the person at the workspace.
fn explain(path: &Path, waited: Duration, fault: Fault) -> ScoreError {
    let e = match fault {
        Fault::Sql(e) => e,
        Fault::Told(e) => return e,
    };
    let folder = path.parent().unwrap_or(path).display();
    let (kind, message) = match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Conflict,
            format!(
                "another process holds the workspace '{folder}' (waited {:.1} s); try again when it is done",
                waited.as_secs_f64()
            ),
        ),
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::BadConfig,
            "is not an SQLite database; move it away, or choose another workspace folder".to_owned(),
        ),
        Some(ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Io, format!("the registry is damaged ({e}); restore it from a backup"))
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
            ErrorKind::Io,
            format!(
                "cannot write to the workspace '{folder}' ({e}); check its permissions, or choose another"
            ),
        ),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::Io, format!("the disk of the workspace '{folder}' is full; nothing was changed"))
        }
        Some(_) => (ErrorKind::Io, format!("the registry failed: {e}")),
        None => (ErrorKind::Internal, format!("the registry failed: {e}")),
    };
    ScoreError::new(kind, message).with_at(path.display().to_string()).with_source(e)
}
