//! What the emulated driver is strict about, because real ones are.

use std::ffi::CString;

use cudarc::driver::sys::{
    self, CUfunction_attribute as Attribute, CUgraphInstantiate_flags as GraphFlags, CUresult,
    CUstreamCaptureMode as Mode,
};
use cudarc::driver::{DevicePtr, DriverError, PushKernelArg, result};
use cudarc::nvrtc::Ptx;

use super::inside::{Gpu, Pointers, grid, noise};
use super::sources::{DYNAMIC, MISTAKES, ROW_SUMS, WARPS, module};

const COUNT: usize = 50;

/// What lies in one place, backwards in another one, ordered on a stream.
macro_rules! order_backwards {
    ($kernel:expr, $stream:expr, $to:expr, $from:expr) => {{
        let mut launch = $stream.launch_builder($kernel);
        launch.arg($to).arg($from);
        // SAFETY: the arguments are the kernel's.
        unsafe { launch.launch(grid((1, 1, 1), (COUNT as u32, 1, 1), COUNT as u32 * 4)) }
    }};
}

pub(crate) fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

pub(crate) fn streams_and_graphs() {
    let gpu = Gpu::new(0);
    let (first, second) = (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
    let is_late = std::env::var("CUDA_EMULATOR_TIME").as_deref() == Ok("late");
    for is_told in [true, false] {
        // Somebody else writes what is read.
        let x = first.clone_htod(&noise(COUNT, 1)).unwrap();
        let (mut between, mut to) =
            (first.alloc_zeros::<f32>(COUNT).unwrap(), second.alloc_zeros(COUNT).unwrap());
        first.synchronize().unwrap();
        second.synchronize().unwrap();
        first.memcpy_dtod(&x, &mut between).unwrap();
        if is_told {
            second.wait(&first.record_event(None).unwrap()).unwrap();
        }
        second.memcpy_dtod(&between, &mut to).unwrap();
        let got = second.clone_dtoh(&to).unwrap();
        let is_old = got.iter().all(|v| *v == 0.0);
        // Without being told, a stream may see what was there before: late, it does.
        assert_eq!(is_old, !is_told && is_late, "told: {is_told}: {got:?}");
        first.synchronize().unwrap();
    }
    // A graph is captured once and replayed on what lies in the same memory then.
    let kernel = gpu.kernel(DYNAMIC, "", "backwards");
    let mut from = first.clone_htod(&noise(COUNT, 2)).unwrap();
    let (mut middle, mut to) =
        (first.alloc_zeros::<f32>(COUNT).unwrap(), first.alloc_zeros::<f32>(COUNT).unwrap());
    first.synchronize().unwrap();
    first.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    order_backwards!(&kernel, first, &mut middle, &from).unwrap();
    order_backwards!(&kernel, first, &mut to, &middle).unwrap();
    let graph = first.end_capture(GraphFlags(0)).unwrap().unwrap();
    assert!(first.clone_dtoh(&to).unwrap().iter().all(|v| *v == 0.0), "nothing ran yet");
    // The graph keeps the module that its kernels are from.
    drop(kernel);
    for seed in [3, 4] {
        first.memcpy_htod(&noise(COUNT, seed), &mut from).unwrap();
        graph.launch().unwrap();
        assert_eq!(first.clone_dtoh(&to).unwrap(), noise(COUNT, seed));
    }
    // Who asks whether it is done gets no as long as it is not, and not for ever.
    graph.launch().unwrap();
    // SAFETY: the stream is one.
    let asked = || unsafe { sys::cuStreamQuery(first.cu_stream()) };
    let first_answer = asked();
    assert_eq!(first_answer == CUresult::CUDA_ERROR_NOT_READY, is_late, "{first_answer:?}");
    assert!((0..10).any(|_| asked() == CUresult::CUDA_SUCCESS));
}

pub(crate) fn modules() {
    let gpu = Gpu::new(0);
    let load = |text: &str| gpu.context.load_module(Ptx::from_src(text));
    assert_eq!(code(load(".version 9.0\n.target sm_90")), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(code(load("// CUDA C++ of a kind\n")), CUresult::CUDA_ERROR_INVALID_IMAGE);
    let wrong = "// CUDA C++\nextern \"C\" __global__ void k(float *y) { y[0] = there_is_no_such_word; }\n";
    assert_eq!(code(load(wrong)), CUresult::CUDA_ERROR_INVALID_SOURCE);
    // Of two modules each has its own; a name in a comment or in a string is no kernel.
    let text = |value: u32| {
        format!(
            "// CUDA C++\n// extern \"C\" __global__ void no(\nconst char *s = \"extern \\\"C\\\" __global__ void no(\";\n\
             #define BOUND 64\n__device__ float value() {{ return {value}.0f; }}\n\
             extern \"C\" /* a kernel */ __global__\n__launch_bounds__(BOUND * 2, 1) void\nwrites(float *y)\n{{ *y = value(); }}\n"
        )
    };
    let both = [1, 2].map(|value| load(&text(value)).unwrap());
    for (module, expected) in both.iter().zip([1.0, 2.0]) {
        assert_eq!(code(module.load_function("no")), CUresult::CUDA_ERROR_NOT_FOUND);
        let kernel = module.load_function("writes").unwrap();
        assert_eq!(kernel.max_threads_per_block().unwrap(), 128);
        let mut to = gpu.stream.alloc_zeros::<f32>(1).unwrap();
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&mut to);
        // SAFETY: the argument is the kernel's.
        unsafe { launch.launch(grid((1, 1, 1), (1, 1, 1), 0)) }.unwrap();
        assert_eq!(gpu.stream.clone_dtoh(&to).unwrap(), [expected]);
    }
    parameters();
}

/// What a driver says of a kernel's parameters.
fn parameters() {
    let source = CString::new(module(DYNAMIC, "")).unwrap();
    // SAFETY: a source that ends with a NUL; the handles are used while the module is loaded.
    unsafe {
        let module = result::module::load_data(source.as_ptr().cast()).unwrap();
        let function = result::module::get_function(module, CString::new("takes_many").unwrap()).unwrap();
        let info = |number| {
            let (mut offset, mut bytes) = (0, 0);
            let status = sys::cuFuncGetParamInfo(function, number, &mut offset, &mut bytes);
            (status, offset, bytes)
        };
        for (number, expected) in [(0, 1), (8, 8), (16, 16), (32, 2), (48, 16)].into_iter().enumerate() {
            assert_eq!(info(number), (CUresult::CUDA_SUCCESS, expected.0, expected.1), "{number}");
        }
        assert_eq!(info(5).0, CUresult::CUDA_ERROR_INVALID_VALUE);
        result::module::unload(module).unwrap();
        assert_eq!(info(0).0, CUresult::CUDA_ERROR_INVALID_HANDLE, "its module is gone");
    }
}

pub(crate) fn refusals() {
    let gpu = Gpu::new(0);
    let stream = &gpu.stream;
    let x = stream.clone_htod(&noise(COUNT, 1)).unwrap();
    // SAFETY: never read.
    let mut to = unsafe { stream.alloc::<f32>(COUNT) }.unwrap();
    let (kernel, bounded) = (gpu.kernel(DYNAMIC, "", "backwards"), gpu.kernel(ROW_SUMS, "", "row_sums"));
    let (invalid, too_much) =
        (CUresult::CUDA_ERROR_INVALID_VALUE, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    for (which, blocks, threads, shared_bytes, expected) in [
        (&kernel, (0, 1, 1), 32, 1024, invalid),
        (&kernel, (1, 70_000, 1), 32, 1024, invalid),
        (&kernel, (1, 1, 1), 2048, 1024, too_much),
        (&bounded, (1, 1, 1), 256, 0, too_much),
        (&kernel, (1, 1, 1), 32, 48 << 10, CUresult::CUDA_SUCCESS),
        (&kernel, (1, 1, 1), 32, (48 << 10) + 4, invalid),
    ] {
        let mut launch = stream.launch_builder(which);
        launch.arg(&mut to).arg(&x).arg(&0i32);
        // SAFETY: refused before anything runs, or the kernel's arguments and one that it does not look at.
        let got = code(unsafe { launch.launch(grid(blocks, (threads, 1, 1), shared_bytes)) });
        assert_eq!(got, expected, "{blocks:?} {threads} {shared_bytes}");
    }
    // More dynamic shared memory for who asks for it, up to what there is.
    let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.set_attribute(most, 227 << 10).unwrap();
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&x);
    // SAFETY: the arguments are the kernel's.
    unsafe { launch.launch(grid((1, 1, 1), (32, 1, 1), 227 << 10)) }.unwrap();
    assert_eq!(code(kernel.set_attribute(most, (227 << 10) + 1)), invalid);
    assert_eq!(kernel.occupancy_max_active_blocks_per_multiprocessor(256, 100 << 10, None).unwrap(), 2);
    // More memory than there is: refused, and what there is can still be had.
    // SAFETY: never read.
    let too_much = unsafe { stream.alloc::<u8>(1 << 40) };
    assert_eq!(code(too_much), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    stream.alloc_zeros::<u8>(1 << 20).unwrap();
    registration();
    // What must not be in a capture.
    stream.synchronize().unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let ended = stream.end_capture(GraphFlags(0));
    assert_eq!(code(ended), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // What is no device memory: found when the kernel runs, and the context is lost from then on.
    let warps = gpu.kernel(WARPS, "", "warps");
    let pointers = Pointers { at: [x.device_ptr(stream).0, 4096], count: 1 };
    let (mut launch, null) = (stream.launch_builder(&warps), 0u64);
    launch.arg(&mut to).arg(&null).arg(&null).arg(&pointers);
    // SAFETY: the emulated driver looks at pointers before a kernel does.
    let ordered = code(unsafe { launch.launch(grid((1, 1, 1), (32, 1, 1), 0)) });
    let lost = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert!([CUresult::CUDA_SUCCESS, lost].contains(&ordered), "{ordered:?}");
    assert_eq!(code(stream.synchronize()), lost);
    assert_eq!(code(gpu.context.new_stream().map(|_| ())), lost, "for good");
}

/// What `MISTAKES` has: the kernel, and the error that it loses its context with.
pub(crate) const LOST: [(&str, CUresult); 8] = [
    ("is_far_away", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
    ("is_not_aligned", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS),
    ("is_beyond_an_array", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
    ("divides_by_zero", CUresult::CUDA_ERROR_LAUNCH_FAILED),
    ("asserts", CUresult::CUDA_ERROR_ASSERT),
    ("is_behind", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
    ("names_others", CUresult::CUDA_ERROR_LAUNCH_FAILED),
    ("copies_beside", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS),
];

/// One such mistake on each of as many devices: what is lost with one is there on the next.
pub(crate) fn mistakes() {
    for (device, (name, expected)) in LOST.iter().enumerate() {
        let gpu = Gpu::new(device);
        let kernel = gpu.kernel(MISTAKES, "", name);
        let (mut to, one) = (gpu.stream.alloc_zeros::<f32>(16).unwrap(), 1i32);
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&mut to).arg(&one);
        // SAFETY: the emulated driver finds what is wrong.
        let ordered = code(unsafe { launch.launch(grid((1, 1, 1), (1, 1, 1), 16)) });
        assert!([CUresult::CUDA_SUCCESS, *expected].contains(&ordered), "{name}: {ordered:?}");
        assert_eq!(code(gpu.stream.synchronize()), *expected, "{name}");
    }
}

/// Host memory can be pinned once, and freed as what it is.
fn registration() {
    let mut memory = vec![0u8; 8192];
    let at = memory.as_mut_ptr().cast();
    // SAFETY: the memory is there until it is no longer registered.
    unsafe {
        assert_eq!(sys::cuMemHostRegister_v2(at, 8192, 0), CUresult::CUDA_SUCCESS);
        let twice = sys::cuMemHostRegister_v2(at, 4096, 0);
        assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        assert_eq!(sys::cuMemFreeHost(at), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemHostUnregister(at), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemHostUnregister(at), CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    }
}
