//! Between callers' tensors and the bytes that are transferred. Devices are little-endian, as every board with OpenCL is.
//!
//! Floats become integers first, all of them in one loop that a compiler makes vectors of, and are then put where the plan wants them.

mod pages;
mod runs;

use super::plan::{InputPort, OutputPort, Staging};
use crate::error::{Result, ScoreError};
use crate::int8::{QParams, QType};
use crate::tensor::{AlignedBytes, Tensor};

pub(super) use pages::Pages;
use runs::Runs;

/// Bytes from the first element to behind the last one.
pub(super) fn extent_bytes(shape: &[usize], strides: &[isize], size: usize) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let last = shape.iter().zip(strides).map(|(n, s)| (n - 1) * s.unsigned_abs()).sum::<usize>();
    last + size
}

/// Writes an input's bytes as the device wants them.
///
/// # Errors
/// `BadInput` for a tensor that is not what the plan is for; `OutOfMemory`.
pub(super) fn stage(port: &InputPort, tensor: &Tensor, to: &mut Pages) -> Result<()> {
    if tensor.shape() != port.shape {
        return Err(ScoreError::bad_input(format!(
            "shape {:?}, planned for {:?}",
            tensor.shape(),
            port.shape
        )));
    }
    to.resize(extent_bytes(&port.shape, &port.strides, port.size))?;
    let runs = Runs::of(&port.shape, &port.strides);
    let Staging::Quantize(params) = &port.staging else {
        runs.scatter(port.size, tensor.as_bytes(), to.as_mut_slice());
        return Ok(());
    };
    let values = tensor.as_slice::<f32>()?;
    if runs.is_one(port.size) {
        quantize(values, params, to.as_mut_slice());
        return Ok(());
    }
    let mut integers = AlignedBytes::zeroed(values.len() * port.size)?;
    quantize(values, params, integers.as_mut_slice());
    runs.scatter(port.size, integers.as_slice(), to.as_mut_slice());
    Ok(())
}

/// A caller's tensor from the device's bytes.
///
/// # Errors
/// `OutOfMemory`.
pub(super) fn unstage(port: &OutputPort, bytes: &[u8]) -> Result<Tensor> {
    debug_assert!(bytes.len() >= extent_bytes(&port.shape, &port.strides, port.size));
    let count = port.shape.iter().product::<usize>();
    let mut elements = AlignedBytes::zeroed(count * port.size)?;
    Runs::of(&port.shape, &port.strides).gather(port.size, bytes, elements.as_mut_slice());
    if port.staging == Staging::Copy {
        return Tensor::new(port.dtype, &port.shape, elements);
    }
    let mut values = AlignedBytes::zeroed(count * size_of::<f32>())?;
    let out = bytemuck::cast_slice_mut::<u8, f32>(values.as_mut_slice());
    match &port.staging {
        Staging::Dequantize(from) => dequantize(elements.as_slice(), from, out),
        Staging::Scale(scales) => {
            let sums = elements.as_slice().chunks_exact(port.size).map(whole_sum);
            for ((value, sum), scale) in out.iter_mut().zip(sums).zip(scales.iter().cycle()) {
                *value = sum as f32 * scale;
            }
        }
        Staging::Copy | Staging::Quantize(_) => {}
    }
    Tensor::new(port.dtype, &port.shape, values)
}

/// [`QParams::quantize`] for many, to the bit: clamped before it is rounded, which is the same since the bounds are integers, and rounded by an
/// addition (half to even, below 2²²), so that there is neither a branch nor a call in the loop.
fn quantize(values: &[f32], to: &QParams, out: &mut [u8]) {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
    let (scale, zero) = (to.scale(), to.zero_point());
    let (low, high) = ((to.qtype().min() - zero) as f32, (to.qtype().max() - zero) as f32);
    let integer = |value: f32| {
        let steps = value / scale;
        // What is not a number is not above the least either.
        let steps = if steps > low { steps } else { low };
        let steps = if steps < high { steps } else { high };
        (steps + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(zero as u32)
    };
    match to.qtype() {
        QType::U8 | QType::I8 => {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = integer(*value) as u8);
        }
        QType::U16 | QType::I16 => {
            for (out, value) in out.chunks_exact_mut(2).zip(values) {
                out.copy_from_slice(&(integer(*value) as u16).to_le_bytes());
            }
        }
    }
}

/// [`QParams::dequantize`] for many.
fn dequantize(integers: &[u8], from: &QParams, out: &mut [f32]) {
    let two = |bytes: &[u8]| bytes.first_chunk().copied().unwrap_or_default();
    let pairs = integers.chunks_exact(2).map(two);
    match from.qtype() {
        QType::U8 => out.iter_mut().zip(integers).for_each(|(o, q)| *o = from.dequantize((*q).into())),
        QType::I8 => out.iter_mut().zip(integers).for_each(|(o, q)| *o = from.dequantize((*q as i8).into())),
        QType::U16 => {
            out.iter_mut().zip(pairs).for_each(|(o, q)| *o = from.dequantize(u16::from_le_bytes(q).into()));
        }
        QType::I16 => {
            out.iter_mut().zip(pairs).for_each(|(o, q)| *o = from.dequantize(i16::from_le_bytes(q).into()));
        }
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
        let mut staged = Pages::default();
        stage(&input, &x, &mut staged).unwrap();
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
        assert!(stage(&input, &x.reshape(&[12]).unwrap(), &mut staged).is_err());
    }

    #[test]
    fn many_are_quantised_and_dequantised_as_one_is() {
        let special =
            [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-40, -1e-40];
        for qtype in [QType::U8, QType::I8, QType::U16, QType::I16] {
            for zero in [qtype.min(), qtype.max(), (qtype.min() + qtype.max()) / 2, qtype.min() + 3] {
                for scale in [0.5f32, 0.017, 3e-38, 1e30] {
                    let params = QParams::new(scale, zero, qtype).unwrap();
                    // Every half step, just beside it, and far outside.
                    let steps = (-140_000..140_000).map(|half| half as f32 * 0.5 * scale);
                    let values = steps.flat_map(|v| [v, v.next_up(), v.next_down()]).chain(special);
                    let values = values.collect::<Vec<_>>();
                    let size = qtype.size_bytes();
                    let (mut bytes, mut back) = (vec![0; values.len() * size], vec![0f32; values.len()]);
                    quantize(&values, &params, &mut bytes);
                    dequantize(&bytes, &params, &mut back);
                    for ((value, bytes), back) in values.iter().zip(bytes.chunks(size)).zip(&back) {
                        let one = params.quantize(*value);
                        assert_eq!(bytes, &one.to_le_bytes()[..size], "{value:e} in {params:?}");
                        assert_eq!(back.to_bits(), params.dequantize(one).to_bits(), "{one} in {params:?}");
                    }
                }
            }
        }
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
