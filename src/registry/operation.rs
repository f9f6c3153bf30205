//! One operation at a time on a service: deploying, updating and deleting it exclude each other,
//! across processes.
//!
//! The lock is a file's that a service's name has for itself. What is written in the file only tells
//! the others who they are waiting for.

use std::fs::File;
use std::io::{Read, Seek, Write};

use serde::{Deserialize, Serialize};

use super::clock;
use super::lock::{self, Lock};
use super::names::check_service_name;
use super::workspace::Workspace;
use crate::error::{Result, ScoreError};

/// The right to change a service; given back when dropped.
#[derive(Debug)]
pub struct Operation {
    lock: Lock,
    service: String,
}

impl Operation {
    /// The service that it is about.
    pub fn service(&self) -> &str {
        &self.service
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // The note must not outlive the operation; the lock itself is let go after this.
        let _ = self.lock.file.set_len(0);
    }
}

/// What the holder of a lock says of itself.
#[derive(Serialize, Deserialize)]
struct Note {
    pid: u32,
    doing: String,
    since: String,
}

impl Workspace {
    /// Begins an operation on a service, which need not exist yet; `doing` tells others what it is
    /// ("deploying"). Does not wait.
    ///
    /// # Errors
    /// `Conflict` naming the process that is at work on it; `BadInput` when no service can have that
    /// name; `Io` when the workspace cannot be written to.
    pub fn begin_operation(&self, service: &str, doing: &str) -> Result<Operation> {
        check_service_name(service)?;
        let file = lock::open(&self.root().join("locks"), &format!("service-{service}"), true)?;
        let mut lock = match lock::try_take(file, true)? {
            Ok(lock) => lock,
            Err(file) => return Err(in_progress(service, file)),
        };
        let note = Note { pid: std::process::id(), doing: doing.to_owned(), since: clock::now() };
        let told = serde_json::to_vec(&note).map_err(std::io::Error::other).and_then(|note| {
            lock.file.set_len(0)?;
            lock.file.rewind()?;
            lock.file.write_all(&note)
        });
        if let Err(e) = told {
            tracing::warn!("cannot note who is {doing} service '{service}': {e}");
        }
        Ok(Operation { lock, service: service.to_owned() })
    }
}

fn in_progress(service: &str, held: File) -> ScoreError {
    let mut text = String::new();
    let _ = held.take(4096).read_to_string(&mut text);
    let who = match serde_json::from_str::<Note>(&text) {
        Ok(n) => format!("process {} has been {} it since {}", n.pid, n.doing, n.since),
        // The note of a holder that has just begun is not there yet.
        Err(_) => "another process has just begun it".to_owned(),
    };
    ScoreError::conflict(format!(
        "another operation is in progress on service '{service}': {who}; try again when it is done"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Workspace::open(dir.path()).unwrap(), Workspace::open(dir.path()).unwrap());
        let first = one.begin_operation("my-service", "deploying").unwrap();
        assert_eq!(first.service(), "my-service");
        let e = two.begin_operation("my-service", "deleting").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Conflict);
        let who = format!("process {} has been deploying it since 20", std::process::id());
        assert!(
            e.message().contains("another operation is in progress") && e.message().contains(&who),
            "{e}"
        );
        let other = two.begin_operation("other-service", "deploying").unwrap();
        drop(first);
        drop(two.begin_operation("my-service", "deleting").unwrap());
        drop(other);
        assert_eq!(one.begin_operation("../x", "deploying").unwrap_err().kind(), ErrorKind::BadInput);
    }
}
