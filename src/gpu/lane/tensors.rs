//! Tensors as Hopper's copies read them: encoded by the driver, for where they lie in this lane's memory.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::GpuLane;
use crate::error::{Result, ScoreError};
use crate::gpu::plan::{AXES, Taken, TensorMap};
use crate::tensor::DType;

/// How many bytes of it a kernel gets.
const BYTES: usize = 128;

/// What the driver writes, where it wants it.
#[repr(C, align(64))]
struct Encoded([u8; BYTES]);

impl GpuLane {
    /// The bytes of the kernel's argument for a tensor at that address.
    ///
    /// # Errors
    /// `Internal` with the driver's reason: the planner says only what a copy can take.
    pub(super) fn encoded<P>(&self, map: &TensorMap<P>, address: u64) -> Result<[u8; BYTES]> {
        use sys::CUtensorMapDataType as Type;
        let dtype = match map.dtype {
            DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            // Rounded when they are copied.
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32,
            // The copy only moves them, and has no name for them.
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            other => return Err(ScoreError::internal(format!("no tiles are copied of {}", other.name()))),
        };
        let (lengths, strides) = (map.lengths.map(|n| n as u64), map.strides.map(|n| n as u64));
        let (axes, address_of) = (lengths.len() as u32, address as *mut c_void);
        let mut encoded = Encoded([0; BYTES]);
        let to = std::ptr::from_mut(&mut encoded).cast::<sys::CUtensorMap>();
        let interleave = sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
        let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
        let promotion = sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
        let fill = sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
        // Both have been there from CUDA 12.0 on, the oldest that is taken.
        let status = match &map.taken {
            Taken::Box(taken) => {
                let (taken, steps) = (taken.map(|n| n as u32), [1u32; AXES]);
                // SAFETY: the map has its size and alignment, the arrays as many elements as there are axes; the driver only computes, and reads nothing
                // of the tensor.
                unsafe {
                    sys::cuTensorMapEncodeTiled(
                        to,
                        dtype,
                        axes,
                        address_of,
                        lengths.as_ptr(),
                        strides.as_ptr(),
                        taken.as_ptr(),
                        steps.as_ptr(),
                        interleave,
                        swizzle,
                        promotion,
                        fill,
                    )
                }
            }
            Taken::Windows(windows) => {
                let [width, height] = windows.steps.map(|n| n as u32);
                let steps = [1, width, height, 1];
                // SAFETY: as above; the corners are of the axes between channels and images.
                unsafe {
                    sys::cuTensorMapEncodeIm2col(
                        to,
                        dtype,
                        axes,
                        address_of,
                        lengths.as_ptr(),
                        strides.as_ptr(),
                        windows.lower.as_ptr(),
                        windows.upper.as_ptr(),
                        windows.channels as u32,
                        windows.pixels as u32,
                        steps.as_ptr(),
                        interleave,
                        swizzle,
                        promotion,
                        fill,
                    )
                }
            }
        };
        let what = || format!("a tensor of {lengths:?} elements at {address:#x}, {strides:?} bytes apart");
        status.result().map_err(|e| self.machine.failed(&format!("having tiles copied of {}", what()), e))?;
        Ok(encoded.0)
    }
}
