//! Quantised tensors: products of integers, on tensor cores and without them, and graphs of Q/DQ pairs, to the bit where ONNX Runtime computes on integers.

use std::path::Path;

use super::{
    ONLY, SCHEDULES, compare_within, difference, everywhere, gpus, inputs_of, launched, on_all_tensor_cores,
    run,
};
use crate::cpu::CpuBackend;
use crate::gpu::GpuBackend;
use crate::graph::encode;
use crate::model::{Model, ReadLimits};
use crate::quantize::{Calibration, Quantized, Scheme, quantize, quantize_float8};
use crate::scoring::{Backend, Call, CompileOptions, Precision};
use crate::tensor::{DType, Tensor};

/// Sums of integers.
const SUMS: &[&str] = &[
    "x: u8[3, 70]\nw: i8[70, 5]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 3, 7]\nw: u8[7, 5]\nz: u8[]\nv = u8[] 9\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[1, 3, 6, 6]\nw: u8[4, 3, 3, 3]\nz = u8[] 120\nv = u8[] 7\na = ConvInteger<pads=[1, 1, 1, 1]>(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[3, 40]\na, s, z = DynamicQuantizeLinear(x)\ny = DequantizeLinear(a, s, z)\n-> y",
    "x: u8[2, 3, 6, 6]\nw = i8[18, 3, 3, 3] 1 -2 3 -128 127\nz: u8[]\na = ConvInteger<pads=[1, 1, 1, 1]>(x, w, z)\nb = ConvInteger<auto_pad=SAME_LOWER, strides=[2, 2]>(x, w)\nc = Cast<to=1>(a)\nd = Cast<to=1>(b)\ne = GlobalAveragePool(d)\ny = Add(c, e)\n-> y",
    "x: u8[2, 32, 9, 9]\nw: i8[34, 16, 3, 3]\nz = u8[] 9\na = ConvInteger<group=2, pads=[1, 1, 1, 1]>(x, w, z)\nb = Cast<to=1>(a)\nh: u8[34, 3, 3, 3]\nk: u8[2, 3, 5, 5]\nc = ConvInteger<pads=[0, 1, 1, 0]>(k, h, z)\nd = Cast<to=1>(c)\ne = GlobalAveragePool(d)\ny = Add(b, e)\n-> y",
    // On tensor cores: every pair of types, full and partial tiles, batches, constants and what is computed, zero points of both sides.
    "x: u8[2, 70, 80]\nw = i8[80, 72] 1 -2 3 -128 127\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[70, 48]\nw: i8[48, 33]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[70, 48]\nw: u8[48, 33]\nz: u8[]\nv: u8[]\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[2, 3, 5, 32]\nw: u8[2, 3, 32, 24]\nz: i8[]\nv: u8[]\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[130, 64]\nw = u8[64, 150] 1 2 255 128 0 7\nz = u8[] 200\nv = u8[] 128\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[9, 48]\nw: u8[48, 33]\nz: u8[]\nv: u8[]\na = MatMulInteger(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    // What Hopper has of its own: every pair of types, several stages, few columns and many, columns that are no fours.
    "x: i8[150, 640]\nw = i8[640, 137] 1 -2 3 -128 127\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[150, 400]\nw = u8[400, 50] 1 255 130 128 0 7\nz = u8[] 3\na = MatMulInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[500, 144]\nw = i8[144, 136] 1 -2 3 -128 127\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[2, 70, 1040]\nw: u8[2, 1040, 72]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 128, 13, 11]\nw = i8[72, 128, 3, 2] 1 -2 3 -128 127\nz = u8[] 9\na = ConvInteger<dilations=[1, 3], strides=[2, 1]>(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[2, 256, 9, 9]\nw = i8[136, 128, 3, 3] 1 -2 3 -128 127\na = ConvInteger<group=2, pads=[1, 1, 1, 1]>(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[20, 1712]\nw = i8[1712, 48] 1 -2 3 -128 127\nz = u8[] 3\na = MatMulInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[5, 32]\nq, s, z = DynamicQuantizeLinear(x)\nw = i8[32, 20] 1 -2 3 -128 127\na = MatMulInteger(q, w, z)\nf = Cast<to=1>(a)\nb = f32[] 0.01\nt = Mul(s, b)\nc = Mul(f, t)\nd = f32[20] 1 2 3\ne = Add(c, d)\ny = Relu(e)\n-> y",
    // A convolution's padding is its zero point; of pixels in pieces, of three channels, of groups, of one pixel.
    "x: u8[2, 16, 9, 10]\nw = i8[72, 16, 3, 2] 1 -2 3 -128 127\nz = u8[] 117\na = ConvInteger<dilations=[1, 3], pads=[2, 0, 0, 1]>(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 3, 19, 17]\nw = u8[20, 3, 3, 3] 1 255 130 128 0 7\nz = u8[] 3\nv = u8[] 128\na = ConvInteger<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, z, v)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 32, 9, 9]\nw: u8[36, 16, 3, 3]\nz: u8[]\na = ConvInteger<group=2, pads=[1, 1, 1, 1]>(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[3, 16, 6, 6]\nw = u8[18, 16, 1, 1] 1 255 3\nz = u8[] 9\na = ConvInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y",
];

/// Operators that ONNX Runtime has on integers.
const REQUANTISED: &[&str] = &[
    "x: u8[2, 3, 40]\ns = f32[] 0.5\nz = u8[] 100\nw: u8[3, 40]\nt = f32[] 0.25\nu = f32[] 1.0\no = u8[] 77\ny = com.microsoft.QLinearAdd(x, s, z, w, t, o, u, o)\n-> y: u8[?]",
    "x: i8[2, 3, 40]\ns = f32[] 0.07\nz = i8[] -100\nw: i8[2, 3, 40]\nt = f32[] 0.11\nu = f32[] 0.13\no = i8[] 7\ny = com.microsoft.QLinearAdd(x, s, z, w, t, o, u, z)\n-> y: i8[?]",
    "x: u8[2, 3, 40]\ns = f32[] 0.5\nz = u8[] 100\nw: u8[2, 3, 40]\nt = f32[] 0.25\nu = f32[] 32.0\no = u8[] 77\ny = com.microsoft.QLinearMul(x, s, z, w, t, o, u, o)\n-> y: u8[?]",
    "x: i8[40, 48]\ns = f32[] 0.1\nz = i8[] -3\nw = i8[48, 20] 1 -2 3 -128 127\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nu = f32[] 90\ny = QLinearMatMul(x, s, z, w, t, v, u, z)\n-> y: i8[?]",
    "x: u8[3, 70]\ns = f32[] 0.1\nz = u8[] 3\nw: u8[70, 5]\nt = f32[] 0.3\nu = f32[] 900\ny = QLinearMatMul(x, s, z, w, t, z, u, z)\n-> y: u8[?]",
    "x: u8[40, 48]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[48, 20] 1 -2 3 -128 127\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nu = f32[] 90\no = u8[] 100\ny = QLinearMatMul(x, s, z, w, t, v, u, o)\n-> y: u8[?]",
    "x: u8[1, 3, 6, 6]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[20, 3, 3, 3] 1 2 3 -4 5\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nu = f32[] 9\nb = i32[20] 5 -6\ny = QLinearConv<pads=[1, 1, 1, 1]>(x, s, z, w, t, v, u, z, b)\n-> y: u8[?]",
    "x: u8[2, 32, 9, 9]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[36, 16, 3, 3] 1 2 3 -4 5 -128 127\nt = f32[36] 0.3 0.2 0.1\nv = i8[36] 0\nu = f32[] 30\nb = i32[36] 500 -600\ny = QLinearConv<group=2, pads=[1, 0, 1, 2], strides=[2, 1]>(x, s, z, w, t, v, u, z, b)\n-> y: u8[?]",
    "x: u8[2, 4, 9, 9]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[4, 1, 3, 3] 1 2 3 -4 5 -128 127\nt = f32[4] 0.3 0.2 0.1\nv = i8[4] 0\nu = f32[] 3\ny = QLinearConv<group=4, pads=[1, 1, 1, 1]>(x, s, z, w, t, v, u, z)\n-> y: u8[?]",
    "x: u8[9, 64]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[10, 64] 1 2 3 -4 5 -128 127\nt = f32[10] 0.3 0.2 0.1\nv = i8[10] 0\nb = i32[10] 500 -600\ny = com.microsoft.QGemm<transB=1>(x, s, z, w, t, v, b)\n-> y: f32[?]",
    "x: u8[9, 64]\ns = f32[] 0.1\nz = u8[] 100\nw = i8[64, 10] 1 2 3 -4 5 -128 127\nt = f32[10] 0.3 0.2 0.1\nv = i8[10] 0\nb = i32[10] 500 -600\nu = f32[] 70\ny = com.microsoft.QGemm(x, s, z, w, t, v, b, u, z)\n-> y: u8[?]",
];

const IMAGE: &str = "x: u8[2, 16, 9, 9]\nz = u8[] 117\ns = f32[] 0.03\nxf = DequantizeLinear(x, s, z)\nw = i8[20, 16, 3, 3] 1 -2 3 -128 127 0 4\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nwf = DequantizeLinear<axis=0>(w, t, v)\nbi = i32[20] 500 -600 7\nbt = f32[20] 0.009 0.006 0.003\nbf = DequantizeLinear<axis=0>(bi, bt, _)\nu = f32[] 9\no = u8[] 100";
const ROWS: &str = "x: u8[2, 9, 64]\nz = u8[] 117\ns = f32[] 0.03\nxf = DequantizeLinear(x, s, z)\nw = i8[64, 20] 1 -2 3 -128 127 0 4\nt = f32[20] 0.3 0.2 0.1\nv = i8[20] 0\nwf = DequantizeLinear<axis=1>(w, t, v)\nu = f32[] 9\no = u8[] 100";

/// Behind one of the two beginnings: what a quantiser writes, with every end, the kernels that compute it, and how far it may be from ONNX Runtime.
const PAIRS: &[(&str, &str, &[&str], f64)] = &[
    // Requantised: to the bit.
    (
        IMAGE,
        "a = Conv<pads=[1, 1, 1, 1]>(xf, wf, bf)\ny = QuantizeLinear(a, u, o)\n-> y: u8[?]",
        &["map", "conv_tensor", "map"],
        0.0,
    ),
    (
        IMAGE,
        "a = Conv<strides=[2, 1]>(xf, wf)\nr = Relu(a)\nn = u8[] 0\nq = QuantizeLinear(r, u, n)\ny = DequantizeLinear(q, u, n)\n-> y",
        &["map", "conv_tensor", "map"],
        1e-6,
    ),
    (
        IMAGE,
        "six = f32[] 600\na = Conv(xf, wf, bf)\nr = Clip(a, _, six)\ny = QuantizeLinear(r, u, o)\n-> y: u8[?]",
        &["map", "conv_tensor", "map"],
        0.0,
    ),
    // A float bias, a residual that is not quantised, a result that stays a float: floats, of exact sums.
    (
        IMAGE,
        "b = f32[20] 0.5 -3 4\na = Conv<pads=[1, 1, 1, 1]>(xf, wf, b)\ny = Sigmoid(a)\n-> y",
        &["map", "conv_tensor", "map"],
        1e-5,
    ),
    (
        IMAGE,
        "r: f32[2, 20, 7, 7]\na = Conv(xf, wf, bf)\nc = Add(a, r)\ny = Relu(c)\n-> y",
        &["map", "conv_tensor", "map"],
        1e-5,
    ),
    // Two in a row, and what was before the first one behind the second.
    (
        IMAGE,
        "a = Conv<pads=[1, 1, 1, 1]>(xf, wf, bf)\nr = Relu(a)\nq = QuantizeLinear(r, u, o)\nd = DequantizeLinear(q, u, o)\nk = i8[16, 20, 1, 1] 3 -5 100 -100 20\nkt = f32[] 0.01\nkf = DequantizeLinear(k, kt, _)\nb = Conv(d, kf)\nc = Add(b, xf)\ne = Relu(c)\np = GlobalAveragePool(e)\ny = Flatten(p)\n-> y",
        &["map", "conv_tensor", "map", "map", "gemm_tensor", "map", "reduce_columns"],
        1e-5,
    ),
    // What is added to a requantised convolution and requantised again: one kernel, to the bit.
    (
        IMAGE,
        "a = Conv<pads=[1, 1, 1, 1]>(xf, wf, bf)\nq = QuantizeLinear(a, u, o)\nd = DequantizeLinear(q, u, o)\nf: u8[2, 20, 9, 9]\nff = DequantizeLinear(f, u, o)\nc = Add(d, ff)\nr = Relu(c)\ny = QuantizeLinear(r, u, o)\n-> y: u8[?]",
        &["map", "conv_tensor", "map"],
        0.0,
    ),
    // Maxima are taken of integers.
    (
        IMAGE,
        "m = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(xf)\nq = QuantizeLinear(m, s, z)\nd = DequantizeLinear(q, s, z)\na = Conv(d, wf, bf)\ny = QuantizeLinear(a, u, o)\n-> y: u8[?]",
        &["map", "max_pool", "conv_tensor", "map"],
        0.0,
    ),
    (ROWS, "a = MatMul(xf, wf)\ny = QuantizeLinear(a, u, o)\n-> y: u8[?]", &["gemm_tensor"], 0.0),
    (
        ROWS,
        "b = f32[20] 0.5 -3 4\na = MatMul(xf, wf)\nc = Add(a, b)\ny = Gelu(c)\n-> y",
        &["gemm_tensor"],
        1e-5,
    ),
    (
        ROWS,
        "a = Transpose<perm=[0, 2, 1]>(xf)\nq = QuantizeLinear(a, s, z)\nd = DequantizeLinear(q, s, z)\nb = MatMul(xf, d)\ny = QuantizeLinear(b, u, o)\n-> y: u8[?]",
        &["reduce_rows", "reduce_rows", "gemm_tensor"],
        0.0,
    ),
    (
        ROWS,
        "h = i64[2] 18 64\na = Reshape(xf, h)\nq = QuantizeLinear(a, s, z)\nd = DequantizeLinear(q, s, z)\nbi = i32[20] 500 -600 7\nbt = f32[20] 0.009 0.006 0.003\nbf = DequantizeLinear<axis=0>(bi, bt, _)\ny = Gemm(d, wf, bf)\n-> y",
        &["gemm_tensor"],
        1e-6,
    ),
    // What cannot be said in integers stays floats: 16 bits, a scale that is computed.
    (
        ROWS,
        "f: u16[2, 9, 64]\nff = DequantizeLinear(f, s, _)\ny = MatMul(ff, wf)\n-> y",
        &["map", "gemm_float"],
        1e-5,
    ),
    (
        ROWS,
        "f: f32[]\nff = Abs(f)\nfd = DequantizeLinear(x, ff, z)\ny = MatMul(fd, wf)\n-> y",
        &["map", "gemm_float"],
        1e-5,
    ),
];

#[test]
fn pairs_become_integers_and_are_what_they_are_elsewhere() {
    everywhere(
        "gpu::suite::quantised::pairs_become_integers_and_are_what_they_are_elsewhere",
        &SCHEDULES[..2],
        || {
            let only = std::env::var(ONLY).unwrap_or_default();
            let mut failures = Vec::new();
            for (begin, end, kernels, tolerance) in PAIRS.iter().filter(|(_, end, ..)| end.contains(&only)) {
                let text = format!("{begin}\n{end}");
                for device in &gpus() {
                    let wrong = compare_within(device, &text, Precision::F32, 3, Some(*tolerance));
                    failures.extend(wrong.map(|what| format!("{what}\n{end}")));
                }
                // Products of integers are so whatever floats are multiplied as.
                let launched = launched(&text, Precision::F32);
                if launched != *kernels {
                    failures.push(format!("{launched:?}\n{end}"));
                }
            }
            assert!(failures.is_empty(), "{}", failures.join("\n\n"));
        },
    );
}

#[test]
fn sums_of_integers_are_what_they_are_elsewhere() {
    on_all_tensor_cores("gpu::suite::quantised::sums_of_integers_are_what_they_are_elsewhere", || {
        run(SUMS, &[Precision::F32]);
    });
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

/// A model of `models/`, how far it may be from ONNX Runtime, of the largest number, and in which precisions.
type Whole = (&'static str, f64, &'static [Precision]);

/// Products and maxima are the same integers in all precisions; what there is besides is computed with floats, and may be a step away where it is requantised.
const OF_INTEGERS: &[Whole] = &[
    ("digits_mlp", 1e-6, &[Precision::F32, Precision::Bf16]),
    ("digits_cnn", 1e-6, &[Precision::F32, Precision::Bf16]),
    ("digits_res", 1e-2, &[Precision::F32]),
    ("digits_vit", 1e-2, &[Precision::F32]),
];

/// Sums are floats, in another order, so what is quantised next may be a step away: an eighth of a number, of one among many.
const OF_FLOAT8: &[Whole] = &[
    ("digits_mlp", 1e-2, &[Precision::F32]),
    ("digits_cnn", 1e-2, &[Precision::F32]),
    ("digits_res", 2e-2, &[Precision::F32]),
    ("digits_vit", 2e-2, &[Precision::F32]),
];

/// Holds models, quantised, to ONNX Runtime.
fn run_quantised(wholes: &[Whole], quantised: impl Fn(&Model, &[Vec<Tensor>], &CpuBackend) -> Quantized) {
    let (cpu, mut failures) = (CpuBackend::new(), Vec::new());
    for (name, tolerance, precisions) in wholes {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
        let model = Model::open(folder.join("model.onnx")).unwrap();
        let samples = (1..9).map(|seed| inputs_of(&model, seed)).collect::<Vec<_>>();
        let bytes = encode(&quantised(&model, &samples, &cpu).model).unwrap();
        let model = Model::from_bytes(bytes, &ReadLimits::default()).unwrap();
        for precision in *precisions {
            let options = CompileOptions {
                lanes: Some(1),
                skip_tuning: true,
                precision: *precision,
                ..CompileOptions::default()
            };
            let theirs = cpu.compile(&model, &cpu.probe().unwrap(), &options).unwrap();
            let ours = GpuBackend::new().guarded().compile(&model, &gpus()[..1], &options).unwrap();
            for inputs in &samples[..2] {
                let theirs = theirs.score(inputs, &Call::new()).unwrap();
                let ours = ours.score(inputs, &Call::new()).unwrap();
                let wrong = difference(ours.tensor(0).unwrap(), theirs.tensor(0).unwrap(), *tolerance);
                failures.extend(wrong.map(|what| format!("{name} {precision:?}: {what}")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn quantised_models_are_what_they_are_elsewhere() {
    everywhere(
        "gpu::suite::quantised::quantised_models_are_what_they_are_elsewhere",
        &SCHEDULES[..1],
        || {
            let (scheme, calibration) = (Scheme::default(), Calibration::MinMax);
            run_quantised(OF_INTEGERS, |model, samples, cpu| {
                quantize(model, samples, &scheme, calibration, cpu, &|_, _, _| {}).unwrap()
            });
            run_quantised(OF_FLOAT8, |model, samples, cpu| {
                let dtype = DType::F8E4M3;
                quantize_float8(model, samples, dtype, &scheme, calibration, cpu, &|_, _, _| {}).unwrap()
            });
        },
    );
}
