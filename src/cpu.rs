//! The CPU backend: ONNX Runtime sessions as lanes, and rayon to cut a batch over them.
//!
//! Its shape follows from what was measured on small and large models:
//! - Once there are as many callers as cores, one thread a call is the fastest by far; threads that
//!   spin for work then cost up to three quarters of the throughput. So the lanes are sessions of
//!   one thread each, as many as the thread budget has threads.
//! - A lone caller with a batch gains nearly the number of cores from parallelism, and which kind
//!   depends on the model: ONNX Runtime's own threads win on convolutions, cutting the batch wins on
//!   tree ensembles. So both are measured when the model is loaded, and the result is kept in
//!   [`Limits::plans`](crate::Limits::plans).
//! - The two must not meet: a call goes parallel only if it gets every lane at once, that is if
//!   nobody else is scoring; else it takes its one lane and runs serially.
//!
//! | file | idea |
//! |---|---|
//! | `library` | find ONNX Runtime's shared library and load it, once a process |
//! | `host` | what processor, threads and memory there are to use |
//! | `convert` | tensors in and out of ONNX Runtime without copying |
//! | `session` | one session as a [`Lane`](crate::Lane) |
//! | `watch` | the thread that ends runs whose deadline passed |
//! | `memory` | the deployment's bound, and how many sessions fit |
//! | `sample` | inputs for a model that one knows nothing of |
//! | `tune` | measure at warm-up how batches of which size are best run |
//! | `scorer` | lanes, wide session and plans behind one [`Scorer`] |

mod convert;
mod host;
mod library;
mod memory;
mod quantised;
mod scorer;
mod session;
mod tune;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

pub use library::{INSTALL_COMMAND, MIN_MINOR_VERSION};

use crate::error::{Result, ScoreError};
use crate::model::Model;
use crate::model::onnx::FunctionProto;
use crate::scoring::{
    Backend, BackendKind, CompileOptions, Device, NodePlacement, Placement, Precision, Scorer, Site,
};

/// Scores on the host's processor through ONNX Runtime.
#[derive(Debug, Clone, Default)]
pub struct CpuBackend {
    library: Option<PathBuf>,
}

impl CpuBackend {
    /// A backend that looks for ONNX Runtime where it usually is: the environment, beside the program,
    /// the project's own install, Python's packages, the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// A backend that takes ONNX Runtime from this file and from nowhere else.
    #[must_use]
    pub fn with_library(self, library: impl Into<PathBuf>) -> Self {
        Self { library: Some(library.into()) }
    }

    /// ONNX Runtime's environment, for a program that also uses `ort` directly: a process can have only
    /// one, and the backend's is it.
    ///
    /// # Errors
    /// `Unavailable` when ONNX Runtime cannot be loaded.
    pub fn environment(&self) -> Result<ort::environment::Environment> {
        library::load(self.library.as_deref()).map(|runtime| runtime.environment().clone())
    }
}

impl Backend for CpuBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Cpu
    }

    fn probe(&self) -> Result<Vec<Device>> {
        let runtime = library::load(self.library.as_deref())?;
        let mut facts = vec![
            ("cores", host::threads().to_string()),
            ("onnxruntime", runtime.version().to_owned()),
            ("library", runtime.path().display().to_string()),
        ];
        if let Some(features) = host::instruction_sets() {
            facts.push(("instructions", features));
        }
        Ok(vec![Device {
            backend: BackendKind::Cpu,
            index: 0,
            name: host::processor_name(),
            memory_bytes: host::memory_bytes(),
            emulated: false,
            facts,
        }])
    }

    fn place(&self, model: &Model, _: &Device) -> Result<Placement> {
        let nodes = model.nodes().iter().map(|n| NodePlacement {
            node: n.name.clone(),
            operator: n.operator.clone(),
            site: place_operator(&n.operator, &model.proto().functions),
        });
        Ok(Placement::new(BackendKind::Cpu, nodes.collect()))
    }

    fn compile(
        &self,
        model: &Model,
        devices: &[Device],
        options: &CompileOptions,
    ) -> Result<Arc<dyn Scorer>> {
        let device = devices.first().ok_or_else(|| ScoreError::internal("compile was given no device"))?;
        let placement = self.place(model, device)?;
        for node in placement.nodes() {
            if let Site::Nowhere { reason } = &node.site {
                let at = format!("node '{}' ({})", node.node, node.operator);
                return Err(ScoreError::unsupported(reason.clone()).with_at(at));
            }
        }
        if options.precision != Precision::Model {
            // At least as exact as what was asked for, so no reason to fail; but not what was asked for.
            tracing::warn!(asked = ?options.precision, "the CPU backend computes in the precision of the model");
        }
        let runtime = library::load(self.library.as_deref())?;
        let scorer = scorer::CpuScorer::load(runtime, model, placement, devices.to_vec(), options)?;
        Ok(Arc::new(scorer))
    }
}

/// Operators come from domains, and ONNX Runtime serves these on the CPU. Whether it has this very
/// operator in this version is known when the session is made, and said by node name then. What the model itself defines as a function is
/// served as what it is made of.
fn place_operator(operator: &str, functions: &[FunctionProto]) -> Site {
    const SERVED: [&str; 6] = [
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "ai.onnx.training",
        "com.microsoft",
        "ai.onnx.preview.training",
    ];
    let domain = operator.rsplit_once('.').map_or("ai.onnx", |(domain, _)| domain);
    let within = |domain: &str| operator.strip_prefix(domain)?.strip_prefix('.');
    let is_defined = |f: &FunctionProto| within(f.domain()) == Some(f.name());
    if SERVED.contains(&domain) || functions.iter().any(is_defined) {
        return Site::Device;
    }
    let is_qonnx = domain.ends_with("custom_op.general") || domain == "onnx.brevitas";
    let to_do = match is_qonnx && operator.ends_with("Quant") {
        true => ": triscore quantize writes a QONNX model with Q/DQ pairs, which it has",
        false => "",
    };
    Site::Nowhere { reason: format!("ONNX Runtime has no operators of the domain '{domain}'{to_do}") }
}
