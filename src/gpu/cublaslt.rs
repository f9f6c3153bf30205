//! cuBLASLt, as far as products of a plan need it: a handle, and a product whose description is made once and run often.
//!
//! The dozen functions are bound here, by what NVIDIA documents of them (cublasLt.h), as `cudarc` panics where the library is missing. The library
//! thinks in columns; a matrix in rows is the transposed one in columns, so `d = a · b` is ordered as `dᵀ = bᵀ · aᵀ`, without a copy, and its bias,
//! one number for each row, is one for each of our columns. Its activations are not used but for ReLU (what its GELU is, is not documented). What it
//! makes of NaN in a ReLU is not documented either: max(x, 0) may be 0.
//!
//! Sums are floats of 32 bits at all times: algorithms that would add parts of sums in 16 bits are not asked for.
//!
//! Running a product allocates nothing and waits for nothing, so that it can be captured. That a real GPU gives what the emulated library
//! (`hardware-tests/cuda-emulator/libraries`) gives, and how fast, only a real one shows.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUstream;

use super::libraries::{self, Library};
use super::plan::{Matrix, Shape};
use crate::error::{Result, ScoreError};
use crate::tensor::DType;

type Status = c_int;
type Raw = *mut c_void;

/// `cublasComputeType_t`.
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;
/// `cublasOperation_t`.
const TRANSPOSED: i32 = 1;
/// `cublasLtMatmulDescAttributes_t`.
const DESC_TRANSA: c_int = 3;
const DESC_TRANSB: c_int = 4;
const DESC_EPILOGUE: c_int = 7;
const DESC_BIAS_POINTER: c_int = 8;
/// `cublasLtEpilogue_t`: bits.
const EPILOGUE_RELU: u32 = 2;
const EPILOGUE_BIAS: u32 = 4;
/// `cublasLtMatrixLayoutAttribute_t`.
const LAYOUT_BATCH_COUNT: c_int = 5;
const LAYOUT_BATCH_STRIDE: c_int = 6;
/// `cublasLtMatmulPreferenceAttributes_t`.
const PREFER_WORKSPACE: c_int = 1;
const PREFER_REDUCTION: c_int = 3;
const PREFER_ALIGN: [c_int; 4] = [5, 6, 7, 8];
/// `cublasLtReductionScheme_t`: parts of sums are added as floats of 32 bits.
const REDUCTION_COMPUTE_TYPE: u32 = 2;

/// What an algorithm may use besides the matrices; more is not known to help on any GPU.
const WORKSPACE_BYTES: usize = 32 << 20;

/// So many algorithms are asked for.
const MOST_ALGORITHMS: usize = 8;

/// `cublasLtMatmulAlgo_t`: the library's own, to be copied.
type Code = [u64; 8];

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Advice {
    code: Code,
    workspace: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// A way in which a product can be computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Algorithm {
    code: Code,
    /// What it uses of the workspace.
    pub(super) workspace: usize,
}

impl Algorithm {
    /// Its code as a word.
    pub(super) fn word(&self) -> String {
        self.code.map(|part| format!("{part:016x}")).concat()
    }
}

type Destroy = unsafe extern "C" fn(Raw) -> Status;
type SetAttribute = unsafe extern "C" fn(Raw, c_int, *const c_void, usize) -> Status;
type Heuristic =
    unsafe extern "C" fn(Raw, Raw, Raw, Raw, Raw, Raw, Raw, c_int, *mut Advice, *mut c_int) -> Status;
#[rustfmt::skip]
type Matmul = unsafe extern "C" fn(
    Raw, Raw, *const c_void, *const c_void, Raw, *const c_void, Raw, *const c_void, *const c_void, Raw, Raw, Raw, *const Code, Raw, usize, CUstream,
) -> Status;

struct Functions {
    destroy: Destroy,
    create_desc: unsafe extern "C" fn(*mut Raw, c_int, c_int) -> Status,
    destroy_desc: Destroy,
    set_desc: SetAttribute,
    create_layout: unsafe extern "C" fn(*mut Raw, c_int, u64, u64, i64) -> Status,
    destroy_layout: Destroy,
    set_layout: SetAttribute,
    create_preference: unsafe extern "C" fn(*mut Raw) -> Status,
    destroy_preference: Destroy,
    set_preference: SetAttribute,
    heuristic: Heuristic,
    matmul: Matmul,
}

/// The library, ready for one GPU.
pub(super) struct CublasLt {
    functions: Functions,
    handle: Object,
    /// The number that it gives as its version: 130100 is 13.1.0.
    pub(super) version: usize,
}

impl CublasLt {
    /// For the GPU of that context, whose driver speaks that CUDA.
    ///
    /// # Errors
    /// `Unavailable` where the library is missing, lacks a function, or refuses the GPU.
    pub(super) fn load(context: &Arc<CudaContext>, driver: i32) -> Result<Self> {
        let library = libraries::load(Library::CublasLt, Some(driver))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of what it is bound to is the function's in NVIDIA's cublasLt.h: opaque structs are pointers, enumerations ints.
                unsafe { library.function(concat!("cublasLt", $name)) }?
            };
        }
        let functions = Functions {
            destroy: function!("Destroy"),
            create_desc: function!("MatmulDescCreate"),
            destroy_desc: function!("MatmulDescDestroy"),
            set_desc: function!("MatmulDescSetAttribute"),
            create_layout: function!("MatrixLayoutCreate"),
            destroy_layout: function!("MatrixLayoutDestroy"),
            set_layout: function!("MatrixLayoutSetAttribute"),
            create_preference: function!("MatmulPreferenceCreate"),
            destroy_preference: function!("MatmulPreferenceDestroy"),
            set_preference: function!("MatmulPreferenceSetAttribute"),
            heuristic: function!("MatmulAlgoGetHeuristic"),
            matmul: function!("Matmul"),
        };
        let create: unsafe extern "C" fn(*mut Raw) -> Status = function!("Create");
        let version: unsafe extern "C" fn() -> usize = function!("GetVersion");
        let bound = context.bind_to_thread();
        bound
            .map_err(|e| ScoreError::unavailable(format!("entering the GPU's context for cuBLASLt: {e}")))?;
        let context = Some(context.clone());
        // SAFETY: writes a handle, for the current context.
        let handle = Object::made(functions.destroy, context, |at| unsafe { create(at) });
        let path = library.found.path.display();
        let handle = handle.map_err(|e| e.with_at(format!("cublasLtCreate of {path}")))?;
        // SAFETY: takes nothing.
        let version = unsafe { version() };
        Ok(Self { functions, handle, version })
    }

    fn desc(&self, shape: &Shape) -> Result<Object> {
        let compute = if shape.is_tf32 { COMPUTE_32F_FAST_TF32 } else { COMPUTE_32F };
        let (scale, create) = (type_code(DType::F32)?, self.functions.create_desc);
        // SAFETY: writes the new object.
        let desc =
            Object::made(self.functions.destroy_desc, None, |at| unsafe { create(at, compute, scale) })?;
        let set = self.functions.set_desc;
        for (attribute, side) in [(DESC_TRANSA, &shape.right), (DESC_TRANSB, &shape.left)] {
            if side.is_transposed {
                desc.set(set, attribute, &TRANSPOSED)?;
            }
        }
        let mut epilogue = 0;
        for (bit, is_wanted) in [(EPILOGUE_RELU, shape.has_relu), (EPILOGUE_BIAS, shape.bias_align.is_some())]
        {
            epilogue |= if is_wanted { bit } else { 0 };
        }
        if epilogue != 0 {
            desc.set(set, DESC_EPILOGUE, &epilogue)?;
        }
        if let Some(align) = shape.bias_align {
            // The heuristics take from this address how aligned it may be thought to be, and nothing else.
            desc.set(set, DESC_BIAS_POINTER, &(align as u64))?;
        }
        Ok(desc)
    }

    /// The layout of a matrix of so many rows and columns in rows: its transposed one in columns.
    fn layout(&self, matrix: &Matrix, [rows, columns]: [usize; 2], batch: usize) -> Result<Object> {
        let [rows, columns] = if matrix.is_transposed { [columns, rows] } else { [rows, columns] };
        let (code, create) = (type_code(matrix.dtype)?, self.functions.create_layout);
        let layout = Object::made(self.functions.destroy_layout, None, |at| {
            // SAFETY: writes the new object.
            unsafe { create(at, code, columns as u64, rows as u64, matrix.stride as i64) }
        })?;
        if batch > 1 {
            layout.set(self.functions.set_layout, LAYOUT_BATCH_COUNT, &(batch as i32))?;
            layout.set(self.functions.set_layout, LAYOUT_BATCH_STRIDE, &(matrix.batch_stride as i64))?;
        }
        Ok(layout)
    }
}

/// `cudaDataType_t`.
fn type_code(dtype: DType) -> Result<c_int> {
    match dtype {
        DType::F32 => Ok(0),
        DType::F16 => Ok(2),
        DType::Bf16 => Ok(14),
        DType::F8E4M3 => Ok(28),
        DType::F8E5M2 => Ok(29),
        other => Err(ScoreError::internal(format!("a product of {} in cuBLASLt", other.name()))),
    }
}

/// Where the matrices of a product are in the device's memory; null for those that it has not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Places {
    pub(super) left: u64,
    pub(super) right: u64,
    pub(super) bias: u64,
    pub(super) residual: u64,
    pub(super) result: u64,
}

/// A product of one shape, and the ways in which the library would compute it.
pub(super) struct Product {
    /// With the place of the bias in it, so one at a time orders a run.
    desc: Mutex<Object>,
    left: Object,
    right: Object,
    result: Object,
    has_bias: bool,
    has_residual: bool,
    /// The best first, as the library thinks.
    pub(super) algorithms: Vec<Algorithm>,
    /// The last to go.
    library: Arc<CublasLt>,
}

impl Product {
    /// The product of that shape.
    ///
    /// # Errors
    /// `Unavailable` where the library does not take it.
    pub(super) fn of(library: &Arc<CublasLt>, shape: &Shape) -> Result<Self> {
        let Shape { m, n, k, batch, .. } = *shape;
        let desc = library.desc(shape)?;
        let left = library.layout(&shape.left, [m, k], batch)?;
        let right = library.layout(&shape.right, [k, n], batch)?;
        let result = library.layout(&shape.result, [m, n], batch)?;
        let functions = &library.functions;
        let create = functions.create_preference;
        // SAFETY: writes the new object.
        let preference = Object::made(functions.destroy_preference, None, |at| unsafe { create(at) })?;
        preference.set(functions.set_preference, PREFER_WORKSPACE, &(WORKSPACE_BYTES as u64))?;
        preference.set(functions.set_preference, PREFER_REDUCTION, &REDUCTION_COMPUTE_TYPE)?;
        let residual = shape.residual_align.unwrap_or(shape.result.align);
        let aligns = [shape.right.align, shape.left.align, residual, shape.result.align];
        for (attribute, align) in PREFER_ALIGN.into_iter().zip(aligns) {
            preference.set(functions.set_preference, attribute, &(align as u32))?;
        }
        let (mut advice, mut count) = ([Advice::default(); MOST_ALGORITHMS], 0);
        // SAFETY: all objects are alive; writes at most so many results, and their count.
        let status = unsafe {
            (functions.heuristic)(
                library.handle.at,
                desc.at,
                right.at,
                left.at,
                result.at,
                result.at,
                preference.at,
                MOST_ALGORITHMS as c_int,
                advice.as_mut_ptr(),
                &mut count,
            )
        };
        check(status).map_err(|e| e.with_at("cublasLtMatmulAlgoGetHeuristic"))?;
        let count = usize::try_from(count).unwrap_or(0);
        let good = advice.iter().take(count).filter(|a| a.status == 0 && a.workspace <= WORKSPACE_BYTES);
        let algorithms = good.map(|a| Algorithm { code: a.code, workspace: a.workspace }).collect::<Vec<_>>();
        if algorithms.is_empty() {
            return Err(ScoreError::unavailable("cuBLASLt has no algorithm for a product"));
        }
        let (has_bias, has_residual) = (shape.bias_align.is_some(), shape.residual_align.is_some());
        let (library, desc) = (library.clone(), Mutex::new(desc));
        Ok(Self { library, desc, left, right, result, has_bias, has_residual, algorithms })
    }

    /// Orders the product, times that factor, on a stream.
    ///
    /// # Safety
    /// The places must be memory of the library's GPU in which the shape's matrices lie, as aligned as the shape says, and the workspace must have
    /// the algorithm's bytes; all of it must live until the stream, or the graph that this is captured into, is done. The context must be current.
    ///
    /// # Errors
    /// `Unavailable`, with the library's status.
    pub(super) unsafe fn run(
        &self,
        algorithm: &Algorithm,
        factor: f32,
        places: &Places,
        workspace: u64,
        stream: CUstream,
    ) -> Result<()> {
        let functions = &self.library.functions;
        let (alpha, beta) = (factor, if self.has_residual { 1f32 } else { 0f32 });
        let added = if self.has_residual { places.residual } else { places.result };
        let pointer = |address: u64| address as Raw;
        // Held until the library has read the place of the bias.
        let desc = self.desc.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_bias {
            desc.set(functions.set_desc, DESC_BIAS_POINTER, &places.bias)?;
        }
        // SAFETY: all objects are alive; the factors are read before it returns; the memory is as the caller promises.
        let status = unsafe {
            (functions.matmul)(
                self.library.handle.at,
                desc.at,
                (&raw const alpha).cast(),
                pointer(places.right),
                self.right.at,
                pointer(places.left),
                self.left.at,
                (&raw const beta).cast(),
                pointer(added),
                self.result.at,
                pointer(places.result),
                self.result.at,
                &algorithm.code,
                pointer(workspace),
                algorithm.workspace,
                stream,
            )
        };
        check(status).map_err(|e| e.with_at("cublasLtMatmul"))
    }
}

/// An object of the library, destroyed with its owner.
struct Object {
    at: Raw,
    destroy: Destroy,
    /// That it belongs to.
    context: Option<Arc<CudaContext>>,
}

// SAFETY: the library's objects may be used from any thread; those that change are behind a lock, or not shared yet.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

impl Object {
    fn made(
        destroy: Destroy,
        context: Option<Arc<CudaContext>>,
        make: impl FnOnce(*mut Raw) -> Status,
    ) -> Result<Self> {
        let mut at = std::ptr::null_mut();
        check(make(&mut at))?;
        Ok(Self { at, destroy, context })
    }

    fn set<T: bytemuck::NoUninit>(&self, set: SetAttribute, attribute: c_int, value: &T) -> Result<()> {
        // SAFETY: the object is alive; reads the value's bytes, and refuses another number of them than the attribute has.
        let status = unsafe { set(self.at, attribute, (&raw const *value).cast(), size_of::<T>()) };
        check(status).map_err(|e| e.with_at(format!("attribute {attribute} of cuBLASLt")))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.context.as_ref().is_none_or(|context| context.bind_to_thread().is_ok()) {
            // SAFETY: it was made, once. An error is of a context that is lost, and took the object along.
            let _ = unsafe { (self.destroy)(self.at) };
        }
    }
}

/// `cublasStatus_t` in words.
fn check(status: Status) -> Result<()> {
    let name = match status {
        0 => return Ok(()),
        1 => "NOT_INITIALIZED",
        3 => return Err(ScoreError::out_of_memory("cuBLASLt: CUBLAS_STATUS_ALLOC_FAILED")),
        7 => "INVALID_VALUE",
        8 => "ARCH_MISMATCH",
        11 => "MAPPING_ERROR",
        13 => "EXECUTION_FAILED",
        14 => "INTERNAL_ERROR",
        15 => "NOT_SUPPORTED",
        16 => "LICENSE_ERROR",
        _ => "unknown",
    };
    let advice = "TRISCORE_GPU_PRODUCTS=own does without it";
    Err(ScoreError::unavailable(format!("cuBLASLt: status {status} CUBLAS_STATUS_{name}; {advice}")))
}
