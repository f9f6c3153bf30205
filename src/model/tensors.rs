//! Whether a tensor in a model is what it says: its shape, its type and its data agree.
//!
//! Native libraries have read past the end of tensors whose data was shorter than their shape. Every tensor is
//! therefore held against its own shape here, with arithmetic that cannot overflow, wherever it stands:
//! initialisers, attributes, the two halves of a sparse tensor.

use super::elements::{ElementType, Holder};
use super::external::{self, Reference};
use super::limits::{ReadLimits, over};
use super::onnx::{SparseTensorProto, TensorProto};
use crate::error::{Result, ScoreError};

/// What was found out about a tensor.
#[derive(Debug)]
pub(super) struct Checked<'a> {
    pub(super) elements: u64,
    /// Of its raw data; of all texts together, for text.
    pub(super) bytes: u64,
    pub(super) external: Option<Reference<'a>>,
}

/// Checks a tensor against itself.
///
/// # Errors
/// `BadModel` saying what does not agree; `TooLarge` for too many dimensions.
pub(super) fn check<'a>(tensor: &'a TensorProto, limits: &ReadLimits) -> Result<Checked<'a>> {
    let kind = ElementType::of(tensor.data_type())?;
    let elements = element_count(&tensor.dims, limits)?;
    let is = || format!("{}{:?}", kind.name, tensor.dims);
    if tensor.segment.is_some() {
        return Err(ScoreError::unsupported("tensors in segments are not supported"));
    }
    let filled = filled(tensor);
    let raw_bytes = || {
        kind.raw_bytes(elements).ok_or_else(|| {
            ScoreError::bad_model(match kind.holder {
                Holder::String => "text as raw data: expected string_data".to_owned(),
                _ => format!("{} has more bytes than memory has addresses", is()),
            })
        })
    };
    if external::is_external(tensor)? {
        if tensor.raw_data.is_some() || filled.is_some() {
            return Err(ScoreError::bad_model("it has both external data and data of its own"));
        }
        let (reference, bytes) = (Reference::of(tensor)?, raw_bytes()?);
        if let Some(length) = reference.length.filter(|length| *length != bytes) {
            let what = format!("{} takes {bytes} bytes, its external data has {length}", is());
            return Err(ScoreError::bad_model(what));
        }
        return Ok(Checked { elements, bytes, external: Some(reference) });
    }
    let bytes = match (&tensor.raw_data, filled) {
        (Some(_), Some(_)) => return Err(ScoreError::bad_model("it has both raw data and typed data")),
        (Some(raw), None) => {
            let bytes = raw_bytes()?;
            if raw.len() as u64 != bytes {
                let what = format!("{} takes {bytes} bytes, its raw data has {}", is(), raw.len());
                return Err(ScoreError::bad_model(what));
            }
            if kind.name == "bool" && raw.iter().any(|b| *b > 1) {
                return Err(ScoreError::bad_model("a bool that is neither 0 nor 1"));
            }
            bytes
        }
        (None, typed) => typed_bytes(tensor, kind, elements, typed)?,
    };
    Ok(Checked { elements, bytes, external: None })
}

/// How many bytes the typed data takes once it is raw, after checking that it fits type and shape.
fn typed_bytes(
    tensor: &TensorProto,
    kind: &ElementType,
    elements: u64,
    typed: Option<(Holder, usize)>,
) -> Result<u64> {
    let is = || format!("{}{:?}", kind.name, tensor.dims);
    let (holder, entries) = typed.unwrap_or((kind.holder, 0));
    if holder != kind.holder {
        let what = format!("{} has its data in the field of {holder:?}", is());
        return Err(ScoreError::bad_model(format!("{what}, expected that of {:?}", kind.holder)));
    }
    let expected = kind.entries(elements);
    if expected != Some(entries as u64) {
        let expected = expected.map_or_else(|| "more than memory holds".to_owned(), |n| n.to_string());
        let what = format!("{} takes {expected} values, it has {entries}", is());
        return Err(ScoreError::bad_model(what));
    }
    if let Some((low, high)) = kind.range {
        let outside = |v: &i64| !(low..=high).contains(v);
        let wrong = match holder {
            Holder::Int32 => tensor.int32_data.iter().map(|v| i64::from(*v)).find(outside),
            // A number that does not fit i64 does not fit any narrower range either.
            _ => tensor.uint64_data.iter().map(|v| i64::try_from(*v).unwrap_or(-1)).find(outside),
        };
        if let Some(value) = wrong {
            return Err(ScoreError::bad_model(format!("{value} is no {}", kind.name)));
        }
    }
    if holder == Holder::String {
        if let Some(i) = tensor.string_data.iter().position(|s| std::str::from_utf8(s).is_err()) {
            return Err(ScoreError::bad_model(format!("text {i} is not UTF-8")));
        }
        return Ok(tensor.string_data.iter().map(|s| s.len() as u64).sum());
    }
    kind.raw_bytes(elements).ok_or_else(|| ScoreError::bad_model(format!("{} is too large", is())))
}

/// The typed field that holds data and how many entries it has; a field that does not belong there
/// where there are several, so that it is refused.
fn filled(tensor: &TensorProto) -> Option<(Holder, usize)> {
    let fields = [
        (Holder::Double, tensor.double_data.len()),
        (Holder::Float, tensor.float_data.len()),
        (Holder::Int32, tensor.int32_data.len()),
        (Holder::Int64, tensor.int64_data.len()),
        (Holder::String, tensor.string_data.len()),
        (Holder::Uint64, tensor.uint64_data.len()),
    ];
    let own = ElementType::of(tensor.data_type()).map(|kind| kind.holder).ok();
    let mut filled = fields.into_iter().filter(|(_, entries)| *entries > 0);
    filled.clone().find(|(holder, _)| Some(*holder) != own).or_else(|| filled.next())
}

/// How many elements the dimensions make.
///
/// Zeros are left out of the overflow check on purpose: what is computed from a part of such a shape
/// (a stride, a row) must fit too.
fn element_count(dims: &[i64], limits: &ReadLimits) -> Result<u64> {
    if dims.len() > limits.max_rank {
        return Err(over(&format!("{} dimensions", dims.len()), limits.max_rank, "max_rank"));
    }
    let mut product = 1u64;
    for dim in dims {
        let length = u64::try_from(*dim).map_err(|_| {
            ScoreError::bad_model(format!("a dimension of {dim}: a length cannot be negative"))
        })?;
        product = product.checked_mul(length.max(1)).filter(|n| *n <= i64::MAX as u64).ok_or_else(|| {
            ScoreError::bad_model(format!("shape {dims:?} has more elements than memory has addresses"))
        })?;
    }
    Ok(if dims.contains(&0) { 0 } else { product })
}

/// Checks a sparse tensor: values, as many indices, each within the shape, ascending.
///
/// `dense_bytes` is what all sparse tensors so far take as dense ones; this one is added.
///
/// # Errors
/// `BadModel` saying what does not agree; `TooLarge` where the dense tensor would be.
pub(super) fn check_sparse<'a>(
    sparse: &'a SparseTensorProto,
    limits: &ReadLimits,
    dense_bytes: &mut u64,
) -> Result<Checked<'a>> {
    let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
        return Err(ScoreError::bad_model("a sparse tensor without values or without indices"));
    };
    let stored = check(values, limits).map_err(|e| e.with_at("values"))?;
    let places = check(indices, limits).map_err(|e| e.with_at("indices"))?;
    if stored.external.is_some() || places.external.is_some() {
        return Err(ScoreError::unsupported("external data in a sparse tensor is not supported"));
    }
    let dense = element_count(&sparse.dims, limits)?;
    let kind = ElementType::of(values.data_type())?;
    // A text takes at least a handle.
    let dense_size =
        kind.raw_bytes(dense).unwrap_or_else(|| dense.saturating_mul(size_of::<String>() as u64));
    *dense_bytes = dense_bytes.saturating_add(dense_size);
    if *dense_bytes > limits.max_sparse_bytes {
        let limit = format!("{} bytes", limits.max_sparse_bytes);
        return Err(over("sparse tensors too large when made dense", limit, "max_sparse_bytes"));
    }
    let [count] = values.dims.as_slice() else {
        let what = format!("values of shape {:?}: expected one dimension", values.dims);
        return Err(ScoreError::bad_model(what));
    };
    if ElementType::of(indices.data_type())?.name != "i64" {
        return Err(ScoreError::bad_model("indices that are not i64"));
    }
    let numbers = int64s(indices);
    let rank = sparse.dims.len();
    let ascending = match indices.dims.as_slice() {
        [n] if n == count => check_ascending(numbers.iter().map(|i| (*i, (0..dense as i64).contains(i)))),
        [n, r] if n == count && usize::try_from(*r) == Ok(rank) && rank > 0 => {
            let within = |row: &[i64]| row.iter().zip(&sparse.dims).all(|(i, dim)| (0..*dim).contains(i));
            check_ascending(numbers.chunks_exact(rank).map(|row| (row, within(row))))
        }
        other => {
            let what = format!("indices of shape {other:?}: expected [{count}] or [{count}, {rank}]");
            return Err(ScoreError::bad_model(what));
        }
    };
    ascending.map_err(|what| ScoreError::bad_model(what).with_at("indices"))?;
    Ok(stored)
}

fn check_ascending<T: PartialOrd>(indices: impl Iterator<Item = (T, bool)>) -> Result<(), String> {
    let mut last = None;
    for (i, (index, within)) in indices.enumerate() {
        if !within {
            return Err(format!("index {i} lies outside the shape"));
        }
        if last.is_some_and(|last| last >= index) {
            return Err(format!("index {i} does not ascend"));
        }
        last = Some(index);
    }
    Ok(())
}

/// The numbers of a tensor of i64 that was checked.
fn int64s(tensor: &TensorProto) -> Vec<i64> {
    match &tensor.raw_data {
        Some(raw) => raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        None => tensor.int64_data.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::testing::entry;
    use bytes::Bytes;

    fn tensor(data_type: i32, dims: &[i64], change: impl Fn(&mut TensorProto)) -> TensorProto {
        let mut tensor =
            TensorProto { data_type: Some(data_type), dims: dims.to_vec(), ..Default::default() };
        change(&mut tensor);
        tensor
    }

    fn raw(length: usize) -> impl Fn(&mut TensorProto) {
        move |t| t.raw_data = Some(Bytes::from(vec![0; length]))
    }

    fn outside(entries: &'static [(&'static str, &'static str)]) -> impl Fn(&mut TensorProto) {
        move |t| {
            t.data_location = Some(1);
            t.external_data = entries.iter().map(|(k, v)| entry(k, v)).collect();
        }
    }

    #[test]
    fn shape_type_and_data_must_agree() {
        const MAX: i64 = i64::MAX;
        // (tensor, what the message must say; empty = accepted)
        let cases: Vec<(TensorProto, &str)> = vec![
            (tensor(1, &[2, 3], raw(24)), ""),
            (tensor(1, &[2, 3], raw(23)), "f32[2, 3] takes 24 bytes, its raw data has 23"),
            (tensor(1, &[2, 3], raw(28)), "takes 24 bytes, its raw data has 28"),
            (tensor(1, &[], raw(4)), ""),
            (tensor(1, &[0, 7], raw(0)), ""),
            (tensor(1, &[0, 7], |_| {}), ""),
            (tensor(1, &[2], |_| {}), "f32[2] takes 2 values, it has 0"),
            (tensor(1, &[2], |t| t.float_data = vec![0.; 2]), ""),
            (tensor(1, &[2], |t| t.float_data = vec![0.; 3]), "takes 2 values, it has 3"),
            (tensor(1, &[2], |t| t.int64_data = vec![0; 2]), "in the field of Int64, expected that of Float"),
            (
                tensor(1, &[2], |t| (t.float_data, t.double_data) = (vec![0.; 2], vec![0.; 2])),
                "in the field of Double",
            ),
            (
                tensor(1, &[1], |t| {
                    raw(4)(t);
                    t.float_data = vec![0.];
                }),
                "both raw data and typed data",
            ),
            (tensor(1, &[-1], raw(0)), "a length cannot be negative"),
            (tensor(1, &[MAX, 3], raw(0)), "more elements than memory"),
            (tensor(1, &[0, MAX, 3], raw(0)), "more elements than memory"),
            (tensor(11, &[MAX], raw(0)), "more bytes than memory"),
            (tensor(14, &[MAX], |t| t.float_data = vec![0.; 2]), "takes 18446744073709551614 values"),
            (tensor(1, &[1; 65], raw(4)), "max_rank"),
            (tensor(0, &[1], raw(4)), "no element type"),
            (tensor(29, &[1], raw(4)), "element type 29 is none of ONNX's"),
            (tensor(22, &[3], raw(2)), ""),
            (tensor(22, &[3], raw(3)), "int4[3] takes 2 bytes"),
            (tensor(22, &[3], |t| t.int32_data = vec![0x21, 0x03]), ""),
            (tensor(22, &[3], |t| t.int32_data = vec![1, 2, 3]), "takes 2 values, it has 3"),
            (tensor(14, &[1], |t| t.float_data = vec![0.; 2]), ""),
            (tensor(10, &[2], |t| t.int32_data = vec![0x3c00, 0xffff]), ""),
            (tensor(10, &[1], |t| t.int32_data = vec![0x1_0000]), "65536 is no f16"),
            (tensor(2, &[2], |t| t.int32_data = vec![255, -1]), "-1 is no u8"),
            (tensor(3, &[1], |t| t.int32_data = vec![128]), "128 is no i8"),
            (tensor(12, &[1], |t| t.uint64_data = vec![1 << 32]), "is no u32"),
            (tensor(12, &[1], |t| t.uint64_data = vec![u64::MAX]), "is no u32"),
            (tensor(13, &[1], |t| t.uint64_data = vec![u64::MAX]), ""),
            (tensor(9, &[2], |t| t.int32_data = vec![0, 2]), "2 is no bool"),
            (tensor(9, &[1], |t| t.raw_data = Some(Bytes::from_static(&[2]))), "neither 0 nor 1"),
            (tensor(8, &[2], |t| t.string_data = vec![Bytes::from_static(b"a"), Bytes::new()]), ""),
            (tensor(8, &[2], |t| t.string_data = vec![Bytes::new()]), "string[2] takes 2 values, it has 1"),
            (tensor(8, &[1], |t| t.string_data = vec![Bytes::from_static(&[0xff])]), "text 0 is not UTF-8"),
            (tensor(8, &[1], raw(1)), "text as raw data"),
            (tensor(1, &[1], |t| t.segment = Some(Default::default())), "segments"),
            (tensor(1, &[2], outside(&[("location", "w.bin")])), ""),
            (tensor(1, &[2], outside(&[("location", "w"), ("offset", "4"), ("length", "8")])), ""),
            (
                tensor(1, &[2], outside(&[("location", "w"), ("length", "9")])),
                "takes 8 bytes, its external data has 9",
            ),
            (tensor(8, &[2], outside(&[("location", "w")])), "text as raw data"),
            (
                tensor(1, &[1], |t| {
                    outside(&[("location", "w")])(t);
                    t.float_data = vec![0.];
                }),
                "both external data and data of its own",
            ),
            (
                tensor(1, &[1], |t| {
                    raw(4)(t);
                    t.external_data = vec![entry("location", "w")];
                }),
                "names external data, and its data location says",
            ),
            (tensor(1, &[1], |t| t.data_location = Some(7)), "data location 7"),
        ];
        for (tensor, message) in cases {
            let got = check(&tensor, &ReadLimits::default()).map(|_| ()).err();
            let got = got.map(|e| e.to_string()).unwrap_or_default();
            assert!(
                got.contains(message) && got.is_empty() == message.is_empty(),
                "'{message}', got '{got}'"
            );
        }
    }

    #[test]
    fn references_to_files_are_taken_at_their_plainest() {
        // (entries, what the message must say; empty = accepted)
        let cases: &[(&'static [(&str, &str)], &str)] = &[
            (&[("location", "w.bin"), ("offset", "4096"), ("checksum", "da39a3ee")], ""),
            (&[("location", "weights v1.data")], ""),
            (&[], "without a location"),
            (&[("location", "")], "it is empty"),
            (&[("location", "/etc/passwd")], "it is a path"),
            (&[("location", "a/b")], "it is a path"),
            (&[("location", "a\\b")], "it is a path"),
            (&[("location", "C:w")], "it is a path"),
            (&[("location", "..")], "leaves the folder"),
            (&[("location", ".")], "leaves the folder"),
            (&[("location", "w\0")], "control character"),
            (&[("location", "*/_ORT_MEM_ADDR_/*")], "it is a path"),
            (&[("location", "w"), ("location", "v")], "location twice"),
            (&[("location", "w"), ("basepath", "/")], "the key 'basepath'"),
            (&[("location", "w"), ("offset", "-1")], "offset '-1'"),
            (&[("location", "w"), ("offset", "+1")], "offset '+1'"),
            (&[("location", "w"), ("offset", "")], "offset ''"),
            (&[("location", "w"), ("length", "0x10")], "length '0x10'"),
            (&[("location", "w"), ("length", "99999999999999999999")], "length '999"),
        ];
        for (entries, message) in cases {
            let got = Reference::of(&tensor(1, &[1], outside(entries))).err();
            let got = got.map(|e| e.to_string()).unwrap_or_default();
            assert!(
                got.contains(message) && got.is_empty() == message.is_empty(),
                "'{message}', got '{got}'"
            );
        }
        let bytes = Bytes::from(vec![7; 16]);
        for (offset, length, fits) in
            [(0, 16, true), (12, 4, true), (16, 0, true), (13, 4, false), (u64::MAX, 4, false)]
        {
            let reference = Reference { tensor: "w", file: "f", offset, length: None };
            assert_eq!(reference.slice(&bytes, length).is_ok(), fits, "{offset}+{length}");
        }
    }

    #[test]
    fn sparse_tensors_hold_what_their_shape_has_room_for() {
        let sparse = |dims: &[i64], values: usize, shape: &[i64], indices: &[i64]| SparseTensorProto {
            values: Some(tensor(1, &[values as i64], |t| t.float_data = vec![1.; values])),
            indices: Some(tensor(7, shape, |t| t.int64_data = indices.to_vec())),
            dims: dims.to_vec(),
        };
        let cases = [
            (sparse(&[2, 3], 2, &[2], &[0, 5]), ""),
            (sparse(&[2, 3], 2, &[2, 2], &[0, 2, 1, 0]), ""),
            (sparse(&[2, 3], 0, &[0], &[]), ""),
            (sparse(&[2, 3], 1, &[1], &[6]), "index 0 lies outside"),
            (sparse(&[2, 3], 1, &[1], &[-1]), "index 0 lies outside"),
            (sparse(&[2, 3], 1, &[1, 2], &[1, 3]), "index 0 lies outside"),
            (sparse(&[2, 3], 2, &[2], &[3, 3]), "index 1 does not ascend"),
            (sparse(&[2, 3], 2, &[2, 2], &[1, 0, 0, 1]), "index 1 does not ascend"),
            (sparse(&[2, 3], 2, &[3], &[0, 1, 2]), "indices of shape [3]: expected [2] or [2, 2]"),
            (sparse(&[2, 3], 1, &[1, 3], &[0, 0, 0]), "indices of shape [1, 3]"),
            (sparse(&[2, -3], 0, &[0], &[]), "cannot be negative"),
            (sparse(&[1 << 40, 1 << 40], 0, &[0], &[]), "more elements than memory"),
            (sparse(&[1 << 30], 0, &[0], &[]), "max_sparse_bytes"),
            (SparseTensorProto::default(), "without values"),
        ];
        for (sparse, message) in cases {
            let got = check_sparse(&sparse, &ReadLimits::default(), &mut 0).err();
            if message.contains("max_") {
                assert_eq!(got.as_ref().map(ScoreError::kind), Some(ErrorKind::TooLarge));
            }
            let got = got.map(|e| e.to_string()).unwrap_or_default();
            assert!(
                got.contains(message) && got.is_empty() == message.is_empty(),
                "'{message}', got '{got}'"
            );
        }
    }
}
