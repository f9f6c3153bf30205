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

mod binary;
mod engine;
pub mod estimate;
mod lane;
mod loaded;
mod opencl;
mod plan;
mod running;
mod sources;
mod staging;
mod tile;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use binary::{BINARY_ONLY_VARIABLE, BINARY_VARIABLE, Manifest, PROGRAM_VARIABLE, manifest_path};
pub use running::HANG_VARIABLE;
pub use tile::Tile;

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, rewrite};
use crate::guard::Guard;
use crate::model::Model;
use crate::offload::{self, OffloadScorer, Placed};
use crate::scoring::{Backend, BackendKind, CompileOptions, Device, Placement, Scorer};

/// The environment variable that names the OpenCL loader.
pub const LIBRARY_VARIABLE: &str = "TRISCORE_LIBOPENCL";

/// What to do about a model that does not run here.
const ADVICE: &str =
    "quantise the model (triscore quantize), or deploy it without containerResourceRequirements.fpga";

static GUARD: Guard = Guard::new("OpenCL", Duration::from_secs(30));

/// An emulator builds the kernels when the first model comes, which takes it seconds; ten minutes is a driver that hangs.
static COMPILE: Guard = Guard::new("OpenCL", Duration::from_secs(600));

/// The FPGAs of this machine, and their stand-ins, through OpenCL.
#[derive(Debug, Clone, Default)]
pub struct FpgaBackend {
    library: Option<PathBuf>,
    binary: Option<PathBuf>,
    binary_only: bool,
    guarded: bool,
}

impl FpgaBackend {
    /// The backend over the system's OpenCL loader, or the one that `TRISCORE_LIBOPENCL` names.
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend over this OpenCL loader and no other.
    #[must_use]
    pub fn with_library(self, path: impl Into<PathBuf>) -> Self {
        Self { library: Some(path.into()), ..self }
    }

    /// The backend whose devices run the engine of this binary, made by [`build`](Self::build) or by a board's compiler. Without it
    /// `TRISCORE_FPGA_BINARY` names one; without that the kernels are built here, as emulators can.
    #[must_use]
    pub fn with_binary(self, path: impl Into<PathBuf>) -> Self {
        Self { binary: Some(path.into()), ..self }
    }

    /// The backend that never builds kernels, as on a board (`TRISCORE_FPGA_BINARY_ONLY=1` does the same).
    #[must_use]
    pub fn binary_only(self) -> Self {
        Self { binary_only: true, ..self }
    }

    /// The backend that looks, after every run, whether a kernel wrote outside of what it was given: for those who bring up a board. Tensors
    /// lie apart then, with bytes between them that must not change; it takes more memory and time.
    #[must_use]
    pub fn guarded(self) -> Self {
        Self { guarded: true, ..self }
    }

    /// Builds the engine for a device that can build kernels (an emulator), and writes binary and manifest.
    ///
    /// # Errors
    /// `Unavailable` with the compiler's words, or for a device that cannot build; `BadConfig` for a size that no engine can have; `Io`.
    pub fn build(&self, device: &Device, tile: Tile, path: &Path) -> Result<Manifest> {
        must_be_possible(tile)?;
        let (place, device, path) = (opencl::place(device)?, device.clone(), path.to_owned());
        COMPILE.call(move || {
            let bytes = engine::Engine::build(place, tile)?.to_binary()?;
            let manifest = Manifest::of(&bytes, &device, tile);
            manifest.write(&path, &bytes)?;
            Ok(manifest)
        })
    }

    /// Writes the manifest of a binary that a board's compiler made of [`sources`](Self::sources) with these sizes.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `BadConfig` for a size that no engine can have.
    pub fn describe(&self, device: &Device, tile: Tile, path: &Path) -> Result<Manifest> {
        must_be_possible(tile)?;
        let bytes = std::fs::read(path).map_err(|e| ScoreError::io("read the binary", path, e))?;
        let manifest = Manifest::of(&bytes, device, tile);
        manifest.write(path, &bytes)?;
        Ok(manifest)
    }

    /// Holds a binary against its manifest and the device. No driver is given anything.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn verify(&self, device: &Device, path: &Path) -> Result<Manifest> {
        Ok(binary::Binary::read(path, device)?.manifest)
    }

    /// Verifies a binary, and loads it in this process.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and what the driver says; it may crash on what only it knows.
    pub fn check(&self, device: &Device, path: &Path) -> Result<Manifest> {
        let (place, device, path) = (opencl::place(device)?, device.clone(), path.to_owned());
        COMPILE.call(move || {
            let binary = binary::Binary::read(&path, &device)?;
            engine::Engine::load(place, &binary)?;
            Ok(binary.manifest)
        })
    }

    /// The kernels' sources as one text, and the options that they are built with: what a board's compiler is given.
    pub fn sources(tile: Tile) -> (String, String) {
        (sources::engine(), sources::options(tile))
    }

    fn setup(&self) -> engine::Setup {
        let named = || std::env::var_os(BINARY_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let only = std::env::var_os(BINARY_ONLY_VARIABLE).is_some_and(|v| v == "1");
        engine::Setup {
            binary: self.binary.clone().or_else(named),
            binary_only: self.binary_only || only,
            program: binary::program(),
            guarded: self.guarded,
        }
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
        Ok(placed(model)?.placement)
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
        let placed = placed(model)?;
        offload::require_device(&placed, options.host.is_some(), "an FPGA", ADVICE)?;
        let (signature, devices, options) = (model.signature().clone(), devices.to_vec(), options.clone());
        let setup = self.setup();
        let load = move || {
            let machine = |device: &Device| lane::EngineMachine::on(device, &setup);
            OffloadScorer::load(&placed, signature, devices, &options, machine)
        };
        Ok(Arc::new(COMPILE.call(load)?))
    }
}

fn must_be_possible(tile: Tile) -> Result<()> {
    let what = || {
        format!(
            "an engine of {} rows and a depth of {} is not possible: 1 to 1024 rows, and a multiple of 16",
            tile.rows, tile.depth
        )
    };
    if tile.is_possible() { Ok(()) } else { Err(ScoreError::bad_config(what())) }
}

/// The graph in the form that the engine's planner wants, and where its nodes run.
fn placed(model: &Model) -> Result<Placed> {
    let mut graph = Graph::of(model)?;
    rewrite::simplify(&mut graph)?;
    rewrite::to_integers(&mut graph)?;
    rewrite::free_zero_points(&mut graph)?;
    graph.tidy()?;
    rewrite::remove_identities(&mut graph)?;
    graph.tidy()?;
    offload::place(model, graph, &plan::EnginePlanner)
}

#[cfg(test)]
mod tests;
