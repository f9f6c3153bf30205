//! The memory that sessions may take: the bound that a deployment sets, and how many sessions fit into it.

use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use super::library::Runtime;
use super::{convert, host};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::CompileOptions;

/// The memory that sessions may take.
pub(super) struct Memory {
    /// What the process held before the first session.
    before_bytes: u64,
    /// What it may hold in all, where that is known.
    limit_bytes: Option<u64>,
    bounded: bool,
}

impl Memory {
    /// Registers the deployment's bound, if it has one.
    pub(super) fn of(runtime: &Runtime, options: &CompileOptions) -> Result<Self> {
        let before_bytes = host::resident_bytes().unwrap_or(0);
        let limit_bytes = match options.memory_bytes {
            Some(bytes) => {
                // The bound is on what ONNX Runtime allocates; what is there already counts too.
                const LEAST: u64 = 16 << 20;
                let bound = bytes.saturating_sub(before_bytes).max(LEAST);
                runtime
                    .bound_memory(bound, |bytes| register_bounded_allocator(runtime.environment(), bytes))?;
                Some(bytes)
            }
            // Nobody set a bound: leave a fifth of the machine to others.
            None => host::memory_bytes().map(|b| b / 5 * 4),
        };
        Ok(Self { before_bytes, limit_bytes, bounded: options.memory_bytes.is_some() })
    }

    /// How many sessions like the one that was loaded fit.
    pub(super) fn sessions_that_fit(&self) -> usize {
        let (Some(limit), Some(now)) = (self.limit_bytes, host::resident_bytes()) else { return usize::MAX };
        let one = now.saturating_sub(self.before_bytes).max(1);
        let more = limit.saturating_sub(now) / one;
        usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// Names the setting that a failed allocation met.
    pub(super) fn explain(&self, e: ScoreError) -> ScoreError {
        match (e.kind(), self.limit_bytes) {
            (ErrorKind::OutOfMemory, Some(limit)) if self.bounded => ScoreError::out_of_memory(format!(
                "the model does not fit into the {:.2} GB that memoryInGB allows: {}",
                limit as f64 / f64::from(1 << 30),
                e.message()
            )),
            _ => e,
        }
    }
}

/// Registers an allocator that all sessions of the process share and that refuses to grow past
/// `bytes`: a run that needs more fails, and the process lives.
fn register_bounded_allocator(environment: &Environment, bytes: u64) -> Result<()> {
    // Grow by what is asked for, not to the next power of two: the bound is for use, not for reserve.
    const SAME_AS_REQUESTED: i32 = 1;
    const DEFAULT: i32 = -1;
    let max = usize::try_from(bytes).unwrap_or(usize::MAX);
    let failed = |e: ort::Error| convert::error(&e, "cannot bound the memory");
    // Of the arena kind: with any other, the configuration is taken and means nothing.
    let info = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)
        .map_err(failed)?;
    let api = ort::api();
    let mut config = std::ptr::null_mut();
    // SAFETY: `config` receives a configuration that is released below on every path; the status is
    // turned into a result at once.
    unsafe {
        ort::Error::result_from_status((api.CreateArenaCfg)(
            max,
            SAME_AS_REQUESTED,
            DEFAULT,
            DEFAULT,
            &mut config,
        ))
        .map_err(failed)?;
    }
    // SAFETY: the environment lives as long as the process; `info` and `config` live until the call
    // returns, which copies both.
    let registered = unsafe {
        let status = (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), info.ptr(), config);
        (api.ReleaseArenaCfg)(config);
        ort::Error::result_from_status(status)
    };
    registered.map_err(failed)
}
