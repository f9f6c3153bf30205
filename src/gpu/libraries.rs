//! CUDA's optional libraries: NVRTC, cuBLASLt and cuDNN, found and loaded without linking.
//!
//! The driver alone runs kernels. These make it possible to compile them here, or to have NVIDIA's own; none of them
//! comes with the driver, so each may be missing, and then something is lost: what, and what to do, is said in the
//! facts of a device ([`facts`]), where one looks before wondering.
//!
//! *Finding* is looking at files, cheap enough for every probe. *Loading* is by absolute path, because Python's wheels lie
//! where no loader looks; it is for everybody in the process (`RTLD_GLOBAL`) and for good, because whoever asks the loader
//! for `libcublasLt.so.13` by that name afterwards gets the one that is loaded: cuDNN does so, NVRTC with its built-in
//! functions, and `cudarc`. The last one has two more habits to know: it panics where a library is missing
//! (`is_culib_present()` must be asked first), and it tries the names without a version before the others, so that where a
//! toolkit for development is installed it may bind to that one whatever was loaded here. NVRTC is therefore called
//! through [`Loaded::function`].
//!
//! That something is missing is never remembered: it may be installed by the next call.

mod places;

pub(super) use places::children;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Result, ScoreError};

/// The environment variable that names the folder of CUDA's libraries, or several as `PATH` does; they are looked at
/// before all others.
pub(super) const FOLDER_VARIABLE: &str = "TRISCORE_CUDA_LIBRARIES";

/// A library that triscore can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Library {
    /// The compiler of kernels.
    Nvrtc,
    /// Matrix products, with cuBLAS beside it.
    CublasLt,
    /// Convolutions.
    Cudnn,
}

/// What is known of one.
struct Row {
    fact: &'static str,
    title: &'static str,
    stem: &'static str,
    /// The versions in its file's name, the preferred first, each with the CUDA that the driver must speak for it.
    versions: &'static [(i32, i32)],
    package: &'static str,
    /// What cannot be done without it.
    cost: &'static str,
}

impl Library {
    /// In the order in which they must be loaded.
    pub(super) const ALL: [Library; 3] = [Library::Nvrtc, Library::CublasLt, Library::Cudnn];

    const fn row(self) -> Row {
        match self {
            Library::Nvrtc => Row {
                fact: "nvrtc",
                title: "NVRTC",
                stem: "libnvrtc",
                versions: &[(13, 13), (12, 12)],
                package: "nvidia-cuda-nvrtc",
                cost: "kernels cannot be compiled here: only those of the kernel cache run",
            },
            Library::CublasLt => Row {
                fact: "cublaslt",
                title: "cuBLASLt",
                stem: "libcublasLt",
                versions: &[(13, 13), (12, 12)],
                package: "nvidia-cublas",
                cost: "products run on triscore's own kernels",
            },
            Library::Cudnn => Row {
                fact: "cudnn",
                title: "cuDNN",
                stem: "libcudnn",
                versions: &[(9, 12)],
                package: "nvidia-cudnn",
                cost: "convolutions run on triscore's own kernels",
            },
        }
    }
}

/// A library that was seen, and not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The file.
    pub(super) path: PathBuf,
    /// As much of its version as the names of files say.
    pub(super) version: String,
}

/// A library that is loaded, and stays so.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    library: &'static libloading::Library,
    /// Which it is.
    pub(super) found: Found,
}

impl Loaded {
    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be a function pointer of the type that the library gives to that name.
    ///
    /// # Errors
    /// `Unavailable` when there is no such symbol.
    pub(super) unsafe fn function<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: as the caller promises; the library is never unloaded, so the copy stays good.
        let symbol = unsafe { self.library.get::<F>(name) };
        let path = self.found.path.display();
        symbol.map(|f| *f).map_err(|_| ScoreError::unavailable(format!("{path} has no function {name}")))
    }
}

/// Where the library is. `driver` is the CUDA that the driver speaks (13 for 13.0), where one is to be satisfied:
/// newer libraries do not work with older drivers.
///
/// # Errors
/// `Unavailable`: what it costs that it is missing, and what to do.
pub(super) fn find(library: Library, driver: Option<i32>) -> Result<Found> {
    Search::new(library, driver, &places::here()).first()
}

/// For the facts of a device: where each library is, or that it is missing, and what that costs.
pub(super) fn facts(driver: i32) -> Vec<(&'static str, String)> {
    let folders = places::here();
    let said = Library::ALL.map(|library| {
        let found = Search::new(library, Some(driver), &folders).first();
        let text = match found {
            Ok(Found { path, version }) => format!("{version} ({})", path.display()),
            Err(e) => format!("missing: {}", e.message()),
        };
        (library.row().fact, text)
    });
    said.into()
}

/// Loads the library and what it needs: NVRTC's built-in functions before it, cuBLAS after cuBLASLt, both others before
/// cuDNN. Calling it again is cheap, and finds what was installed since.
///
/// # Errors
/// `Unavailable`: as [`find`] says it, or why the loader refuses what was found.
pub(super) fn load(library: Library, driver: Option<i32>) -> Result<Loaded> {
    if library == Library::Cudnn {
        for other in [Library::Nvrtc, Library::CublasLt] {
            if let Err(e) = load(other, driver) {
                tracing::debug!("before cuDNN: {e}");
            }
        }
    }
    Search::new(library, driver, &places::here()).load()
}

/// What was seen of one library.
struct Search {
    library: Library,
    driver: Option<i32>,
    /// The preferred first.
    found: Vec<Found>,
    /// One that the driver is too old for.
    too_new: Option<PathBuf>,
}

impl Search {
    fn new(library: Library, driver: Option<i32>, folders: &[PathBuf]) -> Self {
        let row = library.row();
        let mut search = Self { library, driver, found: Vec::new(), too_new: None };
        for folder in folders {
            for (version, cuda) in row.versions {
                let path = folder.join(format!("{}.so.{version}", row.stem));
                match path.is_file() {
                    true if driver.is_some_and(|driver| driver < *cuda) => {
                        search.too_new.get_or_insert(path);
                    }
                    true => search.found.push(Found { version: version_of(&path, row.stem), path }),
                    false => {}
                }
            }
        }
        search
    }

    fn first(mut self) -> Result<Found> {
        match self.found.is_empty() {
            true => Err(self.missing(&[])),
            false => Ok(self.found.swap_remove(0)),
        }
    }

    fn load(self) -> Result<Loaded> {
        let row = self.library.row();
        let mut refused = Vec::new();
        for found in &self.found {
            let beside = companions(self.library, &found.path);
            let (before, after) =
                beside.into_iter().partition::<Vec<_>, _>(|_| self.library == Library::Nvrtc);
            open_all(&before);
            match open(&found.path) {
                Ok(library) => {
                    open_all(&after);
                    if !refused.is_empty() {
                        tracing::warn!("{} is used: {}", found.path.display(), refused.join("; "));
                    }
                    return Ok(Loaded { library, found: found.clone() });
                }
                Err(reason) => refused.push(format!("{} cannot be loaded: {reason}", found.path.display())),
            }
        }
        // The loader may know places that are not to be seen in files: the program's own, or one in memory.
        for (version, cuda) in row.versions {
            let name = PathBuf::from(format!("{}.so.{version}", row.stem));
            if self.driver.is_none_or(|driver| driver >= *cuda)
                && let Ok(library) = open(&name)
            {
                return Ok(Loaded { library, found: Found { path: name, version: version.to_string() } });
            }
        }
        Err(self.missing(&refused))
    }

    /// That it is missing: why, what that costs, and what to do.
    fn missing(&self, refused: &[String]) -> ScoreError {
        let Row { title, package, cost, .. } = self.library.row();
        let mut reason = refused.join("; ");
        if let (Some(path), Some(driver), true) = (&self.too_new, self.driver, refused.is_empty()) {
            reason = format!("{} needs a newer driver than one of CUDA {driver}", path.display());
        }
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        let package = match (self.library, self.driver) {
            (_, Some(12)) => format!("{package}-cu12"),
            (Library::Cudnn, _) => format!("{package}-cu13"),
            _ => package.to_owned(),
        };
        ScoreError::unavailable(format!(
            "{reason}without {title} {cost}; install it with `pip install {package}`, or name its folder in {FOLDER_VARIABLE}"
        ))
    }
}

/// The files beside a library that are loaded with it.
fn companions(library: Library, path: &Path) -> Vec<PathBuf> {
    let Some(folder) = path.parent() else { return Vec::new() };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match library {
        Library::Nvrtc => {
            let major = name.replace("libnvrtc.so.", "libnvrtc-builtins.so.") + ".";
            places::children(folder, |name| name.starts_with(&major))
        }
        Library::CublasLt => vec![folder.join(name.replace("cublasLt", "cublas"))],
        Library::Cudnn => Vec::new(),
    }
}

/// The version that names of files tell: the one that a link leads to says more than the link (`libnvrtc.so.13` is
/// `libnvrtc.so.13.0.88`), and where there is no link, NVRTC's built-in functions know its minor version.
fn version_of(path: &Path, stem: &str) -> String {
    let mut names = vec![path.to_owned()];
    names.extend(path.canonicalize());
    if stem == Library::Nvrtc.row().stem {
        names.extend(companions(Library::Nvrtc, path));
    }
    let version = |path: &PathBuf| {
        let (_, version) = path.file_name()?.to_str()?.split_once(".so.")?;
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
    };
    names.iter().filter_map(version).max_by_key(|v| v.split('.').count()).unwrap_or_default()
}

fn open_all(paths: &[PathBuf]) {
    for path in paths {
        if let Err(reason) = open(path) {
            tracing::debug!("{} cannot be loaded: {reason}", path.display());
        }
    }
}

/// Loads a file, once for the life of the process.
fn open(path: &Path) -> std::result::Result<&'static libloading::Library, String> {
    static OPENED: Mutex<Option<HashMap<PathBuf, &'static libloading::Library>>> = Mutex::new(None);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = opened.get_or_insert_default();
    if let Some(library) = opened.get(path) {
        return Ok(library);
    }
    // SAFETY: this runs the library's initialisers; it is NVIDIA's, from where the machine or the user keeps it.
    let library = unsafe { open_globally(path) };
    // The wrapper's words say less than the loader's.
    let library = library.map_err(|e| match std::error::Error::source(&e) {
        Some(source) => source.to_string(),
        None => e.to_string(),
    })?;
    // They start threads and register with the driver; none of them survives to be unloaded.
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    opened.insert(path.to_owned(), library);
    Ok(library)
}

/// # Safety
/// As for [`libloading::Library::new`]: the library's initialisers are run.
unsafe fn open_globally(path: &Path) -> std::result::Result<libloading::Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the caller's promise.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
    }
    #[cfg(not(unix))]
    {
        // SAFETY: the caller's promise.
        unsafe { libloading::Library::new(path) }
    }
}

#[cfg(test)]
mod tests;
