//! Tensors in and out of ONNX Runtime.
//!
//! Numbers are not copied in either direction: an input is a view of the tensor's buffer, and an
//! output is a tensor over the memory that ONNX Runtime allocated, which lives as long as the tensor.
//! Text is copied (ONNX Runtime keeps C strings), and so are inputs of 8-bit floats.

use ort::memory::Allocator;
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
        DType::F8E4M3 => floats_of_8_bits(tensor, TensorElementType::Float8E4M3FN),
        DType::F8E5M2 => floats_of_8_bits(tensor, TensorElementType::Float8E5M2),
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

/// A copy for ONNX Runtime: `ort` has no Rust type for these, and so no view of them.
fn floats_of_8_bits(tensor: &Tensor, kind: TensorElementType) -> ort::Result<SessionInputValue<'static>> {
    let shape = tensor.shape().iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect::<Vec<_>>();
    let mut copy = DynTensor::new(&Allocator::default(), kind, shape)?;
    let (from, to) = (tensor.as_bytes(), copy.data_ptr_mut().cast::<u8>());
    if !to.is_null() {
        // SAFETY: ONNX Runtime allocated as many elements of one byte as the shape has, and nobody else knows of them yet.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }
    Ok(copy.into())
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
        T::Float8E4M3FN => DType::F8E4M3,
        T::Float8E5M2 => DType::F8E5M2,
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

#[cfg(all(test, any(feature = "cuda", feature = "opencl")))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::cpu::CpuBackend;
    use crate::graph::testing::{model_of, read};
    use crate::scoring::{Backend, Call, CompileOptions};
    use crate::tensor::{F8E4M3, F8E5M2, Tensor};

    fn score(text: &str, x: Tensor) -> Vec<Tensor> {
        let cpu = CpuBackend::new();
        let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
        let scorer = cpu.compile(&read(&model_of(text)), &cpu.probe().unwrap(), &options).unwrap();
        let scored = scorer.score(&[x], &Call::new()).unwrap();
        (0..scored.outputs.len()).map(|at| scored.tensor(at).unwrap().clone()).collect()
    }

    /// Every code, every number halfway between two, and what is just beside those.
    fn floats(to_f32: impl Fn(u8) -> f32) -> Vec<f32> {
        let all = (0..=u8::MAX).map(&to_f32).filter(|v| v.is_finite());
        let halves = (0..0x7b).map(|code| (to_f32(code) + to_f32(code + 1)) / 2.0);
        let near = halves.flat_map(|v| [v, -v, v.next_up(), v.next_down(), -v.next_up(), -v.next_down()]);
        let beyond =
            [448.1, 464.0, 464.1, 500.0, 57_345.0, 61_439.0, 61_440.0, 70_000.0, 1e30, f32::INFINITY];
        let beyond = beyond.into_iter().flat_map(|v| [v, -v]).chain([f32::NAN, 1e-30, f32::MIN_POSITIVE]);
        all.chain(near).chain(beyond).collect()
    }

    #[test]
    fn floats_of_8_bits_are_onnx_runtimes_to_the_bit() {
        let x = floats(|code| F8E4M3::from_bits(code).to_f32());
        let x = x.into_iter().chain(floats(|code| F8E5M2::from_bits(code).to_f32())).collect::<Vec<_>>();
        let text = "x: f32[N]\na = Cast<to=17>(x)\nb = Cast<to=17, saturate=0>(x)\nc = Cast<to=19>(x)\nd = Cast<to=19, saturate=0>(x)\n-> a: f8e4m3[N], b: f8e4m3[N], c: f8e5m2[N], d: f8e5m2[N]";
        let made = score(text, Tensor::from_slice(&[x.len()], &x).unwrap());
        let ours: [fn(f32) -> u8; 4] = [
            |v| F8E4M3::from_f32(v).to_bits(),
            |v| F8E4M3::from_f32_unsaturated(v).to_bits(),
            |v| F8E5M2::from_f32(v).to_bits(),
            |v| F8E5M2::from_f32_unsaturated(v).to_bits(),
        ];
        // Where nothing saturates, ONNX Runtime 1.32 makes 448 of 480 to 496 alone, and no number, in place of infinity, of what rounds to it. ONNX's own tests have
        // it as it is here.
        let deviates = |at: usize, x: f32| match at {
            1 => (480.0..=496.0).contains(&x.abs()),
            3 => (61_440.0..65_536.0).contains(&x.abs()),
            _ => false,
        };
        for (at, (made, ours)) in made.iter().zip(ours).enumerate() {
            for (x, code) in x.iter().zip(made.as_bytes()).filter(|(x, _)| !deviates(at, **x)) {
                assert_eq!(ours(*x), *code, "cast {at} of {x:?}");
            }
        }
        assert_eq!(made.len(), 4);
    }

    #[test]
    fn every_code_of_8_bits_is_the_number_that_onnx_runtime_has_for_it() {
        let codes = (0..=u8::MAX).collect::<Vec<_>>();
        let four = codes.iter().map(|code| F8E4M3::from_bits(*code)).collect::<Vec<_>>();
        let five = codes.iter().map(|code| F8E5M2::from_bits(*code)).collect::<Vec<_>>();
        let text = |name: &str| format!("x: {name}[N]\ny = Cast<to=1>(x)\n-> y");
        let cases = [
            ("f8e4m3", Tensor::from_slice(&[256], &four).unwrap(), four.iter().map(|v| v.to_f32()).collect()),
            ("f8e5m2", Tensor::from_slice(&[256], &five).unwrap(), five.iter().map(|v| v.to_f32()).collect()),
        ] as [(&str, Tensor, Vec<f32>); 2];
        for (name, x, ours) in cases {
            let made = score(&text(name), x).remove(0);
            let made = made.as_slice::<f32>().unwrap();
            for (code, (made, ours)) in made.iter().zip(ours).enumerate() {
                let is_same = made.to_bits() == ours.to_bits() || made.is_nan() && ours.is_nan();
                assert!(is_same, "{name} {code:#x}: {made} of ONNX Runtime, {ours} here");
            }
        }
    }
}
