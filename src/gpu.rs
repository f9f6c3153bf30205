//! The GPU backend: CUDA.
//!
//! A model becomes a [`graph`](crate::graph), the graph a plan of kernels that are generated, compiled and kept (`plan`), and a plan runs as
//! one captured graph of launches on a stream (`lane`). Chains of pointwise operators are one kernel, or the end of the kernel that
//! computes what they begin with.
//!
//! Nothing of CUDA is linked: the driver library is looked for when [`Backend::probe`] is called, each time
//! anew, so that a driver that appears later is found without a restart. `TRISCORE_LIBCUDA` names another
//! library than the system's.

mod choice;
mod chosen;
mod cublaslt;
mod cudnn;
mod driver;
mod images;
mod lane;
mod libraries;
mod loaded;
mod machine;
mod measure;
mod names;
mod nvrtc;
mod part;
mod plan;
mod rows;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::graph::{Graph, rewrite};
use crate::guard::Guard;
use crate::model::Model;
use crate::offload::{self, OffloadScorer, Placed};
use crate::scoring::{Backend, BackendKind, CompileOptions, Device, Placement, Precision, Scorer};
pub use measure::Measured;
use part::Gpu;
use plan::{GpuPlanner, Settings, TensorCores};

/// The environment variable that names the driver library.
pub const LIBRARY_VARIABLE: &str = "TRISCORE_LIBCUDA";

/// A host with many GPUs and no persistence daemon takes tens of seconds for the first call.
static GUARD: Guard = Guard::new("the CUDA driver", Duration::from_secs(60));

/// Compiling a large model's kernels takes a minute where no cache has them; ten are a driver that hangs.
static COMPILE: Guard = Guard::new("the CUDA driver", Duration::from_secs(600));

/// What to do about a model that does not run here.
const ADVICE: &str = "deploy it without gpuCores";

/// The GPUs of this machine, through the CUDA driver.
#[derive(Debug, Clone, Default)]
pub struct GpuBackend {
    library: Option<PathBuf>,
    guarded: bool,
}

impl GpuBackend {
    /// The backend over the system's driver, or the one that `TRISCORE_LIBCUDA` names.
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend over this driver library and no other.
    #[must_use]
    pub fn with_library(self, path: impl Into<PathBuf>) -> Self {
        Self { library: Some(path.into()), ..self }
    }

    /// The backend that gives every tensor memory of its own: for those who look for kernels that read or write where they should not, on an emulated
    /// driver or under `compute-sanitizer`. It takes more memory and time.
    #[must_use]
    pub fn guarded(self) -> Self {
        Self { guarded: true, ..self }
    }

    fn settings(&self, precision: Precision) -> Settings {
        Settings {
            precision,
            guarded: self.guarded,
            tensor_cores: TensorCores::Mma { has_float8: false, multiprocessors: 1 },
            ..Settings::default()
        }
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

    /// The host's nodes are those that no kernel takes; it runs them only where it is allowed to ([`CompileOptions::host`]), and else the model
    /// is refused.
    fn place(&self, model: &Model, _: &Device) -> Result<Placement> {
        Ok(placed(model, self.settings(Precision::Model))?.placement)
    }

    fn compile(
        &self,
        model: &Model,
        devices: &[Device],
        options: &CompileOptions,
    ) -> Result<Arc<dyn Scorer>> {
        let settings = self.settings(options.precision);
        let placed = placed(model, settings)?;
        offload::require_device(&placed, options.host.is_some(), "a GPU", ADVICE)?;
        let (signature, devices, options) = (model.signature().clone(), devices.to_vec(), options.clone());
        let load = move || {
            let machine = |device: &Device| Gpu::on(device, settings);
            OffloadScorer::load(&placed, signature, devices, &options, machine)
        };
        Ok(Arc::new(COMPILE.call(load)?))
    }
}

/// The graph in the form that the planner wants, and where its nodes run.
fn placed(model: &Model, settings: Settings) -> Result<Placed> {
    let mut graph = Graph::of(model)?;
    rewrite::simplify(&mut graph)?;
    rewrite::find_attention(&mut graph)?;
    rewrite::to_integer_products(&mut graph)?;
    rewrite::to_float8_products(&mut graph)?;
    graph.tidy()?;
    rewrite::remove_identities(&mut graph)?;
    graph.tidy()?;
    rewrite::join_products(&mut graph)?;
    graph.tidy()?;
    offload::place(model, graph, &GpuPlanner(settings))
}

#[cfg(all(test, feature = "cpu", target_os = "linux"))]
#[allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
mod suite;
#[cfg(test)]
mod tests;
