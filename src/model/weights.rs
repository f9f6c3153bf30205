//! A model's tensors as [`Tensor`]s: what a backend of ours uploads.

use bytes::Bytes;

use super::Model;
use super::external::{self, Reference};
use super::limits::ReadLimits;
use super::onnx::TensorProto;
use super::tensors;
use crate::error::{Result, ScoreError};
use crate::tensor::{AlignedBytes, Buffer, DType, Memory, Tensor};

/// Shared bytes as the memory of a tensor: used in place where they happen to be aligned.
struct Shared(Bytes);

impl Memory for Shared {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The tensor of an attribute, for those who have no model at hand: it holds its data itself.
///
/// # Errors
/// As [`Model::tensor`]; `Unsupported` where its data lies in another file.
#[cfg(feature = "cuda")]
pub(crate) fn attribute_tensor(proto: &TensorProto) -> Result<Tensor> {
    let elsewhere = |_: &Reference<'_>, _: u64| Err(ScoreError::unsupported("its data lies in another file"));
    tensor_of(proto, elsewhere)
}

impl Model {
    /// A tensor of this model (an initialiser, an attribute's value) with its data, wherever that lies.
    ///
    /// # Errors
    /// `Unsupported` for an element type that has no [`DType`]; `BadModel` for a tensor that is not one of
    /// this model's and does not hold what it says; `OutOfMemory`.
    pub fn tensor(&self, proto: &TensorProto) -> Result<Tensor> {
        let place = |e: ScoreError| e.with_at(format!("tensor '{}'", super::shown::shown(proto.name())));
        tensor_of(proto, |reference, length| self.external_bytes(reference, length)).map_err(place)
    }

    fn external_bytes(&self, reference: &Reference<'_>, length: u64) -> Result<Bytes> {
        let file = self.external.iter().find(|file| file.name == reference.file);
        let file = file.ok_or_else(|| ScoreError::bad_model("its external data is not this model's"))?;
        reference.slice(&file.bytes, length)
    }
}

fn tensor_of(
    proto: &TensorProto,
    external_bytes: impl Fn(&Reference<'_>, u64) -> Result<Bytes>,
) -> Result<Tensor> {
    let checked = tensors::check(proto, &ReadLimits::default())?;
    let dtype = DType::from_onnx(proto.data_type()).ok_or_else(|| {
        ScoreError::unsupported(format!("element type {} has no tensor", proto.data_type()))
    })?;
    let shape = proto.dims.iter().map(|d| usize::try_from(*d)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|e| ScoreError::bad_model(format!("shape {:?}: {e}", proto.dims)))?;
    if dtype == DType::String {
        let texts = proto.string_data.iter().map(|s| String::from_utf8_lossy(s).into_owned());
        return Tensor::strings(&shape, texts.collect::<Vec<_>>());
    }
    let bytes = match (&proto.raw_data, external::is_external(proto)?) {
        (_, true) => external_bytes(&Reference::of(proto)?, checked.bytes)?,
        (Some(raw), false) => raw.clone(),
        (None, false) => return Tensor::new(dtype, &shape, typed(proto, dtype)?),
    };
    Tensor::new(dtype, &shape, Buffer::from_memory(Shared(bytes))?)
}

/// The elements of typed fields as raw bytes; values were checked to fit, so narrowing loses nothing.
fn typed(proto: &TensorProto, dtype: DType) -> Result<AlignedBytes> {
    fn narrowed<const N: usize>(values: &[i32]) -> Vec<u8> {
        values.iter().filter_map(|v| v.to_le_bytes().first_chunk::<N>().copied()).flatten().collect()
    }
    match dtype {
        DType::F32 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.float_data)),
        DType::F64 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.double_data)),
        DType::I64 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.int64_data)),
        DType::U64 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.uint64_data)),
        DType::U32 => {
            let values: Vec<u32> = proto.uint64_data.iter().map(|v| *v as u32).collect();
            AlignedBytes::copy_of(bytemuck::cast_slice(&values))
        }
        DType::I32 => AlignedBytes::copy_of(bytemuck::cast_slice(&proto.int32_data)),
        DType::Bf16 | DType::F16 | DType::I16 | DType::U16 => {
            AlignedBytes::copy_of(&narrowed::<2>(&proto.int32_data))
        }
        DType::Bool | DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 => {
            AlignedBytes::copy_of(&narrowed::<1>(&proto.int32_data))
        }
        DType::String => Err(ScoreError::internal("text has no raw bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{layer, read, weight};

    #[test]
    fn typed_and_raw_data_make_the_same_tensors() {
        let model = read(&layer()).unwrap();
        let proto = |dtype: DType, dims: &[i64]| TensorProto {
            name: Some("t".to_owned()),
            data_type: Some(dtype.onnx_code()),
            dims: dims.to_vec(),
            ..Default::default()
        };
        let ints = |dtype, values: &[i32]| TensorProto {
            int32_data: values.to_vec(),
            ..proto(dtype, &[values.len() as i64])
        };
        let slice = |t: &TensorProto| model.tensor(t).unwrap();
        assert_eq!(slice(&weight("w", &[3])).as_slice::<f32>().unwrap(), [0., 1., 2.]);
        assert_eq!(slice(&ints(DType::I8, &[-128, 127])).as_slice::<i8>().unwrap(), [-128, 127]);
        assert_eq!(slice(&ints(DType::U8, &[0, 255])).as_slice::<u8>().unwrap(), [0, 255]);
        assert_eq!(slice(&ints(DType::I16, &[-2])).as_slice::<i16>().unwrap(), [-2]);
        assert_eq!(slice(&ints(DType::U16, &[65535])).as_slice::<u16>().unwrap(), [65535]);
        assert_eq!(slice(&ints(DType::I32, &[i32::MIN])).as_slice::<i32>().unwrap(), [i32::MIN]);
        assert_eq!(slice(&ints(DType::Bool, &[1, 0])).as_slice::<bool>().unwrap(), [true, false]);
        let one = half::f16::ONE;
        let halves = slice(&ints(DType::F16, &[i32::from(one.to_bits())]));
        assert_eq!(halves.as_slice::<half::f16>().unwrap(), [one]);
        let floats = TensorProto { float_data: vec![1.5; 4], ..proto(DType::F32, &[2, 2]) };
        assert_eq!(slice(&floats).view::<f32>().unwrap()[[1, 1]], 1.5);
        let doubles = TensorProto { double_data: vec![1.5], ..proto(DType::F64, &[]) };
        assert_eq!(slice(&doubles).as_slice::<f64>().unwrap(), [1.5]);
        let longs = TensorProto { int64_data: vec![i64::MIN], ..proto(DType::I64, &[1]) };
        assert_eq!(slice(&longs).as_slice::<i64>().unwrap(), [i64::MIN]);
        let unsigned = TensorProto { uint64_data: vec![u64::from(u32::MAX)], ..proto(DType::U32, &[1]) };
        assert_eq!(slice(&unsigned).as_slice::<u32>().unwrap(), [u32::MAX]);
        let unsigned = TensorProto { uint64_data: vec![u64::MAX], ..proto(DType::U64, &[1]) };
        assert_eq!(slice(&unsigned).as_slice::<u64>().unwrap(), [u64::MAX]);
        let texts = TensorProto { string_data: vec![Bytes::from_static(b"a")], ..proto(DType::String, &[1]) };
        assert_eq!(slice(&texts).as_strings().unwrap(), ["a"]);

        let short = TensorProto { float_data: vec![1.5; 3], ..floats };
        assert!(
            model.tensor(&short).unwrap_err().to_string().contains("tensor 't': f32[2, 2] takes 4 values")
        );
        let int4 = TensorProto { data_type: Some(22), ..ints(DType::I8, &[1]) };
        assert!(model.tensor(&int4).unwrap_err().to_string().contains("has no tensor"));
    }
}
