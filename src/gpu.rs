//! The GPU backend: CUDA.
//!
//! What it can do so far is find devices, and say in words why there is none. It does not run models
//! yet: [`Backend::place`] and [`Backend::compile`] say so, and what to do instead.
//!
//! Nothing of CUDA is linked: the driver library is looked for when [`Backend::probe`] is called, each time
//! anew, so that a driver that appears later is found without a restart. `TRISCORE_LIBCUDA` names another
//! library than the system's.

mod driver;
#[allow(dead_code, reason = "the executor is written beside it")]
mod images;
#[allow(dead_code, reason = "the executor is written beside it")]
mod libraries;
mod names;
#[allow(dead_code, reason = "the executor is written beside it")]
mod nvrtc;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Result, ScoreError};
use crate::guard::Guard;
use crate::model::Model;
use crate::scoring::{Backend, BackendKind, CompileOptions, Device, Placement, Scorer};

/// The environment variable that names the driver library.
pub const LIBRARY_VARIABLE: &str = "TRISCORE_LIBCUDA";

/// A host with many GPUs and no persistence daemon takes tens of seconds for the first call.
static GUARD: Guard = Guard::new("the CUDA driver", Duration::from_secs(60));

/// The GPUs of this machine, through the CUDA driver.
#[derive(Debug, Clone, Default)]
pub struct GpuBackend {
    library: Option<PathBuf>,
}

impl GpuBackend {
    /// The backend over the system's driver, or the one that `TRISCORE_LIBCUDA` names.
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend over this driver library and no other.
    #[must_use]
    pub fn with_library(self, path: impl Into<PathBuf>) -> Self {
        Self { library: Some(path.into()) }
    }
}

impl Backend for GpuBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Gpu
    }

    fn probe(&self) -> Result<Vec<Device>> {
        let library = self.library.clone();
        GUARD.call(move || driver::probe(library.as_deref()))
    }

    fn place(&self, _: &Model, _: &Device) -> Result<Placement> {
        Err(not_yet())
    }

    fn compile(&self, _: &Model, _: &[Device], _: &CompileOptions) -> Result<Arc<dyn Scorer>> {
        Err(not_yet())
    }
}

fn not_yet() -> ScoreError {
    ScoreError::unsupported(
        "the GPU backend can find devices and does not run models yet: deploy without gpuCores, or set \
         \"triscore\": {\"policy\": \"prefer\"} to let the CPU do it",
    )
}

#[cfg(test)]
mod tests;
