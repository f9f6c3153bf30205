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
