//! A GPU as what parts of a model are made ready on: its context, its kernels, and the constants that lie in its memory.
//!
//! Objects of the driver are owned here and released here. What the driver says of an error decides what becomes of the device: out of memory is
//! the call's misfortune, while an illegal address or a hardware fault ends the process's context with that GPU, for good; then every call says so.

mod fit;

use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::result as cuda;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError};

use super::images::Images;
use super::plan::{Constant, TensorCores};
use super::weights::stored;
use crate::error::{Result, ScoreError};
use crate::scoring::Device;
use crate::tensor::Tensor;

/// Why a GPU is lost, by its number: a context does not come back within a process.
static LOST: Mutex<Option<HashMap<usize, String>>> = Mutex::new(None);

/// From this driver on the function that measures between events is there under the name that it is called by.
const TIMES_EVENTS: i32 = 12_080;

/// And from this one on it says what arguments a kernel takes.
const TELLS_ARGUMENTS: i32 = 12_040;

/// One GPU.
pub(super) struct GpuMachine {
    pub(super) context: Arc<CudaContext>,
    index: usize,
    name: String,
    images: Images,
    /// What was free of its memory when it was opened.
    pub(super) free_bytes: usize,
    /// The driver's version: 12080 is 12.8.
    pub(super) driver: i32,
    /// What constants are uploaded on.
    uploads: Arc<CudaStream>,
    /// Whether the driver can be asked how long something took.
    pub(super) times_events: bool,
    /// Whether it can be asked what arguments a kernel takes.
    tells_arguments: bool,
    /// By the hash of their source.
    modules: Mutex<HashMap<u64, Arc<Module>>>,
    /// Constants that are in the device's memory, while a plan uses them.
    constants: Mutex<HashMap<Key, Weak<Stored>>>,
}

/// What makes two constants the same: bytes that lie in the same place, or are few and equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    place: usize,
    content: u64,
    bytes: usize,
    order: Vec<usize>,
    dtype: crate::tensor::DType,
}

/// A constant in the device's memory, and the tensor that it was made of, so that no other one can come to lie in the same place.
pub(super) struct Stored {
    pub(super) memory: Memory,
    _tensor: Tensor,
}

/// Constants of fewer bytes are told apart by what they hold: planners make such ones anew.
const SMALL_BYTES: usize = 1 << 16;

impl GpuMachine {
    /// The GPU that a probe found.
    ///
    /// # Errors
    /// `DeviceLost` where it was lost before; `Unavailable`, `OutOfMemory` with the driver's reason.
    pub(super) fn on(device: &Device) -> Result<Self> {
        // SAFETY: only looks whether the library can be loaded; a probe has loaded it.
        if !unsafe { sys::is_culib_present() } {
            return Err(ScoreError::unavailable("the CUDA driver was found by the probe and is gone"));
        }
        let index = device.index;
        let failed = |e| failed(index, &device.name, "opening the GPU", e);
        refuse_lost(index)?;
        let context = CudaContext::new(index).map_err(failed)?;
        // SAFETY: lanes order their own work on one stream each, and wait for it before anybody else reads.
        unsafe { context.disable_event_tracking() };
        let (free, _) = context.mem_get_info().map_err(failed)?;
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed)?;
        let images = Images::for_device(device)?;
        let uploads = context.new_stream().map_err(failed)?;
        Ok(Self {
            context,
            uploads,
            index,
            name: device.name.clone(),
            images,
            free_bytes: free,
            driver: version,
            times_events: version >= TIMES_EVENTS,
            tells_arguments: version >= TELLS_ARGUMENTS,
            modules: Mutex::default(),
            constants: Mutex::default(),
        })
    }

    /// What of it multiplies tiles.
    pub(super) fn tensor_cores(&self) -> TensorCores {
        self.images.tensor_cores()
    }

    /// What to make of the driver's error while doing something.
    pub(super) fn failed(&self, doing: &str, error: DriverError) -> ScoreError {
        failed(self.index, &self.name, doing, error)
    }

    /// Fails where the GPU was lost, and else makes its context this thread's.
    pub(super) fn enter(&self) -> Result<()> {
        refuse_lost(self.index)?;
        self.context.bind_to_thread().map_err(|e| self.failed("entering the GPU's context", e))
    }

    /// So many bytes of device memory.
    pub(super) fn memory(&self, bytes: usize) -> Result<Memory> {
        self.enter()?;
        // SAFETY: not read before it is written, which plans promise and emulated memory checks.
        let address = unsafe { cuda::malloc_sync(bytes.max(1)) };
        let address = address.map_err(|e| self.failed(&format!("allocating {bytes} bytes"), e))?;
        Ok(Memory { address, bytes, context: self.context.clone() })
    }

    /// So many bytes of the host's memory that the device reads and writes at full speed.
    pub(super) fn pinned(&self, bytes: usize) -> Result<Pinned> {
        self.enter()?;
        // SAFETY: freed when it is dropped.
        let at = unsafe { cuda::malloc_host(bytes.max(1), 0) };
        let at = at.map_err(|e| self.failed(&format!("allocating {bytes} bytes of pinned memory"), e))?;
        Ok(Pinned { at: at.cast(), bytes, context: self.context.clone() })
    }

    pub(super) fn module(&self, source: &str, name: &str) -> Result<Arc<Module>> {
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let key = hasher.finish();
        if let Some(known) = self.modules.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let image = self.images.image(name, source)?;
        self.enter()?;
        // SAFETY: an image of the compiler, or for the emulated driver the source with a zero at its end.
        let handle = unsafe { cuda::module::load_data(image.as_ptr().cast()) };
        let handle = handle.map_err(|e| self.failed(&format!("loading the kernel {name}"), e))?;
        let module = Arc::new(Module { handle, context: self.context.clone() });
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).insert(key, module.clone());
        Ok(module)
    }

    pub(super) fn constant(&self, constant: &Constant) -> Result<Arc<Stored>> {
        let bytes = constant.tensor.as_bytes();
        let mut hasher = DefaultHasher::new();
        if bytes.len() <= SMALL_BYTES {
            (bytes, constant.tensor.shape(), constant.tensor.dtype()).hash(&mut hasher);
        }
        let key = Key {
            place: if bytes.len() <= SMALL_BYTES { 0 } else { bytes.as_ptr() as usize },
            content: hasher.finish(),
            bytes: bytes.len(),
            order: constant.order.clone(),
            dtype: constant.dtype,
        };
        // Held while it is uploaded: lanes that want the same would all upload it.
        let mut known = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        known.retain(|_, stored| stored.strong_count() > 0);
        let ready = stored(constant)?;
        let memory = self.memory(ready.len())?;
        if !ready.is_empty() {
            // Waited for on a stream: a plain copy from memory that is not pinned returns before the device has all of it, and lanes' streams do not
            // wait for it.
            // SAFETY: as many bytes as were allocated, which live until the stream was waited for.
            let copied = unsafe { cuda::memcpy_htod_async(memory.address, &ready, self.uploads.cu_stream()) };
            let copied = copied.and_then(|()| self.uploads.synchronize());
            copied.map_err(|e| self.failed("uploading a constant", e))?;
        }
        let made = Arc::new(Stored { memory, _tensor: constant.tensor.clone() });
        known.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}

/// Kernels that are loaded.
pub(super) struct Module {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; loading and unloading are the only changes, and nobody unloads what others hold.
unsafe impl Sync for Module {}

impl Module {
    pub(super) fn function(self: &Arc<Self>, name: &str) -> std::result::Result<Function, DriverError> {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        let handle = unsafe { cuda::module::get_function(self.handle, name) }?;
        Ok(Function { handle, _module: self.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was loaded, once; no function of it is left. An error is of a context that is lost, and took the module along.
            let _ = unsafe { cuda::module::unload(self.handle) };
        }
    }
}

/// A kernel that can be launched.
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    _module: Arc<Module>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: launching does not change the function.
unsafe impl Sync for Function {}

/// A region of device memory.
pub(super) struct Memory {
    pub(super) address: sys::CUdeviceptr,
    pub(super) bytes: usize,
    context: Arc<CudaContext>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was allocated, once; the driver waits for what uses it. An error is of a context that is lost, and took the memory along.
            let _ = unsafe { cuda::free_sync(self.address) };
        }
    }
}

/// A region of the host's memory that the device knows.
pub(super) struct Pinned {
    at: *mut u8,
    bytes: usize,
    context: Arc<CudaContext>,
}

// SAFETY: it is memory, owned by one.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: so many bytes were allocated, which the driver made zeros or earlier bytes; who reads has waited for the device.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above; who writes has waited for the device.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was allocated, once.
            let _ = unsafe { cuda::free_host(self.at.cast()) };
        }
    }
}

fn refuse_lost(index: usize) -> Result<()> {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    match lost.as_ref().and_then(|lost| lost.get(&index)) {
        Some(reason) => {
            Err(ScoreError::device_lost(format!("{reason}; restart the process to use it again")))
        }
        None => Ok(()),
    }
}

/// Notes a GPU as lost, with the first reason.
pub(super) fn lose(index: usize, reason: &str) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    lost.get_or_insert_default().entry(index).or_insert_with(|| reason.to_owned());
}

/// The driver's error in words.
fn failed(index: usize, name: &str, doing: &str, error: DriverError) -> ScoreError {
    let code = error.0;
    let driver_name = error.error_name().ok().map(|n| n.to_string_lossy().into_owned());
    let text = format!("{doing} on gpu:{index} {name}: {}", super::names::explain(code as i32, driver_name));
    match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => ScoreError::out_of_memory(text),
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
        | CUresult::CUDA_ERROR_UNKNOWN => {
            lose(index, &text);
            ScoreError::device_lost(format!("{text}; restart the process to use it again"))
        }
        _ => ScoreError::unavailable(text),
    }
}
