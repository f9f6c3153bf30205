//! ONNX's element types as a table: how wide they are, and which field of a tensor holds them.
//!
//! More types stand here than can be scored ([`DType`](crate::DType)): a model may carry a weight in int4
//! or float8 that only its own operators touch, and its length has to be right before a native library reads it.

use crate::error::{Result, ScoreError};

/// Which of a tensor's typed fields holds the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// `double_data`
    Double,
    /// `float_data`
    Float,
    /// `int32_data`
    Int32,
    /// `int64_data`
    Int64,
    /// `string_data`
    String,
    /// `uint64_data`
    Uint64,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct ElementType {
    /// `TensorProto.DataType`.
    pub(super) code: i32,
    pub(super) name: &'static str,
    /// Bits of an element in raw data; `None` for text.
    bits: Option<u64>,
    pub(super) holder: Holder,
    /// So many entries of the typed field …
    entries: u64,
    /// … hold so many elements.
    per_elements: u64,
    /// What an entry may be, where the field is wider than the element.
    pub(super) range: Option<(i64, i64)>,
}

const fn row(code: i32, name: &'static str, bits: u64, holder: Holder) -> ElementType {
    let bits = if bits == 0 { None } else { Some(bits) };
    ElementType { code, name, bits, holder, entries: 1, per_elements: 1, range: None }
}

const fn within(row: ElementType, low: i64, high: i64) -> ElementType {
    ElementType { range: Some((low, high)), ..row }
}

const fn packed(row: ElementType, entries: u64, per_elements: u64) -> ElementType {
    ElementType { entries, per_elements, ..row }
}

/// A bit pattern of one byte, written as a signed or an unsigned number.
const fn byte(row: ElementType) -> ElementType {
    within(row, -0x80, 0xff)
}

/// A bit pattern of two bytes, written as a signed or an unsigned number.
const fn two_bytes(row: ElementType) -> ElementType {
    within(row, -0x8000, 0xffff)
}

const TABLE: [ElementType; 28] = [
    row(1, "f32", 32, Holder::Float),
    within(row(2, "u8", 8, Holder::Int32), 0, 0xff),
    within(row(3, "i8", 8, Holder::Int32), -0x80, 0x7f),
    within(row(4, "u16", 16, Holder::Int32), 0, 0xffff),
    within(row(5, "i16", 16, Holder::Int32), -0x8000, 0x7fff),
    row(6, "i32", 32, Holder::Int32),
    row(7, "i64", 64, Holder::Int64),
    row(8, "string", 0, Holder::String),
    within(row(9, "bool", 8, Holder::Int32), 0, 1),
    two_bytes(row(10, "f16", 16, Holder::Int32)),
    row(11, "f64", 64, Holder::Double),
    within(row(12, "u32", 32, Holder::Uint64), 0, 0xffff_ffff),
    row(13, "u64", 64, Holder::Uint64),
    packed(row(14, "complex64", 64, Holder::Float), 2, 1),
    packed(row(15, "complex128", 128, Holder::Double), 2, 1),
    two_bytes(row(16, "bf16", 16, Holder::Int32)),
    byte(row(17, "f8e4m3", 8, Holder::Int32)),
    byte(row(18, "float8e4m3fnuz", 8, Holder::Int32)),
    byte(row(19, "f8e5m2", 8, Holder::Int32)),
    byte(row(20, "float8e5m2fnuz", 8, Holder::Int32)),
    packed(byte(row(21, "uint4", 4, Holder::Int32)), 1, 2),
    packed(byte(row(22, "int4", 4, Holder::Int32)), 1, 2),
    packed(byte(row(23, "float4e2m1", 4, Holder::Int32)), 1, 2),
    byte(row(24, "float8e8m0", 8, Holder::Int32)),
    packed(byte(row(25, "uint2", 2, Holder::Int32)), 1, 4),
    packed(byte(row(26, "int2", 2, Holder::Int32)), 1, 4),
    byte(row(27, "float6e2m3", 6, Holder::Int32)),
    byte(row(28, "float6e3m2", 6, Holder::Int32)),
];

impl ElementType {
    /// The row of that number.
    ///
    /// # Errors
    /// `BadModel` where ONNX has no such type.
    pub(super) fn of(code: i32) -> Result<&'static Self> {
        TABLE.iter().find(|r| r.code == code).ok_or_else(|| {
            ScoreError::bad_model(match code {
                0 => "it has no element type".to_owned(),
                _ => format!("element type {code} is none of ONNX's ({} are known)", TABLE.len()),
            })
        })
    }

    /// How many bytes of raw data that many elements take; `None` for text or where it overflows.
    pub(super) fn raw_bytes(&self, elements: u64) -> Option<u64> {
        elements.checked_mul(self.bits?).map(|bits| bits.div_ceil(8))
    }

    /// How many entries of the typed field that many elements take; `None` where it overflows.
    pub(super) fn entries(&self, elements: u64) -> Option<u64> {
        elements.checked_mul(self.entries).map(|n| n.div_ceil(self.per_elements))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::onnx::tensor_proto::DataType;
    use crate::tensor::DType;

    #[test]
    fn every_type_of_onnx_has_its_row() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.code as usize, i + 1);
            assert!(DataType::try_from(row.code).is_ok());
        }
        assert!(DataType::try_from(TABLE.len() as i32 + 1).is_err(), "a new type: add its row");
        for dtype in DType::all() {
            let row = ElementType::of(dtype.onnx_code()).unwrap();
            assert_eq!(row.name, dtype.name());
            assert_eq!(row.raw_bytes(3), dtype.size_bytes().map(|n| 3 * n as u64), "{dtype}");
        }
        assert!(ElementType::of(0).unwrap_err().message().contains("no element type"));
        assert!(ElementType::of(99).is_err());
    }

    #[test]
    fn elements_below_a_byte_are_packed() {
        // (type, elements, bytes of raw data, entries of the typed field)
        let cases =
            [(22, 3, 2, 2), (22, 4, 2, 2), (26, 5, 2, 2), (27, 5, 4, 5), (14, 3, 24, 6), (15, 1, 16, 2)];
        for (code, elements, bytes, entries) in cases {
            let row = ElementType::of(code).unwrap();
            assert_eq!(row.raw_bytes(elements), Some(bytes), "{}", row.name);
            assert_eq!(row.entries(elements), Some(entries), "{}", row.name);
        }
        assert_eq!(ElementType::of(15).unwrap().raw_bytes(u64::MAX / 2), None);
    }
}
