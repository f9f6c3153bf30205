//! Tensors in files: JSON as the server takes and gives it, NumPy's `.npz` and `.npy`.

mod header;

use std::fs;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use header::{Array, not_numpy};
use npyz::npz::{NpzArchive, NpzWriter};
use npyz::{Deserialize, TypeChar, WriterBuilder};
use triscore::server::json::{self, Answer, DecodedRequest, ReplyForm};
use triscore::{DType, ErrorKind, F8E4M3, F8E5M2, Result, ScoreError, Signature, Tensor, Value};

/// A file larger than this is not read: it is the limit of the server's bodies, tenfold.
const MAX_BYTES: u64 = 1 << 30;

/// The kinds of file, by ending.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Json,
    Npy,
    Npz,
}

/// Whether the file's ending is one that can be written.
///
/// # Errors
/// `BadInput` naming the endings that can.
pub(super) fn check_kind(path: &Path) -> Result<()> {
    kind(path).map(|_| ())
}

fn kind(path: &Path) -> Result<Kind> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => Ok(Kind::Json),
        Some("npy") => Ok(Kind::Npy),
        Some("npz") => Ok(Kind::Npz),
        _ => {
            Err(ScoreError::bad_input("expected a name that ends in .json, .npz or .npy")
                .with_at(shown(path)))
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Reads the inputs of a model.
///
/// # Errors
/// `NotFound`, `Io`, `TooLarge`; `BadInput` naming the array and what is wrong with it.
pub(super) fn read(path: &Path, signature: &Signature) -> Result<DecodedRequest> {
    let kind = kind(path)?;
    let io = |e| ScoreError::io("read", path, e);
    let size = fs::metadata(path).map_err(io)?.len();
    if size > MAX_BYTES {
        let text = format!("the file has {size} bytes, more than the {MAX_BYTES} that are read");
        return Err(ScoreError::new(ErrorKind::TooLarge, text).with_at(shown(path)));
    }
    let file = BufReader::new(fs::File::open(path).map_err(io)?);
    let read = match kind {
        Kind::Json => fs::read(path).map_err(io).and_then(|bytes| json::decode(&bytes, signature)),
        Kind::Npy => read_npy(file, size, signature),
        Kind::Npz => read_npz(file, size, signature),
    };
    read.map_err(|e| if e.at().is_some_and(|at| at == shown(path)) { e } else { e.with_at(shown(path)) })
}

fn v2() -> ReplyForm {
    ReplyForm::V2 { id: None, outputs: None }
}

fn read_npy(file: impl Read, size: u64, signature: &Signature) -> Result<DecodedRequest> {
    let [port] = signature.inputs() else {
        return Err(ScoreError::bad_input(format!(
            "an .npy file holds one array and the model has {} inputs: give an .npz with an array for each",
            signature.inputs().len()
        )));
    };
    let tensor = header::array(file)
        .and_then(|array| tensor(array, size, port.dtype()))
        .map_err(|e| e.with_at(format!("input '{}'", port.name)))?;
    Ok(DecodedRequest { inputs: vec![tensor], form: v2() })
}

fn read_npz(file: impl Read + Seek, size: u64, signature: &Signature) -> Result<DecodedRequest> {
    let mut archive = NpzArchive::new(file).map_err(not_numpy)?;
    let mut names = archive.array_names().map(str::to_owned).collect::<Vec<_>>();
    names.sort();
    let mut inputs = Vec::new();
    for port in signature.inputs() {
        let at = |e: ScoreError| e.with_at(format!("input '{}'", port.name));
        if !names.contains(&port.name) {
            let have = names.join("', '");
            return Err(at(ScoreError::bad_input(format!(
                "there is no array '{}'; the file has '{have}'",
                port.name
            ))));
        }
        let entry = npyz::npz::file_name_from_array_name(&port.name);
        let entry = archive.zip_archive().by_name(&entry).map_err(|e| at(not_numpy(e)))?;
        // Compressed arrays may be larger than the file; a thousandfold is beyond what deflate does.
        let most = size.saturating_mul(1032).min(4 * MAX_BYTES);
        let array = header::array(entry).map_err(at)?;
        inputs.push(tensor(array, most, port.dtype()).map_err(at)?);
    }
    Ok(DecodedRequest { inputs, form: v2() })
}

/// An array as a tensor of the type that the model wants; NumPy's type must be that very type.
fn tensor<R: Read>(array: Array<R>, most_bytes: u64, wanted: Option<DType>) -> Result<Tensor> {
    let shape = array.shape().iter().map(|d| usize::try_from(*d)).collect::<std::result::Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| ScoreError::bad_input("the shape is larger than memory"))?;
    let npyz::DType::Plain(ty) = array.dtype() else {
        return Err(ScoreError::bad_input("structured arrays cannot be scored"));
    };
    if array.order() == npyz::Order::Fortran && shape.len() > 1 {
        return Err(ScoreError::bad_input(
            "the array is in Fortran order: save it with numpy.ascontiguousarray(array)",
        ));
    }
    // The header's word is held against the file before anything is allocated for it.
    let elements = triscore::tensor::element_count(&shape)? as u64;
    let size = if ty.type_char() == TypeChar::UnicodeStr {
        ty.size_field().saturating_mul(4)
    } else {
        ty.size_field()
    };
    if elements.saturating_mul(size.max(1)) > most_bytes {
        return Err(ScoreError::bad_input(format!("shape {shape:?} says more elements than the file holds")));
    }
    macro_rules! of {
        ($t:ty) => {
            Tensor::from_slice(&shape, &elements_of::<$t, R>(array)?)
        };
    }
    match (ty.type_char(), ty.size_field()) {
        (TypeChar::Bool, _) => of!(bool),
        (TypeChar::Float, 2) => of!(half::f16),
        (TypeChar::Float, 4) => of!(f32),
        (TypeChar::Float, 8) => of!(f64),
        (TypeChar::Int, 1) => of!(i8),
        (TypeChar::Int, 2) => of!(i16),
        (TypeChar::Int, 4) => of!(i32),
        (TypeChar::Int, 8) => of!(i64),
        // NumPy has no bf16 and no floats of 8 bits: their bits travel as u16 and u8.
        (TypeChar::Uint, 1) if wanted == Some(DType::F8E4M3) => {
            let bits = elements_of::<u8, R>(array)?;
            Tensor::from_slice(&shape, &bits.into_iter().map(F8E4M3::from_bits).collect::<Vec<_>>())
        }
        (TypeChar::Uint, 1) if wanted == Some(DType::F8E5M2) => {
            let bits = elements_of::<u8, R>(array)?;
            Tensor::from_slice(&shape, &bits.into_iter().map(F8E5M2::from_bits).collect::<Vec<_>>())
        }
        (TypeChar::Uint, 1) => of!(u8),
        (TypeChar::Uint, 2) if wanted == Some(DType::Bf16) => {
            let bits = elements_of::<u16, R>(array)?;
            Tensor::from_slice(&shape, &bits.into_iter().map(half::bf16::from_bits).collect::<Vec<_>>())
        }
        (TypeChar::Uint, 2) => of!(u16),
        (TypeChar::Uint, 4) => of!(u32),
        (TypeChar::Uint, 8) => of!(u64),
        (TypeChar::UnicodeStr, _) => Tensor::strings(&shape, elements_of::<String, R>(array)?),
        _ => Err(ScoreError::bad_input(format!("arrays of type {ty} cannot be scored"))),
    }
}

fn elements_of<T: Deserialize, R: Read>(array: Array<R>) -> Result<Vec<T>> {
    let kind = std::any::type_name::<T>();
    array.into_vec::<T>().map_err(|e| ScoreError::bad_input(format!("cannot read the array as {kind}: {e}")))
}

/// Writes the outputs of a model: to a new file beside it, then renamed, so that nobody reads half.
///
/// # Errors
/// `Io`; `Unsupported` for what the kind of file cannot hold.
pub(super) fn write(path: &Path, signature: &Signature, outputs: &[Value], form: &ReplyForm) -> Result<()> {
    let bytes = match kind(path)? {
        Kind::Json => {
            let mut out = Vec::new();
            let form = match form {
                form @ ReplyForm::V2 { outputs: asked, .. } if holds(outputs, asked.as_deref()) => form,
                _ if holds(outputs, None) => &v2(),
                // The protocol has no word for sequences and maps.
                _ => &ReplyForm::Named,
            };
            json::encode(
                &mut out,
                outputs,
                signature,
                form,
                Answer { model_name: "model", model_version: None },
            )?;
            out.push(b'\n');
            out
        }
        Kind::Npy => {
            let [value] = outputs else {
                return Err(ScoreError::unsupported(format!(
                    "an .npy file holds one array and the model has {} outputs: write an .npz",
                    outputs.len()
                )));
            };
            let mut out = Vec::new();
            write_array(value.as_tensor()?, &mut out)?;
            out
        }
        Kind::Npz => npz(signature, outputs)?,
    };
    let io = |e| ScoreError::io("write", path, e);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(io)
}

/// Whether all that is asked for are tensors.
fn holds(outputs: &[Value], asked: Option<&[usize]>) -> bool {
    let is_asked = |place: &usize| asked.is_none_or(|asked| asked.contains(place));
    outputs.iter().enumerate().all(|(place, output)| !is_asked(&place) || output.as_tensor().is_ok())
}

fn npz(signature: &Signature, outputs: &[Value]) -> Result<Vec<u8>> {
    let mut cursor = std::io::Cursor::new(Vec::new());
    let mut archive = NpzWriter::new(&mut cursor);
    for (port, value) in signature.outputs().iter().zip(outputs) {
        let tensor = value.as_tensor().map_err(|_| {
            ScoreError::unsupported("NumPy files hold no sequences and maps: write .json")
                .with_at(format!("output '{}'", port.name))
        })?;
        let mut bytes = Vec::new();
        write_array(tensor, &mut bytes)?;
        let name = npyz::npz::file_name_from_array_name(&port.name);
        let failed = |e: std::io::Error| ScoreError::internal(format!("cannot make the archive: {e}"));
        archive.zip_writer().start_file(name, Default::default()).map_err(|e| failed(e.into()))?;
        std::io::Write::write_all(archive.zip_writer(), &bytes).map_err(failed)?;
    }
    drop(archive);
    Ok(cursor.into_inner())
}

fn write_array<W: std::io::Write>(tensor: &Tensor, out: W) -> Result<()> {
    let shape = tensor.shape().iter().map(|d| *d as u64).collect::<Vec<_>>();
    macro_rules! of {
        ($t:ty) => {
            array(out, &shape, tensor.as_slice::<$t>()?.iter().copied())
        };
    }
    let written = match tensor.dtype() {
        DType::Bool => of!(bool),
        DType::Bf16 => array(out, &shape, tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_bits())),
        DType::F8E4M3 | DType::F8E5M2 => array(out, &shape, tensor.as_bytes().iter().copied()),
        DType::F16 => of!(half::f16),
        DType::F32 => of!(f32),
        DType::F64 => of!(f64),
        DType::I8 => of!(i8),
        DType::I16 => of!(i16),
        DType::I32 => of!(i32),
        DType::I64 => of!(i64),
        DType::U8 => of!(u8),
        DType::U16 => of!(u16),
        DType::U32 => of!(u32),
        DType::U64 => of!(u64),
        DType::String => texts(out, &shape, tensor.as_strings()?),
        other => return Err(ScoreError::unsupported(format!("NumPy files hold no {other}: write .json"))),
    };
    written.map_err(|e| ScoreError::internal(format!("cannot make the array: {e}")))
}

fn array<W: std::io::Write, T: npyz::AutoSerialize>(
    out: W,
    shape: &[u64],
    elements: impl Iterator<Item = T>,
) -> std::io::Result<()> {
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(out).begin_nd()?;
    writer.extend(elements)?;
    writer.finish()
}

fn texts<W: std::io::Write>(out: W, shape: &[u64], texts: &[String]) -> std::io::Result<()> {
    let longest = texts.iter().map(|t| t.chars().count()).max().unwrap_or(0).max(1);
    let ty = format!("<U{longest}").parse::<npyz::TypeStr>().map_err(std::io::Error::other)?;
    let mut writer =
        npyz::WriteOptions::new().dtype(npyz::DType::Plain(ty)).shape(shape).writer(out).begin_nd()?;
    for text in texts {
        writer.push(text.as_str())?;
    }
    writer.finish()
}
