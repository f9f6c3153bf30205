//! A service's log on disk, bounded: the newest text in one file, what came before it in a second.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Result, ScoreError};

/// A log file that several processes append to, and that never grows far past its limit.
///
/// Past the limit the text moves to `<name>.1`, over what was there. It is copied and the file is emptied,
/// not renamed: other processes hold the same file open as their standard error and append to it.
/// What they write between the copy and the emptying, an instant, is lost.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    limit_bytes: u64,
    file: Mutex<File>,
}

impl LogFile {
    /// The size at which the text moves, unless a caller says otherwise.
    pub const LIMIT_BYTES: u64 = 16 << 20;

    /// Opens the file to append to it, and makes it (for its owner alone) when there is none.
    ///
    /// # Errors
    /// `Io` or `NotFound` when the system refuses it.
    pub fn open(path: impl Into<PathBuf>, limit_bytes: u64) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = path.into();
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|e| ScoreError::io("open the log", &path, e))?;
        Ok(Self { path, limit_bytes, file: Mutex::new(file) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends text as it is, moving what is there first when it would pass the limit.
    ///
    /// # Errors
    /// The system's: a full disk, mostly. The text is lost then; the file stays usable.
    pub fn append(&self, text: &str) -> std::io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked every time: others append too.
        let size = file.metadata()?.len();
        if size > 0 && size.saturating_add(text.len() as u64) > self.limit_bytes {
            // When the copy fails (a full disk), emptying is what helps.
            let copied = self.keep(&mut file);
            file.set_len(0)?;
            copied?;
        }
        file.write_all(text.as_bytes())
    }

    /// Copies the text to the second file, at most the limit's worth of its end.
    fn keep(&self, file: &mut File) -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        let mut kept = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(name)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(self.limit_bytes)))?;
        std::io::copy(&mut file.take(self.limit_bytes), &mut kept).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_the_text_and_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.log");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let second = folder.path().join("service.log.1");
        std::fs::write(&path, "older\n").unwrap();
        let log = LogFile::open(&path, 20).unwrap();
        log.append("line 1\n").unwrap();
        // Somebody else, with a descriptor of their own.
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        other.write_all(b"other\n").unwrap();
        assert_eq!(read(&path), "older\nline 1\nother\n");
        log.append("line 2\n").unwrap();
        assert_eq!((&*read(&path), &*read(&second)), ("line 2\n", "older\nline 1\nother\n"));
        other.write_all(b"other 2\n").unwrap();
        assert_eq!(read(&path), "line 2\nother 2\n", "appended where the file ends now");
        // One text longer than the limit is written whole; of the file before it, the end is kept.
        log.append(&"x".repeat(30)).unwrap();
        log.append("y\n").unwrap();
        assert_eq!((&*read(&path), &*read(&second)), ("y\n", &*"x".repeat(20)));
        assert!(LogFile::open(folder.path().join("none/log"), 1).is_err());
    }
}
