//! Files of models, kept by content: `blobs/ab/abcd…`, named by their SHA-256.
//!
//! A registration first puts its files here, whole and synced, and only then writes its rows, so
//! whatever the rows name is there; a crash in between leaves at worst files that no row names.
//! Those are collected when the next registration finds the traces of a crash, and at every delete.
//!
//! Collecting must not meet a registration that has put a file here and not yet written its row. One
//! file lock keeps them apart: who needs blobs to stay shares it, who collects has it alone. The
//! kernel drops the locks of a process that dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{self, TempFile};
use super::lock::{self, Lock};
use super::record::ModelFile;
use super::source::SourceTree;
use super::workspace::Workspace;
use crate::error::{ErrorKind, Result, ScoreError};

/// How far a registration has come, told about once a mebibyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being copied.
    pub file: &'a str,
    /// How many files are done.
    pub files_done: usize,
    /// How many there are.
    pub files: usize,
    /// How many bytes are copied.
    pub bytes_done: u64,
    /// How many there were when the copying began.
    pub bytes: u64,
}

/// What [`Workspace::gc`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many files.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
}

/// While it lives, no blob is removed.
#[derive(Debug)]
pub(super) struct BlobsStay {
    _lock: Option<Lock>,
}

/// A registration under way: its blobs stay, and its unfinished files go when it ends.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    _stay: BlobsStay,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!("cannot remove '{}': {e}; the next registration will", self.folder.display());
        }
    }
}

impl Workspace {
    /// Removes files that no model names: what crashes left, and what deletes could not remove because
    /// somebody was registering or copying. `None` when somebody is doing so now.
    ///
    /// # Errors
    /// As [`Workspace::show`], and `Io` when a file cannot be removed.
    pub fn gc(&self) -> Result<Option<Collected>> {
        let Ok(_alone) = lock::try_take(self.blobs_lock(true)?, true)? else { return Ok(None) };
        let mut collected = Collected::default();
        let staging = self.root().join("staging");
        for path in entries(&staging)? {
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|e| ScoreError::io("remove what a crash left", &path, e))?;
        }
        let named = self.db.read(|tx| {
            let mut statement = tx.prepare("SELECT DISTINCT sha256 FROM model_files")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<rusqlite::Result<std::collections::HashSet<_>>>()?)
        })?;
        for folder in entries(&self.root().join("blobs"))? {
            for path in entries(&folder)? {
                if path.file_name().and_then(|n| n.to_str()).is_some_and(|name| named.contains(name)) {
                    continue;
                }
                let size_bytes = path.symlink_metadata().map_or(0, |meta| meta.len());
                std::fs::remove_file(&path).map_err(|e| ScoreError::io("remove the file", &path, e))?;
                collected.files += 1;
                collected.bytes += size_bytes;
            }
        }
        Ok(Some(collected))
    }

    /// Where the content with that hash is, or would be.
    pub(super) fn blob_path(&self, sha256: &str) -> Result<PathBuf> {
        let valid = sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match sha256.get(..2).filter(|_| valid) {
            Some(two) => Ok(self.root().join("blobs").join(two).join(sha256)),
            None => Err(ScoreError::new(
                ErrorKind::Io,
                format!("the registry is damaged: '{sha256}' is no SHA-256"),
            )),
        }
    }

    /// Keeps blobs from being removed while they are read.
    pub(super) fn keep_blobs(&self) -> Result<BlobsStay> {
        match self.blobs_lock(false) {
            Ok(file) => Ok(BlobsStay { _lock: Some(self.share(file)?) }),
            // A workspace on a read-only disk: nobody can remove anything there.
            Err(_) => Ok(BlobsStay { _lock: None }),
        }
    }

    /// Begins a registration.
    pub(super) fn stage(&self) -> Result<Staging> {
        let staging = self.root().join("staging");
        for folder in [&staging, &self.root().join("blobs")] {
            files::create_private_dir(folder)?;
        }
        if !entries(&staging)?.is_empty() {
            // Another registration, or what a crash left of one; then nobody holds the lock.
            if let Err(e) = self.gc() {
                tracing::warn!("cannot clean the workspace up: {e}");
            }
        }
        let stay = BlobsStay { _lock: Some(self.share(self.blobs_lock(true)?)?) };
        let folder = staging.join(uuid::Uuid::new_v4().simple().to_string());
        files::create_private_dir(&folder)?;
        Ok(Staging { folder, _stay: stay })
    }

    /// Copies the files of a model in. They stay for as long as the staging lives, and for good once
    /// a row names them.
    pub(super) fn take_in(
        &self,
        staging: &Staging,
        tree: &SourceTree,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Vec<ModelFile>> {
        let max_bytes = self.options().source_limits.max_bytes;
        let mut bytes_done = 0;
        let mut out = Vec::with_capacity(tree.files.len());
        for (files_done, source) in tree.files.iter().enumerate() {
            let temp = TempFile::name_in(&staging.folder);
            let copied = files::copy_hashed(&source.path, temp.path(), 0o400, &mut |bytes| {
                bytes_done += bytes;
                if bytes_done > max_bytes {
                    // It was smaller when the files were counted: somebody is writing to it.
                    let what =
                        format!("grew beyond {max_bytes} bytes while it was copied, the limit for one model");
                    return Err(ScoreError::new(ErrorKind::TooLarge, what).with_at(source.name.clone()));
                }
                let (file, files) = (source.name.as_str(), tree.files.len());
                progress(&Progress { file, files_done, files, bytes_done, bytes: tree.total_bytes });
                Ok(())
            })?;
            self.settle(temp, &copied.sha256)?;
            out.push(ModelFile {
                path: source.name.clone(),
                size_bytes: copied.size_bytes,
                sha256: copied.sha256,
            });
        }
        Ok(out)
    }

    /// Gives a synced file its name by content. One of that name is replaced: it is the same, or it
    /// was damaged.
    fn settle(&self, temp: TempFile, sha256: &str) -> Result<()> {
        let target = self.blob_path(sha256)?;
        let folder = target.parent().unwrap_or(&target);
        files::create_private_dir(folder)?;
        temp.replace(&target)?;
        files::sync_dir(folder)?;
        files::sync_dir(&self.root().join("blobs"))
    }

    /// The file whose lock keeps registrations and collections apart.
    fn blobs_lock(&self, create: bool) -> Result<File> {
        lock::open(&self.root().join("locks"), "blobs", create)
    }

    /// Waits for the lock, shared, no longer than for the database.
    fn share(&self, mut file: File) -> Result<Lock> {
        let deadline = Instant::now() + self.options().busy_timeout;
        loop {
            match lock::try_take(file, false)? {
                Ok(lock) => return Ok(lock),
                Err(taken) => file = taken,
            }
            if Instant::now() >= deadline {
                return Err(ScoreError::conflict(format!(
                    "another process is cleaning up the workspace '{}'; try again when it is done",
                    self.root().display()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a folder holds; nothing where there is no folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = |e| ScoreError::io("read the folder", folder, e);
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(read)?.path())).collect(),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(read(e)),
    }
}
