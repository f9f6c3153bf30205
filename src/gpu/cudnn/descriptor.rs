//! The functions of cuDNN's backend, and its descriptors: objects that are made, given attributes, and finalised, in this order.
//!
//! The functions are bound here and not called through `cudarc`, which panics where the library is missing, may bind to another one than was found,
//! and returns statuses as an enumeration that a newer library may leave. Names and numbers of attributes are `cudarc`'s, which come from NVIDIA's
//! headers; so is what an error calls them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind,
};
use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUstream;

use crate::error::{Result, ScoreError};
use crate::gpu::libraries::Loaded;

type Status = c_int;
pub(super) type Raw = *mut c_void;

/// `CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED` and `…_DEVICE_…`.
const OUT_OF_MEMORY: [Status; 2] = [4003, 4004];

type Get = unsafe extern "C" fn(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> Status;

pub(super) struct Functions {
    create: unsafe extern "C" fn(*mut Raw) -> Status,
    destroy: unsafe extern "C" fn(Raw) -> Status,
    set_stream: unsafe extern "C" fn(Raw, CUstream) -> Status,
    status_name: unsafe extern "C" fn(Status) -> *const c_char,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
    create_descriptor: unsafe extern "C" fn(c_int, *mut Raw) -> Status,
    destroy_descriptor: unsafe extern "C" fn(Raw) -> Status,
    finalize: unsafe extern "C" fn(Raw) -> Status,
    set: unsafe extern "C" fn(Raw, c_int, c_int, i64, *const c_void) -> Status,
    get: Get,
    execute: unsafe extern "C" fn(Raw, Raw, Raw) -> Status,
    /// The number that it gives as its version: 91900 is 9.19.0.
    pub(super) version: usize,
}

impl Functions {
    /// # Errors
    /// `Unavailable` where the library lacks one.
    pub(super) fn of(library: &Loaded) -> Result<Arc<Self>> {
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of what it is bound to is the function's in NVIDIA's cudnn_graph.h: opaque structs are pointers, enumerations ints.
                unsafe { library.function(concat!("cudnn", $name)) }?
            };
        }
        let version: unsafe extern "C" fn() -> usize = function!("GetVersion");
        Ok(Arc::new(Self {
            create: function!("Create"),
            destroy: function!("Destroy"),
            set_stream: function!("SetStream"),
            status_name: function!("GetErrorString"),
            last_error: function!("GetLastErrorString"),
            create_descriptor: function!("BackendCreateDescriptor"),
            destroy_descriptor: function!("BackendDestroyDescriptor"),
            finalize: function!("BackendFinalize"),
            set: function!("BackendSetAttribute"),
            get: function!("BackendGetAttribute"),
            execute: function!("BackendExecute"),
            // SAFETY: takes nothing.
            version: unsafe { version() },
        }))
    }

    /// A status in words: the call, the status, what the library says about it.
    fn check(&self, status: Status, call: impl FnOnce() -> String) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library's own text for any number, which ends with a zero and lives as long as the library; or null.
        let name = unsafe { (self.status_name)(status) };
        let name = match name.is_null() {
            true => "unknown".into(),
            // SAFETY: as above.
            false => unsafe { CStr::from_ptr(name) }.to_string_lossy(),
        };
        let mut text = [0u8; 512];
        // SAFETY: writes at most so many bytes, a zero at their end.
        unsafe { (self.last_error)(text.as_mut_ptr().cast(), text.len() - 1) };
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
        let why = if text.is_empty() { String::new() } else { format!(": {}", text.trim()) };
        let what = format!("{}: status {status} {name}{why}", call());
        Err(match OUT_OF_MEMORY.contains(&status) {
            true => ScoreError::out_of_memory(what),
            false => {
                ScoreError::unavailable(format!("{what}; TRISCORE_GPU_CONVOLUTIONS=own does without cuDNN"))
            }
        })
    }
}

/// cuDNN's handle of a GPU.
pub(super) struct Handle {
    at: Raw,
    functions: Arc<Functions>,
    context: Arc<CudaContext>,
}

// SAFETY: a handle may be used from any thread, one at a time: it is changed by its only owner, and else only named to the library where plans are made.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// For the GPU of that context, which becomes this thread's.
    pub(super) fn new(functions: &Arc<Functions>, context: &Arc<CudaContext>) -> Result<Self> {
        let bound = context.bind_to_thread();
        bound.map_err(|e| ScoreError::unavailable(format!("entering the GPU's context for cuDNN: {e}")))?;
        let mut at = std::ptr::null_mut();
        // SAFETY: writes a handle, for the current context.
        let status = unsafe { (functions.create)(&mut at) };
        functions.check(status, || "cudnnCreate".to_owned())?;
        Ok(Self { at, functions: functions.clone(), context: context.clone() })
    }

    /// What is executed with it is work of that stream from now on.
    ///
    /// # Safety
    /// The stream must be of the handle's context, and outlive the handle's last use.
    pub(super) unsafe fn set_stream(&mut self, stream: CUstream) -> Result<()> {
        // SAFETY: the handle is alive, and nobody else's; the stream as the caller promises.
        let status = unsafe { (self.functions.set_stream)(self.at, stream) };
        self.functions.check(status, || "cudnnSetStream".to_owned())
    }

    /// Orders a plan with what a variant pack says.
    ///
    /// # Safety
    /// The memory in the pack must be the tensors' and the workspace's, and live until the stream, or the graph that this is captured into, is done;
    /// nobody else may execute the plan meanwhile.
    pub(super) unsafe fn execute(&self, plan: &Descriptor, pack: &Descriptor) -> Result<()> {
        // SAFETY: all three are alive, and the descriptors finalised; the memory as the caller promises.
        let status = unsafe { (self.functions.execute)(self.at, plan.at, pack.at) };
        self.functions.check(status, || "cudnnBackendExecute".to_owned())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was made, once. An error is of a context that is lost, and took the handle along.
            let _ = unsafe { (self.functions.destroy)(self.at) };
        }
    }
}

/// A descriptor, destroyed with its owner; those that its attributes name live as long.
pub(super) struct Descriptor {
    at: Raw,
    kind: Kind,
    functions: Arc<Functions>,
    named: Vec<Arc<Descriptor>>,
    handle: Option<Arc<Handle>>,
}

// SAFETY: the library's descriptors may be used from any thread; after they are finalised nothing changes them but executing a plan, which is behind a lock.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    pub(super) fn new(functions: &Arc<Functions>, kind: Kind) -> Result<Self> {
        let mut at = std::ptr::null_mut();
        // SAFETY: writes the new descriptor.
        let status = unsafe { (functions.create_descriptor)(kind as c_int, &mut at) };
        functions.check(status, || format!("cudnnBackendCreateDescriptor of {kind:?}"))?;
        Ok(Self { at, kind, functions: functions.clone(), named: Vec::new(), handle: None })
    }

    /// With an attribute: of integers, floats, truth values, as the type says.
    pub(super) fn with<T: bytemuck::NoUninit>(self, name: Name, of: Type, values: &[T]) -> Result<Self> {
        // SAFETY: so many values of plain data, which the library copies, and whose type it knows by the attribute's name and refuses if it is another.
        unsafe { self.set(name, of, values.len(), values.as_ptr().cast()) }?;
        Ok(self)
    }

    /// With integers of 64 bits.
    pub(super) fn with_lengths(self, name: Name, values: &[usize]) -> Result<Self> {
        let values = values.iter().map(|n| *n as i64).collect::<Vec<_>>();
        self.with(name, Type::CUDNN_TYPE_INT64, &values)
    }

    /// With a value of an enumeration.
    pub(super) fn with_choice(self, name: Name, of: Type, value: u32) -> Result<Self> {
        self.with(name, of, &[value])
    }

    /// With other descriptors.
    pub(super) fn with_named(mut self, name: Name, others: &[&Arc<Descriptor>]) -> Result<Self> {
        let raw = others.iter().map(|other| other.at).collect::<Vec<_>>();
        // SAFETY: so many descriptors, alive.
        unsafe { self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, raw.len(), raw.as_ptr().cast()) }?;
        self.named.extend(others.iter().map(|other| Arc::clone(other)));
        Ok(self)
    }

    /// With a handle.
    pub(super) fn with_handle(mut self, name: Name, handle: &Arc<Handle>) -> Result<Self> {
        // SAFETY: one handle, alive.
        unsafe { self.set(name, Type::CUDNN_TYPE_HANDLE, 1, (&raw const handle.at).cast()) }?;
        self.handle = Some(handle.clone());
        Ok(self)
    }

    /// With addresses of device memory.
    pub(super) fn with_addresses(self, name: Name, addresses: &[u64]) -> Result<Self> {
        self.with(name, Type::CUDNN_TYPE_VOID_PTR, addresses)
    }

    /// # Safety
    /// So many values of the type must lie there.
    unsafe fn set(&self, name: Name, of: Type, count: usize, at: *const c_void) -> Result<()> {
        // SAFETY: the descriptor is alive; reads so many values, as the caller promises.
        let status = unsafe { (self.functions.set)(self.at, name as c_int, of as c_int, count as i64, at) };
        self.functions.check(status, || format!("cudnnBackendSetAttribute of {name:?}"))
    }

    /// Ready to be used; its attributes are for ever.
    pub(super) fn finalised(self) -> Result<Arc<Self>> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.functions.finalize)(self.at) };
        self.functions.check(status, || format!("cudnnBackendFinalize of {:?}", self.kind))?;
        Ok(Arc::new(self))
    }

    /// An attribute's values, as many as there are and the buffer has room for.
    pub(super) fn read<T: bytemuck::Pod>(&self, name: Name, of: Type, most: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); most];
        // SAFETY: room for so many values of the type.
        let count = unsafe { self.get(name, of, most, values.as_mut_ptr().cast()) }?;
        values.truncate(count);
        Ok(values)
    }

    /// A number of an attribute.
    pub(super) fn number(&self, name: Name) -> Result<i64> {
        let missing = || ScoreError::unavailable(format!("cuDNN has no value of {name:?}"));
        self.read::<i64>(name, Type::CUDNN_TYPE_INT64, 1)?.first().copied().ok_or_else(missing)
    }

    /// How many values an attribute has at most.
    pub(super) fn count(&self, name: Name, of: Type) -> Result<usize> {
        // SAFETY: no value is asked for, only how many there are.
        unsafe { self.get(name, of, 0, std::ptr::null_mut()) }
    }

    /// The descriptors of an attribute, at most so many: copies, ready to be used.
    pub(super) fn others(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>> {
        let new = || Descriptor::new(&self.functions, kind);
        let mut all = (0..most).map(|_| new()).collect::<Result<Vec<_>>>()?;
        let mut raw = all.iter().map(|one| one.at).collect::<Vec<_>>();
        // SAFETY: so many descriptors, alive, of which the library fills as many as it has.
        let count =
            unsafe { self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, most, raw.as_mut_ptr().cast()) }?;
        all.truncate(count);
        Ok(all)
    }

    /// # Safety
    /// There must be room for so many values.
    unsafe fn get(&self, name: Name, of: Type, most: usize, into: *mut c_void) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the descriptor is alive; writes a count, and at most so many values.
        let status = unsafe {
            (self.functions.get)(self.at, name as c_int, of as c_int, most as i64, &mut count, into)
        };
        self.functions.check(status, || format!("cudnnBackendGetAttribute of {name:?}"))?;
        let count = usize::try_from(count).unwrap_or(0);
        Ok(if most == 0 { count } else { count.min(most) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it was made, once; nothing that names it is left.
        let _ = unsafe { (self.functions.destroy_descriptor)(self.at) };
    }
}
