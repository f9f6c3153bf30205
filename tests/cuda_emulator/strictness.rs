//! What the emulated driver is strict about, because real ones are.

use cudarc::driver::sys::{CUgraphInstantiate_flags as GraphFlags, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{DriverError, PushKernelArg};

use super::inside::{Gpu, grid, noise};

/// A softmax of one row that is ordered on a stream.
macro_rules! order_softmax {
    ($gpu:expr, $stream:expr, $to:expr, $from:expr, $columns:expr) => {{
        let (kernel, columns) = ($gpu.kernel("softmax_rows"), $columns as i32);
        let mut launch = $stream.launch_builder(&kernel);
        launch.arg($to).arg($from).arg(&columns);
        // SAFETY: the arguments are the kernel's.
        unsafe { launch.launch(grid((1, 1, 1), (64, 1, 1))) }
    }};
}

fn is_softmax(got: &[f32]) -> bool {
    (got.iter().sum::<f32>() - 1.0).abs() < 1e-5
}

pub(crate) fn streams_and_graphs() {
    const COLUMNS: usize = 50;
    let gpu = Gpu::new();
    let (first, second) = (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
    let is_late = std::env::var("CUDA_EMULATOR_TIME").as_deref() == Ok("late");
    for is_told in [true, false] {
        // Somebody else writes what the kernel reads.
        let x = first.clone_htod(&noise(COLUMNS, 1)).unwrap();
        let (mut between, mut to) =
            (first.alloc_zeros::<f32>(COLUMNS).unwrap(), second.alloc_zeros(COLUMNS).unwrap());
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
    let mut from = first.clone_htod(&noise(COLUMNS, 2)).unwrap();
    let (mut middle, mut to) =
        (first.alloc_zeros::<f32>(COLUMNS).unwrap(), first.alloc_zeros::<f32>(COLUMNS).unwrap());
    first.synchronize().unwrap();
    first.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    order_softmax!(gpu, first, &mut middle, &from, COLUMNS).unwrap();
    order_softmax!(gpu, first, &mut to, &middle, COLUMNS).unwrap();
    let graph = first.end_capture(GraphFlags(0)).unwrap().unwrap();
    assert!(first.clone_dtoh(&to).unwrap().iter().all(|v| *v == 0.0), "nothing ran yet");
    let mut seen = Vec::new();
    for seed in [3, 4] {
        first.memcpy_htod(&noise(COLUMNS, seed), &mut from).unwrap();
        graph.launch().unwrap();
        let got = first.clone_dtoh(&to).unwrap();
        assert!(is_softmax(&got), "{got:?}");
        seen.push(got);
    }
    assert_ne!(seen[0], seen[1]);
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

pub(crate) fn refusals() {
    let gpu = Gpu::new();
    let stream = &gpu.stream;
    let x = stream.clone_htod(&noise(64, 1)).unwrap();
    // SAFETY: never read.
    let mut to = unsafe { stream.alloc::<f32>(64) }.unwrap();
    let kernel = gpu.kernel("softmax_rows");
    let columns = 64i32;
    for (blocks, threads, expected) in [
        ((0, 1, 1), (32, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 70_000, 1), (32, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 1, 1), (2048, 1, 1), CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
    ] {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&mut to).arg(&x).arg(&columns);
        // SAFETY: refused before anything runs.
        assert_eq!(code(unsafe { launch.launch(grid(blocks, threads)) }), expected, "{blocks:?} {threads:?}");
    }
    // More memory than there is: refused, and what there is can still be had.
    // SAFETY: never read.
    let too_much = unsafe { stream.alloc::<u8>(1 << 40) };
    assert_eq!(code(too_much), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    stream.alloc_zeros::<u8>(1 << 20).unwrap();
    // What must not be in a capture.
    stream.synchronize().unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let ended = stream.end_capture(GraphFlags(0));
    assert_eq!(code(ended), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // What is no device memory: found when the kernel runs, and the context is lost from then on.
    let (mut launch, elsewhere) = (stream.launch_builder(&kernel), 4096u64);
    launch.arg(&mut to).arg(&elsewhere).arg(&columns);
    // SAFETY: the emulated driver looks at pointers before a kernel does.
    let ordered = code(unsafe { launch.launch(grid((1, 1, 1), (32, 1, 1))) });
    let lost = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert!([CUresult::CUDA_SUCCESS, lost].contains(&ordered), "{ordered:?}");
    assert_eq!(code(stream.synchronize()), lost);
    assert_eq!(code(gpu.context.new_stream().map(|_| ())), lost, "for good");
}
