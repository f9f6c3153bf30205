//! triscore scores any ONNX model on CPU, GPU or FPGA behind one trait, from the deployment file that a
//! team already has.
//!
//! A model comes in once, is understood once, is made ready on one device, and is then scored many
//! times. Whoever scores holds an `Arc<dyn `[`Scorer`]`>` and nothing else:
//!
//! ```
//! use triscore::cpu::CpuBackend;
//! use triscore::{Backend, Call, CompileOptions, Model, Tensor};
//!
//! let model = Model::open("models/digits_cnn/model.onnx")?;
//! let cpu = CpuBackend::new();
//! let scorer = cpu.compile(&model, &cpu.probe()?, &CompileOptions::default())?;
//!
//! let image = Tensor::from_slice(&[1, 1, 8, 8], &[0.5f32; 64])?;
//! let scored = scorer.score(&[image], &Call::new())?;
//! assert_eq!(scored.tensor(0)?.shape(), &[1, 10]);
//! # Ok::<(), triscore::ScoreError>(())
//! ```
//!
//! # Rooms
//! Arrows go down only; a room names none above it.
//!
//! | room | what it is | feature |
//! |---|---|---|
//! | [`service`] | a deployed service's life: processes, states, restarts | `server` |
//! | [`script`] | entry scripts in Python: supervised worker processes | `server` |
//! | [`server`] | HTTP: admission, JSON, keys, metrics, shutdown | `server` |
//! | [`environment`] | the Python environments of entry scripts, built once and kept | `server` |
//! | [`registry`] | registered models and services, in one folder | `server` |
//! | [`deploy`] | deployment files, and the adapter that picks a backend from them | `deploy` |
//! | [`cpu`], [`gpu`], [`fpga`] | the backends; none names another | `cpu`, `cuda`, `opencl` |
//! | [`quantize`] | from float models to quantised ones, and the reference that runs those | `cuda`, `opencl` |
//! | [`graph`] | what GPU and FPGA compile from: one form, types, shapes, rewrites | `cuda`, `opencl` |
//! | [`int8`] | the arithmetic of quantised operators, to the bit | `cuda`, `opencl` |
//! | [`scoring`] | the traits: [`Backend`] → [`Scorer`] → [`Lane`] | |
//! | [`model`] | an ONNX file made safe | |
//! | [`signature`] | what a model takes and gives | |
//! | [`machine`] | cores and memory that this process may use | `cpu`, `deploy` |
//! | [`tensor`] | typed, shaped, aligned, shared | |
//! | [`error`] | one error type, one table | |
//!
//! # What it promises
//! - **Never a weaker device than was asked for**, unless a deployment says that it may be.
//! - **Nothing hostile reaches a native library**: models, tensors and configurations are checked in safe
//!   code first, within limits.
//! - **No panic crosses the API.** What is missing (a driver, a device, a library) is a reason, in words.

#[cfg(any(feature = "deploy", feature = "opencl"))]
mod child;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "deploy")]
pub mod deploy;
#[cfg(feature = "server")]
pub mod environment;
pub mod error;
#[cfg(feature = "opencl")]
pub mod fpga;
#[cfg(feature = "cuda")]
pub mod gpu;
#[cfg(any(feature = "cuda", feature = "opencl"))]
pub mod graph;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod guard;
#[cfg(any(feature = "cuda", feature = "opencl"))]
pub mod int8;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod layout;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod library;
#[cfg(any(feature = "cpu", feature = "deploy"))]
pub mod machine;
pub mod model;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod offload;
#[cfg(any(feature = "cuda", feature = "opencl"))]
pub mod quantize;
#[cfg(feature = "server")]
pub mod registry;
pub mod scoring;
#[cfg(feature = "server")]
pub mod script;
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
pub use tensor::{DType, Element, F8E4M3, F8E5M2, Tensor, Value};
