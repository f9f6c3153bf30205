//! Locks among processes: the kernel's, on files that are there for nothing else.
//!
//! A process that dies lets go of its locks, however it dies, so there are no stale ones to recognise.
//! The files are never removed: whoever opened one just before would lock what nobody else finds.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::files;
use crate::error::{ErrorKind, Result, ScoreError};

/// A lock that is held; let go when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that another thread is just starting holds a copy
        // of it until it runs its own program.
        let _ = self.file.unlock();
    }
}

/// Opens the file of a lock, creating it (and its folder) where that is asked for.
pub(crate) fn open(folder: &Path, name: &str, create: bool) -> Result<File> {
    if create {
        files::create_private_dir(folder)?;
    }
    let path = folder.join(format!("{name}.lock"));
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(create)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    options.open(&path).map_err(|e| ScoreError::io("open the lock", &path, e))
}

/// Takes the lock, alone or shared, if it is free; gives the file back where it is not.
pub(crate) fn try_take(file: File, alone: bool) -> Result<std::result::Result<Lock, File>> {
    let taken = if alone { file.try_lock() } else { file.try_lock_shared() };
    match taken {
        Ok(()) => Ok(Ok(Lock { file })),
        Err(TryLockError::WouldBlock) => Ok(Err(file)),
        Err(TryLockError::Error(e)) => {
            let what = format!("cannot lock a file of the workspace: {e}");
            Err(ScoreError::new(ErrorKind::Io, what).with_source(e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_when_it_is_dropped_even_if_a_copy_of_the_file_lives() {
        let dir = tempfile::tempdir().unwrap();
        let take = |alone| try_take(open(dir.path(), "x", true).unwrap(), alone).unwrap();
        let (one, two) = (take(false).unwrap(), take(false).unwrap());
        assert!(take(true).is_err());
        let _copy = one.file.try_clone().unwrap();
        drop((one, two));
        let alone = take(true).unwrap();
        assert!(take(false).is_err());
        drop(alone);
        assert!(take(false).is_ok());
        assert!(open(dir.path(), "y", false).is_err());
    }
}
