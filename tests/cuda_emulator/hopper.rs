//! What Hopper alone has: tiles that copies bring, barriers that they arrive at, and products of a warpgroup; against f64, and what a driver refuses.

use cudarc::driver::{DevicePtr, DeviceRepr, PushKernelArg, sys};

use super::inside::{Gpu, assert_near, grid};
use super::products::{KINDS, Kind, matrix};

/// 64 x COLUMNS sums, of two stages that one thread has filled: `a` is [m][depth], `b` is [n][depth], or [depth][n] where RIGHT_ROWS.
pub(crate) const WIDE_PRODUCT: &str = r#"
#define STAGE_BYTES ((64 + COLUMNS) * 128)
extern "C" __global__ void __launch_bounds__(160)
    wide_product(float *y, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int m, int n, int steps, int step_elements)
{
    TILES_SHARED(stages);
    u64 *there = (u64 *)(stages + 2 * STAGE_BYTES), *used = there + 2;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            barrier_begin(there + i, 1);
            barrier_begin(used + i, 4);
        }
        barriers_begun();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        for (int step = 0; threadIdx.x == 128 && step < steps; step++) {
            unsigned char *stage = stages + step % 2 * STAGE_BYTES;
            barrier_wait(used + step % 2, step / 2 % 2 ^ 1);
            barrier_expect(there + step % 2, STAGE_BYTES);
            copy_box(stage, a, there + step % 2, step * step_elements, 0, 0, 0);
            for (int box = 0; box < (RIGHT_ROWS ? COLUMNS / 64 : 1); box++)
                copy_box(stage + 8192 + box * 8192, b, there + step % 2, RIGHT_ROWS ? box * 64 : step * step_elements, RIGHT_ROWS ? step * 64 : 0, 0, 0);
        }
        return;
    }
    float d[1][COLUMNS / 2];
    for (int step = 0; step < steps; step++) {
        unsigned char *stage = stages + step % 2 * STAGE_BYTES;
        barrier_wait(there + step % 2, step / 2 % 2);
        wgmma_fence();
        for (int part = 0; part < 4; part++)
            WGMMA(d[0], matrix_of(stage, 0, 1024) + part * 2, matrix_of(stage + 8192, 8192, 1024) + part * (RIGHT_ROWS ? 128 : 2), step > 0 || part > 0);
        wgmma_commit();
        wgmma_wait<0>(d);
        if (threadIdx.x % 32 == 0)
            barrier_arrive(used + step % 2);
    }
    for (int i = 0; i < COLUMNS / 2; i++) {
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        if (row < m && column < n)
            y[row * n + column] = d[0][i];
    }
}
"#;

/// The same of what threads put into shared memory, where they must: one step, 64 elements of 16 bits deep.
pub(crate) const WRITTEN_PRODUCT: &str = r#"
extern "C" __global__ void written_product(float *y, const uint4 *a, const uint4 *b)
{
    TILES_SHARED(tile);
    for (int i = threadIdx.x; i < 192 * 8; i += 128) {
        int row = i / 8, piece = i % 8;
        *(uint4 *)(tile + row * 128 + (piece ^ row % 8) * 16) = row < 64 ? a[i] : b[i - 64 * 8];
    }
    shared_written();
    __syncthreads();
    float d[1][64];
    wgmma_fence();
    for (int part = 0; part < 4; part++)
        wgmma_f16(d[0], matrix_of(tile, 0, 1024) + part * 2, matrix_of(tile + 8192, 0, 1024) + part * 2, part > 0);
    wgmma_commit();
    wgmma_wait<0>(d);
    for (int i = 0; i < 64; i++) {
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        y[row * 128 + column] = d[0][i];
    }
}
"#;

/// A tensor map as a kernel takes it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Map([u8; 128]);

// SAFETY: it lies in memory as the kernel's struct does.
unsafe impl DeviceRepr for Map {}

/// What the driver is told of a matrix.
#[derive(Clone, Copy)]
struct Told {
    dtype: sys::CUtensorMapDataType,
    address: u64,
    axes: u32,
    lengths: [u64; 4],
    strides: [u64; 3],
    taken: [u32; 4],
    steps: [u32; 4],
    swizzle: sys::CUtensorMapSwizzle,
}

impl Told {
    fn encode(&self, to: *mut Map) -> sys::CUresult {
        // SAFETY: arrays of as many elements as there are axes; the driver writes 128 bytes, and reads nothing of the tensor.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                to.cast(),
                self.dtype,
                self.axes,
                self.address as *mut _,
                self.lengths.as_ptr(),
                self.strides.as_ptr(),
                self.taken.as_ptr(),
                self.steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                self.swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    }
}

fn told(kind: &Kind, address: u64, [rows, columns]: [usize; 2], taken: [u32; 2]) -> Told {
    use sys::CUtensorMapDataType as Type;
    let dtype = match kind.name {
        "mma_f16" => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        "mma_bf16" => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        "mma_tf32" => Type::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32,
        _ => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
    };
    let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
    let (lengths, strides) = ([columns as u64, rows as u64, 1, 1], [(columns * kind.bytes) as u64, 16, 16]);
    let taken = [taken[0], taken[1], 1, 1];
    Told { dtype, address, axes: 4, lengths, strides, taken, steps: [1; 4], swizzle }
}

fn map(told: &Told) -> Map {
    let mut map = Map([0; 128]);
    told.encode(&mut map).result().unwrap();
    map
}

pub(crate) fn products() {
    let gpu = Gpu::new(0);
    for kind in &KINDS[..7] {
        for right_rows in [false, true] {
            // Others that lie so are multiplied by nobody.
            if !right_rows || kind.bytes == 2 {
                for (m, n, row_bytes) in [(64, 128, 512), (50, 72, 80), (64, 64, 512), (50, 40, 80)] {
                    product(&gpu, kind, (m, n, row_bytes / kind.bytes), right_rows);
                }
            }
        }
    }
    written(&gpu);
}

/// To the nearest of the numbers that a product has, as copies round.
fn copied(kind: &Kind, values: Vec<f64>, bytes: &[u8]) -> Vec<f64> {
    if kind.bytes != 4 {
        return values;
    }
    let floats = bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    floats.map(|bits| f64::from(f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff))).collect()
}

fn product(gpu: &Gpu, kind: &Kind, (m, n, k): (usize, usize, usize), right_rows: bool) {
    let ((a, a_values), (b, b_values)) = (matrix(m * k, 6, kind, kind.a), matrix(n * k, 7, kind, kind.b));
    let (a_values, b_values) = (copied(kind, a_values, &a), copied(kind, b_values, &b));
    let (a_at, b_at) = (gpu.stream.clone_htod(&a).unwrap(), gpu.stream.clone_htod(&b).unwrap());
    let (step, columns) = (128 / kind.bytes, n.next_multiple_of(64));
    let left = map(&told(kind, a_at.device_ptr(&gpu.stream).0, [m, k], [step as u32, 64]));
    let (shape, taken) = if right_rows { ([k, n], 64) } else { ([n, k], columns as u32) };
    let right = map(&told(kind, b_at.device_ptr(&gpu.stream).0, shape, [step as u32, taken]));
    let (name, rows) = (kind.name.replace("mma", "wgmma"), if right_rows { "_rows" } else { "" });
    let definitions = format!(
        "#define WGMMA {name}{rows}\n#define RIGHT_ROWS {}\n#define COLUMNS {columns}\n",
        u8::from(right_rows)
    );
    let shared_bytes = 2 * (64 + columns) * 128 + 32;
    let kernel = gpu.kernel(WIDE_PRODUCT, &definitions, "wide_product");
    allow(&kernel, shared_bytes as i32);
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f32>(m * n) }.unwrap();
    let sizes = [m, n, k.div_ceil(step), step].map(|v| v as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&left).arg(&right);
    launch.arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]).arg(&sizes[3]);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((1, 1, 1), (160, 1, 1), shared_bytes as u32)) }.unwrap();
    let expected = (0..m * n).map(|i| {
        let (row, column) = (i / n, i % n);
        let right = |d: usize| if right_rows { b_values[d * n + column] } else { b_values[column * k + d] };
        (0..k).map(|d| a_values[row * k + d] * right(d)).sum::<f64>()
    });
    let expected = expected.collect::<Vec<_>>();
    assert_near(&format!("{name}{rows} {m} × {n} × {k}"), &gpu.stream.clone_dtoh(&to).unwrap(), &expected);
}

fn allow(kernel: &cudarc::driver::CudaFunction, bytes: i32) {
    let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.set_attribute(which, bytes).unwrap();
}

fn written(gpu: &Gpu) {
    let kind = &KINDS[0];
    let ((a, a_values), (b, b_values)) =
        (matrix(64 * 64, 8, kind, kind.a), matrix(128 * 64, 9, kind, kind.b));
    let (a_at, b_at) = (gpu.stream.clone_htod(&a).unwrap(), gpu.stream.clone_htod(&b).unwrap());
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f32>(64 * 128) }.unwrap();
    let kernel = gpu.kernel(WRITTEN_PRODUCT, "", "written_product");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&a_at).arg(&b_at);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((1, 1, 1), (128, 1, 1), 192 * 128)) }.unwrap();
    let one = |i: usize| (0..64).map(|d| a_values[i / 128 * 64 + d] * b_values[i % 128 * 64 + d]).sum();
    let expected = (0..64 * 128).map(one).collect::<Vec<f64>>();
    assert_near("of what threads wrote", &gpu.stream.clone_dtoh(&to).unwrap(), &expected);
}

/// What no copy could take is refused when the driver is told.
pub(crate) fn refusals() {
    use sys::CUresult::{CUDA_ERROR_INVALID_VALUE as REFUSED, CUDA_SUCCESS as TAKEN};
    let good = told(&KINDS[0], 4096, [100, 72], [64, 128]);
    let mut maps = [Map([0; 128]); 2];
    assert_eq!(good.encode(&mut maps[0]), TAKEN);
    let wrong: [(&str, Told); 10] = [
        ("the address", Told { address: 4104, ..good }),
        ("a stride", Told { strides: [136, 16, 16], ..good }),
        ("a stride that is too large", Told { strides: [144, 1 << 40, 16], ..good }),
        ("more rows than a box has", Told { taken: [64, 257, 1, 1], ..good }),
        ("none", Told { taken: [64, 0, 1, 1], ..good }),
        ("more than the swizzle spans", Told { taken: [128, 64, 1, 1], ..good }),
        ("what is no multiple of 16 bytes", Told { taken: [60, 64, 1, 1], ..good }),
        ("no elements", Told { lengths: [72, 0, 1, 1], ..good }),
        ("steps", Told { steps: [1, 9, 1, 1], ..good }),
        ("axes", Told { axes: 6, ..good }),
    ];
    for (what, told) in wrong {
        assert_eq!(told.encode(&mut maps[0]), REFUSED, "{what}");
    }
    windows(&good);
    // SAFETY: within the two maps.
    let between = unsafe { maps.as_mut_ptr().byte_add(32) };
    assert_eq!(good.encode(between), REFUSED, "where the map lies");
}

/// The same of windows: where they may begin, and how many pixels a copy takes.
fn windows(told: &Told) {
    let encode = |axes: u32, lower: [i32; 3], channels: u32, pixels: u32| {
        let mut map = Map([0; 128]);
        // SAFETY: as above; there are as many corners as a tensor can have.
        unsafe {
            sys::cuTensorMapEncodeIm2col(
                std::ptr::from_mut(&mut map).cast(),
                told.dtype,
                axes,
                told.address as *mut _,
                told.lengths.as_ptr(),
                told.strides.as_ptr(),
                lower.as_ptr(),
                [0; 3].as_ptr(),
                channels,
                pixels,
                told.steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                told.swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    };
    use sys::CUresult::{CUDA_ERROR_INVALID_VALUE as REFUSED, CUDA_SUCCESS as TAKEN};
    let rows = [
        (4, [-128, 127, 0], 64, 256, TAKEN),
        (3, [-32768, 0, 0], 64, 1024, TAKEN),
        (4, [-129, 0, 0], 64, 256, REFUSED),
        (4, [0, 128, 0], 64, 256, REFUSED),
        (4, [0; 3], 128, 256, REFUSED),
        (4, [0; 3], 60, 256, REFUSED),
        (4, [0; 3], 64, 1025, REFUSED),
        (4, [0; 3], 64, 0, REFUSED),
        (2, [0; 3], 64, 256, REFUSED),
    ];
    for (axes, lower, channels, pixels, expected) in rows {
        let got = encode(axes, lower, channels, pixels);
        assert_eq!(got, expected, "{axes} axes from {lower:?}, {channels} channels of {pixels} pixels");
    }
}
