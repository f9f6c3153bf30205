//! Kernels without tensor cores: each against its formula.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::sources::{DYNAMIC, ROW_SUMS, TOGETHER, TRANSPOSE, WARPS, WORDS, module};

/// A device with a stream.
pub(crate) struct Gpu {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
}

impl Gpu {
    pub(crate) fn new(device: usize) -> Self {
        let context = CudaContext::new(device).unwrap();
        assert!(context.name().unwrap().contains("emulated"));
        // SAFETY: tests order across streams by events of their own.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        Self { context, stream }
    }

    /// A kernel of a text, with definitions before it.
    pub(crate) fn kernel(&self, text: &str, definitions: &str, name: &str) -> CudaFunction {
        let module = self.context.load_module(Ptx::from_src(module(text, definitions))).unwrap();
        module.load_function(name).unwrap()
    }
}

pub(crate) fn grid(blocks: (u32, u32, u32), threads: (u32, u32, u32), shared_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: blocks, block_dim: threads, shared_mem_bytes: shared_bytes }
}

pub(crate) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Fails for any number that is not near, and for what is no number.
pub(crate) fn assert_near(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1f64, |most, e| most.max(e.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let is_near = (f64::from(*got) - expected).abs() <= 2e-6 * scale;
        assert!(is_near, "{what}: element {i} is {got}, expected {expected}");
    }
}

pub(crate) fn every_kernel() {
    let gpu = Gpu::new(0);
    for (rows, columns) in [(1, 1), (3, 7), (2, 257)] {
        row_sums(&gpu, rows, columns);
    }
    for (count, is_scaled) in [(1, false), (64, true), (100, false)] {
        warps(&gpu, count, is_scaled);
    }
    for (rows, columns) in [(1, 1), (31, 33), (64, 32)] {
        transpose(&gpu, rows, columns);
    }
    together(&gpu);
    backwards(&gpu);
    doubles(&gpu);
    words(&gpu);
}

fn words(gpu: &Gpu) {
    let x = gpu.stream.clone_htod(&[0.5f32]).unwrap();
    let zeros = || gpu.stream.alloc_zeros::<u64>(1).unwrap();
    let [mut counter, mut flags, mut sum, mut wide] = [zeros(), zeros(), zeros(), zeros()];
    let expected = [
        libm::erf(0.5) + 0.5f64.tanh(),
        1.5,
        0.0,
        0.476_936_276_204_469_9 + 1.959_963_984_540_054,
        0.5 + 0.018_795_888_861_416_75 + 1.266_065_877_752_008_2,
        1.0 + 100.0 + 0.25 + 10.0 + 2.0,
        1.0,
        3.0 + 8.0 + 31.0 + 4.0 + 2.0,
        11.0,
        523.0,
        -3.0,
        2.0 + 4.0 + 1.5 + 2.0 + 7.0 + 2.0,
        0.5 + 0.75 + 8.0 + 8.0,
        4.0 + 6.0 + 9.0 + 2.0 + 1.0 + 4.0,
        0.0 + 2.0 + 9.0 + 4.0,
        0.0 + 5.0 + 7.0 + 7.0,
        0.0 + 0.5 + 2f64.powi(40),
        1.0 + 0.0 + 1.0,
    ];
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f64>(expected.len()) }.unwrap();
    let kernel = gpu.kernel(WORDS, "", "words");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&mut counter).arg(&mut flags).arg(&mut sum).arg(&mut wide).arg(&x);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((1, 1, 1), (1, 1, 1), 0)) }.unwrap();
    for (i, (got, expected)) in gpu.stream.clone_dtoh(&to).unwrap().iter().zip(expected).enumerate() {
        let is_near = (got - expected).abs() <= 1e-6 * expected.abs().max(1.0);
        assert!(is_near, "words, line {i}: {got}, expected {expected}");
    }
}

fn row_sums(gpu: &Gpu, rows: usize, columns: usize) {
    let x = noise(rows * columns, 1);
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: the kernel writes every element, which the comparison would miss as a NaN.
    let mut to = unsafe { gpu.stream.alloc::<f32>(rows * 2) }.unwrap();
    let (kernel, width) = (gpu.kernel(ROW_SUMS, "", "row_sums"), columns as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from).arg(&width);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((rows as u32, 1, 1), (128, 1, 1), 0)) }.unwrap();
    let sum = |row: &[f32], f: fn(f64) -> f64| row.iter().map(|v| f(f64::from(*v))).sum::<f64>();
    let expected = x.chunks(columns).flat_map(|row| [sum(row, |v| v), sum(row, f64::abs)]);
    let got = gpu.stream.clone_dtoh(&to).unwrap();
    assert_near(&format!("sums of {rows} × {columns}"), &got, &expected.collect::<Vec<_>>());
}

/// A kernel's struct of pointers.
#[repr(C)]
pub(crate) struct Pointers {
    pub(crate) at: [u64; 2],
    pub(crate) count: i32,
}

// SAFETY: it lies in memory as the kernel's struct does.
unsafe impl cudarc::driver::DeviceRepr for Pointers {}

fn warps(gpu: &Gpu, count: usize, is_scaled: bool) {
    use cudarc::driver::DevicePtr;
    let (x, scale) = (noise(count, 2), noise(count, 3));
    let (from, scale_at) = (gpu.stream.clone_htod(&x).unwrap(), gpu.stream.clone_htod(&scale).unwrap());
    let lanes = count.next_multiple_of(32);
    // SAFETY: written whole by the kernel.
    let (mut sums, mut running, mut votes) = unsafe {
        let floats = || gpu.stream.alloc::<f32>(count).unwrap();
        (floats(), floats(), gpu.stream.alloc::<u32>(lanes / 32).unwrap())
    };
    let at = [from.device_ptr(&gpu.stream).0, if is_scaled { scale_at.device_ptr(&gpu.stream).0 } else { 0 }];
    let (kernel, pointers) = (gpu.kernel(WARPS, "", "warps"), Pointers { at, count: count as i32 });
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut sums).arg(&mut running).arg(&mut votes).arg(&pointers);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((lanes as u32 / 32, 1, 1), (32, 1, 1), 0)) }.unwrap();
    let one = |i: usize| match i < count {
        true => x[i] * if is_scaled { scale[i] } else { 1.0 },
        false => 0.0,
    };
    let what = format!("warps of {count}");
    let range = |from: usize, to: usize| (from..to).map(|i| f64::from(one(i))).sum::<f64>();
    let expected = (0..count).map(|i| range(i / 32 * 32, i / 32 * 32 + 32)).collect::<Vec<_>>();
    assert_near(&what, &gpu.stream.clone_dtoh(&sums).unwrap(), &expected);
    let expected = (0..count).map(|i| range(i / 32 * 32, i + 1)).collect::<Vec<_>>();
    assert_near(&what, &gpu.stream.clone_dtoh(&running).unwrap(), &expected);
    for (warp, got) in gpu.stream.clone_dtoh(&votes).unwrap().into_iter().enumerate() {
        let is_positive = |lane: usize| one(warp * 32 + lane) > 0.0;
        let mut vote = (0..32).map(|lane| u32::from(is_positive(lane)) << lane).sum::<u32>();
        vote ^= (0..32).step_by(2).map(|lane| u32::from(is_positive(lane))).sum::<u32>() << 1;
        let any = (0..32).any(|lane| {
            let (at, own) = (warp * 32 + lane, one(warp * 32 + lane));
            own == one(at / 4 * 4) && one(at / 2 * 2 + 1) > own
        });
        let all = warp * 32 + 32 <= count;
        assert_eq!(got, vote & !0xc000_0000 | u32::from(all) << 31 | u32::from(any) << 30, "{what}: {warp}");
    }
}

fn transpose(gpu: &Gpu, rows: usize, columns: usize) {
    let x = (0..(rows * columns) as u32).collect::<Vec<_>>();
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<u32>(x.len()) }.unwrap();
    let (kernel, height, width) = (gpu.kernel(TRANSPOSE, "", "transpose"), rows as i32, columns as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from).arg(&height).arg(&width);
    let blocks = (columns.div_ceil(32) as u32, rows.div_ceil(32) as u32, 1);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid(blocks, (32, 8, 1), 0)) }.unwrap();
    let got = gpu.stream.clone_dtoh(&to).unwrap();
    for (i, value) in got.iter().enumerate() {
        assert_eq!(*value, x[i % rows * columns + i / rows], "{rows} × {columns}: {i}");
    }
}

fn together(gpu: &Gpu) {
    const THREADS: usize = 40;
    let x = noise(7, 6);
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: written whole by the kernel.
    let (mut to, mut sums) =
        unsafe { (gpu.stream.alloc::<f32>(THREADS).unwrap(), gpu.stream.alloc::<f32>(x.len()).unwrap()) };
    let mut arrived = gpu.stream.alloc_zeros::<u32>(1).unwrap();
    let kernel = gpu.kernel(TOGETHER, "", "together");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&mut sums).arg(&mut arrived).arg(&from);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((x.len() as u32, 1, 1), (THREADS as u32, 1, 1), 0)) }.unwrap();
    let expected = vec![x.iter().map(|v| f64::from(*v)).sum(); THREADS];
    assert_near("the sum of all blocks", &gpu.stream.clone_dtoh(&to).unwrap(), &expected);
}

fn backwards(gpu: &Gpu) {
    const THREADS: usize = 96;
    let x = noise(THREADS * 3, 4);
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f32>(x.len()) }.unwrap();
    let kernel = gpu.kernel(DYNAMIC, "", "backwards");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((3, 1, 1), (THREADS as u32, 1, 1), THREADS as u32 * 4)) }.unwrap();
    let expected = x.chunks(THREADS).flat_map(|block| block.iter().rev().copied()).collect::<Vec<_>>();
    assert_eq!(gpu.stream.clone_dtoh(&to).unwrap(), expected);
}

fn doubles(gpu: &Gpu) {
    let x = noise(1000, 5);
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f32>(x.len()) }.unwrap();
    let mut called = gpu.stream.alloc_zeros::<i32>(1).unwrap();
    let (kernel, count) = (gpu.kernel(DYNAMIC, "", "doubles"), x.len() as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from).arg(&count).arg(&mut called);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((4, 1, 1), (256, 1, 1), 0)) }.unwrap();
    let expected = x.iter().map(|v| v + v).collect::<Vec<_>>();
    assert_eq!(gpu.stream.clone_dtoh(&to).unwrap(), expected);
    assert_eq!(gpu.stream.clone_dtoh(&called).unwrap(), [count]);
}
