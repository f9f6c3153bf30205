//! The element types that a tensor may have, and the Rust types that stand for them.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use super::float8::{F8E4M3, F8E5M2};
use crate::error::{Result, ScoreError};

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Brain floating point: 8 bits of exponent, 7 of fraction.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// 8 bits, 4 of exponent, 3 of fraction, without infinity: ONNX's `FLOAT8E4M3FN`.
    F8E4M3,
    /// 8 bits, 5 of exponent, 2 of fraction: ONNX's `FLOAT8E5M2`.
    F8E5M2,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// UTF-8 text of any length.
    String,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
}

/// One row of the table of element types.
struct DTypeRow {
    dtype: DType,
    name: &'static str,
    /// The name in the Open Inference Protocol ("V2"), which has none for 8-bit floats: those are ours.
    v2: &'static str,
    /// `TensorProto.DataType` in onnx.proto.
    onnx: i32,
    size_bytes: Option<usize>,
}

const fn row(dtype: DType, name: &'static str, v2: &'static str, onnx: i32, size: usize) -> DTypeRow {
    DTypeRow { dtype, name, v2, onnx, size_bytes: if size == 0 { None } else { Some(size) } }
}

const TABLE: [DTypeRow; 16] = [
    row(DType::Bool, "bool", "BOOL", 9, 1),
    row(DType::Bf16, "bf16", "BF16", 16, 2),
    row(DType::F16, "f16", "FP16", 10, 2),
    row(DType::F32, "f32", "FP32", 1, 4),
    row(DType::F64, "f64", "FP64", 11, 8),
    row(DType::F8E4M3, "f8e4m3", "FP8_E4M3", 17, 1),
    row(DType::F8E5M2, "f8e5m2", "FP8_E5M2", 19, 1),
    row(DType::I8, "i8", "INT8", 3, 1),
    row(DType::I16, "i16", "INT16", 5, 2),
    row(DType::I32, "i32", "INT32", 6, 4),
    row(DType::I64, "i64", "INT64", 7, 8),
    row(DType::String, "string", "BYTES", 8, 0),
    row(DType::U8, "u8", "UINT8", 2, 1),
    row(DType::U16, "u16", "UINT16", 4, 2),
    row(DType::U32, "u32", "UINT32", 12, 4),
    row(DType::U64, "u64", "UINT64", 13, 8),
];

impl DType {
    /// Every element type.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|r| r.dtype)
    }

    fn row(self) -> &'static DTypeRow {
        // The table holds every variant (tested), so the fallback row is never taken.
        TABLE.iter().find(|r| r.dtype == self).unwrap_or(&TABLE[0])
    }

    /// The name used in messages and by [`FromStr`]: `f32`, `i64`, `string`, …
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The name in the Open Inference Protocol: `FP32`, `INT64`, `BYTES`, …
    pub fn v2_name(self) -> &'static str {
        self.row().v2
    }

    /// Bytes per element; `None` for text, whose elements differ in size.
    pub fn size_bytes(self) -> Option<usize> {
        self.row().size_bytes
    }

    /// The number of this type in ONNX (`TensorProto.DataType`).
    pub fn onnx_code(self) -> i32 {
        self.row().onnx
    }

    /// The type with that number in ONNX (`TensorProto.DataType`), if it is one that can be scored.
    pub fn from_onnx(code: i32) -> Option<Self> {
        TABLE.iter().find(|r| r.onnx == code).map(|r| r.dtype)
    }

    /// The type with that name in the Open Inference Protocol.
    pub fn from_v2(name: &str) -> Option<Self> {
        TABLE.iter().find(|r| r.v2 == name).map(|r| r.dtype)
    }

    /// Whether it is a floating-point type of 8 bits.
    pub fn is_float8(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2)
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Bf16 | Self::F16 | Self::F32 | Self::F64) || self.is_float8()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ScoreError;

    fn from_str(text: &str) -> Result<Self> {
        TABLE.iter().find(|r| r.name == text).map(|r| r.dtype).ok_or_else(|| {
            let known = TABLE.iter().map(|r| r.name).collect::<Vec<_>>().join(", ");
            ScoreError::bad_input(format!("unknown element type '{text}': expected one of {known}"))
        })
    }
}

/// A Rust type whose values are the elements of a tensor of fixed-size elements.
///
/// Sealed: the safety of viewing bytes as elements rests on exactly these types.
pub trait Element: bytemuck::CheckedBitPattern + bytemuck::NoUninit + Send + Sync + private::Sealed {
    /// The element type that this Rust type stands for.
    const DTYPE: DType;
}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident,)*) => {
        $(impl private::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

elements! {
    bool => Bool,
    bf16 => Bf16,
    f16 => F16,
    f32 => F32,
    f64 => F64,
    F8E4M3 => F8E4M3,
    F8E5M2 => F8E5M2,
    i8 => I8,
    i16 => I16,
    i32 => I32,
    i64 => I64,
    u8 => U8,
    u16 => U16,
    u32 => U32,
    u64 => U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_row_and_its_names_lead_back() {
        for dtype in DType::all() {
            assert_eq!(dtype.row().dtype, dtype);
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
            assert_eq!(DType::from_v2(dtype.v2_name()), Some(dtype));
            assert_eq!(DType::from_onnx(dtype.onnx_code()), Some(dtype));
        }
        assert_eq!(DType::from_onnx(0), None);
        assert!("float".parse::<DType>().unwrap_err().to_string().contains("f32"));
    }
}
