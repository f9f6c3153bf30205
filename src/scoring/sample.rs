//! Inputs for a model that one knows nothing of: what a scorer is warmed up and measured with.
//!
//! They fit the declared shapes; that the model takes them is not promised (it may want a length that its
//! signature does not tell). Who uses a sample must live with its failing.

use crate::error::{Result, ScoreError};
use crate::signature::{Dim, PortKind, Signature};
use crate::tensor::{AlignedBytes, DType, F8E4M3, F8E5M2, Tensor, element_count};

/// Inputs for a model that one knows nothing of.
#[derive(Debug)]
pub(crate) struct Sample {
    signature: Signature,
    /// The length of free dimensions other than the batch.
    free: usize,
}

/// A sample of that signature, or nothing where an input does not tell its shape.
pub(crate) fn sample(signature: &Signature) -> Option<Sample> {
    const FREE: usize = 8;
    let known = signature.inputs().iter().all(|p| p.dims().is_some());
    known.then(|| Sample { signature: signature.clone(), free: FREE })
}

impl Sample {
    /// Inputs of that many rows: floats in 0..1, the rest zeros, which are valid indices anywhere.
    pub(crate) fn rows(&self, rows: usize) -> Result<Vec<Tensor>> {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        self.signature
            .inputs()
            .iter()
            .map(|port| {
                let PortKind::Tensor { dtype, dims } = &port.kind else {
                    return Err(ScoreError::unsupported("an input is no tensor"));
                };
                let length = |(axis, dim): (usize, &Dim)| match dim {
                    Dim::Fixed(n) => *n,
                    Dim::Free(_) if Some(axis) == self.signature.batch_axis() => rows,
                    Dim::Free(_) => self.free,
                };
                let shape = dims.iter().flatten().enumerate().map(length).collect::<Vec<_>>();
                random(*dtype, &shape, &mut seed)
            })
            .collect()
    }
}

fn random(dtype: DType, shape: &[usize], seed: &mut u64) -> Result<Tensor> {
    let mut next = || {
        // xorshift64*: good enough to keep a branch predictor from learning a forest by heart.
        *seed ^= *seed >> 12;
        *seed ^= *seed << 25;
        *seed ^= *seed >> 27;
        (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u32 << 24) as f32
    };
    let Some(size) = dtype.size_bytes().filter(|_| dtype.is_float()) else {
        return Tensor::zeros(dtype, shape);
    };
    let mut bytes = AlignedBytes::zeroed(element_count(shape)?.saturating_mul(size))?;
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
