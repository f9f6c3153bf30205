//! The few things done to files that must be right at a crash, and against links put in their place.
//!
//! A file counts as written once its bytes *and* its name are on disk: written under a temporary
//! name, synced, renamed, and the folder synced. This is the Unix way; the registry is for Unix.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, Result, ScoreError};

/// How much is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Opens a regular file for reading, following no link and never waiting for a pipe's other end.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    open(path, libc::O_NOFOLLOW)
}

fn open(path: &Path, flags: i32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => refuse(path, "is a symbolic link"),
        _ => ScoreError::io("open the file", path, e),
    })?;
    let meta = file.metadata().map_err(|e| ScoreError::io("look at the file", path, e))?;
    match meta.is_file() {
        true => Ok(file),
        false => Err(refuse(path, "is not a regular file")),
    }
}

fn refuse(path: &Path, what: &str) -> ScoreError {
    ScoreError::bad_input(format!("{what}; expected a regular file")).with_at(path.display().to_string())
}

/// Reads a small text file whole.
pub(super) fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    let mut text = String::new();
    open(path, 0)?
        .take(limit_bytes + 1)
        .read_to_string(&mut text)
        .map_err(|e| ScoreError::io("read the file as UTF-8 text", path, e))?;
    match text.len() as u64 > limit_bytes {
        true => Err(ScoreError::new(ErrorKind::TooLarge, format!("is larger than {limit_bytes} bytes"))
            .with_at(path.display().to_string())),
        false => Ok(text),
    }
}

/// Reads a JSON object: what serde reads for a struct may else be a list too.
pub(super) fn json_object<T: serde::de::DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    // Files written on Windows may begin with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
    T::deserialize(serde_json::Value::Object(object))
}

/// Creates a file that must not exist yet, with these permissions.
pub(super) fn create_new(path: &Path, mode: u32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(|e| ScoreError::io("create the file", path, e))
}

/// Creates a folder (and those above it) that only its owner may enter; one that exists stays as it is.
pub(super) fn create_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| ScoreError::io("create the folder", path, e))
}

/// Makes the names in a folder outlive a power cut.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| ScoreError::io("sync the folder", path, e))
}

/// A file under a temporary name: gone when dropped, unless it was renamed into place.
#[derive(Debug)]
pub(super) struct TempFile {
    path: Option<PathBuf>,
}

impl TempFile {
    /// A temporary name in that folder.
    pub(super) fn name_in(folder: &Path) -> Self {
        Self { path: Some(folder.join(format!(".triscore-{}.part", uuid::Uuid::new_v4().simple()))) }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Moves it to its place, over a file that may be there.
    pub(super) fn replace(mut self, target: &Path) -> Result<()> {
        std::fs::rename(self.path(), target)
            .map_err(|e| ScoreError::io("put the file in place", target, e))?;
        self.path = None;
        Ok(())
    }

    /// Moves it to its place, where nothing may be.
    pub(super) fn place(self, target: &Path) -> Result<()> {
        // A link is the one portable way to take a name only if it is free. Not every file system
        // has links; there the check comes before the move, and a racing writer loses.
        match std::fs::hard_link(self.path(), target) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(target)),
            Err(_) if target.symlink_metadata().is_ok() => Err(exists(target)),
            Err(_) => self.replace(target),
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // It may never have been created; what stays behind is found by its name.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The error for a file that would be overwritten.
pub(super) fn exists(target: &Path) -> ScoreError {
    ScoreError::conflict("exists already; ask for overwriting to replace it")
        .with_at(target.display().to_string())
}

/// Writes a small file at once: its old content, or the new, never a part.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let temp = TempFile::name_in(folder);
    let written = create_new(temp.path(), 0o644)?;
    (&written)
        .write_all(content)
        .and_then(|()| written.sync_all())
        .map_err(|e| ScoreError::io("write the file", path, e))?;
    temp.replace(path)?;
    sync_dir(folder)
}

/// Length and content hash of what was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) size_bytes: u64,
    pub(super) sha256: String,
}

/// Copies a file, hashing it on the way, and syncs the copy. `step` is told the length of each piece
/// and may end the copy.
pub(super) fn copy_hashed(
    from: &Path,
    to: &Path,
    mode: u32,
    step: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Copied> {
    let mut source = open_regular(from)?;
    let mut copy = create_new(to, mode)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut size_bytes = 0;
    loop {
        let count = match source.read(&mut buffer) {
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ScoreError::io("read the file", from, e)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        step(count as u64)?;
        hash.update(piece);
        copy.write_all(piece).map_err(|e| ScoreError::io("write the copy", to, e))?;
        size_bytes += count as u64;
    }
    copy.sync_all().map_err(|e| ScoreError::io("write the copy", to, e))?;
    Ok(Copied { size_bytes, sha256: hex(&hash.finalize()) })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}"); // a String never refuses
        out
    })
}

/// A relative path of plain names: nothing absolute, no `..`. `None` where it is not.
pub(super) fn plain_relative(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(out).filter(|p| !p.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_hashed_and_links_and_pipes_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (source, copy) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&source, "abc").unwrap();
        let mut steps = 0;
        let copied = copy_hashed(&source, &copy, 0o600, &mut |n| {
            steps += n;
            Ok(())
        })
        .unwrap();
        assert_eq!(copied.size_bytes, 3);
        assert_eq!(copied.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((steps, std::fs::read(&copy).unwrap()), (3, b"abc".to_vec()));

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&source, &link).unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (path, word) in
            [(&link, "symbolic link"), (&pipe, "regular file"), (&dir.path().to_owned(), "regular")]
        {
            let e = open_regular(path).unwrap_err();
            assert!(e.message().contains(word), "{e}");
        }
    }

    #[test]
    fn a_place_that_is_taken_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        let temp = |text: &str| {
            let temp = TempFile::name_in(dir.path());
            std::fs::write(temp.path(), text).unwrap();
            temp
        };
        temp("one").place(&target).unwrap();
        assert_eq!(temp("two").place(&target).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "one");
        temp("three").replace(&target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "three");
        drop(temp("four"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files stay behind");
    }

    #[test]
    fn plain_paths() {
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("./a/./b/", Some("a/b")),
            ("", None),
            (".", None),
            ("..", None),
            ("a/../b", None),
            ("/a", None),
        ] {
            assert_eq!(plain_relative(Path::new(path)), expected.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn small_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        write_whole(&path, b"12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read_text(&path, 4).unwrap_err().kind(), ErrorKind::TooLarge);
        write_whole(&path, &[0xff]).unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(read_text(&dir.path().join("gone"), 4).unwrap_err().kind(), ErrorKind::NotFound);
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(
            read_text(&pipe, 4).unwrap_err().kind(),
            ErrorKind::BadInput,
            "and does not wait for a writer"
        );
    }
}
