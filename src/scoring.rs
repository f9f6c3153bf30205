//! The whole plug-in surface: [`Backend`] → [`Scorer`] → [`Lane`].
//!
//! Why three traits and not one. An ONNX Runtime session, an OpenCL queue and a CUDA stream all want
//! one exclusive owner; a caller wants one `&self` call from any thread. So what a backend author
//! writes ([`Lane`], `&mut self`) is not what a caller holds ([`Scorer`], `&self`), and the step
//! from one to the other, sharing N lanes among callers, is written once, in [`Lanes`]: the one place
//! that waits, times out, and retires a lane that panicked or lost its device. [`Backend`] is what
//! exists before there is a model: it finds devices and makes models ready on them.
//!
//! | trait | one of it is | who writes it |
//! |---|---|---|
//! | [`Backend`] | a kind of compute | a backend author, once |
//! | [`Scorer`] | a model made ready on a device | usually a thin struct around [`Lanes`] |
//! | [`Lane`] | one stream, queue or session with its staging buffers | a backend author |
//!
//! What is *not* here, on purpose:
//! - **Policy.** Which backend to use is the deployment's word (`deploy::adapter`). Nothing in this
//!   module ever falls back to another device.
//! - **Batching.** A batcher needs only [`Signature::batch_axis`](crate::Signature::batch_axis) and
//!   [`Limits`].
//! - **Async.** CUDA, OpenCL and ONNX Runtime calls block. An async server hands the call to a
//!   thread of its own.
//!
//! # Writing a backend
//! 1. A `Lane`: upload, compute, download; check `call` between steps ([`Call::check`]).
//! 2. A `Scorer`: a struct with the signature, the placement, the devices and a `Lanes<YourLane>`;
//!    `score` checks the inputs against the signature and calls [`Lanes::score`].
//! 3. A `Backend`: `probe` says what devices there are, or why there is none; `place` says, node by
//!    node, what would run where; `compile` makes the scorer.
//!
//! `examples/fourth_backend.rs` does all of it in about a hundred lines.

mod backend;
mod buckets;
mod call;
mod close;
mod fault;
mod inputs;
mod lanes;
mod limits;
mod placement;
#[cfg(any(feature = "cpu", feature = "cuda", feature = "opencl"))]
mod rows;
#[cfg(any(feature = "cpu", feature = "cuda", feature = "opencl"))]
mod sample;

pub use backend::{Backend, BackendKind, CompileOptions, Device, Precision};
pub use buckets::{Bucketed, Buckets};
pub use call::{Call, CancelToken, OnCancel};
pub use fault::{Fault, FaultBackend, FaultScorer};
pub use lanes::{Lane, LaneGuard, Lanes};
pub use limits::{BatchPlan, Limits, Strategy};
pub use placement::{NodePlacement, Placement, Site};
#[cfg(any(feature = "cpu", feature = "cuda", feature = "opencl"))]
pub(crate) use {
    close::Tolerance,
    rows::checked_rows,
    sample::{Sample, sample},
};

use std::fmt::Debug;
use std::time::Duration;

use crate::error::Result;
use crate::signature::Signature;
use crate::tensor::{Tensor, Value};

/// A model made ready on a device. Everything above a backend holds an `Arc<dyn Scorer>`.
pub trait Scorer: Debug + Send + Sync {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// How many calls it takes at once, and which batch sizes suit it.
    fn limits(&self) -> &Limits;

    /// What truly runs where, node by node.
    fn placement(&self) -> &Placement;

    /// The devices that it runs on; never empty.
    fn devices(&self) -> &[Device];

    /// Scores one set of inputs, in the order of the signature. Blocks; may be called from many
    /// threads at once, and waits for a free lane within the deadline of `call`.
    ///
    /// # Errors
    /// - `BadInput`: the inputs do not fit the signature.
    /// - `DeadlineExceeded`, `Cancelled`: as `call` asked.
    /// - `OutOfMemory`: this batch does not fit; a smaller one may.
    /// - `DeviceLost`: now and from now on, until the scorer is compiled anew.
    fn score(&self, inputs: &[Tensor], call: &Call) -> Result<Scored>;

    /// Whether it can be called. A lost device stays lost: the answer never goes back to `Ready`.
    fn health(&self) -> Health;
}

/// What a call of [`Scorer::score`] gives.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The outputs, in the order of the signature.
    pub outputs: Vec<Value>,
    /// Where the time went.
    pub timing: Timing,
    /// What was launched on the device, in that order, if the call [wanted](Call::with_profile) to know and the backend can tell.
    pub launches: Vec<Launch>,
}

/// One launch on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub kernel: &'static str,
    /// The places, in the model's order, of the nodes that it computes.
    pub nodes: Vec<usize>,
    /// How long the device was at it.
    pub time: Duration,
}

impl Scored {
    /// Outputs, and where the time went.
    pub fn new(outputs: Vec<Value>, timing: Timing) -> Self {
        Self { outputs, timing, launches: Vec::new() }
    }

    /// The output at that place of the signature, which must be a tensor.
    ///
    /// # Errors
    /// `NotFound` when there is no such output; `BadInput` when it is a sequence or a map.
    pub fn tensor(&self, index: usize) -> Result<&Tensor> {
        let count = self.outputs.len();
        let none =
            || crate::ScoreError::not_found(format!("there is no output {index}: the model has {count}"));
        self.outputs.get(index).ok_or_else(none)?.as_tensor()
    }
}

/// Where the time of a call went. The parts do not overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for a free lane.
    pub wait: Duration,
    /// Moving inputs to the device; zero where they are used in place.
    pub upload: Duration,
    /// Computing.
    pub compute: Duration,
    /// Moving outputs from the device; zero where they are used in place.
    pub download: Duration,
}

impl std::ops::AddAssign for Timing {
    fn add_assign(&mut self, other: Self) {
        self.wait += other.wait;
        self.upload += other.upload;
        self.compute += other.compute;
        self.download += other.download;
    }
}

/// Whether a scorer can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// All of it works.
    Ready,
    /// It works with fewer lanes than it had, and why.
    Degraded {
        /// What happened to the lanes that are gone.
        reason: String,
    },
    /// It does not work, and will not until it is compiled anew.
    Lost {
        /// What happened.
        reason: String,
    },
}
