//! Inputs of a signature, made up: the same ones every time.

use crate::error::{Result, ScoreError};
use crate::signature::{Dim, Port, PortKind, Signature};
use crate::tensor::{AlignedBytes, DType, F8E4M3, F8E5M2, Tensor, element_count};

/// Inputs of these lengths, by axis and dimension: floats in 0..1, numbers that are none and truth values all `whole`, texts empty.
pub(crate) fn inputs_of(
    signature: &Signature,
    whole: u8,
    length: impl Fn(usize, &Dim) -> usize,
) -> Result<Vec<Tensor>> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let input = |port: &Port| {
        let PortKind::Tensor { dtype, dims } = &port.kind else {
            return Err(ScoreError::unsupported("an input is no tensor"));
        };
        let shape =
            dims.iter().flatten().enumerate().map(|(axis, dim)| length(axis, dim)).collect::<Vec<_>>();
        random(*dtype, &shape, whole, &mut seed)
    };
    signature.inputs().iter().map(input).collect()
}

fn random(dtype: DType, shape: &[usize], whole: u8, seed: &mut u64) -> Result<Tensor> {
    let mut next = || {
        // xorshift64*: good enough to keep a branch predictor from learning a forest by heart.
        *seed ^= *seed >> 12;
        *seed ^= *seed << 25;
        *seed ^= *seed >> 27;
        (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u32 << 24) as f32
    };
    let Some(size) = dtype.size_bytes() else { return Tensor::zeros(dtype, shape) };
    let mut bytes = AlignedBytes::zeroed(element_count(shape)?.saturating_mul(size))?;
    if !dtype.is_float() {
        let lowest = bytes.as_mut_slice().chunks_exact_mut(size).filter_map(<[u8]>::first_mut);
        lowest.for_each(|byte| *byte = whole);
        return Tensor::new(dtype, shape, bytes);
    }
    for element in bytes.as_mut_slice().chunks_exact_mut(size) {
        let x = next();
        match dtype {
            DType::F32 => element.copy_from_slice(&x.to_ne_bytes()),
            DType::F64 => element.copy_from_slice(&f64::from(x).to_ne_bytes()),
            DType::F16 => element.copy_from_slice(&half::f16::from_f32(x).to_ne_bytes()),
            DType::F8E4M3 => element.copy_from_slice(&[F8E4M3::from_f32(x).to_bits()]),
            DType::F8E5M2 => element.copy_from_slice(&[F8E5M2::from_f32(x).to_bits()]),
            _ => element.copy_from_slice(&half::bf16::from_f32(x).to_ne_bytes()),
        }
    }
    Tensor::new(dtype, shape, bytes)
}
