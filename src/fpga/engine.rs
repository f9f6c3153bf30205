//! The engine on a device: one context and one program for as long as the process lives.
//!
//! On a board the program is the FPGA's configuration: making it anew would reprogram the chip and take every buffer along. So there is one for a
//! device, made when the first model comes and shared by all that follow.
//!
//! What is unsound in `opencl3` 0.12 is kept out here: sources are one text that is not empty, arguments are set one by one with their errors
//! looked at, and objects that a lost device may fail to release are not dropped but forgotten.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use opencl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue};
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device as ClDevice};
use opencl3::error_codes::{ClError, error_text};
use opencl3::kernel::Kernel as ClKernel;
use opencl3::memory::{Buffer, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE};
use opencl3::program::Program;

use super::plan::Kernel;
use super::sources;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Device;

/// The engine on one device.
pub(super) struct Engine {
    context: ManuallyDrop<Context>,
    program: ManuallyDrop<Program>,
    id: usize,
    /// How many compute units an operator is shared out among.
    pub(super) units: usize,
    /// The largest arena: what the device gives in one piece, and what descriptors can say.
    pub(super) most_bytes: usize,
}

/// A region of device memory.
pub(super) struct Memory {
    pub(super) buffer: ManuallyDrop<Buffer<u8>>,
    pub(super) bytes: usize,
}

/// Where a device is among the loader's: platform and device, as [`probe`](super::opencl::probe) noted it.
pub(super) type Place = (usize, usize);

static ENGINES: Mutex<Option<HashMap<Place, Arc<Engine>>>> = Mutex::new(None);

impl Engine {
    /// The engine on that device, built if it is not there yet.
    ///
    /// # Errors
    /// `Unavailable` where the device is gone or the kernels cannot be built, with the compiler's words.
    pub(super) fn on(device: &Device) -> Result<Arc<Self>> {
        let place = super::opencl::place(device)?;
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        let engines = engines.get_or_insert_default();
        if let Some(engine) = engines.get(&place) {
            return Ok(engine.clone());
        }
        let engine = Arc::new(Self::build(place)?);
        engines.insert(place, engine.clone());
        Ok(engine)
    }

    fn build((platform, device): Place) -> Result<Self> {
        let gone = |what: &str| {
            ScoreError::unavailable(format!(
                "OpenCL {what} is gone since it was found: is the board still there?"
            ))
        };
        let platforms = opencl3::platform::get_platforms().map_err(|e| failed("listing platforms", e))?;
        let platform = platforms.get(platform).ok_or_else(|| gone("platform"))?;
        let ids = platform.get_devices(CL_DEVICE_TYPE_ALL).map_err(|e| failed("listing devices", e))?;
        let id = ids.get(device).copied().ok_or_else(|| gone("device"))?;
        let device = ClDevice::new(id);
        let context = Context::from_device(&device).map_err(|e| failed("making a context", e))?;
        let mut program = Program::create_from_source(&context, &sources::engine())
            .map_err(|e| failed("giving the kernels' sources", e))?;
        if let Err(e) = program.build(&[id], &sources::options()) {
            let log = program.get_build_log(id).unwrap_or_default();
            let text = format!("the engine's kernels do not build: {}: {}", words(e), log.trim());
            return Err(ScoreError::unavailable(text));
        }
        let units = device.max_compute_units().unwrap_or(1).clamp(1, MOST_UNITS) as usize;
        let most_bytes = device.max_mem_alloc_size().unwrap_or(u64::MAX);
        Ok(Self {
            context: ManuallyDrop::new(context),
            program: ManuallyDrop::new(program),
            id: id as usize,
            units,
            most_bytes: usize::try_from(most_bytes).unwrap_or(usize::MAX).min(MOST_ARENA_BYTES),
        })
    }

    /// A queue in which commands run in order.
    pub(super) fn queue(&self) -> Result<ManuallyDrop<CommandQueue>> {
        // SAFETY: context and device are alive for the process; the device is the context's.
        let queue =
            unsafe { CommandQueue::create(&self.context, self.id as *mut _, CL_QUEUE_PROFILING_ENABLE) };
        queue.map(ManuallyDrop::new).map_err(|e| failed("making a queue", e))
    }

    /// A kernel with arguments of its own.
    pub(super) fn kernel(&self, kernel: Kernel) -> Result<ManuallyDrop<ClKernel>> {
        let made = ClKernel::create(&self.program, kernel.name());
        made.map(ManuallyDrop::new).map_err(|e| failed("making a kernel", e))
    }

    /// Memory that kernels only read, or read and write.
    pub(super) fn memory(&self, bytes: usize, read_only: bool) -> Result<Memory> {
        let flags = if read_only { CL_MEM_READ_ONLY } else { CL_MEM_READ_WRITE };
        let bytes = bytes.max(1);
        // SAFETY: without a host pointer nothing of ours is read or written.
        let buffer = unsafe { Buffer::<u8>::create(&self.context, flags, bytes, std::ptr::null_mut()) };
        let buffer = buffer.map_err(|e| failed(&format!("allocating {bytes} bytes on the device"), e))?;
        Ok(Memory { buffer: ManuallyDrop::new(buffer), bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the buffer is not used again. Its release may fail on a lost device, and then panics: that must not reach anybody.
        let buffer = unsafe { ManuallyDrop::take(&mut self.buffer) };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(buffer)));
    }
}

/// Kernels count bytes in 32 bits; half of that leaves room for everything that is beside activations.
const MOST_ARENA_BYTES: usize = 1 << 30;

/// More queues than that have nothing to do for one operator.
const MOST_UNITS: u32 = 64;

/// What a failed call means.
pub(super) fn failed(doing: &str, e: ClError) -> ScoreError {
    let kind = match e.0 {
        // CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY, CL_INVALID_BUFFER_SIZE
        -4 | -6 | -61 => ErrorKind::OutOfMemory,
        // CL_OUT_OF_RESOURCES is what drivers say of a device that is gone; so are errors of objects that were valid before.
        -2 | -5 | -14 | -34 | -36 | -38 | -58 => ErrorKind::DeviceLost,
        _ => ErrorKind::Unavailable,
    };
    ScoreError::new(kind, format!("OpenCL: {doing} failed: {}", words(e)))
}

fn words(e: ClError) -> String {
    format!("error {} {}", e.0, error_text(e.0))
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} units)", self.units)
    }
}
