//! cuDNN, as far as convolutions of a plan need it: a graph of operations that is described once, the engines that the library proposes for it, and plans
//! that are run often.
//!
//! A convolution with its bias, residual and ReLU is one graph ([`graph`]); for it cuDNN's heuristics propose engines ([`engines`]), of which those are
//! taken whose arithmetic is the one that was asked for. A proposal becomes a plan when it is wanted: that takes milliseconds, or a second where cuDNN
//! compiles it (with NVRTC).
//!
//! Running a plan allocates nothing and waits for nothing, so that it can be captured. cuDNN does not promise that a plan may be ordered by several
//! threads at once, so one at a time does; each lane has a handle of its own, so that what the library keeps with a handle is no two lanes'.
//!
//! Everything but running is the same without a GPU, for one that is described (cuDNN 9.8 and later): so the real library is asked by a test what it
//! takes (`tests`). That a real GPU gives what the emulated library (`hardware-tests/cuda-emulator/libraries`) gives, and how fast, only a real one shows.

mod descriptor;
mod engines;
mod graph;

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind,
};
use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUstream;

use super::cublaslt::Places;
use super::libraries::{self, Library};
use super::plan::ConvShape;
use crate::error::{Result, ScoreError};
use descriptor::{Descriptor, Functions, Handle};
use engines::Proposal;

/// What an engine may use besides the tensors.
const WORKSPACE_BYTES: usize = 256 << 20;

/// So many proposals are looked at, and so many that cuDNN compiles first, for a second or three each.
const MOST_PROPOSALS: usize = 8;
const MOST_COMPILED: usize = 3;

/// The first cuDNN whose last error can be asked for, and whose statuses are as fine.
const OLDEST: usize = 90_000;

/// Which tensor is which, in a graph and where it is run.
mod uid {
    pub(super) const IMAGES: i64 = 1;
    pub(super) const WEIGHTS: i64 = 2;
    pub(super) const RESULT: i64 = 3;
    pub(super) const BIAS: i64 = 4;
    pub(super) const RESIDUAL: i64 = 5;
    pub(super) const FIRST_VIRTUAL: i64 = 16;
}

/// What a graph is planned for.
enum Target {
    /// The GPU of a handle.
    Handle(Arc<Handle>),
    /// One that is described, and need not be here.
    #[cfg_attr(not(test), expect(dead_code, reason = "plans for a GPU that is not here are for tests"))]
    Described(Arc<Descriptor>),
}

/// The library, ready for one GPU.
pub(super) struct Cudnn {
    functions: Arc<Functions>,
    target: Target,
    /// Held while something is planned: a handle is no two threads' at once.
    planning: Mutex<()>,
}

impl Cudnn {
    /// For the GPU of that context, whose driver speaks that CUDA.
    ///
    /// # Errors
    /// `Unavailable` where the library is missing, too old, lacks a function, or refuses the GPU.
    pub(super) fn load(context: &Arc<CudaContext>, driver: i32) -> Result<Self> {
        let library = libraries::load(Library::Cudnn, Some(driver))?;
        let path = library.found.path.display();
        let functions = Functions::of(&library)?;
        if functions.version < OLDEST {
            let version = functions.version;
            return Err(ScoreError::unavailable(format!("{path} is cuDNN {version}: expected 9.0 or later")));
        }
        let handle = Handle::new(&functions, context).map_err(|e| e.with_at(path.to_string()))?;
        Ok(Self::for_target(functions, Target::Handle(Arc::new(handle))))
    }

    fn for_target(functions: Arc<Functions>, target: Target) -> Self {
        Self { functions, target, planning: Mutex::default() }
    }

    /// The number that it gives as its version: 91900 is 9.19.0.
    pub(super) fn version(&self) -> usize {
        self.functions.version
    }
}

/// What orders plans on one stream.
pub(super) struct Session(Handle);

impl Session {
    /// # Safety
    /// The stream must be of the context, and outlive the session's last use.
    ///
    /// # Errors
    /// `Unavailable`, `OutOfMemory`, with the library's status.
    pub(super) unsafe fn on(
        plan: &ConvPlan,
        context: &Arc<CudaContext>,
        stream: CUstream,
    ) -> Result<Session> {
        let mut handle = Handle::new(&plan.functions, context)?;
        // SAFETY: as the caller promises.
        unsafe { handle.set_stream(stream) }?;
        Ok(Session(handle))
    }
}

/// A convolution of one shape, and the ways in which the library would compute it.
pub(super) struct Convolution {
    /// The best first, as the library thinks.
    proposals: Vec<Proposal>,
    has_bias: bool,
    has_residual: bool,
    library: Arc<Cudnn>,
}

impl Convolution {
    /// The convolution of that shape.
    ///
    /// # Errors
    /// `Unavailable` where the library does not take it.
    pub(super) fn of(library: &Arc<Cudnn>, shape: &ConvShape) -> Result<Self> {
        let Cudnn { functions, target, planning } = &**library;
        let _one_at_a_time = planning.lock().unwrap_or_else(PoisonError::into_inner);
        let graph = graph::graph(functions, shape, target)?;
        let proposals = engines::proposals(functions, &graph, shape, target)?;
        if proposals.is_empty() {
            return Err(ScoreError::unavailable("cuDNN has no engine for a convolution"));
        }
        let (has_bias, has_residual) = (shape.bias_align.is_some(), shape.residual.is_some());
        Ok(Self { proposals, has_bias, has_residual, library: library.clone() })
    }

    /// What tells the proposals from each other, in their order.
    pub(super) fn codes(&self) -> impl Iterator<Item = &str> {
        self.proposals.iter().map(|proposal| proposal.code.as_str())
    }

    /// What runs one of the proposals. Each is asked for once: what cuDNN 9.19 has compiled of a proposal it often fails to compile of it again, which it
    /// does not of one that is proposed anew.
    ///
    /// # Errors
    /// `Unavailable` where the engine does not take the convolution after all, or wants too much workspace.
    pub(super) fn plan(&self, at: usize) -> Result<ConvPlan> {
        let missing = || ScoreError::internal("a proposal of cuDNN that is not there");
        let proposal = self.proposals.get(at).ok_or_else(missing)?;
        let Cudnn { functions, target, planning } = &*self.library;
        let _one_at_a_time = planning.lock().unwrap_or_else(PoisonError::into_inner);
        let (plan, workspace) = engines::plan(functions, proposal, target)?;
        Ok(ConvPlan {
            plan: Mutex::new(plan),
            workspace,
            has_bias: self.has_bias,
            has_residual: self.has_residual,
            functions: functions.clone(),
        })
    }
}

/// One way of computing a convolution.
pub(super) struct ConvPlan {
    /// One at a time orders it.
    plan: Mutex<Arc<Descriptor>>,
    /// What it uses of the workspace.
    pub(super) workspace: usize,
    has_bias: bool,
    has_residual: bool,
    functions: Arc<Functions>,
}

impl ConvPlan {
    /// Orders the convolution on the session's stream.
    ///
    /// # Safety
    /// The places must be memory of the library's GPU in which the shape's tensors lie, as aligned as the shape says, and the workspace must have
    /// the plan's bytes; all of it must live until the stream, or the graph that this is captured into, is done. The context must be current.
    ///
    /// # Errors
    /// `Unavailable`, with the library's status.
    pub(super) unsafe fn run(&self, session: &Session, places: &Places, workspace: u64) -> Result<()> {
        let tensors = [
            (uid::IMAGES, places.left, true),
            (uid::WEIGHTS, places.right, true),
            (uid::RESULT, places.result, true),
            (uid::BIAS, places.bias, self.has_bias),
            (uid::RESIDUAL, places.residual, self.has_residual),
        ];
        let (uids, addresses): (Vec<_>, Vec<_>) =
            tensors.into_iter().filter(|(.., is_there)| *is_there).map(|(uid, at, _)| (uid, at)).unzip();
        let pack = Descriptor::new(&self.functions, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .with_addresses(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &addresses)?
            .with(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &uids)?
            .with_addresses(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?
            .finalised()?;
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as the caller promises; nobody else executes the plan meanwhile.
        unsafe { session.0.execute(&plan, &pack) }
    }
}

#[cfg(test)]
pub(super) mod tests;
