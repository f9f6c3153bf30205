//! External data: tensors whose bytes lie in files beside the model's own.
//!
//! A model names those files, so a hostile model names yours. The rules are ONNX's own after its advisories
//! (GHSA-q56x-g2fj-4rj6 and those before it), and a little stricter: a plain file name, in the folder of the
//! model, a regular file that is neither a symbolic nor a hard link, and a range within it. Each file
//! is read whole, once, by us; no native library ever opens a path that came out of a model.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::file;
use super::limits::{ReadLimits, over};
use super::onnx::{TensorProto, tensor_proto::DataLocation};
use super::shown::shown;
use crate::error::{Result, ScoreError};

/// A file of external data, read whole.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExternalFile {
    /// Its plain name, as tensors refer to it.
    pub name: String,
    /// Its content; tensors lie at the offsets that they give.
    pub bytes: Bytes,
}

impl std::fmt::Debug for ExternalFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExternalFile({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// Where the bytes of a tensor lie.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    pub(super) tensor: &'a str,
    pub(super) file: &'a str,
    pub(super) offset: u64,
    /// `None`: what the shape says.
    pub(super) length: Option<u64>,
}

/// Whether the tensor's bytes lie in a file of their own.
///
/// # Errors
/// `BadModel` where it does not say so clearly.
pub(super) fn is_external(tensor: &TensorProto) -> Result<bool> {
    match tensor.data_location.map(DataLocation::try_from) {
        Some(Ok(DataLocation::External)) => Ok(true),
        Some(Err(other)) => {
            Err(ScoreError::bad_model(format!("data location {} is none of ONNX's", other.0)))
        }
        // Readers differ in which of the two they believe, so a contradiction is refused.
        _ if !tensor.external_data.is_empty() => {
            let what = "it names external data, and its data location says that it has none";
            Err(ScoreError::bad_model(what))
        }
        _ => Ok(false),
    }
}

impl<'a> Reference<'a> {
    /// Reads a tensor's reference to its bytes.
    ///
    /// # Errors
    /// `BadModel` for an unknown, doubled or missing key, a number that is none, or a location that is
    /// more than a plain file name.
    pub(super) fn of(tensor: &'a TensorProto) -> Result<Self> {
        let (mut location, mut offset, mut length, mut checksum) = (None, None, None, None);
        for entry in &tensor.external_data {
            let slot = match entry.key() {
                "location" => &mut location,
                "offset" => &mut offset,
                "length" => &mut length,
                // A SHA-1, which neither proves nor hinders anything: accepted, and not looked at.
                "checksum" => &mut checksum,
                key => {
                    let what = format!("external data with the key '{}'", shown(key));
                    let known = "expected location, offset, length or checksum";
                    return Err(ScoreError::bad_model(format!("{what}: {known}")));
                }
            };
            if slot.replace(entry.value()).is_some() {
                let what = format!("external data gives its {} twice", entry.key());
                return Err(ScoreError::bad_model(what));
            }
        }
        let file = location.ok_or_else(|| ScoreError::bad_model("external data without a location"))?;
        plain_name(file)?;
        Ok(Self {
            tensor: tensor.name(),
            file,
            offset: offset.map_or(Ok(0), |text| number("offset", text))?,
            length: length.map(|text| number("length", text)).transpose()?,
        })
    }

    /// The tensor's bytes in that file.
    ///
    /// # Errors
    /// `BadModel` where they reach beyond its end.
    pub(super) fn slice(&self, bytes: &Bytes, length: u64) -> Result<Bytes> {
        let end = self.offset.checked_add(length).filter(|end| *end <= bytes.len() as u64);
        match (usize::try_from(self.offset), end.map(usize::try_from)) {
            (Ok(start), Some(Ok(end))) => Ok(bytes.slice(start..end)),
            _ => Err(ScoreError::bad_model(format!(
                "its {length} bytes from offset {} on reach beyond the end of '{}', which has {} bytes",
                self.offset,
                shown(self.file),
                bytes.len()
            ))),
        }
    }
}

/// Whether a location is the name of a file in the same folder, and nothing more.
fn plain_name(location: &str) -> Result<()> {
    let reason = if location.is_empty() {
        "it is empty"
    } else if location.contains(['/', '\\', ':']) {
        "it is a path"
    } else if location == "." || location.contains("..") {
        "it leaves the folder"
    } else if location.chars().any(char::is_control) {
        "it holds a control character"
    } else {
        return Ok(());
    };
    Err(ScoreError::bad_model(format!(
        "external data in '{}': {reason}; expected the plain name of a file in the model's folder",
        shown(location)
    )))
}

/// A number in plain decimal digits.
fn number(key: &str, text: &str) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or_else(|| {
        let what = format!("external data with {key} '{}': expected a number of bytes", shown(text));
        ScoreError::bad_model(what)
    })
}

/// A reference and how many bytes the tensor's shape asks for.
pub(super) type Wanted<'a> = (Reference<'a>, u64);

/// Reads every file that is referred to, once, and checks that each tensor lies within its file.
///
/// # Errors
/// `BadModel`, `NotFound`, `Io`, `TooLarge` or `OutOfMemory`, naming the tensor and the file.
pub(super) fn load(
    folder: Option<&Path>,
    wanted: &[Wanted<'_>],
    limits: &ReadLimits,
) -> Result<Vec<ExternalFile>> {
    let mut files: BTreeMap<&str, Bytes> = BTreeMap::new();
    let mut left = limits.max_external_bytes;
    for (reference, length) in wanted {
        let place = |e: ScoreError| e.with_at(format!("tensor '{}'", shown(reference.tensor)));
        let Some(folder) = folder else {
            return Err(place(ScoreError::bad_model(format!(
                "its data lies in the file '{}', and a model given as bytes has no folder: \
                 open it from its path, or save it with all data inside",
                shown(reference.file)
            ))));
        };
        let bytes = match files.get(reference.file) {
            Some(bytes) => bytes.clone(),
            None => {
                let too_large =
                    || over("external data too large", limits.max_external_bytes, "max_external_bytes");
                let bytes =
                    file::read_unlinked(&folder.join(reference.file), left, too_large).map_err(place)?;
                left = left.saturating_sub(bytes.len() as u64);
                files.insert(reference.file, bytes.clone());
                bytes
            }
        };
        reference.slice(&bytes, *length).map_err(place)?;
    }
    Ok(files.into_iter().map(|(name, bytes)| ExternalFile { name: name.to_owned(), bytes }).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::ErrorKind;
    use crate::model::Model;
    use crate::model::onnx::ModelProto;
    use crate::model::testing::{encoded, layer, outside, read, weight};

    /// A model of two weights, in one file or in two; `w` is used, `v` lies after it.
    fn model_with(w: &[(&str, &str)], v: &[(&str, &str)]) -> ModelProto {
        let mut model = layer();
        let weights = vec![outside("w", &[3, 2], w), outside("v", &[4], v)];
        model.graph.as_mut().unwrap().initializer = weights;
        model
    }

    /// A folder with that model and a file `w.bin` of that size, counting up.
    fn folder_with(model: &ModelProto, size: u8) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("m.onnx"), encoded(model)).unwrap();
        fs::write(folder.path().join("w.bin"), (0..size).collect::<Vec<u8>>()).unwrap();
        folder
    }

    fn shared() -> ModelProto {
        model_with(&[("location", "w.bin"), ("offset", "64"), ("length", "24")], &[("location", "w.bin")])
    }

    #[test]
    fn a_file_is_read_once_and_shared() {
        let folder = folder_with(&shared(), 88);
        let model = Model::open(folder.path()).unwrap();
        let [file] = model.external() else { panic!("{:?}", model.external()) };
        assert_eq!((file.name.as_str(), file.bytes.len()), ("w.bin", 88));
        assert_eq!(model.size_bytes(), 88 + model.bytes().len() as u64);
        assert_eq!((model.parameter_count(), model.parameter_bytes()), (10, 40));
        let weights = &model.proto().graph.as_ref().unwrap().initializer;
        let w = model.tensor(&weights[0]).unwrap();
        assert_eq!(w.shape(), [3, 2]);
        assert_eq!(w.as_bytes(), (64..88).collect::<Vec<u8>>());
        // At an aligned offset the tensor lies in the file's own bytes.
        assert_eq!(w.as_bytes().as_ptr(), file.bytes[64..].as_ptr());
        assert_eq!(model.tensor(&weights[1]).unwrap().as_bytes(), (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn what_does_not_lie_in_the_file_is_refused() {
        let folder = folder_with(&shared(), 87);
        let error = Model::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadModel);
        let text = error.to_string();
        assert!(
            text.contains("tensor 'w': its 24 bytes from offset 64 on reach beyond the end of 'w.bin'"),
            "{text}"
        );

        let error = read(&shared()).unwrap_err().to_string();
        assert!(error.contains("tensor 'w': its data lies in the file 'w.bin'"), "{error}");

        fs::remove_file(folder.path().join("w.bin")).unwrap();
        let error = Model::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

        fs::create_dir(folder.path().join("w.bin")).unwrap();
        let error = Model::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a folder: expected a regular file"), "{error}");
    }

    #[test]
    fn all_files_together_stay_within_the_limit() {
        let folder = folder_with(&model_with(&[("location", "w.bin")], &[("location", "v.bin")]), 24);
        fs::write(folder.path().join("v.bin"), [0; 16]).unwrap();
        let mut limits = ReadLimits { max_external_bytes: 40, ..Default::default() };
        assert_eq!(Model::open_with(folder.path(), &limits).unwrap().external().len(), 2);
        limits.max_external_bytes = 39;
        let error = Model::open_with(folder.path(), &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains("max_external_bytes"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_refused() {
        let folder = folder_with(&shared(), 88);
        let (here, away) = (folder.path().join("w.bin"), folder.path().join("elsewhere"));
        fs::rename(&here, &away).unwrap();
        let refusal = || Model::open(folder.path()).unwrap_err().to_string();

        std::os::unix::fs::symlink(&away, &here).unwrap();
        assert!(refusal().contains("a symbolic link"), "{}", refusal());
        fs::remove_file(&here).unwrap();

        fs::hard_link(&away, &here).unwrap();
        assert!(refusal().contains("a hard link"), "{}", refusal());
        fs::remove_file(&here).unwrap();

        let made = std::process::Command::new("mkfifo").arg(&here).status();
        if made.is_ok_and(|status| status.success()) {
            assert!(refusal().contains("a pipe, a socket or a device"), "{}", refusal());
        }
    }

    #[test]
    fn weights_inside_need_no_file() {
        let mut model = shared();
        model.graph.as_mut().unwrap().initializer = vec![weight("w", &[3, 2])];
        assert!(read(&model).unwrap().external().is_empty());
    }
}
