//! Inputs for a model that one knows nothing of: what a scorer is warmed up and measured with.
//!
//! They fit the declared shapes; that the model takes them is not promised (it may want a length that its
//! signature does not tell). Who uses a sample must live with its failing.

use super::inputs::inputs_of;
use crate::error::Result;
use crate::signature::{Dim, Signature};
use crate::tensor::Tensor;

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
        inputs_of(&self.signature, 0, |axis, dim| match dim {
            Dim::Fixed(n) => *n,
            Dim::Free(_) if Some(axis) == self.signature.batch_axis() => rows,
            Dim::Free(_) => self.free,
        })
    }
}
