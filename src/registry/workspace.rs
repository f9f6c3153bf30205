//! A workspace: the folder that stands where Azure's cloud workspace stood.
//!
//! ```text
//! registry.sqlite       models, services and their keys; mode 0600
//! blobs/ab/abcd…        files of models by content (SHA-256); never changed, shared where equal
//! staging/<id>/         files of a registration under way; one left behind tells of a crash
//! locks/                files that are locked, never read: one for the blobs, one a service
//! services/<name>/      for whoever runs services
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::db::Db;
use super::files;
use super::source::SourceLimits;
use crate::error::{Result, ScoreError};

/// How a workspace is used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkspaceOptions {
    /// How long to wait for another process before giving up with `Conflict`.
    pub busy_timeout: Duration,
    /// How much one model may hold.
    pub source_limits: SourceLimits,
}

impl Default for WorkspaceOptions {
    fn default() -> Self {
        Self { busy_timeout: Duration::from_secs(5), source_limits: SourceLimits::default() }
    }
}

/// An open workspace. It may be shared among threads, and any number of processes may have it open.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    options: WorkspaceOptions,
    pub(super) db: Db,
}

impl Workspace {
    /// Opens the workspace in that folder, creating it (for its owner alone) where there is none.
    ///
    /// # Errors
    /// - `Conflict`: another process held it for too long.
    /// - `BadConfig`: the folder holds something else under the name of the registry.
    /// - `Unsupported`: a newer version of this program wrote it.
    /// - `Io`: it cannot be created or read.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, WorkspaceOptions::default())
    }

    /// Opens the workspace in that folder with these options.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_with(root: impl AsRef<Path>, options: WorkspaceOptions) -> Result<Self> {
        let root = root.as_ref();
        files::create_private_dir(root)?;
        // Absolute, because the current folder may change under an open workspace.
        let root = root.canonicalize().map_err(|e| ScoreError::io("open the workspace", root, e))?;
        let db = Db::open(root.join("registry.sqlite"), options.busy_timeout)?;
        Ok(Self { root, options, db })
    }

    /// Where the workspace is when nobody says: `$TRISCORE_HOME`, else `$XDG_DATA_HOME/triscore`, else
    /// `~/.local/share/triscore`.
    ///
    /// # Errors
    /// `BadConfig` when none of the three variables is set.
    pub fn default_root() -> Result<PathBuf> {
        default_root_of(|name| std::env::var_os(name))
    }

    /// The folder, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How it was opened.
    pub fn options(&self) -> &WorkspaceOptions {
        &self.options
    }

    /// The folder in which a service of that name may keep its files. It is not created here.
    ///
    /// # Errors
    /// `BadInput` when no service can have that name.
    pub fn service_dir(&self, name: &str) -> Result<PathBuf> {
        super::names::check_service_name(name)?;
        Ok(self.root.join("services").join(name))
    }

    /// What inside the folder is the registry's own, and never part of a model.
    pub(super) fn own_paths(&self) -> Vec<PathBuf> {
        ["registry.sqlite", "registry.sqlite-journal", "blobs", "staging", "locks"]
            .map(|name| self.root.join(name))
            .to_vec()
    }
}

fn default_root_of(lookup: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = set("TRISCORE_HOME") {
        return Ok(home);
    }
    // The XDG rules: a relative path there is invalid, and ignored.
    if let Some(data) = set("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Ok(data.join("triscore"));
    }
    set("HOME").map(|home| home.join(".local/share/triscore")).ok_or_else(|| {
        ScoreError::bad_config("there is no home folder to keep models in: set TRISCORE_HOME or HOME")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_default_root() {
        let root = |vars: &[(&str, &str)]| {
            default_root_of(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        let (home, xdg) = (("HOME", "/h"), ("XDG_DATA_HOME", "/x"));
        for (vars, expected) in [
            (vec![home, xdg, ("TRISCORE_HOME", "t")], "t"),
            (vec![home, xdg, ("TRISCORE_HOME", "")], "/x/triscore"),
            (vec![home, ("XDG_DATA_HOME", "x")], "/h/.local/share/triscore"),
            (vec![home], "/h/.local/share/triscore"),
        ] {
            assert_eq!(root(&vars).unwrap(), Path::new(expected), "{vars:?}");
        }
        assert_eq!(root(&[]).unwrap_err().kind(), ErrorKind::BadConfig);
    }

    #[test]
    fn what_is_made_is_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let workspace = Workspace::open(&root).unwrap();
        assert_eq!((mode(&root), mode(&root.join("registry.sqlite"))), (0o700, 0o600));
        assert_eq!(workspace.service_dir("abc").unwrap(), workspace.root().join("services/abc"));
        assert!(workspace.service_dir("../abc").is_err());
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&workspace);
    }

    #[test]
    fn what_is_not_a_registry_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        let refused = |kind, word: &str| {
            let e = Workspace::open(dir.path()).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains("registry.sqlite") && e.to_string().contains(word), "{e}");
        };
        std::fs::write(&file, "this is not a database, and long enough to look at".repeat(40)).unwrap();
        refused(ErrorKind::BadConfig, "not an SQLite database");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        refused(ErrorKind::BadConfig, "not a regular file");
        std::fs::remove_dir(&file).unwrap();
        rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        refused(ErrorKind::BadConfig, "another program");
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o644,
            "a stranger's file is left alone"
        );
        std::fs::remove_file(&file).unwrap();
        drop(Workspace::open(dir.path()).unwrap());
        rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 7).unwrap();
        refused(ErrorKind::Unsupported, "newer version");

        let e = Workspace::open(file.join("below a file")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io, "{e}");
    }
}
