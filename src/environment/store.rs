//! Where environments are kept, below the home folder:
//!
//! ```text
//! environments/<hash>/                    the virtual environment
//! environments/<hash>/requirements.txt    what pip was given; mode 0600, as addresses may hold passwords
//! environments/<hash>/triscore.json       written last: what has it is whole
//! environments/<hash>.log                 what venv and pip printed
//! environments/<hash>.lock                held alone while it is built or removed, shared while it is in use
//! ```
//!
//! An environment is built in its place, as it cannot be moved: scripts in it name their interpreter. So
//! a build that was killed leaves a folder without `triscore.json`, which the next one throws away.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, ScoreError};
use crate::registry::lock::{self, Lock};

/// What is in an environment's folder besides Python's own files.
const MARK: &str = "triscore.json";

/// How many digits of a hash name a folder.
pub(super) const HASH_DIGITS: usize = 16;

/// What a whole environment says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mark {
    pub(super) hash: String,
    pub(super) interpreter: PathBuf,
    pub(super) python_version: String,
}

/// An environment that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// Its hash, which is also its folder's name.
    pub hash: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The version of its Python; `None` where it was never finished.
    pub python_version: Option<String>,
}

/// The place of one environment.
#[derive(Debug, Clone)]
pub(super) struct Place {
    root: PathBuf,
    /// The name.
    pub(super) hash: String,
}

impl Place {
    pub(super) fn new(home: &Path, hash: &str) -> Self {
        Self { root: root(home), hash: hash.chars().take(HASH_DIGITS).collect() }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(&self.hash)
    }

    pub(super) fn python(&self) -> PathBuf {
        self.folder().join("bin/python")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join(format!("{}.log", self.hash))
    }

    /// Takes the lock if it is free.
    pub(super) fn try_lock(&self, alone: bool) -> Result<Option<Lock>> {
        Ok(lock::try_take(lock::open(&self.root, &self.hash, true)?, alone)?.ok())
    }

    /// What a whole environment says of itself.
    pub(super) fn mark(&self) -> Option<Mark> {
        serde_json::from_slice(&fs::read(self.folder().join(MARK)).ok()?).ok()
    }

    /// Says that the environment is whole.
    pub(super) fn set_mark(&self, mark: &Mark) -> Result<()> {
        let text = serde_json::to_vec_pretty(mark)
            .map_err(|e| ScoreError::internal(format!("cannot write an environment's mark: {e}")))?;
        let (path, part) = (self.folder().join(MARK), self.folder().join(".triscore.json.part"));
        self.write(&part, &text)?;
        fs::rename(&part, &path).map_err(|e| ScoreError::io("put the file in place", &path, e))
    }

    /// Writes a file that only its owner may read.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let written = file.as_mut().map_err(|e| e.kind().into()).and_then(|file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|e| ScoreError::io("write", path, e))
    }

    /// Removes the environment, its mark first: half of it must not look whole.
    pub(super) fn clear(&self) -> Result<()> {
        let folder = self.folder();
        let _ = fs::remove_file(folder.join(MARK));
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(ScoreError::io("remove an environment", &folder, e))
            }
            _ => Ok(()),
        }
    }
}

/// From the root of the file system: the processes that use an environment run in other folders.
fn root(home: &Path) -> PathBuf {
    let root = home.join("environments");
    std::path::absolute(&root).unwrap_or(root)
}

/// The environments below a home folder, finished or not, by hash.
///
/// # Errors
/// `Io` when the folder cannot be read.
pub fn list(home: &Path) -> Result<Vec<Kept>> {
    let root = root(home);
    let entries = match fs::read_dir(&root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| ScoreError::io("list the environments", &root, e))?,
    };
    let mut kept = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_hash = name.len() == HASH_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash && entry.file_type().is_ok_and(|t| t.is_dir()) {
            let python_version = Place::new(home, &name).mark().map(|mark| mark.python_version);
            kept.push(Kept { hash: name, folder: entry.path(), python_version });
        }
    }
    kept.sort_by(|a, b| a.hash.cmp(&b.hash));
    Ok(kept)
}

/// Removes the environments that are not named, with their logs, and gives their hashes. One that is being
/// built, or that an [`Environment`](super::Environment) holds, stays.
///
/// # Errors
/// `Io` when one cannot be removed; those before it are.
pub fn remove_unused(home: &Path, keep: &[String]) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for kept in list(home)?.into_iter().filter(|kept| !keep.contains(&kept.hash)) {
        let place = Place::new(home, &kept.hash);
        if let Some(_alone) = place.try_lock(true)? {
            place.clear()?;
            let _ = fs::remove_file(place.log());
            removed.push(kept.hash);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_and_not_in_use_goes() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(list(home.path()).unwrap(), []);
        let places = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc", "dddddddddddddddd"]
            .map(|hash| Place::new(home.path(), hash));
        for place in &places {
            fs::create_dir_all(place.folder().join("bin")).unwrap();
            fs::write(place.log(), "").unwrap();
        }
        let mark = Mark {
            hash: places[0].hash.clone(),
            interpreter: "/usr/bin/python3".into(),
            python_version: "3.9.1".into(),
        };
        places[0].set_mark(&mark).unwrap();
        assert_eq!(places[0].mark(), Some(mark));
        fs::create_dir(home.path().join("environments/not-a-hash")).unwrap();
        let kept = list(home.path()).unwrap();
        assert_eq!(kept.len(), 4);
        assert_eq!(
            (kept[0].python_version.as_deref(), kept[1].python_version.as_deref()),
            (Some("3.9.1"), None)
        );

        let in_use = places[2].try_lock(false).unwrap();
        assert!(in_use.is_some() && places[2].try_lock(false).unwrap().is_some());
        let keep = [places[0].hash.clone()];
        let gone = vec![places[1].hash.clone(), places[3].hash.clone()];
        assert_eq!(remove_unused(home.path(), &keep).unwrap(), gone);
        assert!(!places[1].log().exists() && places[2].log().exists());
        drop(in_use);
        assert_eq!(remove_unused(home.path(), &keep).unwrap(), [places[2].hash.clone()]);
        assert_eq!(list(home.path()).unwrap().len(), 1);
        assert!(home.path().join("environments/not-a-hash").exists());
    }
}
