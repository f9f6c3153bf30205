//! Every kernel against the formula at its head, in f64.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// A device with the kernels loaded.
pub(crate) struct Gpu {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

impl Gpu {
    pub(crate) fn new() -> Self {
        let context = CudaContext::new(0).unwrap();
        assert!(context.name().unwrap().contains("emulated"));
        // SAFETY: tests order across streams by events of their own.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        // The emulated driver has the kernels in it.
        let module = context.load_module(Ptx::from_src("")).unwrap();
        Self { context, stream, module }
    }

    pub(crate) fn kernel(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }
}

pub(crate) fn grid(blocks: (u32, u32, u32), threads: (u32, u32, u32)) -> LaunchConfig {
    LaunchConfig { grid_dim: blocks, block_dim: threads, shared_mem_bytes: 0 }
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
fn assert_near(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1f64, |most, e| most.max(e.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let is_near = (f64::from(*got) - expected).abs() <= 2e-6 * scale;
        assert!(is_near, "{what}: element {i} is {got}, expected {expected}");
    }
}

pub(crate) fn every_kernel() {
    let gpu = Gpu::new();
    for (rows, columns) in [(1, 1), (3, 7), (2, 32), (5, 100), (2, 257), (1, 1025)] {
        softmax(&gpu, rows, columns);
        layer_norm(&gpu, rows, columns, false);
        layer_norm(&gpu, rows, columns, true);
    }
    for (batch, rows, columns) in [(1, 1, 1), (2, 31, 33), (1, 64, 32), (3, 5, 70)] {
        transpose(&gpu, batch, rows, columns);
    }
    for (batch, m, n, k) in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 64, 64, 16), (1, 65, 130, 33), (2, 17, 70, 20)] {
        for activation in 0..=5 {
            gemm(&gpu, (batch, m, n, k), activation);
        }
    }
}

fn softmax(gpu: &Gpu, rows: usize, columns: usize) {
    let x = noise(rows * columns, 1);
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: the kernel writes every element, which the comparison would miss as a NaN.
    let mut to = unsafe { gpu.stream.alloc::<f32>(x.len()) }.unwrap();
    let (kernel, width) = (gpu.kernel("softmax_rows"), columns as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from).arg(&width);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((rows as u32, 1, 1), (128, 1, 1))) }.unwrap();
    let expected = x.chunks(columns).flat_map(|row| {
        let most = row.iter().fold(f64::MIN, |m, v| m.max(f64::from(*v)));
        let powers = row.iter().map(|v| (f64::from(*v) - most).exp()).collect::<Vec<_>>();
        let sum = powers.iter().sum::<f64>();
        powers.into_iter().map(move |p| p / sum)
    });
    let what = format!("softmax {rows} × {columns}");
    assert_near(&what, &gpu.stream.clone_dtoh(&to).unwrap(), &expected.collect::<Vec<_>>());
}

fn layer_norm(gpu: &Gpu, rows: usize, columns: usize, with_residual: bool) {
    let (x, r) = (noise(rows * columns, 2), noise(rows * columns, 3));
    let (scale, bias, epsilon) = (noise(columns, 4), noise(columns, 5), 1e-3f32);
    let upload = |values: &[f32]| gpu.stream.clone_htod(values).unwrap();
    let (from, residual, scale_at, bias_at) = (upload(&x), upload(&r), upload(&scale), upload(&bias));
    // SAFETY: written whole by the kernel.
    let (mut to, mut sum) =
        unsafe { (gpu.stream.alloc::<f32>(x.len()).unwrap(), gpu.stream.alloc::<f32>(x.len()).unwrap()) };
    let (kernel, width, null) = (gpu.kernel("layer_norm"), columns as i32, 0u64);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to);
    match with_residual {
        true => launch.arg(&mut sum).arg(&from).arg(&residual),
        false => launch.arg(&null).arg(&from).arg(&null),
    };
    launch.arg(&scale_at).arg(&bias_at).arg(&width).arg(&epsilon);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((rows as u32, 1, 1), (96, 1, 1))) }.unwrap();
    let added = x.iter().zip(&r).map(|(x, r)| x + if with_residual { *r } else { 0.0 }).collect::<Vec<_>>();
    let expected = added.chunks(columns).flat_map(|row| {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / columns as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / columns as f64;
        let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
        let one = |(i, v): (usize, &f32)| {
            (f64::from(*v) - mean) * factor * f64::from(scale[i]) + f64::from(bias[i])
        };
        row.iter().enumerate().map(one).collect::<Vec<_>>()
    });
    let what = format!("layer norm {rows} × {columns}, residual {with_residual}");
    assert_near(&what, &gpu.stream.clone_dtoh(&to).unwrap(), &expected.collect::<Vec<_>>());
    if with_residual {
        assert_eq!(gpu.stream.clone_dtoh(&sum).unwrap(), added, "{what}: the sum");
    }
}

fn transpose(gpu: &Gpu, batch: usize, rows: usize, columns: usize) {
    let x = (0..(batch * rows * columns) as u32).collect::<Vec<_>>();
    let from = gpu.stream.clone_htod(&x).unwrap();
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<u32>(x.len()) }.unwrap();
    let (kernel, height, width) = (gpu.kernel("transpose_4"), rows as i32, columns as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&from).arg(&height).arg(&width);
    let blocks = (columns.div_ceil(32) as u32, rows.div_ceil(32) as u32, batch as u32);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid(blocks, (32, 8, 1))) }.unwrap();
    let got = gpu.stream.clone_dtoh(&to).unwrap();
    for (i, value) in got.iter().enumerate() {
        let (matrix, column, row) = (i / (rows * columns), i / rows % columns, i % rows);
        assert_eq!(*value, x[(matrix * rows + row) * columns + column], "{batch} × {rows} × {columns}: {i}");
    }
}

fn gemm(gpu: &Gpu, (batch, m, n, k): (usize, usize, usize, usize), activation: i32) {
    let (a, b) = (noise(batch * m * k, 6), noise(k * n, 7));
    let (bias, residual) = (noise(n, 8), noise(batch * m * n, 9));
    let upload = |values: &[f32]| gpu.stream.clone_htod(values).unwrap();
    let (a_at, b_at, bias_at, residual_at) = (upload(&a), upload(&b), upload(&bias), upload(&residual));
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f32>(batch * m * n) }.unwrap();
    let kernel = gpu.kernel("gemm_f32");
    // One b for all of the batch.
    let (sizes, strides) = ([m, n, k].map(|v| v as i32), [(m * k) as i64, 0]);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&a_at).arg(&b_at).arg(&bias_at).arg(&residual_at);
    launch.arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]).arg(&strides[0]).arg(&strides[1]).arg(&activation);
    let blocks = (n.div_ceil(64) as u32, m.div_ceil(64) as u32, batch as u32);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid(blocks, (256, 1, 1))) }.unwrap();
    let expected = (0..batch * m * n).map(|i| {
        let (row, column) = (i / n, i % n);
        let sum = (0..k).map(|d| f64::from(a[row * k + d]) * f64::from(b[d * n + column])).sum::<f64>();
        let x = sum + f64::from(bias[column]) + f64::from(residual[i]);
        match activation {
            1 => x.max(0.0),
            2 => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            3 => 1.0 / (1.0 + (-x).exp()),
            4 => x.tanh(),
            5 => x / (1.0 + (-x).exp()),
            _ => x,
        }
    });
    let what = format!("product {batch} × {m} × {n} × {k}, activation {activation}");
    assert_near(&what, &gpu.stream.clone_dtoh(&to).unwrap(), &expected.collect::<Vec<_>>());
}
