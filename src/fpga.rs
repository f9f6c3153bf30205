//! The FPGA backend: OpenCL.
//!
//! What it can do so far is find devices, and say in words why there is none. It does not run models
//! yet: [`Backend::place`] and [`Backend::compile`] say so, and what to do instead.
//!
//! An FPGA is an OpenCL device of type ACCELERATOR. Developers without a board use stand-ins: the emulation
//! platform of the board's vendor, or a processor's OpenCL driver (PoCL). They compute the same and tell nothing
//! of a board's speed, so each is listed after the boards, flagged [`Device::emulated`], and taken only where
//! a deployment allows it.
//!
//! Nothing of OpenCL is linked: the loader (`libOpenCL.so.1`) is looked for when [`Backend::probe`] is
//! called. `TRISCORE_LIBOPENCL` names another; `OPENCL_DYLIB_PATH`, which the `opencl3` crate reads, is
//! honoured before the system's. A loader loads every driver on the machine, in this process: one that hangs
//! is left behind after half a minute, one that crashes takes the process along. Point `OCL_ICD_VENDORS` at
//! the drivers that are wanted where that is a worry.

mod opencl;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Result, ScoreError};
use crate::guard::Guard;
use crate::model::Model;
use crate::scoring::{Backend, BackendKind, CompileOptions, Device, Placement, Scorer};

/// The environment variable that names the OpenCL loader.
pub const LIBRARY_VARIABLE: &str = "TRISCORE_LIBOPENCL";

static GUARD: Guard = Guard::new("OpenCL", Duration::from_secs(30));

/// The FPGAs of this machine, and their stand-ins, through OpenCL.
#[derive(Debug, Clone, Default)]
pub struct FpgaBackend {
    library: Option<PathBuf>,
}

impl FpgaBackend {
    /// The backend over the system's OpenCL loader, or the one that `TRISCORE_LIBOPENCL` names.
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend over this OpenCL loader and no other.
    #[must_use]
    pub fn with_library(self, path: impl Into<PathBuf>) -> Self {
        Self { library: Some(path.into()) }
    }
}

impl Backend for FpgaBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Fpga
    }

    /// Boards first, then what emulates one.
    fn probe(&self) -> Result<Vec<Device>> {
        let library = self.library.clone();
        GUARD.call(move || opencl::probe(library.as_deref()))
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
        "the FPGA backend can find devices and does not run models yet: deploy without \
         containerResourceRequirements.fpga, or set \"triscore\": {\"policy\": \"prefer\"} to let the CPU do it",
    )
}

#[cfg(test)]
mod tests;
