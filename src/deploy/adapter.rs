//! From a deployment configuration to a backend and its devices, or to the reason why not.
//!
//! Two things can say no: the probe (the device is not there) and the compilation (the device cannot run this
//! model). Under [`Requirement::Require`] either is an error; under [`Requirement::Prefer`] either hands on to
//! the next kind of the order, and the result carries the reason in [`Selection::fell_back`], for logs,
//! metrics, headers and reports. Nothing else ever changes the device.
//!
//! All errors of selection are [`ErrorKind::Unavailable`]: a service layer calls them `Unschedulable`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{DeploymentConfig, Machine, Requirement};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::model::Model;
use crate::scoring::{Backend, BackendKind, Bucketed, CompileOptions, Device, Scorer};

/// A backend and the devices of it that a deployment gets.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// As many of its devices as were asked for.
    pub devices: Vec<Device>,
    /// Why it is not the first choice, where it is not.
    pub fell_back: Option<String>,
}

impl fmt::Display for Selection {
    /// As `gpu:0 NVIDIA H200`, or `cpu:0 … instead of gpu: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = self.devices.iter().map(ToString::to_string).collect::<Vec<_>>();
        f.write_str(&devices.join(", "))?;
        match &self.fell_back {
            Some(reason) => write!(f, " (fell back: {reason})"),
            None => Ok(()),
        }
    }
}

/// A model made ready as its deployment asks.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The model, ready.
    pub scorer: Arc<dyn Scorer>,
    /// Where it runs, and why there.
    pub selection: Selection,
}

/// Picks the backend and the devices for a requirement. Asks the backends anew each time.
///
/// # Errors
/// `Unavailable` with the reason for each kind that was tried.
pub fn select(
    requirement: &Requirement,
    backends: &[Arc<dyn Backend>],
    allow_emulation: bool,
) -> Result<Selection> {
    first_of(requirement, |kind, count| devices(kind, count, backends, allow_emulation))
        .map(|((backend, devices), fell_back)| Selection { backend, devices, fell_back })
}

/// The backends that there are, and the machine that they share.
#[derive(Debug, Clone)]
pub struct Adapter {
    backends: Vec<Arc<dyn Backend>>,
    machine: Machine,
}

impl Adapter {
    /// An adapter over these backends, on this machine.
    pub fn new(backends: Vec<Arc<dyn Backend>>) -> Self {
        Self { backends, machine: Machine::detect() }
    }

    /// The same, with other numbers for the machine.
    #[must_use]
    pub fn with_machine(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// The machine that requests are checked against.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Checks cores and memory, and picks backend and devices. Loads nothing.
    ///
    /// # Errors
    /// `Unavailable`: what is asked for, and what there is.
    pub fn select(&self, config: &DeploymentConfig) -> Result<Selection> {
        self.machine.check(&config.resources)?;
        select(&Requirement::of(config), &self.backends, config.triscore.allow_emulation)
    }

    /// Checks, picks, and makes the model ready. Where other devices will do, one that cannot run the model
    /// hands on to the next, as one that is not there does.
    ///
    /// # Errors
    /// `Unavailable` as [`select`](Self::select); else what the last backend's compilation said, with
    /// the reasons of those before it; `BadConfig` for buckets that the model does not go with.
    pub fn compile(&self, config: &DeploymentConfig, model: &Model) -> Result<Compiled> {
        self.machine.check(&config.resources)?;
        let requirement = Requirement::of(config);
        let options = self.compile_options(config);
        let compile = |kind, count| {
            let (backend, devices) = devices(kind, count, &self.backends, config.triscore.allow_emulation)?;
            let options = CompileOptions { host: self.host(&requirement, kind), ..options.clone() };
            let scorer = backend.compile(model, &devices, &options)?;
            Ok((scorer, backend, devices))
        };
        let ((scorer, backend, devices), fell_back) = first_of(&requirement, compile)?;
        let buckets = &config.triscore.buckets;
        let scorer = match buckets.is_empty() {
            true => scorer,
            false => Arc::new(Bucketed::new(scorer, buckets.clone(), options.precision)?),
        };
        Ok(Compiled { scorer, selection: Selection { backend, devices, fell_back } })
    }

    /// What a file says of cores, memory, lanes, batches and precision. A limit counts before a request,
    /// and what the file leaves to the default is left to the backend, which takes what there is.
    pub fn compile_options(&self, config: &DeploymentConfig) -> CompileOptions {
        let asked = &config.resources;
        let cpu = asked.cpu_limit.or(asked.cpu_is_stated.then_some(asked.cpu));
        let memory_gb = asked.memory_gb_limit.or(asked.memory_is_stated.then_some(asked.memory_gb));
        let most_bytes = self.machine.memory_bytes.unwrap_or(u64::MAX);
        CompileOptions {
            cpu_cores: cpu.map(|cores| cores.min(self.machine.cpu_cores)),
            memory_bytes: memory_gb.map(|gb| super::machine::bytes(gb).min(most_bytes)),
            lanes: config.triscore.lanes,
            max_batch: config.triscore.batching.and_then(|b| b.max_batch),
            precision: config.triscore.precision,
            ..CompileOptions::default()
        }
    }

    /// Who may run the nodes that an accelerator cannot: the CPU where the file's order names it after this
    /// kind, else nobody. A file that requires a device gets all of the model on it, or an error.
    fn host(&self, requirement: &Requirement, kind: BackendKind) -> Option<Arc<dyn Backend>> {
        let allowed = kind != BackendKind::Cpu && requirement.allows(BackendKind::Cpu);
        self.backends.iter().find(|b| allowed && b.kind() == BackendKind::Cpu).cloned()
    }
}

/// Goes down the order until one succeeds; with the reasons of those before it.
fn first_of<T>(
    requirement: &Requirement,
    mut attempt: impl FnMut(BackendKind, usize) -> Result<T>,
) -> Result<(T, Option<String>)> {
    let mut reasons: Vec<ScoreError> = Vec::new();
    for (kind, count) in requirement.order() {
        match attempt(kind, count) {
            Ok(found) if reasons.is_empty() => return Ok((found, None)),
            Ok(found) => return Ok((found, Some(joined(&reasons)))),
            Err(e) => reasons.push(e),
        }
    }
    match reasons.pop() {
        // One choice, or none before it: its own words are the whole story.
        Some(only) if reasons.is_empty() => Err(only),
        Some(last) => {
            let kind = last.kind();
            reasons.push(last);
            Err(ScoreError::new(kind, joined(&reasons)))
        }
        None => Err(ScoreError::internal("a requirement names no backend")),
    }
}

fn joined(reasons: &[ScoreError]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// So many devices of a kind, real ones first.
fn devices(
    kind: BackendKind,
    count: usize,
    backends: &[Arc<dyn Backend>],
    allow_emulation: bool,
) -> Result<(Arc<dyn Backend>, Vec<Device>)> {
    let asks = match count {
        1 => format!("asks for 1 {}", name(kind)),
        _ => format!("asks for {count} {}s", name(kind)),
    };
    let no = |why: String| Err(ScoreError::new(ErrorKind::Unavailable, format!("{asks}; {why}")));
    let Some(backend) = backends.iter().find(|b| b.kind() == kind) else {
        return no(format!("this program was built without the {kind} backend"));
    };
    let found = match backend.probe() {
        Ok(found) => found,
        Err(e) => return no(format!("this machine has none: {e}")),
    };
    let (real, emulated) = found.into_iter().partition::<Vec<_>, _>(|d| !d.emulated);
    let have = real.len() + if allow_emulation { emulated.len() } else { 0 };
    if have >= count {
        let use_emulated = emulated.iter().filter(|_| allow_emulation);
        return Ok((backend.clone(), real.iter().chain(use_emulated).take(count).cloned().collect()));
    }
    let list = |devices: &[Device]| devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut why = match (have, allow_emulation) {
        (0, _) => "this machine has none".to_owned(),
        (_, false) => format!("this machine has {have}: {}", list(&real)),
        (_, true) => format!("this machine has {have}: {}", list(&[&real[..], &emulated[..]].concat())),
    };
    if !allow_emulation && !emulated.is_empty() {
        let emulated = list(&emulated);
        why.push_str(&format!(
            " but emulated ones, which tell nothing of speed: {emulated} \
             (\"triscore\": {{\"allowEmulation\": true}} takes them, on the command line --allow-emulation)"
        ));
    }
    no(why)
}

fn name(kind: BackendKind) -> String {
    match kind {
        BackendKind::Cpu => "CPU".to_owned(),
        BackendKind::Gpu => "GPU".to_owned(),
        BackendKind::Fpga => "FPGA".to_owned(),
        other => format!("{other} device"),
    }
}

/// Every backend that was compiled in, in the order cpu, gpu, fpga. Probes nothing.
pub fn backends() -> Vec<Arc<dyn Backend>> {
    backends_with(None)
}

/// The same, with ONNX Runtime taken from this file and from nowhere else.
pub fn backends_with(onnxruntime: Option<&Path>) -> Vec<Arc<dyn Backend>> {
    [cpu(onnxruntime), gpu(), fpga()].into_iter().flatten().collect()
}

#[cfg_attr(
    not(feature = "cpu"),
    allow(unused_variables, reason = "only the CPU backend has a library to name")
)]
fn cpu(onnxruntime: Option<&Path>) -> Option<Arc<dyn Backend>> {
    #[cfg(feature = "cpu")]
    return Some(Arc::new(match onnxruntime {
        Some(path) => crate::cpu::CpuBackend::new().with_library(path),
        None => crate::cpu::CpuBackend::new(),
    }));
    #[cfg(not(feature = "cpu"))]
    None
}

fn gpu() -> Option<Arc<dyn Backend>> {
    #[cfg(feature = "cuda")]
    return Some(Arc::new(crate::gpu::GpuBackend::new()));
    #[cfg(not(feature = "cuda"))]
    None
}

fn fpga() -> Option<Arc<dyn Backend>> {
    #[cfg(feature = "opencl")]
    return Some(Arc::new(crate::fpga::FpgaBackend::new()));
    #[cfg(not(feature = "opencl"))]
    None
}

#[cfg(test)]
mod tests;
