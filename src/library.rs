//! Finding and loading a driver library, with a reason in words where that fails.
//!
//! "No GPU" has a dozen causes, and most of them show here: the driver is not installed, the container was
//! started without it, a file of size zero was mounted in its place, or one of *its* libraries is missing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::error::{Result, ScoreError};

/// What to look for, and where.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Its name, as the loader knows it.
    pub(crate) name: &'static str,
    /// An environment variable that names another.
    pub(crate) variable: &'static str,
    /// Where it is when nobody told the loader.
    pub(crate) folders: &'static [&'static str],
    /// What to do when it is nowhere.
    pub(crate) advice: &'static str,
}

/// A library that stays loaded for the rest of the process: drivers start threads, and do not survive to be
/// unloaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    library: &'static Library,
    /// Which one it is, for messages and facts.
    pub(crate) path: String,
}

impl Loaded {
    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be a function pointer of the type that the library gives to that name.
    ///
    /// # Errors
    /// `Unavailable` when there is no such symbol.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: as the caller promises; the library is never unloaded, so the copy stays good.
        let symbol = unsafe { self.library.get::<F>(name) };
        symbol
            .map(|f| *f)
            .map_err(|_| ScoreError::unavailable(format!("{} has no function {name}", self.path)))
    }
}

impl Wanted {
    /// Loads it: the one that the caller names, else the one that the variable names, else the first of `also`
    /// that loads, else what the loader finds, else what lies in one of the folders.
    ///
    /// # Errors
    /// `Unavailable`: not found and where it was looked for, or found and why it does not load.
    pub(crate) fn open(&self, named: Option<&Path>, also: &[PathBuf]) -> Result<Loaded> {
        let by_variable = std::env::var_os(self.variable).filter(|path| !path.is_empty());
        let named = named.map(|path| (path.to_owned(), None));
        if let Some((path, variable)) =
            named.or(by_variable.map(|p: OsString| (p.into(), Some(self.variable))))
        {
            // A bare name is for the loader to find.
            if path.components().count() > 1 && !path.exists() {
                let by = variable.map(|v| format!(", which {v} names")).unwrap_or_default();
                return Err(ScoreError::unavailable(format!("{} not found{by}", path.display())));
            }
            return load(&path).map_err(|reason| cannot_load(&path, &reason));
        }
        let mut tried = Vec::new();
        for path in also {
            match load(path) {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => tried.push(format!("; {} cannot be loaded: {reason}", path.display())),
            }
        }
        let by_loader = match load(Path::new(self.name)) {
            Ok(loaded) => return Ok(loaded),
            Err(reason) => reason,
        };
        let mut candidates = self.folders.iter().map(|folder| Path::new(folder).join(self.name));
        if let Some(path) = candidates.find(|path| path.exists()) {
            return load(&path).map_err(|reason| cannot_load(&path, &reason));
        }
        // The loader says much the same when one of the library's own needs is missing: then another name
        // stands before it.
        if cfg!(unix) && !(by_loader.starts_with(self.name) && by_loader.contains("No such file")) {
            return Err(cannot_load(Path::new(self.name), &by_loader));
        }
        let Self { name, variable, folders, advice } = self;
        let (folders, tried) = (folders.join(", "), tried.concat());
        Err(ScoreError::unavailable(format!(
            "{name} not found on the loader's path nor in {folders}{tried}: {advice}, or name the library in {variable}"
        )))
    }
}

fn load(path: &Path) -> std::result::Result<Loaded, String> {
    // SAFETY: this runs the library's initialisers; it is the driver that the machine has or the user named.
    let library = unsafe { Library::new(path) };
    // The wrapper's words say less than the loader's.
    let reason = |e: libloading::Error| {
        std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)
    };
    let library = library.map_err(reason)?;
    Ok(Loaded { library: Box::leak(Box::new(library)), path: path.display().to_string() })
}

fn cannot_load(path: &Path, reason: &str) -> ScoreError {
    ScoreError::unavailable(format!("{} cannot be loaded: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        name: "libtriscore-has-no-such.so.1",
        variable: "TRISCORE_TEST_NO_SUCH_VARIABLE",
        folders: &["/nowhere/lib", "/nowhere/lib64"],
        advice: "install it",
    };

    #[test]
    fn what_is_nowhere_is_said_with_the_places() {
        let e = WANTED.open(None, &[]).unwrap_err().to_string();
        assert_eq!(
            e,
            "libtriscore-has-no-such.so.1 not found on the loader's path nor in /nowhere/lib, /nowhere/lib64: \
             install it, or name the library in TRISCORE_TEST_NO_SUCH_VARIABLE"
        );
        let e = WANTED.open(None, &[PathBuf::from("/nowhere/else.so")]).unwrap_err().to_string();
        assert!(e.contains("; /nowhere/else.so cannot be loaded: "), "{e}");
    }

    #[test]
    fn what_does_not_load_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WANTED.name);
        assert!(WANTED.open(Some(&path), &[]).unwrap_err().to_string().ends_with("not found"));
        std::fs::write(&path, "").unwrap();
        let named = WANTED.open(Some(&path), &[]).unwrap_err().to_string();
        assert!(named.contains("cannot be loaded: "), "{named}");
        let folder: &'static str = Box::leak(dir.path().display().to_string().into_boxed_str());
        let folders: &'static [&'static str] = Box::leak(Box::new([folder]));
        let found = Wanted { folders, ..WANTED }.open(None, &[]).unwrap_err().to_string();
        assert_eq!(found, named, "found in a folder, and as broken there");
    }
}
