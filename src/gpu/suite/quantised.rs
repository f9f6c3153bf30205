//! Quantised tensors: products of integers, on tensor cores and without them, and graphs of Q/DQ pairs, to the bit where ONNX Runtime computes on integers.

use super::{SCHEDULES, everywhere, run};
use crate::scoring::Precision;

/// Sums of integers.
const SUMS: &[&str] = &[
    "x: u8[3, 70]\nw: i8[70, 5]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 3, 7]\nw: u8[7, 5]\nz: u8[]\nv = u8[] 9\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[1, 3, 6, 6]\nw: u8[4, 3, 3, 3]\nz = u8[] 120\nv = u8[] 7\na = ConvInteger<pads=[1, 1, 1, 1]>(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[3, 40]\na, s, z = DynamicQuantizeLinear(x)\ny = DequantizeLinear(a, s, z)\n-> y",
    // On tensor cores: every pair of types, full and partial tiles, batches, constants and what is computed, zero points of both sides.
    "x: u8[2, 70, 80]\nw = i8[80, 72] 1 -2 3 -128 127\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[70, 48]\nw: i8[48, 33]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[70, 48]\nw: u8[48, 33]\nz: u8[]\nv: u8[]\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[2, 3, 5, 32]\nw: u8[2, 3, 32, 24]\nz: i8[]\nv: u8[]\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[130, 64]\nw = u8[64, 150] 1 2 255 128 0 7\nz = u8[] 200\nv = u8[] 128\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[5, 32]\nq, s, z = DynamicQuantizeLinear(x)\nw = i8[32, 20] 1 -2 3 -128 127\na = MatMulInteger(q, w, z)\nf = Cast<to=1>(a)\nb = f32[] 0.01\nt = Mul(s, b)\nc = Mul(f, t)\nd = f32[20] 1 2 3\ne = Add(c, d)\ny = Relu(e)\n-> y",
    // A convolution's padding is its zero point; of pixels in pieces, of three channels, of groups, of one pixel.
    "x: u8[2, 16, 9, 10]\nw = i8[72, 16, 3, 2] 1 -2 3 -128 127\nz = u8[] 117\na = ConvInteger<dilations=[1, 3], pads=[2, 0, 0, 1]>(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 3, 19, 17]\nw = u8[20, 3, 3, 3] 1 255 130 128 0 7\nz = u8[] 3\nv = u8[] 128\na = ConvInteger<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 32, 9, 9]\nw: u8[36, 16, 3, 3]\nz: u8[]\na = ConvInteger<group=2, pads=[1, 1, 1, 1]>(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[3, 16, 6, 6]\nw = u8[18, 16, 1, 1] 1 255 3\nz = u8[] 9\na = ConvInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y",
];

/// Operators that ONNX Runtime has on integers.
const REQUANTISED: &[&str] = &[
    "x: u8[3, 70]\ns = f32[] 0.1\nz = u8[] 3\nw: u8[70, 5]\nt = f32[] 0.3\nu = f32[] 900\ny = QLinearMatMul(x, s, z, w, t, z, u, z)\n-> y: u8[?]",
    "x: u8[40, 48]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[48, 20] 1 -2 3 -128 127\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nu = f32[] 90\no = u8[] 100\ny = QLinearMatMul(x, s, z, w, t, v, u, o)\n-> y: u8[?]",
    "x: u8[1, 3, 6, 6]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[20, 3, 3, 3] 1 2 3 -4 5\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nu = f32[] 9\nb = i32[20] 5 -6\ny = QLinearConv<pads=[1, 1, 1, 1]>(x, s, z, w, t, v, u, z, b)\n-> y: u8[?]",
    "x: u8[2, 32, 9, 9]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[36, 16, 3, 3] 1 2 3 -4 5 -128 127\nt = f32[36] 0.3 0.2 0.1\nv = i8[36] 0\nu = f32[] 30\nb = i32[36] 500 -600\ny = QLinearConv<group=2, pads=[1, 0, 1, 2], strides=[2, 1]>(x, s, z, w, t, v, u, z, b)\n-> y: u8[?]",
    "x: u8[2, 4, 9, 9]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[4, 1, 3, 3] 1 2 3 -4 5 -128 127\nt = f32[4] 0.3 0.2 0.1\nv = i8[4] 0\nu = f32[] 3\ny = QLinearConv<group=4, pads=[1, 1, 1, 1]>(x, s, z, w, t, v, u, z)\n-> y: u8[?]",
    "x: u8[9, 64]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[10, 64] 1 2 3 -4 5 -128 127\nt = f32[10] 0.3 0.2 0.1\nv = i8[10] 0\nb = i32[10] 500 -600\ny = com.microsoft.QGemm<transB=1>(x, s, z, w, t, v, b)\n-> y: f32[?]",
    "x: u8[9, 64]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[64, 10] 1 2 3 -4 5 -128 127\nt = f32[10] 0.3 0.2 0.1\nv = i8[10] 0\nb = i32[10] 500 -600\nu = f32[] 70\ny = com.microsoft.QGemm(x, s, z, w, t, v, b, u, z)\n-> y: u8[?]",
];

#[test]
fn sums_of_integers_are_what_they_are_elsewhere() {
    everywhere(
        "gpu::suite::quantised::sums_of_integers_are_what_they_are_elsewhere",
        &SCHEDULES[..2],
        || {
            run(SUMS, &[Precision::F32]);
        },
    );
}

#[test]
fn requantised_products_are_what_they_are_elsewhere() {
    everywhere(
        "gpu::suite::quantised::requantised_products_are_what_they_are_elsewhere",
        &SCHEDULES[..1],
        || {
            run(REQUANTISED, &[Precision::F32, Precision::Bf16]);
        },
    );
}
