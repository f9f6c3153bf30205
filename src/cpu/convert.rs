//! Tensors in and out of ONNX Runtime.
//!
//! Numbers are not copied in either direction: an input is a view of the tensor's buffer, and an
//! output is a tensor over the memory that ONNX Runtime allocated, which lives as long as the tensor.
//! Text is copied: ONNX Runtime keeps C strings.

use ort::session::SessionInputValue;
use ort::value::{
    DynMapValueType, DynTensor, DynTensorValueType, DynValue, TensorElementType, TensorRef, ValueType,
};

use crate::error::{ErrorKind, Result, ScoreError};
use crate::tensor::{Buffer, DType, Map, Memory, Tensor, Value};

/// An error of ONNX Runtime as ours: its text, and what it means to a caller.
pub(super) fn error(e: &ort::Error, doing: &str) -> ScoreError {
    use ort::ErrorCode;
    let text = e.message();
    let lower = text.to_ascii_lowercase();
    // It reports failed allocations under several codes; the words are the same in all.
    let out_of_memory =
        ["bad_alloc", "failed to allocate memory", "available memory of"].iter().any(|w| lower.contains(w));
    let kind = match e.code() {
        _ if out_of_memory => ErrorKind::OutOfMemory,
        ErrorCode::InvalidArgument => ErrorKind::BadInput,
        ErrorCode::InvalidGraph | ErrorCode::InvalidProtobuf => ErrorKind::BadModel,
        ErrorCode::NotImplemented => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    };
    ScoreError::new(kind, format!("{doing}: ONNX Runtime says: {text}"))
}

/// A view of the tensor for ONNX Runtime.
pub(super) fn input(tensor: &Tensor) -> Result<SessionInputValue<'_>> {
    macro_rules! view {
        ($t:ty) => {
            TensorRef::from_array_view((tensor.shape(), tensor.as_slice::<$t>()?)).map(Into::into)
        };
    }
    let view: ort::Result<SessionInputValue<'_>> = match tensor.dtype() {
        DType::Bool => view!(bool),
        DType::Bf16 => view!(half::bf16),
        DType::F16 => view!(half::f16),
        DType::F32 => view!(f32),
        DType::F64 => view!(f64),
        dtype @ (DType::F8E4M3 | DType::F8E5M2) => {
            return Err(ScoreError::unsupported(format!("inputs of {dtype}")));
        }
        DType::I8 => view!(i8),
        DType::I16 => view!(i16),
        DType::I32 => view!(i32),
        DType::I64 => view!(i64),
        DType::U8 => view!(u8),
        DType::U16 => view!(u16),
        DType::U32 => view!(u32),
        DType::U64 => view!(u64),
        DType::String => {
            let strings = tensor.as_strings()?;
            if let Some(at) = strings.iter().position(|s| s.contains('\0')) {
                return Err(ScoreError::bad_input(format!(
                    "text {at} holds a zero byte, which ONNX Runtime cannot take"
                )));
            }
            ort::value::Tensor::from_string_array((tensor.shape(), strings)).map(Into::into)
        }
    };
    view.map_err(|e| error(&e, "giving an input"))
}

/// What ONNX Runtime answered, without copying numbers.
pub(super) fn output(value: DynValue) -> Result<Value> {
    match value.dtype() {
        ValueType::Tensor { ty: TensorElementType::String, .. } => strings(&value).map(Value::Tensor),
        ValueType::Tensor { .. } => numbers(value).map(Value::Tensor),
        ValueType::Sequence(_) => {
            let items = value
                .downcast::<ort::value::DynSequenceValueType>()
                .and_then(|s| s.try_extract_sequence::<ort::value::DynValueTypeMarker>())
                .map_err(|e| error(&e, "taking a sequence"))?;
            items.into_iter().map(output).collect::<Result<_>>().map(Value::Sequence)
        }
        ValueType::Map { key, value: of } => {
            let (key, of) = (*key, *of);
            map(value, key, of).map(Value::Map)
        }
        ValueType::Optional(_) => Err(ScoreError::unsupported("the model answered an optional value")),
    }
}

fn numbers(value: DynValue) -> Result<Tensor> {
    let tensor = value.downcast::<DynTensorValueType>().map_err(|e| error(&e, "taking a tensor"))?;
    let dtype = of_ort(*tensor.data_type())?;
    let shape = shape(tensor.shape())?;
    let elements = crate::tensor::element_count(&shape)?;
    let len = dtype.size_bytes().and_then(|size| size.checked_mul(elements));
    let len = len.ok_or_else(|| ScoreError::internal("an output is larger than memory"))?;
    let start = tensor.data_ptr().cast::<u8>();
    if start.is_null() || len == 0 {
        return Tensor::zeros(dtype, &shape);
    }
    Tensor::new(dtype, &shape, Buffer::from_memory(OrtMemory { start, len, _owner: tensor })?)
}

/// Memory that an output of ONNX Runtime owns.
struct OrtMemory {
    start: *const u8,
    len: usize,
    _owner: DynTensor,
}

// SAFETY: the memory belongs to `_owner`, which is `Send` and `Sync`, and is only ever read.
unsafe impl Send for OrtMemory {}
// SAFETY: as above.
unsafe impl Sync for OrtMemory {}

impl Memory for OrtMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is where ONNX Runtime put the elements, `len` their number times their size,
        // and the owner, which nobody else can reach, lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

fn strings(value: &DynValue) -> Result<Tensor> {
    let (dims, texts) = value.try_extract_strings().map_err(|e| error(&e, "taking text"))?;
    Tensor::strings(&shape(dims)?, texts)
}

fn shape(dims: &[i64]) -> Result<Vec<usize>> {
    let dims = dims.iter().map(|d| usize::try_from(*d)).collect::<std::result::Result<Vec<_>, _>>();
    dims.map_err(|_| ScoreError::internal("an output has a negative dimension"))
}

/// The two kinds of maps that ONNX has operators for: integers or text to floats.
fn map(value: DynValue, key: TensorElementType, of: TensorElementType) -> Result<Map> {
    let unsupported = || ScoreError::unsupported(format!("the model answered a map of {key} to {of}"));
    let map = value.downcast::<DynMapValueType>().map_err(|e| error(&e, "taking a map"))?;
    macro_rules! pairs {
        ($k:ty, $v:ty) => {
            map.try_extract_key_values::<$k, $v>().map_err(|e| error(&e, "taking a map"))?.into_iter().unzip()
        };
    }
    use TensorElementType::{Float32, Float64, Int64, String as Text};
    let (keys, values) = match (key, of) {
        (Int64, Float32) => {
            let (k, v): (Vec<i64>, Vec<f32>) = pairs!(i64, f32);
            (Tensor::from_slice(&[k.len()], &k)?, Tensor::from_slice(&[v.len()], &v)?)
        }
        (Int64, Float64) => {
            let (k, v): (Vec<i64>, Vec<f64>) = pairs!(i64, f64);
            (Tensor::from_slice(&[k.len()], &k)?, Tensor::from_slice(&[v.len()], &v)?)
        }
        (Text, Float32) => {
            let (k, v): (Vec<String>, Vec<f32>) = pairs!(String, f32);
            (Tensor::strings(&[k.len()], k)?, Tensor::from_slice(&[v.len()], &v)?)
        }
        (Text, Float64) => {
            let (k, v): (Vec<String>, Vec<f64>) = pairs!(String, f64);
            (Tensor::strings(&[k.len()], k)?, Tensor::from_slice(&[v.len()], &v)?)
        }
        (Text, Int64) => {
            let (k, v): (Vec<String>, Vec<i64>) = pairs!(String, i64);
            (Tensor::strings(&[k.len()], k)?, Tensor::from_slice(&[v.len()], &v)?)
        }
        _ => return Err(unsupported()),
    };
    Map::new(keys, values)
}

fn of_ort(ty: TensorElementType) -> Result<DType> {
    use TensorElementType as T;
    Ok(match ty {
        T::Bool => DType::Bool,
        T::Bfloat16 => DType::Bf16,
        T::Float16 => DType::F16,
        T::Float32 => DType::F32,
        T::Float64 => DType::F64,
        T::Int8 => DType::I8,
        T::Int16 => DType::I16,
        T::Int32 => DType::I32,
        T::Int64 => DType::I64,
        T::Uint8 => DType::U8,
        T::Uint16 => DType::U16,
        T::Uint32 => DType::U32,
        T::Uint64 => DType::U64,
        T::String => DType::String,
        other => return Err(ScoreError::unsupported(format!("the model answered elements of type {other}"))),
    })
}
