//! Finding ONNX Runtime's shared library, looking at it before binding to it, and loading it once.
//!
//! Binding first and asking later does not work: `ort` panics where the library is missing, and its
//! error for a wrong one is three words. So every candidate is opened, asked for its version and its
//! C interface, and only then handed to `ort`.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Result, ScoreError};

/// The oldest ONNX Runtime that is accepted is 1.24: the version of the C interface that `ort` was
/// built for.
pub const MIN_MINOR_VERSION: u32 = ort::MINOR_VERSION;

/// The command that installs what was not found.
pub const INSTALL_COMMAND: &str = "python3 -m pip install onnxruntime==1.32.0";

const FILE_NAME: &str = "libonnxruntime.so";

/// ONNX Runtime, loaded: its environment (one a process, for its life) and where it came from.
#[derive(Debug)]
pub(super) struct Runtime {
    environment: ort::environment::Environment,
    path: PathBuf,
    version: String,
    /// The memory bound that was registered, in bytes; it holds for the whole process.
    memory_bound: Mutex<Option<u64>>,
}

impl Runtime {
    pub(super) fn environment(&self) -> &ort::environment::Environment {
        &self.environment
    }
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Bounds what all sessions of the process may allocate together. ONNX Runtime's allocator for the
    /// processor is registered once, so the first bound holds; returns the bound in force.
    pub(super) fn bound_memory(&self, bytes: u64, register: impl FnOnce(u64) -> Result<()>) -> Result<u64> {
        let mut bound = self.memory_bound.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = *bound {
            if first != bytes {
                tracing::warn!(first, asked = bytes, "this process has a memory bound already; it stays");
            }
            return Ok(first);
        }
        register(bytes)?;
        *bound = Some(bytes);
        Ok(bytes)
    }
}

/// Loads ONNX Runtime, or gives what was loaded before.
///
/// # Errors
/// `Unavailable` with every place that was looked at, what was wrong there, and the command that
/// installs it. May be tried again, with another path or after an install.
pub(super) fn load(explicit: Option<&Path>) -> Result<Arc<Runtime>> {
    static LOADED: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        return match explicit {
            Some(path) if !same_file(path, &runtime.path) => Err(ScoreError::conflict(format!(
                "ONNX Runtime was loaded from {} already, and a process can load it once",
                runtime.path.display()
            ))
            .with_at(path.display().to_string())),
            _ => Ok(runtime.clone()),
        };
    }
    let (path, version) = find(&Places::of_this_process(explicit))?;
    let environment = ort::init_from(&path)
        .map_err(|e| ScoreError::unavailable(format!("cannot load ONNX Runtime: {e:?}")))?
        .with_name("triscore")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|e| ScoreError::unavailable(format!("cannot start ONNX Runtime {version}: {e}")))?;
    tracing::debug!(path = %path.display(), version, "loaded ONNX Runtime");
    let runtime = Arc::new(Runtime { environment, path, version, memory_bound: Mutex::new(None) });
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// ONNX Runtime's own log goes where ours goes.
fn log(level: ort::logging::LogLevel, category: &str, _id: &str, _at: &str, message: &str) {
    use ort::logging::LogLevel::{Error, Fatal, Warning};
    match level {
        // A failed run is logged as an error there and returned as an error here: once is enough.
        Error | Fatal => tracing::debug!(target: "onnxruntime", category, "{message}"),
        Warning => tracing::debug!(target: "onnxruntime", category, "{message}"),
        _ => tracing::trace!(target: "onnxruntime", category, "{message}"),
    }
}

/// Where to look, in this order.
struct Places {
    /// Places that somebody named: what is wrong there is an error, not a reason to look on.
    named: Option<(&'static str, PathBuf)>,
    /// Places where it may be.
    usual: Vec<(&'static str, PathBuf)>,
}

impl Places {
    fn of_this_process(explicit: Option<&Path>) -> Self {
        let named = explicit.map(|p| ("the option", p.to_owned())).or_else(|| {
            ["TRISCORE_ONNXRUNTIME", "ORT_DYLIB_PATH"].into_iter().find_map(|variable| {
                let value = std::env::var_os(variable).filter(|v| !v.is_empty())?;
                Some((variable, PathBuf::from(value)))
            })
        });
        let mut usual = Vec::new();
        if let Some(dir) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
            usual.push(("beside the program", dir.join(FILE_NAME)));
            usual.push(("beside the program", dir.join("../lib/triscore").join(FILE_NAME)));
            usual.push(("beside the program", dir.join("../lib").join(FILE_NAME)));
            // A checkout: target/<profile>/[deps/]triscore below the folder that holds third_party.
            for root in dir.ancestors().take(5).filter(|d| d.join("Cargo.toml").is_file()) {
                usual.push(("the project's install", root.join("third_party/onnxruntime").join(FILE_NAME)));
            }
        }
        // `CARGO_MANIFEST_DIR` is there below cargo, whose documentation tests run far from the checkout.
        let homes = [
            ("CARGO_MANIFEST_DIR", "third_party/onnxruntime"),
            ("TRISCORE_HOME", "lib"),
            ("HOME", ".local/share/triscore/lib"),
        ];
        for (variable, below) in homes {
            if let Some(home) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
                usual.push(("the project's install", PathBuf::from(home).join(below).join(FILE_NAME)));
            }
        }
        usual.extend(python_packages().into_iter().map(|p| ("Python's packages", p)));
        for dir in [
            "/usr/local/lib",
            "/usr/lib",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib64",
        ] {
            usual.push(("the system", Path::new(dir).join(FILE_NAME)));
        }
        // The bare name is what the system's loader looks up itself.
        usual.push(("the system's loader", PathBuf::from(FILE_NAME)));
        Self { named, usual }
    }
}

/// ONNX Runtime's library in the Python installations that can be seen without running one.
fn python_packages() -> Vec<PathBuf> {
    let mut prefixes = Vec::new();
    prefixes.extend(std::env::var_os("VIRTUAL_ENV").map(PathBuf::from));
    prefixes.extend(std::env::var_os("CONDA_PREFIX").map(PathBuf::from));
    if let Some(path) = std::env::var_os("PATH") {
        for dir in std::env::split_paths(&path) {
            // bin/python3 may be a link into the installation proper.
            let python = dir.join("python3");
            let Ok(real) = python.canonicalize() else { continue };
            for at in [python, real] {
                prefixes.extend(at.parent().and_then(Path::parent).map(Path::to_owned));
            }
        }
    }
    if let Some(root) = std::env::var_os("PYENV_ROOT") {
        prefixes.extend(folders(&Path::new(&root).join("versions")));
    }
    if let Some(home) = std::env::var_os("HOME") {
        prefixes.push(Path::new(&home).join(".local"));
    }
    let mut found = Vec::new();
    for prefix in prefixes {
        for lib in folders(&prefix.join("lib")).into_iter().chain(folders(&prefix.join("local/lib"))) {
            if !lib.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")) {
                continue;
            }
            for packages in ["site-packages", "dist-packages"] {
                let capi = lib.join(packages).join("onnxruntime/capi");
                let mut libraries = files(&capi);
                libraries
                    .retain(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with(FILE_NAME)));
                found.extend(libraries.into_iter().filter(|f| !found.contains(f)).collect::<Vec<_>>());
            }
        }
    }
    found
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|p| p.is_dir()).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths = entries.map(|e| e.path()).collect::<Vec<_>>();
    // Newest name first: python3.13 before python3.11, 1.32.0 before 1.24.4.
    paths.sort_by(|a, b| b.cmp(a));
    paths
}

/// The first library that can be used, and its version.
fn find(places: &Places) -> Result<(PathBuf, String)> {
    let mut tried: Vec<String> = Vec::new();
    if let Some((place, path)) = &places.named {
        return match inspect(path) {
            Ok(version) => Ok((path.clone(), version)),
            Err(reason) => Err(ScoreError::unavailable(format!(
                "{place} names a library that cannot be used: {reason}; to install one that can: {INSTALL_COMMAND}"
            ))
            .with_at(path.display().to_string())),
        };
    }
    for (place, path) in &places.usual {
        if !is_bare_name(path) && !path.exists() {
            tried.push(format!("{} ({place}): not there", path.display()));
            continue;
        }
        match inspect(path) {
            Ok(version) => return Ok((path.clone(), version)),
            Err(reason) => tried.push(format!("{} ({place}): {reason}", path.display())),
        }
    }
    Err(ScoreError::unavailable(format!(
        "ONNX Runtime ({FILE_NAME}, 1.{MIN_MINOR_VERSION} or newer) was not found; to install it: \
         {INSTALL_COMMAND}; or name the file in TRISCORE_ONNXRUNTIME. Looked at:\n  {}",
        tried.join("\n  ")
    )))
}

/// Opens a library and asks what it is, without binding to it. Returns its version.
fn inspect(path: &Path) -> std::result::Result<String, String> {
    #[repr(C)]
    struct ApiBase {
        api: unsafe extern "C" fn(u32) -> *const std::ffi::c_void,
        version: unsafe extern "C" fn() -> *const c_char,
    }
    if !is_bare_name(path) && !path.is_file() {
        return Err(if path.exists() { "not a file".to_owned() } else { "not there".to_owned() });
    }
    // SAFETY: opening a library runs its initialisers; that is what loading ONNX Runtime means, and the
    // path was named by the user or lies where only an installation writes.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| one_line(&e))?;
    // SAFETY: the symbol has had this signature in every release of ONNX Runtime (onnxruntime_c_api.h);
    // a library that has the name with another meaning is not something that we can detect.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase\0") }
        .map_err(|_| "it is not ONNX Runtime (it has no OrtGetApiBase)".to_owned())?;
    // SAFETY: called as declared; the result is checked for null and points to a static of the library,
    // which stays open until the end of this function.
    let base = unsafe { base().as_ref() }.ok_or("OrtGetApiBase answered nothing")?;
    // SAFETY: as above; the version is a static C string.
    let version = unsafe {
        let version = (base.version)();
        if version.is_null() { None } else { Some(CStr::from_ptr(version).to_string_lossy().into_owned()) }
    };
    let version = version.ok_or("it does not tell its version")?;
    // SAFETY: as above; asks whether that version of the interface is served.
    if unsafe { (base.api)(ort::sys::ORT_API_VERSION) }.is_null() {
        return Err(format!("it is ONNX Runtime {version}, and 1.{MIN_MINOR_VERSION} or newer is needed"));
    }
    Ok(version)
}

/// Whether it is a file name alone, which the system's loader looks up in its own places.
fn is_bare_name(path: &Path) -> bool {
    path.file_name() == Some(path.as_os_str())
}

/// A loader's message without line breaks.
fn one_line(e: &dyn std::error::Error) -> String {
    let text = e.source().map_or_else(|| e.to_string(), ToString::to_string);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(named: &[&str], usual: &[&str]) -> Places {
        let at = |p: &&str| ("a test", PathBuf::from(p));
        Places { named: named.first().map(at), usual: usual.iter().map(at).collect() }
    }

    #[test]
    fn what_is_wrong_with_a_library_is_said() {
        let cases = [
            (places(&["/nowhere/lib.so"], &[]), "not there"),
            (places(&["/"], &[]), "not a file"),
            (places(&["/proc/self/status"], &[]), "cannot be used"),
            (places(&[], &["/nowhere/a.so", "/nowhere/b.so"]), "/nowhere/b.so (a test): not there"),
            (places(&[], &[]), INSTALL_COMMAND),
        ];
        for (places, message) in cases {
            let e = find(&places).unwrap_err();
            assert_eq!(e.kind(), crate::ErrorKind::Unavailable);
            assert!(e.to_string().contains(message), "{e}");
            assert!(e.to_string().contains(INSTALL_COMMAND), "{e}");
        }
    }

    #[test]
    fn another_library_is_not_taken_for_onnx_runtime() {
        // The C library is there on every machine that runs this test, and is not ONNX Runtime.
        let e = inspect(Path::new("libc.so.6")).unwrap_err();
        assert!(e.contains("not ONNX Runtime"), "{e}");
    }

    #[test]
    fn a_named_library_that_is_wrong_is_not_passed_over() {
        let (usual, _) = find(&Places::of_this_process(None)).expect("run scripts/install-onnxruntime.sh");
        let both = places(&["/nowhere/lib.so"], &[usual.to_str().unwrap()]);
        assert!(find(&both).is_err());
        let found = find(&places(&[], &["/nowhere/lib.so", usual.to_str().unwrap()])).unwrap();
        assert_eq!(found.0, usual);
        assert!(found.1.starts_with("1."), "{}", found.1);
    }
}
