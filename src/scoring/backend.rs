//! What exists before there is a model: a kind of compute, its devices, and how a model is made ready.

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use super::{Placement, Scorer};
use crate::error::{Result, ScoreError};
use crate::model::Model;

/// A kind of compute.
pub trait Backend: Debug + Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> BackendKind;

    /// The devices that can be used now; never an empty list. Touches no driver before it is called, and
    /// never panics, whatever a driver does.
    ///
    /// # Errors
    /// `Unavailable` with the reason why there is none, in words that say what to do.
    fn probe(&self) -> Result<Vec<Device>>;

    /// What of the model would run where, node by node. A pure answer: nothing is loaded.
    ///
    /// # Errors
    /// `Unsupported` when this backend cannot run models (yet) at all, with the reason.
    fn place(&self, model: &Model, device: &Device) -> Result<Placement>;

    /// Makes the model ready on these devices (one or more of this backend's, lanes spread over them)
    /// and warms it up.
    ///
    /// # Errors
    /// `BadModel`, `Unsupported`: the model cannot run here, and why; `OutOfMemory`; `Unavailable`.
    fn compile(&self, model: &Model, devices: &[Device], options: &CompileOptions)
    -> Result<Arc<dyn Scorer>>;
}

/// The kinds of compute. `Custom` is for backends that live outside of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// The host's processor, through ONNX Runtime.
    Cpu,
    /// A GPU, through CUDA.
    Gpu,
    /// An FPGA, through OpenCL.
    Fpga,
    /// Somebody's own, by name.
    Custom(&'static str),
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Fpga => "fpga",
            Self::Custom(name) => name,
        })
    }
}

impl FromStr for BackendKind {
    type Err = ScoreError;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Cpu, Self::Gpu, Self::Fpga].into_iter().find(|k| k.to_string() == text).ok_or_else(|| {
            ScoreError::bad_config(format!("unknown backend '{text}': expected cpu, gpu or fpga"))
        })
    }
}

/// One device, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The backend that it belongs to.
    pub backend: BackendKind,
    /// Its number among that backend's devices.
    pub index: usize,
    /// What its maker calls it.
    pub name: String,
    /// Its memory in bytes, where that is known.
    pub memory_bytes: Option<u64>,
    /// Whether it is emulated on the processor: it computes what a device would, and tells nothing of
    /// its speed. Whatever prints the device says so.
    pub emulated: bool,
    /// More facts, in the order in which to print them: driver version, cores, PCI address, …
    pub facts: Vec<(&'static str, String)>,
}

impl fmt::Display for Device {
    /// As `gpu:0 NVIDIA H200`, with `(emulated)` behind it where it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let emulated = if self.emulated { " (emulated)" } else { "" };
        write!(f, "{}:{} {}{emulated}", self.backend, self.index, self.name)
    }
}

/// How a model is to be made ready. The default asks for nothing in particular.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// Processor cores that may be used, as a deployment's `cpu` says it (0.5 is half a core); `None`
    /// takes what the machine or container has.
    pub cpu_cores: Option<f64>,
    /// Host memory that may be used in bytes, as a deployment's `memoryInGB` says it.
    pub memory_bytes: Option<u64>,
    /// How many lanes; `None` takes as many as cores and memory allow.
    pub lanes: Option<usize>,
    /// The largest batch to prepare for and to take; `None` leaves it to the backend.
    pub max_batch: Option<usize>,
    /// In which precision to compute.
    pub precision: Precision,
    /// Who may run what the device cannot: nothing runs there unless it is given here.
    pub host: Option<Arc<dyn Backend>>,
    /// Measure nothing at load, for a model whose runs take long: batches run on one lane, and as nothing
    /// is known of the rows' independence, the signature has no batch axis.
    pub skip_tuning: bool,
}

/// The precision in which a backend computes.
///
/// It is that of floats. Products of quantised tensors are products of integers, which are exact in every precision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// As the model says.
    #[default]
    Model,
    /// 32-bit floats.
    F32,
    /// 32-bit floats with products rounded to TF32.
    Tf32,
    /// Brain floats, sums in f32.
    Bf16,
    /// Half floats, sums in f32.
    F16,
    /// 8-bit integers, where the model is quantised.
    Int8,
}

impl Precision {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Model, "model"),
        (Self::F32, "f32"),
        (Self::Tf32, "tf32"),
        (Self::Bf16, "bf16"),
        (Self::F16, "f16"),
        (Self::Int8, "int8"),
    ];
}

impl fmt::Display for Precision {
    /// As deployment files write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(p, _)| p == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Precision {
    type Err = ScoreError;

    fn from_str(text: &str) -> Result<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == text).map(|(p, _)| *p).ok_or_else(|| {
            ScoreError::bad_config(format!(
                "unknown precision '{text}': expected model, f32, tf32, bf16, f16 or int8"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_in_the_command_line() {
        for name in ["cpu", "gpu", "fpga"] {
            assert_eq!(name.parse::<BackendKind>().unwrap().to_string(), name);
        }
        assert!("tpu".parse::<BackendKind>().unwrap_err().to_string().contains("cpu, gpu or fpga"));
    }

    #[test]
    fn an_emulated_device_says_so() {
        let mut device = Device {
            backend: BackendKind::Fpga,
            index: 0,
            name: "PoCL".into(),
            memory_bytes: None,
            emulated: false,
            facts: vec![],
        };
        assert_eq!(device.to_string(), "fpga:0 PoCL");
        device.emulated = true;
        assert_eq!(device.to_string(), "fpga:0 PoCL (emulated)");
    }
}
