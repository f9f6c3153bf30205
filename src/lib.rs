//! triscore scores ONNX models on CPU, GPU or FPGA behind one trait.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "deploy")]
pub mod deploy;
pub mod error;
#[cfg(feature = "opencl")]
pub mod fpga;
#[cfg(feature = "cuda")]
pub mod gpu;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod guard;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod library;
pub mod model;
#[cfg(feature = "server")]
pub mod registry;
pub mod scoring;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
pub mod signature;
pub mod tensor;

pub use error::{ErrorKind, Result, ScoreError};
pub use model::Model;
pub use scoring::{
    Backend, BackendKind, Call, CancelToken, CompileOptions, Device, Health, Lane, Lanes, Limits, Placement,
    Scored, Scorer, Timing,
};
pub use signature::{Dim, Port, PortKind, Signature};
pub use tensor::{DType, Element, Tensor, Value};
