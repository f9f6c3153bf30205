//! Several devices, faults that are asked for, and memory that was not freed.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DevicePtr, PushKernelArg, result, sys};

use super::inside::{Gpu, grid, noise};
use super::sources::DYNAMIC;
use super::strictness::code;

/// Says whether the process is to leave something allocated.
pub(crate) const LEAK: &str = "TRISCORE_TEST_LEAK";

const ILLEGAL: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

/// Doubles numbers on a device, as far as they lie on it.
fn double(gpu: &Gpu, from: u64, count: usize) -> Result<Vec<f32>, cudarc::driver::DriverError> {
    let kernel = gpu.kernel(DYNAMIC, "", "doubles");
    let (mut to, mut called) = (gpu.stream.alloc_zeros::<f32>(count)?, gpu.stream.alloc_zeros::<i32>(1)?);
    let count = count as i32;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from).arg(&count).arg(&mut called);
    // SAFETY: the emulated driver looks at pointers before a kernel does.
    unsafe { launch.launch(grid((1, 1, 1), (64, 1, 1), 0)) }?;
    gpu.stream.clone_dtoh(&to)
}

pub(crate) fn apart() {
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    assert_eq!(code(CudaContext::new(2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let (first, second) = (Gpu::new(0), Gpu::new(1));
    assert_ne!(first.context.uuid().unwrap().bytes, second.context.uuid().unwrap().bytes);
    let x = noise(40, 1);
    let [on_first, on_second] = [&first, &second].map(|gpu| gpu.stream.clone_htod(&x).unwrap());
    // Each has its own memory.
    let free = |gpu: &Gpu| {
        gpu.context.bind_to_thread().unwrap();
        gpu.context.mem_get_info().unwrap().0
    };
    let before = free(&second);
    let more = first.stream.alloc_zeros::<u8>(1 << 20).unwrap();
    assert_eq!(free(&second), before);
    drop(more);
    for (gpu, x_at) in [(&first, &on_first), (&second, &on_second)] {
        let got = double(gpu, x_at.device_ptr(&gpu.stream).0, x.len()).unwrap();
        assert!(got.iter().zip(&x).all(|(got, x)| *got == x + x), "{got:?}");
    }
    // What is another device's is none of a kernel's, and of the two only the one that tried is lost.
    let elsewhere = on_second.device_ptr(&second.stream).0;
    assert_eq!(code(double(&first, elsewhere, x.len())), ILLEGAL);
    assert_eq!(code(first.stream.synchronize()), ILLEGAL);
    double(&second, elsewhere, x.len()).unwrap();
    // Nor of a copy's.
    let (to, from) = (elsewhere, on_first.device_ptr(&first.stream).0);
    // SAFETY: both are memory; the driver refuses that the one is on another device.
    let copied = unsafe { result::memcpy_dtod_async(to, from, 16, second.stream.cu_stream()) };
    assert_eq!(code(copied), ILLEGAL);
    assert_eq!(code(second.stream.synchronize()), ILLEGAL);
}

/// With the environment's word that the second launch and the third allocation fail.
pub(crate) fn faults() {
    let gpu = Gpu::new(0);
    let mut version = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().unwrap();
    assert_eq!(version, 12000);
    let x = noise(40, 1);
    let from = gpu.stream.clone_htod(&x).unwrap();
    let at = from.device_ptr(&gpu.stream).0;
    // Its second allocation is the third one of all; what comes after is as ever.
    assert_eq!(code(double(&gpu, at, x.len())), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    double(&gpu, at, x.len()).unwrap();
    assert_eq!(code(double(&gpu, at, x.len())), ILLEGAL, "the second launch");
}

pub(crate) fn leaks() {
    let gpu = Gpu::new(0);
    let memory = gpu.stream.alloc_zeros::<f32>(1024).unwrap();
    gpu.stream.synchronize().unwrap();
    if std::env::var(LEAK).unwrap() == "1" {
        let _ = memory.leak();
    }
}
