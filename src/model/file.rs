//! Opening files without being led astray: regular files only, bounded, and the file that was looked at.
//!
//! A pipe or a device never ends, a link leads elsewhere, and a file may be swapped between looking
//! and opening. So the path is looked at first (opening a pipe would already hang), then opened, and then
//! the open file is held against what was seen: the same device and number, or it is refused. This needs no
//! `O_NOFOLLOW`, and so no system library.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Result, ScoreError};
use crate::tensor::AlignedBytes;

/// The model file that a path means: itself, or the only `.onnx` file in the folder.
///
/// # Errors
/// `NotFound` where nothing is there; `BadModel` listing the candidates where it is not clear which.
pub(super) fn model_file(path: &Path) -> Result<PathBuf> {
    let found = fs::metadata(path).map_err(|e| ScoreError::io("open the model", path, e))?;
    if !found.is_dir() {
        return Ok(path.to_owned());
    }
    let refused = |e| ScoreError::io("list the model's folder", path, e);
    let mut candidates = Vec::new();
    for entry in fs::read_dir(path).map_err(refused)? {
        let entry = entry.map_err(refused)?.path();
        let is_model = entry.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        // Hidden ones are no models: macOS leaves `._model.onnx` beside every `model.onnx`.
        let hidden = entry.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if is_model && !hidden && !entry.is_dir() {
            candidates.push(entry);
        }
    }
    candidates.sort();
    match candidates.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ScoreError::new(crate::ErrorKind::NotFound, "there is no .onnx file in this folder")
            .with_at(path.display().to_string())),
        several => {
            const LISTED: usize = 10;
            let names = several.iter().take(LISTED).filter_map(|p| p.file_name());
            let names = names.map(|n| n.to_string_lossy()).collect::<Vec<_>>().join("', '");
            let more = if several.len() > LISTED { " and more" } else { "" };
            let what = format!("several models in this folder ('{names}'{more}): give the path of one");
            Err(ScoreError::bad_model(what).with_at(path.display().to_string()))
        }
    }
}

/// The content of a regular file of at most `max_bytes`; a link to one is followed.
///
/// # Errors
/// `NotFound`, `Io`, `OutOfMemory`; `BadModel` for anything but a regular file; what `too_large` says.
pub(super) fn read(path: &Path, max_bytes: u64, too_large: impl Fn() -> ScoreError) -> Result<Bytes> {
    let seen = fs::metadata(path).map_err(|e| ScoreError::io("open the file", path, e))?;
    read_seen(path, &seen, max_bytes, too_large)
}

/// The content of a regular file of at most `max_bytes` that is no link, neither symbolic nor hard.
///
/// # Errors
/// As [`read`], and `BadModel` for a link.
pub(super) fn read_unlinked(
    path: &Path,
    max_bytes: u64,
    too_large: impl Fn() -> ScoreError,
) -> Result<Bytes> {
    let seen = fs::symlink_metadata(path).map_err(|e| ScoreError::io("open the external data", path, e))?;
    let refused = |what: &str| Err(ScoreError::bad_model(what).with_at(path.display().to_string()));
    if seen.is_symlink() {
        return refused("a symbolic link: external data must be a file of its own; copy it here");
    }
    if seen.is_file() && links(&seen) > 1 {
        return refused("a hard link: external data must be a file of its own; copy it here");
    }
    read_seen(path, &seen, max_bytes, too_large)
}

fn read_seen(
    path: &Path,
    seen: &Metadata,
    max_bytes: u64,
    too_large: impl Fn() -> ScoreError,
) -> Result<Bytes> {
    let at = |e: ScoreError| e.with_at(path.display().to_string());
    if !seen.is_file() {
        let what = if seen.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
        return Err(at(ScoreError::bad_model(format!("{what}: expected a regular file"))));
    }
    let mut file = File::open(path).map_err(|e| ScoreError::io("open the file", path, e))?;
    let opened = file.metadata().map_err(|e| ScoreError::io("look at the file", path, e))?;
    if !opened.is_file() || identity(&opened) != identity(seen) || links(&opened) != links(seen) {
        let what = "the file was replaced while it was opened";
        return Err(at(ScoreError::new(crate::ErrorKind::Io, what)));
    }
    if opened.len() > max_bytes {
        return Err(at(too_large()));
    }
    let length = usize::try_from(opened.len()).map_err(|_| at(too_large()))?;
    // Zeroed memory takes no room until it is written, so a length that lies costs nothing.
    let mut bytes = AlignedBytes::zeroed(length).map_err(at)?;
    let changed = "read the file (it may have been cut meanwhile)";
    file.read_exact(bytes.as_mut_slice()).map_err(|e| ScoreError::io(changed, path, e))?;
    match file.read(&mut [0]) {
        Ok(0) => Ok(Bytes::from_owner(Whole(bytes))),
        Ok(_) => {
            let what = "the file grew while it was read";
            Err(at(ScoreError::new(crate::ErrorKind::Io, what)))
        }
        Err(e) => Err(ScoreError::io("read the file", path, e)),
    }
}

/// Aligned memory as the owner of shared bytes: tensors at aligned offsets are then used in place.
struct Whole(AlignedBytes);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.nlink()
}

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> (u64, Option<std::time::SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    1
}

/// Whether ONNX Runtime would take these bytes for a model in its own format.
pub(super) fn is_ort_format(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"ORTM")
}

/// What a file that is no ONNX model looks like, judged by how it starts.
pub(super) fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 14] = [
        (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
        (b"PK\x03\x04", "a zip archive (as a PyTorch .pt checkpoint or a Keras .keras file is)"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x80\x03", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x80\x05", "a Python pickle"),
        (b"\x89HDF", "an HDF5 file (as Keras .h5 is)"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"GGUF", "a GGUF file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x7fELF", "a program"),
        (b"\x89PNG", "a picture"),
        (b"{", "JSON"),
        (b"<", "HTML or XML (a download that went wrong?)"),
    ];
    if bytes.get(4..8) == Some(b"TFL3") {
        return Some("a TensorFlow Lite model");
    }
    if is_ort_format(bytes) {
        return Some("a model in ONNX Runtime's own format: export it as .onnx");
    }
    if bytes.get(8) == Some(&b'{') && bytes.get(4..8) == Some(&[0; 4]) {
        return Some("a safetensors file: weights without a graph");
    }
    let text = bytes.trim_ascii_start();
    STARTS.iter().find(|(start, _)| text.starts_with(start)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::testing::{encoded, layer};
    use crate::model::{Model, ReadLimits};

    #[test]
    fn a_folder_means_its_only_model() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let file = encoded(&layer());
        assert_eq!(Model::open(folder.path()).unwrap_err().kind(), ErrorKind::NotFound);

        fs::write(at("model.ONNX"), &file).unwrap();
        fs::write(at("._model.onnx"), "macOS").unwrap();
        fs::write(at("score.py"), "").unwrap();
        fs::create_dir(at("old.onnx")).unwrap();
        let model = Model::open(folder.path()).unwrap();
        assert_eq!(model.path(), Some(at("model.ONNX").as_path()));

        fs::write(at("other.onnx"), &file).unwrap();
        let error = Model::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("('model.ONNX', 'other.onnx'): give the path of one"), "{error}");
        Model::open(at("other.onnx")).unwrap();
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        assert_eq!(Model::open(&path).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&path, encoded(&layer())).unwrap();
        let size = encoded(&layer()).len() as u64;
        let mut limits = ReadLimits { max_bytes: size, ..Default::default() };
        Model::open_with(&path, &limits).unwrap();
        limits.max_bytes -= 1;
        let error = Model::open_with(&path, &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let error = Model::from_bytes(encoded(&layer()), &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    #[cfg(unix)]
    #[test]
    fn a_model_may_be_a_link_and_not_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("m.onnx"), folder.path().join("link"));
        fs::write(&path, encoded(&layer())).unwrap();
        // Kubernetes mounts a volume's files as links.
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Model::open(&link).unwrap();
        let error = Model::open("/dev/zero").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadModel);
        assert!(error.to_string().contains("expected a regular file"), "{error}");
    }

    #[test]
    fn strangers_are_recognised() {
        let cases: [(&[u8], &str); 12] = [
            (b"", "the file is empty"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"\n  {\"a\": 1}", "JSON"),
            (b"PK\x03\x04\x14\x00", "zip archive"),
            (b"\x80\x04\x95\x00\x00", "Python pickle"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
            (b"\x1c\x00\x00\x00TFL3\x14\x00", "TensorFlow Lite"),
            (b"\x18\x00\x00\x00ORTM\x00\x00", "ONNX Runtime's own format"),
            (b"\x40\x00\x00\x00\x00\x00\x00\x00{\"w\":", "safetensors"),
            (b"\x89HDF\r\n", "HDF5"),
            (b"\x00\x00\x00\x00\x00\x00\x00\x00", "not an ONNX model: "),
            (b"hello world", "not an ONNX model: "),
        ];
        for (bytes, message) in cases {
            let error = Model::from_bytes(bytes, &ReadLimits::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
            assert!(error.message().starts_with("not an ONNX model"), "{error}");
            assert!(error.message().contains(message), "{error}");
        }
    }
}
