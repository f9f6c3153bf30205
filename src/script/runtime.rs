//! The Python files that workers run, carried inside this program and laid out where a deployment lives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, ScoreError};

/// The file that the interpreter is started with.
const WORKER: &str = "triscore_worker.py";
/// Every file: its path below the folder, and what is in it.
const FILES: &[(&str, &str)] = &[];

/// Writes the Python files below `folder`, over older ones, and makes them read-only. Returns where the
/// worker's script is.
///
/// # Errors
/// `Io` or `NotFound` when the system refuses a file.
pub fn lay_out(folder: &Path) -> Result<PathBuf> {
    write_all(folder, FILES)?;
    Ok(folder.join(WORKER))
}

fn write_all(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|e| ScoreError::io("make the folder", parent, e))?;
        // Beside it first: a worker that starts now must read the old file or the new one.
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        fs::write(&new, text).map_err(|e| ScoreError::io("write", &new, e))?;
        let read_only = fs::Permissions::from_mode(0o444);
        fs::set_permissions(&new, read_only).map_err(|e| ScoreError::io("make read-only", &new, e))?;
        fs::rename(&new, &path).map_err(|e| ScoreError::io("put in place", &path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_laid_out_read_only_and_again() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path(), &[("a.py", "1"), ("shims/b/c.py", "2")]).unwrap();
        write_all(folder.path(), &[("a.py", "3")]).unwrap();
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((&*read("a.py"), &*read("shims/b/c.py")), ("3", "2"));
        let mode = fs::metadata(folder.path().join("a.py")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(lay_out(folder.path()).unwrap().ends_with(WORKER));
    }
}
