//! A constant of the model as the bytes that kernels want: its axes in their order, its elements stored as their type.

use half::{bf16, f16};

use super::plan::Constant;
use crate::error::{Result, ScoreError};
use crate::layout::view::{Storage, View};
use crate::tensor::{AlignedBytes, DType, F8E4M3, F8E5M2, Tensor};

/// The bytes; those of the tensor itself where nothing is to be done.
pub(super) fn stored(constant: &Constant) -> Result<std::borrow::Cow<'_, [u8]>> {
    let Constant { tensor, order, dtype } = constant;
    let is_in_order = order.iter().copied().filter(|a| tensor.shape().get(*a) != Some(&1)).is_sorted();
    if is_in_order && tensor.dtype() == *dtype {
        return Ok(tensor.as_bytes().into());
    }
    let ordered = match is_in_order {
        true => tensor.clone(),
        false => ordered(tensor, order)?,
    };
    Ok(converted(&ordered, *dtype)?.into())
}

/// The elements as another type of floats.
fn converted(tensor: &Tensor, dtype: DType) -> Result<Vec<u8>> {
    if tensor.dtype() == dtype {
        return Ok(tensor.as_bytes().to_vec());
    }
    let floats: Vec<f32> = match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>()?.to_vec(),
        DType::F16 => tensor.as_slice::<f16>()?.iter().map(|v| v.to_f32()).collect(),
        DType::Bf16 => tensor.as_slice::<bf16>()?.iter().map(|v| v.to_f32()).collect(),
        DType::F8E4M3 => tensor.as_slice::<F8E4M3>()?.iter().map(|v| v.to_f32()).collect(),
        DType::F8E5M2 => tensor.as_slice::<F8E5M2>()?.iter().map(|v| v.to_f32()).collect(),
        DType::F64 => tensor.as_slice::<f64>()?.iter().map(|v| *v as f32).collect(),
        other => {
            return Err(ScoreError::internal(format!("a constant of {} as {}", other.name(), dtype.name())));
        }
    };
    match dtype {
        DType::F32 => Ok(bytemuck::cast_slice(&floats).to_vec()),
        DType::F16 => Ok(floats.iter().flat_map(|v| f16::from_f32(*v).to_ne_bytes()).collect()),
        DType::Bf16 => Ok(floats.iter().flat_map(|v| bf16::from_f32(*v).to_ne_bytes()).collect()),
        other => Err(ScoreError::internal(format!("a constant as {}", other.name()))),
    }
}

/// The elements with the axes in that order.
fn ordered(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    let size =
        tensor.dtype().size_bytes().ok_or_else(|| ScoreError::unsupported("text is not on a device"))?;
    let from = View::row_major(Storage(0), tensor.shape(), size).transposed(order);
    let bytes = tensor.as_bytes();
    let mut moved = AlignedBytes::zeroed(bytes.len())?;
    // The place of each element, counted up like an odometer.
    let (mut at, mut place) = (vec![0; from.shape.len()], 0usize);
    for to in moved.as_mut_slice().chunks_exact_mut(size) {
        if let Some(element) = bytes.get(place..place + size) {
            to.copy_from_slice(element);
        }
        for (axis, count) in at.iter_mut().enumerate().rev() {
            *count += 1;
            place = place.saturating_add_signed(from.stride(axis));
            if *count < from.length(axis) {
                break;
            }
            place = place.saturating_add_signed(-from.stride(axis) * from.length(axis) as isize);
            *count = 0;
        }
    }
    Tensor::new(tensor.dtype(), &from.shape, moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_put_into_order_and_type() {
        let tensor = Tensor::from_slice(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let of = |order: &[usize], dtype| {
            let constant = Constant { tensor: tensor.clone(), order: order.to_vec(), dtype };
            stored(&constant).unwrap().into_owned()
        };
        assert_eq!(of(&[0, 1], DType::F32), tensor.as_bytes());
        let turned: &[f32] = &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
        assert_eq!(of(&[1, 0], DType::F32), bytemuck::cast_slice::<f32, u8>(turned));
        let halves = turned.iter().flat_map(|v| f16::from_f32(*v).to_ne_bytes()).collect::<Vec<_>>();
        assert_eq!(of(&[1, 0], DType::F16), halves);
        assert_eq!(of(&[0, 1], DType::Bf16).len(), 12);
        // Numbers of 8 bits are numbers of 16, too.
        let (four, five) =
            ([0.875, -448.0, 0.015625].map(F8E4M3::from_f32), [1.75, -57_344.0].map(F8E5M2::from_f32));
        let halves = |tensor: Result<Tensor>| {
            let constant = Constant { tensor: tensor.unwrap(), order: vec![0], dtype: DType::F16 };
            let bytes = stored(&constant).unwrap().into_owned();
            bytes.chunks_exact(2).map(|b| f16::from_ne_bytes([b[0], b[1]]).to_f32()).collect::<Vec<_>>()
        };
        assert_eq!(halves(Tensor::from_slice(&[3], &four)), [0.875, -448.0, 0.015625]);
        assert_eq!(halves(Tensor::from_slice(&[2], &five)), [1.75, -57_344.0]);
    }
}
