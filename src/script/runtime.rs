//! The Python files that workers run, carried inside this program and laid out where a deployment lives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, ScoreError};

/// A file of this crate's, by its path below `script/python`.
macro_rules! file {
    ($path:literal) => {
        ($path, include_str!(concat!("python/", $path)))
    };
}

/// The file that the interpreter is started with.
const WORKER: &str = "triscore_worker.py";
/// Every file: its path below the folder, and what is in it.
const FILES: &[(&str, &str)] = &[
    file!("shims/azureml/__init__.py"),
    file!("shims/azureml/_offline/core/__init__.py"),
    file!("shims/azureml/_offline/core/model.py"),
    file!("shims/azureml/contrib/__init__.py"),
    file!("shims/azureml/contrib/services/__init__.py"),
    file!("shims/azureml/contrib/services/aml_request.py"),
    file!("shims/azureml/contrib/services/aml_response.py"),
    file!("shims/azureml_inference_server_http/__init__.py"),
    file!("shims/azureml_inference_server_http/api/__init__.py"),
    file!("shims/azureml_inference_server_http/api/aml_request.py"),
    file!("shims/azureml_inference_server_http/api/aml_response.py"),
    file!("shims/azureml_inference_server_http/log_config.py"),
    file!("shims/triscore/__init__.py"),
    file!("shims/triscore/_door.py"),
    file!("shims/triscore/_memory.py"),
    file!("shims/triscore/_session.py"),
    file!("shims/triscore/_values.py"),
    file!("triscore_runtime/__init__.py"),
    file!("triscore_runtime/alarm.py"),
    file!("triscore_runtime/flask_bridge.py"),
    file!("triscore_runtime/inputs.py"),
    file!("triscore_runtime/logs.py"),
    file!("triscore_runtime/numpy_names.py"),
    file!("triscore_runtime/openapi.py"),
    file!("triscore_runtime/script.py"),
    file!("triscore_runtime/serving.py"),
    file!("triscore_runtime/wire.py"),
    file!("triscore_worker.py"),
];

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

    /// Nothing that lies in the folder is forgotten in the table.
    #[test]
    fn every_file_is_carried() {
        fn python_files(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    python_files(&path, found);
                } else if path.extension().is_some_and(|e| e == "py") {
                    found.push(path);
                }
            }
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/script/python");
        let mut there = Vec::new();
        python_files(&folder, &mut there);
        let mut there =
            there.iter().map(|p| p.strip_prefix(&folder).unwrap().to_str().unwrap()).collect::<Vec<_>>();
        there.sort_unstable();
        assert_eq!(FILES.iter().map(|(path, _)| *path).collect::<Vec<_>>(), there);
    }

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
