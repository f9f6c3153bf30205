//! Between callers' tensors and the bytes that are transferred. Devices are little-endian, as every board with OpenCL is.

use super::plan::{InputPort, OutputPort, Staging};
use crate::error::{Result, ScoreError};
use crate::int8::QType;
use crate::tensor::{AlignedBytes, Tensor};

/// Bytes from the first element to behind the last one.
pub(super) fn extent_bytes(shape: &[usize], strides: &[isize], size: usize) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let last = shape.iter().zip(strides).map(|(n, s)| (n - 1) * s.unsigned_abs()).sum::<usize>();
    last + size
}

/// Calls `each` with every element's number in row-major order and its place by strides.
fn walk(shape: &[usize], strides: &[isize], mut each: impl FnMut(usize, usize)) {
    let (Some((inner, outer)), Some((inner_stride, outer_strides))) =
        (shape.split_last(), strides.split_last())
    else {
        return each(0, 0);
    };
    let rows = outer.iter().product::<usize>();
    let mut index = vec![0usize; outer.len()];
    let (mut place, mut number) = (0isize, 0);
    for _ in 0..rows {
        let mut at = place;
        for _ in 0..*inner {
            each(number, at.unsigned_abs());
            number += 1;
            at += inner_stride;
        }
        // The next row: count up from the last outer axis.
        for axis in (0..outer.len()).rev() {
            let (Some(i), Some(n), Some(stride)) =
                (index.get_mut(axis), outer.get(axis), outer_strides.get(axis))
            else {
                break;
            };
            *i += 1;
            place += stride;
            if *i < *n {
                break;
            }
            place -= *n as isize * stride;
            *i = 0;
        }
    }
}

/// An input's bytes as the device wants them.
///
/// # Errors
/// `BadInput` for a tensor that is not what the plan is for.
pub(super) fn stage(port: &InputPort, tensor: &Tensor) -> Result<AlignedBytes> {
    if tensor.shape() != port.shape {
        return Err(ScoreError::bad_input(format!(
            "shape {:?}, planned for {:?}",
            tensor.shape(),
            port.shape
        )));
    }
    let mut staged = AlignedBytes::zeroed(extent_bytes(&port.shape, &port.strides, port.size))?;
    let out = staged.as_mut_slice();
    let size = port.size;
    let mut put = |place: usize, bytes: &[u8]| {
        if let Some(slot) = out.get_mut(place..place + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    };
    match &port.staging {
        Staging::Quantize(to) => {
            let values = tensor.as_slice::<f32>()?;
            walk(&port.shape, &port.strides, |i, place| {
                let bits = values.get(i).map_or(0, |v| to.quantize(*v)).to_le_bytes();
                put(place, bits.get(..size).unwrap_or_default())
            });
        }
        _ => {
            let bytes = tensor.as_bytes();
            walk(&port.shape, &port.strides, |i, place| {
                put(place, bytes.get(i * size..(i + 1) * size).unwrap_or_default())
            });
        }
    }
    Ok(staged)
}

/// A caller's tensor from the device's bytes.
///
/// # Errors
/// `OutOfMemory`.
pub(super) fn unstage(port: &OutputPort, bytes: &[u8]) -> Result<Tensor> {
    let count = port.shape.iter().product::<usize>();
    match &port.staging {
        Staging::Dequantize(from) => {
            let mut values = vec![0f32; count];
            walk(&port.shape, &port.strides, |i, place| {
                let q = integer(from.qtype(), bytes.get(place..).unwrap_or_default());
                if let Some(slot) = values.get_mut(i) {
                    *slot = from.dequantize(q);
                }
            });
            Tensor::from_slice(&port.shape, &values)
        }
        Staging::Scale(scales) => {
            let mut values = vec![0f32; count];
            walk(&port.shape, &port.strides, |i, place| {
                let sum = whole_sum(bytes.get(place..place + port.size).unwrap_or_default());
                let scale = scales.get(i % scales.len().max(1)).copied().unwrap_or(1.0);
                if let Some(slot) = values.get_mut(i) {
                    *slot = sum as f32 * scale;
                }
            });
            Tensor::from_slice(&port.shape, &values)
        }
        _ => {
            let size = port.size;
            let mut values = AlignedBytes::zeroed(count * size)?;
            let out = values.as_mut_slice();
            walk(&port.shape, &port.strides, |i, place| {
                if let (Some(to), Some(from)) =
                    (out.get_mut(i * size..(i + 1) * size), bytes.get(place..place + size))
                {
                    to.copy_from_slice(from);
                }
            });
            Tensor::new(port.dtype, &port.shape, values)
        }
    }
}

/// The integer of a type that those bytes begin with.
fn integer(qtype: QType, bytes: &[u8]) -> i32 {
    let one = || bytes.first().copied().unwrap_or(0);
    let two = || bytes.first_chunk().copied().unwrap_or_default();
    match qtype {
        QType::U8 => one().into(),
        QType::I8 => (one() as i8).into(),
        QType::U16 => u16::from_le_bytes(two()).into(),
        QType::I16 => i16::from_le_bytes(two()).into(),
    }
}

/// A sum of 32 or 64 bits.
fn whole_sum(bytes: &[u8]) -> i64 {
    match (bytes.first_chunk(), bytes.first_chunk()) {
        (Some(eight), _) => i64::from_le_bytes(*eight),
        (None, Some(four)) => i32::from_le_bytes(*four).into(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QParams;
    use crate::tensor::DType;

    #[test]
    fn elements_go_where_strides_say_and_come_back() {
        let params = QParams::new(0.5, 10, QType::U8).unwrap();
        // Two images of three channels and two pixels, channels last.
        let (shape, strides) = (vec![2, 3, 2], vec![6, 1, 3]);
        let input = InputPort {
            input: 0,
            staging: Staging::Quantize(params),
            offset: 0,
            shape: shape.clone(),
            strides: strides.clone(),
            size: 1,
        };
        let values = (0..12).map(|v| v as f32).collect::<Vec<_>>();
        let x = Tensor::from_slice(&shape, &values).unwrap();
        let staged = stage(&input, &x).unwrap();
        assert_eq!(staged.as_slice()[..6], [10, 14, 18, 12, 16, 20], "0 2 4 of pixel 0, 1 3 5 of pixel 1");
        let output = OutputPort {
            dtype: DType::F32,
            staging: Staging::Dequantize(params),
            offset: 0,
            shape,
            strides,
            size: 1,
        };
        assert_eq!(unstage(&output, staged.as_slice()).unwrap().as_slice::<f32>().unwrap(), values);
        assert!(stage(&input, &x.reshape(&[12]).unwrap()).is_err());
    }

    #[test]
    fn sums_scale_by_column_and_nothing_is_nothing() {
        let sums = [4i32, -6, 8, 10].map(i32::to_ne_bytes).concat();
        let port = OutputPort {
            dtype: DType::F32,
            staging: Staging::Scale(vec![0.5, 2.0]),
            offset: 0,
            shape: vec![2, 2],
            strides: vec![8, 4],
            size: 4,
        };
        assert_eq!(unstage(&port, &sums).unwrap().as_slice::<f32>().unwrap(), [2.0, -12.0, 4.0, 20.0]);
        assert_eq!(extent_bytes(&[2, 0], &[3, 1], 1), 0);
        assert_eq!(extent_bytes(&[], &[], 4), 4);
        let none = OutputPort { shape: vec![0, 2], ..port };
        assert_eq!(unstage(&none, &[]).unwrap().shape(), [0, 2]);
    }
}
