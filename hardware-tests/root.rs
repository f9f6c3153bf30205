//! Where the repository's files are: tests that were built here also run elsewhere, from a folder that holds what they read
//! (`make gpu-bundle`), which `TRISCORE_ROOT` names.

use std::path::PathBuf;

/// The folder that stands for the repository.
pub(crate) fn root() -> PathBuf {
    let named = std::env::var_os("TRISCORE_ROOT").filter(|v| !v.is_empty()).map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
}
