//! Products on tensor cores, of every kind, against f64; exactly, where elements are integers.

use cudarc::driver::PushKernelArg;

use super::inside::{Gpu, assert_near, grid, noise};
use super::sources::{PRODUCT, TRANSPOSED_PRODUCT};
use triscore::tensor::{F8E4M3, F8E5M2};

/// Elements of a kind: how many bytes each, and one's bits and value, from a number between -1 and 1.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    is_integer: bool,
    pub(crate) a: fn(f32) -> (u32, f64),
    pub(crate) b: fn(f32) -> (u32, f64),
}

/// To 8 bits behind the point, so that it is one in every type.
fn rounded(x: f32) -> f32 {
    (x * 128.0).round() / 128.0
}

fn f16(x: f32) -> (u32, f64) {
    let value = rounded(x);
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let half = match value == 0.0 {
        true => 0,
        false => bits >> 16 & 0x8000 | (exponent as u32) << 10 | bits >> 13 & 0x3ff,
    };
    (half, f64::from(value))
}

fn bf16(x: f32) -> (u32, f64) {
    let value = rounded(x);
    (value.to_bits() >> 16, f64::from(value))
}

/// All of its bits are given; the product takes 10 of its fraction.
fn tf32(x: f32) -> (u32, f64) {
    (x.to_bits(), f64::from(f32::from_bits(x.to_bits() & !0x1fff)))
}

/// To so few bits that no sum of theirs loses any.
fn e4m3(x: f32) -> (u32, f64) {
    let value = (x * 8.0).round() / 8.0;
    (F8E4M3::from_f32(value).to_bits().into(), f64::from(value))
}

fn e5m2(x: f32) -> (u32, f64) {
    let value = (x * 4.0).round() / 4.0;
    (F8E5M2::from_f32(value).to_bits().into(), f64::from(value))
}

fn one(_: f32) -> (u32, f64) {
    e4m3(1.0)
}

fn signed(x: f32) -> (u32, f64) {
    let value = (x * 128.0).floor() as i8;
    (u32::from(value as u8), f64::from(value))
}

fn unsigned(x: f32) -> (u32, f64) {
    let value = ((x + 1.0) * 127.0) as u8;
    (u32::from(value), f64::from(value))
}

pub(crate) const KINDS: [Kind; 11] = [
    Kind { name: "mma_f16", bytes: 2, is_integer: false, a: f16, b: f16 },
    Kind { name: "mma_bf16", bytes: 2, is_integer: false, a: bf16, b: bf16 },
    Kind { name: "mma_tf32", bytes: 4, is_integer: false, a: tf32, b: tf32 },
    Kind { name: "mma_e4m3", bytes: 1, is_integer: false, a: e4m3, b: e4m3 },
    Kind { name: "mma_e5m2", bytes: 1, is_integer: false, a: e5m2, b: e5m2 },
    Kind { name: "mma_e4m3e5m2", bytes: 1, is_integer: false, a: e4m3, b: e5m2 },
    Kind { name: "mma_e5m2e4m3", bytes: 1, is_integer: false, a: e5m2, b: e4m3 },
    Kind { name: "mma_s8", bytes: 1, is_integer: true, a: signed, b: signed },
    Kind { name: "mma_u8s8", bytes: 1, is_integer: true, a: unsigned, b: signed },
    Kind { name: "mma_s8u8", bytes: 1, is_integer: true, a: signed, b: unsigned },
    Kind { name: "mma_u8", bytes: 1, is_integer: true, a: unsigned, b: unsigned },
];

pub(crate) fn every_kind() {
    let gpu = Gpu::new(0);
    for kind in &KINDS {
        for (m, n, row_bytes) in [(16, 16, 32), (5, 19, 112), (33, 8, 160)] {
            for is_by_hand in [false, true] {
                product(&gpu, kind, (m, n, row_bytes / kind.bytes), is_by_hand);
            }
        }
    }
    transposed(&gpu);
    // Of floats of 8 bits as few bits are kept as any GPU keeps: 32 more are nothing to 2^14.
    let kind = Kind { name: "mma_e4m3", bytes: 1, is_integer: false, a: one, b: one };
    let got = multiplied(&gpu, &kind, (1, 1, 20_000), false).0;
    assert_eq!(got.iter().map(|v| f32::from_bits(*v)).collect::<Vec<_>>(), [16_384.0]);
}

/// A matrix as a kernel reads it, and its values.
pub(crate) fn matrix(
    count: usize,
    seed: u32,
    kind: &Kind,
    element: fn(f32) -> (u32, f64),
) -> (Vec<u8>, Vec<f64>) {
    let elements = noise(count, seed).into_iter().map(element).collect::<Vec<_>>();
    let bytes = elements.iter().flat_map(|(bits, _)| bits.to_le_bytes()[..kind.bytes].to_vec());
    (bytes.collect(), elements.iter().map(|(_, value)| *value).collect())
}

/// The sums' bits, and what they should be.
fn multiplied(
    gpu: &Gpu,
    kind: &Kind,
    (m, n, k): (usize, usize, usize),
    is_by_hand: bool,
) -> (Vec<u32>, Vec<f64>) {
    let ((a, a_values), (b, b_values)) = (matrix(m * k, 6, kind, kind.a), matrix(n * k, 7, kind, kind.b));
    let (a_at, b_at) = (gpu.stream.clone_htod(&a).unwrap(), gpu.stream.clone_htod(&b).unwrap());
    let sum = if kind.is_integer { "int" } else { "float" };
    let definitions =
        format!("#define MMA {}\n#define SUM {sum}\n#define BY_HAND {}\n", kind.name, u8::from(is_by_hand));
    let kernel = gpu.kernel(PRODUCT, &definitions, "product");
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<u32>(m * n) }.unwrap();
    let sizes = [m, n, k * kind.bytes].map(|v| v as i32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&a_at).arg(&b_at).arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]);
    let blocks = (n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid(blocks, (64, 1, 1), 2048)) }.unwrap();
    let got = gpu.stream.clone_dtoh(&to).unwrap();
    let expected = (0..m * n).map(|i| {
        let (row, column) = (&a_values[i / n * k..][..k], &b_values[i % n * k..][..k]);
        row.iter().zip(column).map(|(a, b)| a * b).sum::<f64>()
    });
    (got, expected.collect())
}

fn product(gpu: &Gpu, kind: &Kind, (m, n, k): (usize, usize, usize), is_by_hand: bool) {
    let (got, expected) = multiplied(gpu, kind, (m, n, k), is_by_hand);
    let what = format!("{} {m} × {n} × {k}", kind.name);
    match kind.is_integer {
        true => {
            let got = got.iter().map(|v| f64::from(*v as i32)).collect::<Vec<_>>();
            assert_eq!(got, expected, "{what}");
        }
        false => {
            assert_near(&what, &got.iter().map(|v| f32::from_bits(*v)).collect::<Vec<_>>(), &expected);
        }
    }
}

fn transposed(gpu: &Gpu) {
    let ((a, a_values), (b, b_values)) =
        (matrix(16 * 16, 8, &KINDS[0], f16), matrix(16 * 8, 9, &KINDS[0], f16));
    let (a_at, b_at) = (gpu.stream.clone_htod(&a).unwrap(), gpu.stream.clone_htod(&b).unwrap());
    // SAFETY: written whole by the kernel.
    let mut to = unsafe { gpu.stream.alloc::<f32>(16 * 8) }.unwrap();
    let kernel = gpu.kernel(TRANSPOSED_PRODUCT, "", "transposed_product");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut to).arg(&a_at).arg(&b_at);
    // SAFETY: the arguments are the kernel's, the sizes those of the memory.
    unsafe { launch.launch(grid((1, 1, 1), (32, 1, 1), 0)) }.unwrap();
    let one = |i: usize| (0..16).map(|k| a_values[k * 16 + i / 8] * b_values[k * 8 + i % 8]).sum::<f64>();
    let expected = (0..16 * 8).map(one).collect::<Vec<_>>();
    assert_near("of what lies the other way round", &gpu.stream.clone_dtoh(&to).unwrap(), &expected);
}
