//! The FPGA backend: OpenCL.
//!
//! A quantised model (Q/DQ or QOperator form: `triscore quantize` makes one) becomes a graph of integer operators, a plan of launches, and
//! runs on a fixed set of kernels, the engine (`kernels/opencl`), with results that equal [`int8`](crate::int8) to the bit on every device.
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

mod engine;
mod lane;
mod loaded;
mod opencl;
mod parts;
mod placement;
mod plan;
mod scorer;
mod sources;
mod staging;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Result, ScoreError};
use crate::guard::Guard;
use crate::model::Model;
use crate::scoring::{Backend, BackendKind, CompileOptions, Device, Placement, Scorer, Site};

/// The environment variable that names the OpenCL loader.
pub const LIBRARY_VARIABLE: &str = "TRISCORE_LIBOPENCL";

static GUARD: Guard = Guard::new("OpenCL", Duration::from_secs(30));

/// An emulator builds the kernels when the first model comes, which takes it seconds; ten minutes is a driver that hangs.
static COMPILE: Guard = Guard::new("OpenCL", Duration::from_secs(600));

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

    /// The host's nodes are those that the engine does not take; it runs them only where it is allowed to
    /// ([`CompileOptions::host`]), and else the model is refused.
    fn place(&self, model: &Model, _: &Device) -> Result<Placement> {
        Ok(placement::of(model)?.placement)
    }

    fn compile(
        &self,
        model: &Model,
        devices: &[Device],
        options: &CompileOptions,
    ) -> Result<Arc<dyn Scorer>> {
        if let Some(path) = &self.library {
            return Err(ScoreError::unsupported(format!(
                "models run through the OpenCL loader of the system, or the one that OPENCL_DYLIB_PATH names, not through {}",
                path.display()
            )));
        }
        let placed = placement::of(model)?;
        refuse(&placed, options.host.is_some())?;
        let (signature, devices, options) = (model.signature().clone(), devices.to_vec(), options.clone());
        let load = move || scorer::FpgaScorer::load(&placed, signature, devices, &options);
        Ok(Arc::new(COMPILE.call(load)?))
    }
}

/// Why a model does not run here: nothing of it is for the engine, or not all of it and nobody else may run the rest.
fn refuse(placed: &placement::Placed, has_host: bool) -> Result<()> {
    let Some(node) = placed.placement.on_host().next() else { return Ok(()) };
    let on_device = placed.placement.on_device();
    if has_host && placed.parts.iter().any(|p| p.on_device) {
        return Ok(());
    }
    let reason = match &node.site {
        Site::Host { reason } => reason.as_str(),
        _ => "",
    };
    let (all, what) =
        (placed.placement.nodes().len(), format!("{} '{}': {reason}", node.operator, node.node));
    Err(ScoreError::unsupported(match on_device {
        0 => format!(
            "none of its {all} nodes runs on an FPGA: {what}: quantise the model (triscore quantize), or deploy it without \
             containerResourceRequirements.fpga"
        ),
        _ => format!(
            "{} of its {all} nodes do not run on an FPGA: {what}: quantise the model (triscore quantize), let the CPU run them \
             (\"triscore\": {{\"policy\": \"prefer\", \"fallback\": [\"cpu\"]}}), or deploy it without \
             containerResourceRequirements.fpga",
            all - on_device
        ),
    }))
}

#[cfg(test)]
mod tests;
