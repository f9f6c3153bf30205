//! What a library runs instead of kernels.

use std::sync::Arc;

use super::cublaslt::{Algorithm, Product};
use super::cudnn::ConvPlan;

/// The libraries, as environment variables and profiles call them.
pub(super) const CUBLASLT: &str = "cublaslt";
pub(super) const CUDNN: &str = "cudnn";

/// What a library runs instead of a kernel.
pub(super) struct Chosen {
    pub(super) way: Way,
    /// What it uses besides its tensors.
    pub(super) workspace: usize,
}

/// By which library, and how.
pub(super) enum Way {
    Product(Arc<Product>, Algorithm),
    Convolution(ConvPlan),
}

impl Chosen {
    /// As profiles call it.
    pub(super) fn name(&self) -> &'static str {
        match self.way {
            Way::Product(..) => CUBLASLT,
            Way::Convolution(_) => CUDNN,
        }
    }
}

/// What is run instead of each kernel of a plan, in the order of its functions; nothing where the kernel runs.
#[derive(Default)]
pub(super) struct Selection(pub(super) Vec<Option<Arc<Chosen>>>);

impl Selection {
    /// What is run instead of that function.
    pub(super) fn at(&self, at: usize) -> Option<&Chosen> {
        self.0.get(at).and_then(Option::as_deref)
    }

    /// All that is run instead of some function.
    pub(super) fn all(&self) -> impl Iterator<Item = &Chosen> {
        self.0.iter().filter_map(Option::as_deref)
    }
}
