//! Copying folders, and putting one into its place.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, ScoreError};

/// A folder is not deeper than this, or it holds itself by way of a mount.
const MAX_DEPTH: usize = 64;

/// Copies a file or a folder with everything in it. A link is copied as a link if what it leads to comes along.
///
/// # Errors
/// `BadInput` for what cannot be in a package: pipes, sockets, links that lead out of the folder. `Io`.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let root = from.canonicalize().map_err(|e| ScoreError::io("read", from, e))?;
    copy_below(&root, &root, to, 0)
}

fn copy_below(root: &Path, from: &Path, to: &Path, depth: usize) -> Result<()> {
    let refuse = |what: &str| {
        Err(ScoreError::bad_input(format!("{what}: it cannot be packaged"))
            .with_at(from.display().to_string()))
    };
    let kind = from.symlink_metadata().map_err(|e| ScoreError::io("read", from, e))?.file_type();
    if kind.is_file() {
        fs::copy(from, to).map(drop).map_err(|e| ScoreError::io("copy", from, e))
    } else if kind.is_symlink() {
        let target = fs::read_link(from).map_err(|e| ScoreError::io("read the link", from, e))?;
        match from.canonicalize() {
            Ok(real) if real.starts_with(root) && target.is_relative() => {
                std::os::unix::fs::symlink(&target, to).map_err(|e| ScoreError::io("make the link", to, e))
            }
            _ => refuse("a link that leads out of the folder"),
        }
    } else if !kind.is_dir() {
        refuse("neither a file nor a folder")
    } else if depth >= MAX_DEPTH {
        refuse("a folder too deep")
    } else {
        fs::create_dir(to).map_err(|e| ScoreError::io("create the folder", to, e))?;
        for entry in fs::read_dir(from).map_err(|e| ScoreError::io("list the folder", from, e))? {
            let entry = entry.map_err(|e| ScoreError::io("list the folder", from, e))?;
            copy_below(root, &entry.path(), &to.join(entry.file_name()), depth + 1)?;
        }
        Ok(())
    }
}

/// Every file below a folder, relative, in order.
pub(super) fn files(folder: &Path) -> Result<Vec<String>> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| ScoreError::io("list the folder", &dir, e))?.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                left.push(entry.path());
            } else if let Ok(path) = entry.path().strip_prefix(folder) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a path, of which the end need not exist, lies in a folder.
pub(super) fn is_within(path: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let there = path.ancestors().find_map(|p| Some((p.canonicalize().ok()?, path.strip_prefix(p).ok()?)));
    there.is_some_and(|(real, rest)| real.join(rest).starts_with(&folder))
}

/// A folder under a temporary name: gone when dropped, unless it was moved into place.
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    pub(super) fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!(".triscore-{}.part", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).map_err(|e| ScoreError::io("create the folder", &path, e))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves it into its place; into a folder that is there, entry by entry, over those of these names.
    pub(super) fn settle(self, target: &Path, entries: &[&str]) -> Result<()> {
        // A new or an empty folder is taken at once.
        if fs::rename(&self.0, target).is_ok() {
            return Ok(());
        }
        for name in entries {
            let (from, to) = (self.0.join(name), target.join(name));
            let removed = match to.symlink_metadata() {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&to),
                Ok(_) => fs::remove_file(&to),
                Err(_) => Ok(()),
            };
            removed.map_err(|e| ScoreError::io("replace", &to, e))?;
            if from.symlink_metadata().is_ok() {
                fs::rename(&from, &to).map_err(|e| ScoreError::io("put in place", &to, e))?;
            }
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Moved away, it is not there any more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn folders_are_copied_whole_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/c.txt"), "c").unwrap();
        fs::write(from.join(".amlignore"), "*").unwrap();
        symlink("b/c.txt", from.join("a/link")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(files(&to).unwrap(), [".amlignore", "a/b/c.txt", "a/link"]);
        assert_eq!(fs::read_to_string(to.join("a/link")).unwrap(), "c");
        for target in ["/etc/hostname", "../../outside", "gone"] {
            fs::write(dir.path().join("outside"), "").unwrap();
            let link = from.join("a/out");
            symlink(target, &link).unwrap();
            let e = copy(&from, &dir.path().join("more")).unwrap_err();
            assert!(e.to_string().contains("a/out: a link that leads out"), "{target}: {e}");
            fs::remove_dir_all(dir.path().join("more")).unwrap();
            fs::remove_file(link).unwrap();
        }
        assert!(std::process::Command::new("mkfifo").arg(from.join("pipe")).status().unwrap().success());
        assert!(copy(&from, &dir.path().join("more")).unwrap_err().message().contains("neither a file"));
    }

    #[test]
    fn a_place_is_taken_whole_and_strangers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for text in ["one", "two"] {
            let staging = Staging::new(dir.path()).unwrap();
            fs::create_dir(staging.path().join("app")).unwrap();
            fs::write(staging.path().join("app").join(text), "").unwrap();
            staging.settle(&target, &["app"]).unwrap();
            assert_eq!(files(&target.join("app")).unwrap(), [text]);
            fs::write(target.join("mine"), "").unwrap();
        }
        assert!(target.join("mine").exists());
        drop(Staging::new(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(is_within(&target.join("x/y"), &target) && !is_within(&dir.path().join("x"), &target));
    }
}
