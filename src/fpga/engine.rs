//! The engine on a device: one context and one program for as long as the process lives.
//!
//! On a board the program is the FPGA's configuration: making it anew would reprogram the chip and take every buffer along. So there is one for a
//! device, made when the first model comes and shared by all that follow.
//!
//! What is unsound in `opencl3` 0.12 is kept out here: sources are one text that is not empty, arguments are set one by one with their errors
//! looked at, and objects that a lost device may fail to release are not dropped but forgotten.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use opencl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue};
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device as ClDevice};
use opencl3::error_codes::{ClError, error_text};
use opencl3::kernel::Kernel as ClKernel;
use opencl3::memory::{Buffer, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE, ClMem};
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, cl_device_id};

use super::binary::{BINARY_ONLY_VARIABLE, Binary};
use super::plan::Kernel;
use super::sources;
use super::tile::Tile;
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
    /// Whether commands run only while somebody waits for them, as Oclgrind's do: being told of their end is then no use.
    pub(super) is_lazy: bool,
    /// How large its array is.
    pub(super) tile: Tile,
    /// The SHA-256 of the binary that it was loaded from; `None` where it was built here.
    binary: Option<String>,
}

/// Where an engine comes from, and how it is run.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup {
    /// A binary; `None` builds the sources.
    pub(super) binary: Option<PathBuf>,
    /// Whether nothing may be built here.
    pub(super) binary_only: bool,
    /// The triscore program, which tries binaries that leave a doubt.
    pub(super) program: Option<PathBuf>,
    /// Whether each run looks for bytes that were written where nobody may write.
    pub(super) guarded: bool,
}

/// Larger than any descriptor, and than the tables that kernels read before their loops.
const SMALL_BYTES: usize = 4096;

/// What to do where kernels cannot be built.
const NAME_ONE: &str =
    "name the board's binary in TRISCORE_FPGA_BINARY (docs/boards.md says how one is made)";

/// A region of device memory.
pub(super) struct Memory {
    pub(super) buffer: ManuallyDrop<Buffer<u8>>,
    pub(super) bytes: usize,
}

/// Where a device is among the loader's: platform and device, as [`probe`](super::opencl::probe) noted it.
pub(super) type Place = (usize, usize);

static ENGINES: Mutex<Option<HashMap<Place, Arc<Engine>>>> = Mutex::new(None);

impl Engine {
    /// The engine on that device, made if it is not there yet.
    ///
    /// # Errors
    /// `Unavailable` where the device is gone, the kernels cannot be built (with the compiler's words), or another engine than is asked
    /// for is there already; what [`Binary::read`] says of a binary.
    pub(super) fn on(device: &Device, setup: &Setup) -> Result<Arc<Self>> {
        let place = super::opencl::place(device)?;
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        let engines = engines.get_or_insert_default();
        if let Some(engine) = engines.get(&place) {
            engine.must_be_of(device, setup)?;
            return Ok(engine.clone());
        }
        let engine = Arc::new(match &setup.binary {
            Some(path) => {
                let binary = Binary::read(path, device)?;
                binary.try_elsewhere(device, setup.program.as_deref())?;
                Self::load(place, &binary)?
            }
            None if setup.binary_only => {
                return Err(ScoreError::unavailable(format!(
                    "{device} must not build kernels ({BINARY_ONLY_VARIABLE}), and no binary is named: {NAME_ONE}"
                )));
            }
            None => Self::build(place, Tile::for_device(device))?,
        });
        engines.insert(place, engine.clone());
        Ok(engine)
    }

    /// One process has one engine on a device: another would take the models' memory along.
    fn must_be_of(&self, device: &Device, setup: &Setup) -> Result<()> {
        let wanted = match &setup.binary {
            Some(path) => Some(Binary::read(path, device)?.manifest.sha256),
            None => None,
        };
        if wanted == self.binary || (wanted.is_none() && !setup.binary_only) {
            return Ok(());
        }
        Err(ScoreError::unavailable(format!(
            "{device} runs another engine in this process already: a process has one for each device, start another process"
        )))
    }

    /// Builds the kernels from their sources, as emulators can.
    pub(super) fn build(place: Place, tile: Tile) -> Result<Self> {
        let (context, id) = open(place)?;
        let device = ClDevice::new(id);
        if matches!(device.compiler_available(), Ok(false)) {
            return Err(ScoreError::unavailable(format!("the device cannot build kernels: {NAME_ONE}")));
        }
        let program = compiled(&context, id, &sources::options(tile))?;
        Ok(Self::new(context, program, id, tile, None))
    }

    /// The same kernels, built otherwise, on the same device.
    #[cfg(test)]
    pub(super) fn program_with(&self, options: &str) -> Result<Program> {
        compiled(&self.context, self.id as cl_device_id, options)
    }

    /// What the kernels became, for [`load`](Self::load).
    pub(super) fn to_binary(&self) -> Result<Vec<u8>> {
        // PoCL compiles a kernel at its first launch, and what it writes holds what was compiled until then.
        self.start_once()?;
        let binary = self.program.get_binaries().map_err(|e| failed("reading the binary", e))?;
        Ok(binary.into_iter().next().unwrap_or_default())
    }

    /// Starts every kernel once without work: one that is missing, or that does not come back, is found now and not in the middle of a model.
    fn start_once(&self) -> Result<()> {
        // Descriptors of zeros: before their loops kernels read at most a table, which then lies at the beginning.
        let (arena, zeros) = (self.memory(SMALL_BYTES, false)?, [0u8; SMALL_BYTES]);
        let mut words = self.memory(SMALL_BYTES, true)?;
        let queue = self.queue()?;
        // SAFETY: as many bytes as the memory has; the write blocks.
        let written = unsafe { queue.enqueue_write_buffer(&mut words.buffer, CL_BLOCKING, 0, &zeros, &[]) };
        written.map_err(|e| failed("writing a descriptor", e))?;
        for kernel in Kernel::ALL {
            let kernel = self.kernel(kernel)?;
            // SAFETY: as the kernels declare them (ENGINE_ARGUMENTS); from 0 to 0 there is nothing to do.
            unsafe {
                kernel
                    .set_arg(0, &arena.buffer.get())
                    .and_then(|()| kernel.set_arg(1, &words.buffer.get()))
                    .and_then(|()| kernel.set_arg(2, &words.buffer.get()))
                    .and_then(|()| (3..6).try_for_each(|at| kernel.set_arg(at, &0i32)))
                    .map_err(|e| failed("setting an argument", e))?;
                let one = [1usize];
                queue
                    .enqueue_nd_range_kernel(
                        kernel.get(),
                        1,
                        std::ptr::null(),
                        one.as_ptr(),
                        one.as_ptr(),
                        &[],
                    )
                    .map_err(|e| failed("starting a kernel", e))?;
            }
            queue.finish().map_err(|e| failed("running a kernel", e))?;
            drop(ManuallyDrop::into_inner(kernel));
        }
        drop(ManuallyDrop::into_inner(queue));
        Ok(())
    }

    /// Loads kernels that were built before.
    pub(super) fn load(place: Place, binary: &Binary) -> Result<Self> {
        let (context, id) = open(place)?;
        // SAFETY: one device and one binary, whose bytes are the ones that were made for a device and a driver of that name.
        let program = unsafe { Program::create_from_binary(&context, &[id], &[&binary.bytes]) };
        let refused = |e| {
            let what = format!("the driver does not take the binary: {}", words(e));
            ScoreError::unavailable(what).with_at(binary.path.display().to_string())
        };
        let mut program = program.map_err(refused)?;
        program.build(&[id], "").map_err(refused)?;
        let tile = binary.manifest.tile();
        let engine = Self::new(context, program, id, tile, Some(binary.manifest.sha256.clone()));
        engine.start_once().map_err(|e| e.with_at(binary.path.display().to_string()))?;
        Ok(engine)
    }

    fn new(context: Context, program: Program, id: cl_device_id, tile: Tile, binary: Option<String>) -> Self {
        let device = ClDevice::new(id);
        let most_bytes = device.max_mem_alloc_size().unwrap_or(u64::MAX);
        Self {
            context: ManuallyDrop::new(context),
            program: ManuallyDrop::new(program),
            id: id as usize,
            units: device.max_compute_units().unwrap_or(1).clamp(1, MOST_UNITS) as usize,
            most_bytes: usize::try_from(most_bytes).unwrap_or(usize::MAX).min(MOST_ARENA_BYTES),
            is_lazy: device.name().is_ok_and(|name| name.contains("Oclgrind")),
            tile,
            binary,
        }
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

/// The kernels, built from their sources.
fn compiled(context: &Context, id: cl_device_id, options: &str) -> Result<Program> {
    let mut program = Program::create_from_source(context, &sources::engine())
        .map_err(|e| failed("giving the kernels' sources", e))?;
    if let Err(e) = program.build(&[id], options) {
        let log = program.get_build_log(id).unwrap_or_default();
        let text = format!("the engine's kernels do not build: {}: {}", words(e), log.trim());
        return Err(ScoreError::unavailable(text));
    }
    Ok(program)
}

/// A context on a device that was found before.
fn open((platform, device): Place) -> Result<(Context, cl_device_id)> {
    let gone = |what: &str| {
        ScoreError::unavailable(format!(
            "OpenCL {what} is gone since it was found: is the board still there?"
        ))
    };
    let platforms = opencl3::platform::get_platforms().map_err(|e| failed("listing platforms", e))?;
    let platform = platforms.get(platform).ok_or_else(|| gone("platform"))?;
    let ids = platform.get_devices(CL_DEVICE_TYPE_ALL).map_err(|e| failed("listing devices", e))?;
    let id = ids.get(device).copied().ok_or_else(|| gone("device"))?;
    let context = Context::from_device(&ClDevice::new(id)).map_err(|e| failed("making a context", e))?;
    Ok((context, id))
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
