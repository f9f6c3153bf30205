//! Every operator and every way in which kernels are put together, on every GPU that is there and on the emulated one, against ONNX Runtime.
//!
//! A process binds to one driver, so each test runs itself again in processes of their own: one for every order of threads and every time of
//! work of the emulated driver (`hardware-tests/cuda-emulator`). Where there is neither a GPU nor a compiler for the emulated one, it says so.

mod convolutions;
#[path = "../../hardware-tests/emulated.rs"]
mod emulated;
mod library;
mod moves;
mod quantised;

use emulated::{SCHEDULES, again, driver, in_schedules, is_inside, passes};

use super::GpuBackend;
use crate::cpu::CpuBackend;
use crate::graph::testing::{model_of, read};
use crate::model::Model;
use crate::scoring::{Backend, Call, CompileOptions, Device, Precision};
use crate::signature::{Dim, PortKind};
use crate::tensor::{DType, Tensor};

fn gpus() -> Vec<Device> {
    GpuBackend::new().probe().unwrap_or_default()
}

/// Numbers that are the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Floats in -1..1, all bytes, wider integers from 0 to 3, truth values.
    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let floats = (0..count).map(|_| self.next()).collect::<Vec<_>>();
        let whole = floats.iter().map(|v| (v.abs() * 4.0) as i64).collect::<Vec<_>>();
        match dtype {
            DType::F32 => Tensor::from_slice(shape, &floats),
            DType::F64 => {
                Tensor::from_slice(shape, &floats.iter().map(|v| f64::from(*v)).collect::<Vec<_>>())
            }
            DType::F16 => {
                Tensor::from_slice(shape, &floats.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>())
            }
            DType::I64 => Tensor::from_slice(shape, &whole),
            DType::I32 => Tensor::from_slice(shape, &whole.iter().map(|v| *v as i32).collect::<Vec<_>>()),
            DType::U16 => Tensor::from_slice(shape, &whole.iter().map(|v| *v as u16).collect::<Vec<_>>()),
            DType::I8 => Tensor::from_slice(
                shape,
                &floats.iter().map(|v| (v * 128.0).floor() as i8).collect::<Vec<_>>(),
            ),
            DType::U8 => Tensor::from_slice(
                shape,
                &floats.iter().map(|v| (v * 128.0 + 128.0) as u8).collect::<Vec<_>>(),
            ),
            DType::Bool => Tensor::from_slice(shape, &floats.iter().map(|v| *v > 0.0).collect::<Vec<_>>()),
            other => panic!("no noise of {}", other.name()),
        }
        .unwrap()
    }
}

/// Elements as floats, whatever they are.
fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>().unwrap().iter().map(|v| f64::from(*v)).collect(),
        DType::F64 => tensor.as_slice::<f64>().unwrap().to_vec(),
        DType::F16 => tensor.as_slice::<half::f16>().unwrap().iter().map(|v| v.to_f64()).collect(),
        DType::I64 => tensor.as_slice::<i64>().unwrap().iter().map(|v| *v as f64).collect(),
        DType::I32 => tensor.as_slice::<i32>().unwrap().iter().map(|v| f64::from(*v)).collect(),
        _ => tensor.as_bytes().iter().map(|v| f64::from(*v)).collect(),
    }
}

/// What is different; nothing if it is near. Differences are measured against the largest number, as sums round.
fn difference(got: &Tensor, expected: &Tensor, tolerance: f64) -> Option<String> {
    if (got.dtype(), got.shape()) != (expected.dtype(), expected.shape()) {
        return Some(format!(
            "{} {:?}, not {} {:?}",
            got.dtype().name(),
            got.shape(),
            expected.dtype().name(),
            expected.shape()
        ));
    }
    let (got, expected) = (floats(got), floats(expected));
    let scale = expected.iter().filter(|v| v.is_finite()).fold(1f64, |most, v| most.max(v.abs()));
    let is_near = |g: f64, e: f64| g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= tolerance * scale;
    let at = got.iter().zip(&expected).position(|(g, e)| !is_near(*g, *e))?;
    Some(format!("element {at} is {}, not {}", got[at], expected[at]))
}

/// Runs a model that is written as text on a GPU and in ONNX Runtime; what is wrong, if anything.
fn compare(device: &Device, text: &str, precision: Precision, seed: u64) -> Option<String> {
    compare_within(device, text, precision, seed, None)
}

/// Inputs for a model: noise.
fn inputs_of(model: &Model, seed: u64) -> Vec<Tensor> {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let inputs = model.signature().inputs().iter().map(|port| {
        let PortKind::Tensor { dtype, dims } = &port.kind else { panic!("{port:?}") };
        let length = |dim: &Dim| if let Dim::Fixed(n) = dim { *n } else { 3 };
        noise.tensor(*dtype, &dims.iter().flatten().map(length).collect::<Vec<_>>())
    });
    inputs.collect()
}

/// The kernels that a model launches.
fn launched(text: &str, precision: Precision) -> Vec<&'static str> {
    let model = read(&model_of(text));
    let options =
        CompileOptions { lanes: Some(1), skip_tuning: true, precision, ..CompileOptions::default() };
    let scorer = GpuBackend::new().compile(&model, &gpus(), &options).unwrap();
    let scored = scorer.score(&inputs_of(&model, 7), &Call::new().with_profile()).unwrap();
    scored.launches.iter().map(|l| l.kernel).collect()
}

/// As [`compare`], with another tolerance than the precision's.
fn compare_within(
    device: &Device,
    text: &str,
    precision: Precision,
    seed: u64,
    tolerance: Option<f64>,
) -> Option<String> {
    let model = read(&model_of(text));
    let cpu = CpuBackend::new();
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    let cpu = cpu.compile(&model, &cpu.probe().unwrap(), &options);
    let cpu = cpu.unwrap_or_else(|e| panic!("ONNX Runtime: {e}\n{text}"));
    let gpu = GpuBackend::new().guarded();
    let options = CompileOptions { precision, ..options };
    let scorer = match gpu.compile(&model, std::slice::from_ref(device), &options) {
        Ok(scorer) => scorer,
        Err(e) => return Some(e.to_string()),
    };
    // Twice: what is captured must hold for the next inputs, too.
    for seed in [seed, seed + 1000] {
        let inputs = inputs_of(&model, seed);
        let expected = cpu.score(&inputs, &Call::new());
        let expected = expected.unwrap_or_else(|e| panic!("ONNX Runtime: {e}\n{text}"));
        let scored = match scorer.score(&inputs, &Call::new()) {
            Ok(scored) => scored,
            Err(e) => return Some(e.to_string()),
        };
        let own = match precision {
            Precision::Bf16 => 3e-2,
            Precision::F16 | Precision::Tf32 => 4e-3,
            _ => 1e-5,
        };
        let tolerance = tolerance.unwrap_or(own);
        for (at, expected) in expected.outputs.iter().enumerate() {
            let wrong = difference(scored.tensor(at).unwrap(), expected.as_tensor().unwrap(), tolerance);
            if let Some(wrong) = wrong {
                return Some(format!("output {at}: {wrong}"));
            }
        }
    }
    None
}

/// The environment variable that says which cases: those with that in their text.
const ONLY: &str = "TRISCORE_SUITE_ONLY";

/// Runs the cases on every device; all that is wrong is listed.
fn run(cases: &[&str], precisions: &[Precision]) {
    let only = std::env::var(ONLY).unwrap_or_default();
    let cases = cases.iter().filter(|text| text.contains(&only)).collect::<Vec<_>>();
    let devices = gpus();
    assert!(!devices.is_empty(), "no GPU to test on");
    let mut wrong = Vec::new();
    for device in &devices {
        for (number, text) in cases.iter().enumerate() {
            for precision in precisions {
                if let Some(what) = compare(device, text, *precision, number as u64 + 1) {
                    wrong.push(format!("{device}: {precision:?}: {what}\n{text}"));
                }
            }
        }
        println!("{device}: {} cases × {} precisions", cases.len(), precisions.len());
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Runs a test on the GPUs that are there, and again on the emulated one in these schedules.
fn everywhere(test: &str, schedules: &[(&str, &str)], body: impl Fn()) {
    if is_inside() {
        return body();
    }
    match GpuBackend::new().probe() {
        Ok(_) => body(),
        Err(e) => println!("no GPU: {e}"),
    }
    in_schedules(test, schedules);
}

/// Runs a test everywhere, and on the emulated one as a device of each kind of tensor cores.
fn on_all_tensor_cores(test: &str, body: impl Fn()) {
    everywhere(test, &[], body);
    let emulated: &[(&str, &[(&str, &str)])] = match is_inside() {
        true => &[],
        false => &[("80", &SCHEDULES[..2]), ("90", &SCHEDULES)],
    };
    for (capability, schedules) in emulated {
        for (order, time) in schedules.iter().copied() {
            let variables = [
                ("CUDA_EMULATOR_ORDER", order),
                ("CUDA_EMULATOR_TIME", time),
                ("CUDA_EMULATOR_CAPABILITY", capability),
            ];
            passes(test, &variables);
        }
    }
}

const POINTWISE: &[&str] = &[
    "x: f32[2, 3, 4]\ny = Relu(x)\n-> y",
    "x: f32[2, 3, 4]\nb = f32[4] 1 2 3 4\na = Add(x, b)\ny = Sigmoid(a)\n-> y",
    "x: f32[2, 3, 4]\nb: f32[3, 1]\na = Mul(x, b)\nc = Sub(a, x)\ny = Tanh(c)\n-> y",
    "x: f32[2, 3, 5, 7]\ny = Transpose<perm=[0, 2, 3, 1]>(x)\n-> y",
    "x: f32[4, 6]\na = Exp(x)\nb = Neg(a)\ny = Mul(a, b)\n-> y",
    "x: f32[4, 6]\ny = Mul(x, x)\n-> y",
    "x: f32[4, 6]\na = Abs(x)\nb = Sqrt(a)\nc = Log(b)\ny = Erf(c)\n-> y",
    "x: f32[5]\na = f32[] 0.25\nb = f32[] 0.5\ny = Clip(x, a, b)\n-> y",
    "x: f32[3, 4]\nz: f32[3, 4]\nc = Greater(x, z)\ny = Where(c, x, z)\n-> y",
    "x: f32[3, 4]\na = LeakyRelu<alpha=0.2>(x)\nb = Elu(a)\nc = Selu(b)\nd = Softplus(c)\ny = HardSigmoid(d)\n-> y",
    "x: f32[3, 4]\na = Gelu(x)\nb = HardSwish(a)\nc = Mish(b)\nd = Softsign(c)\ny = Celu<alpha=0.7>(d)\n-> y",
    "x: f32[3, 4]\na = Floor(x)\nb = Ceil(x)\nc = Round(x)\nd = Sum(a, b, c)\ny = Reciprocal(d)\n-> y",
    "x: f32[3, 4]\na = Sin(x)\nb = Cos(x)\nc = Max(a, b, x)\nd = Min(c, x)\ny = Mean(d, x)\n-> y",
    "x: i64[3, 4]\nz: i64[4]\na = Add(x, z)\nb = Mul(a, x)\ny = Cast<to=1>(b)\n-> y",
    "x: i32[3, 4]\na = Cast<to=1>(x)\nb = f32[] 1.5\ny = Pow(a, b)\n-> y",
    "x: bool[3, 4]\nz: bool[4]\na = And(x, z)\nb = Not(a)\nc = Xor(b, z)\ny = Cast<to=1>(c)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[3] 1 2 3\nb = f32[3] 3 2 1\nm = f32[3] 0.1\nv = f32[3] 0.5 1 2\ny = BatchNormalization(x, s, b, m, v)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[] 0.02\nz = u8[] 128\na = QuantizeLinear(x, s, z)\ny = DequantizeLinear(a, s, z)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[3] 0.02 0.01 0.03\nz = i8[3] 0\na = QuantizeLinear<axis=1>(x, s, z)\ny = DequantizeLinear<axis=1>(a, s, z)\n-> y",
    "x: f32[7]\ns = f32[7] 0.25\ny = PRelu(x, s)\n-> y",
    "x: f32[1]\ny = Neg(x)\n-> y",
    "x: f32[]\ny = Neg(x)\n-> y",
];

const MOVING: &[&str] = &[
    "x: f32[2, 3, 4]\na = Transpose<perm=[2, 0, 1]>(x)\ns = i64[2] 4 -1\nb = Reshape(a, s)\ny = Neg(b)\n-> y",
    "x: f32[2, 6, 4]\na, b = Split<axis=1, num_outputs=2>(x)\nc = Neg(a)\ny = Add(b, c)\n-> y",
    "x: f32[5, 6]\ns = i64[2] 4 1\ne = i64[2] 0 6\na = i64[2] 0 1\nt = i64[2] -1 2\ny = Slice(x, s, e, a, t)\n-> y",
    "x: f32[1, 3, 1]\ns = i64[3] 2 3 4\na = Expand(x, s)\ny = Exp(a)\n-> y",
    "x: f32[2, 3]\nr = i64[2] 2 3\ny = Tile(x, r)\n-> y",
    "x: f32[2, 3]\nz: f32[2, 5]\na = Exp(x)\ny = Concat<axis=1>(a, z, x)\n-> y",
    "x: f32[2, 8, 3, 2]\ny = DepthToSpace<blocksize=2>(x)\n-> y",
    "x: f32[2, 8, 3, 2]\ny = DepthToSpace<blocksize=2, mode=CRD>(x)\n-> y",
    "x: f32[2, 3, 4, 6]\ny = SpaceToDepth<blocksize=2>(x)\n-> y",
    "x: f32[2, 3, 4]\na = i64[1] 0\nb = Unsqueeze(x, a)\nc = Squeeze(b, a)\ny = Flatten<axis=2>(c)\n-> y",
    "x: f32[4, 4]\ny = Identity(x)\n-> y",
];

const ROWS: &[&str] = &[
    "x: f32[2, 3, 40]\ny = Softmax(x)\n-> y",
    "x: f32[2, 30, 4]\na = Mul(x, x)\nb = Softmax<axis=1>(a)\ny = Sqrt(b)\n-> y",
    "x: f32[2, 3, 1000]\ny = LogSoftmax(x)\n-> y",
    "x: f32[2, 3, 40]\ns = f32[40] 1 2 3\nb = f32[40] 2 0\ny = LayerNormalization(x, s, b)\n-> y",
    "x: f32[3, 1000]\ns = f32[1000] 1 2 3\nb = f32[1000] 2 0\ny = LayerNormalization(x, s, b)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[3, 4] 1 2 3\na = Add(x, x)\ny = LayerNormalization<axis=1>(a, s)\n-> y",
    "x: f32[2, 6, 5]\ns = f32[6] 1 2 3\nb = f32[6] 2 4\ny = GroupNormalization<num_groups=2>(x, s, b)\n-> y",
    "x: f32[2, 3, 5]\ns = f32[3] 1 2 3\nb = f32[3] 2 4\ny = InstanceNormalization(x, s, b)\n-> y",
    "x: f32[2, 6, 5]\ny = LpNormalization<p=1>(x)\n-> y",
    "x: f32[2, 6, 5]\ny = LpNormalization<axis=1>(x)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 1\ny = ReduceMean(x, a)\n-> y",
    "x: f32[2, 6, 5]\na = i64[2] 0 2\nb = ReduceSum<keepdims=0>(x, a)\ny = Neg(b)\n-> y",
    "x: f32[2, 6, 500]\na = i64[1] 2\nb = ReduceMax(x, a)\ny = Sub(x, b)\n-> y",
    "x: f32[2, 6, 5]\ny = ReduceMin(x)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\ny = ReduceL2(x, a)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\nb = ReduceL1(x, a)\nc = ReduceSumSquare(x, a)\ny = Add(b, c)\n-> y",
    "x: i32[2, 6, 5]\na = i64[1] 2\nb = ReduceProd(x, a)\ny = Cast<to=1>(b)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\nb = ReduceLogSumExp(x, a)\nc = Exp(x)\nd = ReduceLogSum(c, a)\ny = Add(b, d)\n-> y",
    "x: f32[2, 6, 5, 3]\ny = GlobalAveragePool(x)\n-> y",
    "x: f32[2, 6, 5, 3]\ny = GlobalMaxPool(x)\n-> y",
];

const PRODUCTS: &[&str] = &[
    "x: f32[2, 70, 33]\nw = f32[33, 65] 0.1 0.2 -0.3\nb = f32[65] 1 2 3\na = MatMul(x, w)\nc = Add(a, b)\ny = Gelu(c)\n-> y",
    "x: f32[2, 3, 70, 33]\nw: f32[3, 33, 65]\ny = MatMul(x, w)\n-> y",
    "x: f32[2, 1, 7, 9]\nw: f32[3, 9, 5]\nr: f32[2, 3, 7, 5]\na = MatMul(x, w)\nb = Add(a, r)\ny = Relu(b)\n-> y",
    "x: f32[2, 7, 9]\nw: f32[2, 5, 9]\nt = Transpose<perm=[0, 2, 1]>(w)\ny = MatMul(x, t)\n-> y",
    "x: f32[9]\nw: f32[2, 9, 5]\ny = MatMul(x, w)\n-> y",
    "x: f32[2, 5, 9]\nw: f32[9]\na = MatMul(x, w)\ny = Exp(a)\n-> y",
    "x: f32[9]\nw: f32[9]\ny = MatMul(x, w)\n-> y",
    "x: f32[9, 7]\nw: f32[5, 9]\nc: f32[5]\ny = Gemm<transA=1, transB=1, alpha=0.5, beta=2.0>(x, w, c)\n-> y",
    "x: f32[70, 40]\nw = f32[40, 80] 0.1 0.2 -0.3\na = MatMul(x, w)\nb = Softmax(a)\nv = f32[80, 3] 1 2\ny = MatMul(b, v)\n-> y",
    "x: i32[7, 33]\nw: i32[33, 5]\na = MatMul(x, w)\ny = Cast<to=1>(a)\n-> y",
];

/// Products that tensor cores take, where they lie so or after a copy, with edges and ends of all kinds.
const TENSOR_PRODUCTS: &[&str] = &[
    "x: f32[2, 70, 40]\nw = f32[40, 72] 0.1 0.2 -0.3 0.4\nb = f32[72] 1 2 3\nr: f32[2, 70, 72]\na = MatMul(x, w)\nc = Add(a, b)\ng = Gelu(c)\ny = Add(g, r)\n-> y",
    "x: f32[2, 3, 140, 48]\nw: f32[2, 3, 48, 136]\nz: f32[3, 136, 24]\na = MatMul(x, w)\ny = MatMul(a, z)\n-> y",
    "x: f32[130, 64]\nw = f32[37, 64] 0.1 0.2 -0.3 0.4 0.5\nb = f32[37] 1 2\ny = Gemm<transB=1, alpha=0.5>(x, w, b)\n-> y",
    "x: f32[16, 9]\nw: f32[5, 16]\na = Abs(x)\ny = Gemm<transA=1, transB=1>(a, w)\n-> y",
    "x: f32[2, 9, 16]\nw: f32[16, 24]\na = Abs(x)\nb = Abs(w)\nc = MatMul(a, b)\nt = Transpose<perm=[2, 1, 0]>(c)\ny = Neg(t)\n-> y",
    "x: f32[1500, 16]\nw = f32[16, 1200] 0.1 0.2 -0.3 0.4 0.5\na = MatMul(x, w)\nb = i64[1] 1\ny = ReduceMax(a, b)\n-> y",
    // Several steps of depth, more of them than stages, and columns that are no pairs.
    "x: f32[150, 320]\nw = f32[137, 320] 0.1 0.2 -0.3 0.4 0.5\nb = f32[137] 1 2\na = Gemm<transB=1>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f16[3, 24]\nw: f16[24, 10]\na = MatMul(x, w)\ny = Cast<to=1>(a)\n-> y",
];

const WINDOWS: &[&str] = &[
    "x: f32[2, 3, 9, 9]\nw = f32[20, 3, 3, 3] 0.1 0.2 -0.3 0.4\nb = f32[20] 1 2\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 3, 9, 10]\nw = f32[20, 3, 3, 2] 0.1 0.2 -0.3 0.4\na = Conv<strides=[2, 1], pads=[1, 0, 0, 1]>(x, w)\nv = f32[70, 20, 1, 1] 0.1 -0.2 0.3\nb = Conv(a, v)\nc = Conv(a, v)\nd = Relu(c)\ny = Add(b, d)\n-> y",
    "x: f32[2, 4, 9, 9]\nw = f32[4, 1, 3, 3] 1 2 3 4 5\ny = Conv<group=4>(x, w)\n-> y",
    "x: f32[2, 4, 9, 9]\nw = f32[40, 2, 3, 3] 1 2 3 4 5\ny = Conv<group=2, dilations=[2, 2]>(x, w)\n-> y",
    "x: f32[2, 4, 9]\nw = f32[20, 4, 3] 1 2 3 4 5\ny = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\n-> y",
    "x: f32[1, 2, 5, 6, 7]\nw = f32[17, 2, 2, 3, 2] 1 2 3 4 5\ny = Conv(x, w)\n-> y",
    "x: f32[2, 4, 5, 6]\nw = f32[4, 6, 3, 3] 1 2 3 4 5\nb = f32[6] 1 2\ny = ConvTranspose<strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]>(x, w, b)\n-> y",
    "x: f32[2, 4, 5, 6]\nw = f32[4, 3, 3, 3] 1 2 3 4 5\ny = ConvTranspose<group=2, dilations=[2, 1]>(x, w)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = MaxPool<kernel_shape=[3, 2], ceil_mode=1, strides=[2, 2]>(x)\n-> y",
    "x: f32[2, 4, 9]\na, i = MaxPool<kernel_shape=[3]>(x)\nf = Cast<to=1>(i)\ny = Add(a, f)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1, strides=[2, 2]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = LpPool<kernel_shape=[3, 3], p=3>(x)\n-> y",
    "x: f32[1, 3, 12, 12]\nw = f32[16, 3, 3, 3] 0.1 0.2 -0.3\na = Conv(x, w)\nb = Relu(a)\nc = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(b)\nd = GlobalAveragePool(c)\ne = Flatten(d)\nv = f32[16, 4] 0.3 -0.1\ny = Gemm(e, v)\n-> y",
    "x: f32[2, 8, 6, 6]\nw = f32[16, 8, 1, 1] 0.1 -0.2 0.3\na = Conv(x, w)\nb = Conv(x, w)\nc = Concat<axis=1>(a, b)\ny = Relu(c)\n-> y",
];

/// Convolutions that tensor cores take: of one, two and three axes, with padding, steps, gaps and groups, of three channels and of one pixel.
const TENSOR_WINDOWS: &[&str] = &[
    "x: f32[2, 3, 19, 17]\nw = f32[20, 3, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[20] 1 2\na = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 16, 9, 10]\nw = f32[72, 16, 3, 2] 0.1 0.2 -0.3 0.4 0.5\nr: f32[2, 72, 9, 7]\na = Conv<dilations=[1, 3], pads=[2, 0, 0, 0]>(x, w)\nb = Add(a, r)\nv = f32[33, 72, 1, 1] 0.1 -0.2 0.3\nc = Conv(b, v)\ny = Sigmoid(c)\n-> y",
    "x: f32[2, 32, 9, 9]\nw = f32[36, 16, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[36] 1 2 3\ny = Conv<group=2, strides=[2, 1]>(x, w, b)\n-> y",
    "x: f32[2, 8, 40]\nw = f32[17, 8, 3] 0.1 0.2 -0.3 0.4 0.5\ny = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\n-> y",
    "x: f32[1, 8, 5, 6, 7]\nw: f32[18, 8, 2, 3, 2]\ny = Conv<pads=[1, 0, 0, 0, 1, 0]>(x, w)\n-> y",
    "x: f32[3, 16, 6, 6]\nw = f32[16, 16, 1, 1] 0.1 -0.2 0.3\na = Conv(x, w)\nb = Conv<pads=[1, 1, 1, 1]>(x, w)\nc = Conv<strides=[2, 2]>(b, w)\nd = Flatten(a)\ne = Flatten(c)\ny = Concat<axis=1>(d, e)\n-> y",
    "x: f32[1, 8, 130, 130]\nw = f32[140, 8, 1, 3] 0.1 0.2 -0.3 0.4 0.5\na = Conv(x, w)\ny = GlobalAveragePool(a)\n-> y",
    // Channels that fill a stage, or most of one.
    "x: f32[2, 64, 13, 11]\nw = f32[72, 64, 3, 2] 0.1 0.2 -0.3 0.4 0.5\nb = f32[72] 1 2\na = Conv<dilations=[1, 3], pads=[2, 1, 0, 2], strides=[2, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[3, 128, 6, 7]\nw = f32[140, 64, 2, 2] 0.1 0.2 -0.3 0.4 0.5\ny = Conv<group=2, auto_pad=SAME_LOWER>(x, w)\n-> y",
    "x: f32[2, 48, 190]\nw = f32[66, 48, 3] 0.1 0.2 -0.3 0.4 0.5\nr: f32[2, 66, 95]\na = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\ny = Add(a, r)\n-> y",
];

const ATTENTIONS: &[&str] = &[
    // Tiles that are full and that are not, heads of all widths, masks that repeat.
    "q: f32[2, 2, 64, 32]\nk: f32[2, 2, 64, 32]\nv: f32[2, 2, 64, 32]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\np = Softmax(s)\ny = MatMul(p, v)\n-> y",
    "q: f32[2, 70, 2, 20]\nk: f32[2, 130, 2, 20]\nv: f32[2, 130, 2, 40]\nm: f32[2, 1, 1, 130]\nh = f32[] 4
     a = Transpose<perm=[0, 2, 1, 3]>(q)\nt = Transpose<perm=[0, 2, 3, 1]>(k)\nb = Transpose<perm=[0, 2, 1, 3]>(v)
     s = MatMul(a, t)\nd = Div(s, h)\ne = Add(d, m)\np = Softmax(e)\nc = MatMul(p, b)
     f = Transpose<perm=[0, 2, 1, 3]>(c)\nr = i64[3] 2 70 80\ng = Reshape(f, r)\nw = f32[80, 24] 0.1 -0.2 0.3\ny = MatMul(g, w)\n-> y",
    "q: f32[1, 2, 17, 128]\nk: f32[1, 2, 9, 128]\nv: f32[1, 2, 9, 128]\nm: f32[2, 17, 9]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\ne = Add(s, m)\np = Softmax(e)\na = MatMul(p, v)\ny = Relu(a)\n-> y",
    "q: f32[1, 2, 65, 64]\nk: f32[1, 2, 200, 64]\nv: f32[1, 2, 200, 64]\nm: f32[65, 200]\nr: f32[1, 2, 65, 64]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\ne = Add(s, m)\np = Softmax(e)\na = MatMul(p, v)\nb = Relu(a)\ny = Add(b, r)\n-> y",
    "q: f32[2, 130, 2, 96]\nk: f32[2, 60, 2, 96]\nh = f32[] 10\na = Transpose<perm=[0, 2, 1, 3]>(q)\nb = Transpose<perm=[0, 2, 1, 3]>(k)\nt = Transpose<perm=[0, 2, 3, 1]>(k)\ns = MatMul(a, t)\nd = Div(s, h)\np = Softmax(d)\nc = MatMul(p, b)\ny = Transpose<perm=[0, 2, 1, 3]>(c)\n-> y",
    // Queries, keys and values of one product.
    "x: f32[2, 40, 24]\nu = f32[24, 64] 0.1 -0.2 0.3\nv = f32[24, 64] -0.1 0.2\nw = f32[24, 64] 0.2 0.1 -0.3 0.1 -0.1\nb = f32[64] 0.5 -0.5\nn = i64[4] 2 40 2 32\no = i64[3] 2 40 64\nh = f32[] 6
     a = MatMul(x, u)\nc = Add(a, b)\nd = Reshape(c, n)\nq = Transpose<perm=[0, 2, 1, 3]>(d)\ne = MatMul(x, v)\nf = Reshape(e, n)\nk = Transpose<perm=[0, 2, 3, 1]>(f)\ng = MatMul(x, w)\ni = Add(b, g)\nj = Reshape(i, n)
     l = Transpose<perm=[0, 2, 1, 3]>(j)\ns = MatMul(q, k)\nm = Div(s, h)\np = Softmax(m)\nr = MatMul(p, l)\nt = Transpose<perm=[0, 2, 1, 3]>(r)\ny = Reshape(t, o)\n-> y",
    // Few rows, and heads that are too wide.
    "q: f32[2, 3, 1, 40]\nk: f32[2, 3, 300, 40]\nv: f32[2, 3, 300, 150]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\np = Softmax(s)\ny = MatMul(p, v)\n-> y",
    "q: f32[1, 1, 20, 260]\nk: f32[1, 1, 30, 260]\nv: f32[1, 1, 30, 260]\nm: f32[20, 30]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\ne = Add(m, s)\np = Softmax(e)\ny = MatMul(p, v)\n-> y",
];

const FLOATS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

#[test]
fn pointwise_operators_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::pointwise_operators_are_what_they_are_elsewhere", &SCHEDULES[..2], || {
        run(POINTWISE, &[Precision::F32])
    });
}

#[test]
fn moving_operators_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::moving_operators_are_what_they_are_elsewhere", &SCHEDULES[..1], || {
        run(MOVING, &FLOATS)
    });
}

#[test]
fn operators_over_rows_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::operators_over_rows_are_what_they_are_elsewhere", &SCHEDULES, || {
        run(ROWS, &FLOATS)
    });
}

#[test]
fn products_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::products_are_what_they_are_elsewhere", &SCHEDULES, || run(PRODUCTS, &FLOATS));
}

#[test]
fn products_on_tensor_cores_are_what_they_are_elsewhere() {
    on_all_tensor_cores("gpu::suite::products_on_tensor_cores_are_what_they_are_elsewhere", || {
        run(TENSOR_PRODUCTS, &[Precision::Tf32, Precision::F16, Precision::Bf16])
    });
}

#[test]
fn windows_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::windows_are_what_they_are_elsewhere", &SCHEDULES[..2], || run(WINDOWS, &FLOATS));
}

#[test]
fn windows_on_tensor_cores_are_what_they_are_elsewhere() {
    on_all_tensor_cores("gpu::suite::windows_on_tensor_cores_are_what_they_are_elsewhere", || {
        run(TENSOR_WINDOWS, &[Precision::Tf32, Precision::F16, Precision::Bf16])
    });
}

#[test]
fn attention_is_what_it_is_elsewhere() {
    everywhere("gpu::suite::attention_is_what_it_is_elsewhere", &SCHEDULES, || run(ATTENTIONS, &FLOATS));
}

/// A mistake in a kernel: the file, the text, how many times it comes before the one that is replaced, what replaces it; the test and the cases that
/// must fail then.
type Mutant = (&'static str, &'static str, usize, &'static str, &'static str, &'static str);

const BARRIER: &str = "__syncthreads();";
const ROWS_TEST: &str = "gpu::suite::operators_over_rows_are_what_they_are_elsewhere";
const PRODUCTS_TEST: &str = "gpu::suite::products_are_what_they_are_elsewhere";
const WINDOWS_TEST: &str = "gpu::suite::windows_are_what_they_are_elsewhere";
const TENSOR_PRODUCTS_TEST: &str = "gpu::suite::products_on_tensor_cores_are_what_they_are_elsewhere";
const TENSOR_WINDOWS_TEST: &str = "gpu::suite::windows_on_tensor_cores_are_what_they_are_elsewhere";
const SUMS_TEST: &str = "gpu::suite::quantised::sums_of_integers_are_what_they_are_elsewhere";
const POINTWISE_TEST: &str = "gpu::suite::pointwise_operators_are_what_they_are_elsewhere";

const MUTANTS: &[Mutant] = &[
    // Barriers: before others read what was written, and before what others still read is written again.
    ("block", BARRIER, 0, "", ROWS_TEST, "1000"),
    ("block", BARRIER, 1, "", ROWS_TEST, "f32[1000]"),
    ("gemm", BARRIER, 0, "", PRODUCTS_TEST, "Gelu"),
    ("gemm", BARRIER, 1, "", PRODUCTS_TEST, "Gelu"),
    ("conv", BARRIER, 0, "", WINDOWS_TEST, "pads=[1, 1, 1, 1]>(x, w, b)"),
    ("conv", BARRIER, 1, "", WINDOWS_TEST, "pads=[1, 1, 1, 1]>(x, w, b)"),
    // Half of a warp is left out.
    ("block", "by = WARP / 2", 0, "by = WARP / 4", ROWS_TEST, "1000"),
    // Beside the memory that it was given.
    ("map", "i < count", 0, "i <= count", POINTWISE_TEST, "Relu"),
    ("gemm", "if (row < m && column < n)", 0, "if (column < n)", PRODUCTS_TEST, "Gelu"),
    ("conv", "if (row < w.rows && column", 0, "if (column", WINDOWS_TEST, "pads=[1, 1, 1, 1]>(x, w, b)"),
    (
        "window",
        "&& (unsigned)x < (unsigned)w.length[2]",
        0,
        "&& x >= 0",
        WINDOWS_TEST,
        "pads=[1, 1, 1, 1]>(x, w, b)",
    ),
    ("window", "(unsigned)y < (unsigned)w.length[1]", 0, "y < w.length[1]", WINDOWS_TEST, "AveragePool"),
    // Tiles of Hopper: read too early, written anew too early, given back by too few.
    (
        "wgmma_tiles",
        "barrier_wait(there(stages, turn.stage), turn.parity);",
        0,
        "",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    (
        "wgmma_tiles",
        "barrier_wait(used(stages, turn.stage), turn.parity ^ 1);",
        0,
        "",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    ("wgmma_tiles", "wgmma_wait<1>(sums);", 0, "", TENSOR_PRODUCTS_TEST, "f32[150, 320]"),
    (
        "wgmma_tiles",
        "if (step > 0 && threadIdx.x",
        0,
        "if (step > 1 && threadIdx.x",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    (
        "gemm_wgmma",
        "if (row >= m || column >= n)",
        0,
        "if (column >= n)",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    ("conv_wgmma", "- w.pad[0];", 0, ";", TENSOR_WINDOWS_TEST, "x: f32[2, 64, 13, 11]"),
    // What nobody writes.
    ("normalise", "result(out, as_logarithm", 0, "if (i != 5) result(out, as_logarithm", ROWS_TEST, "1000"),
    // Integers of another type, and what is beyond an image.
    ("tensor_tiles", "mma_u8s8(d, a, b)", 0, "mma_s8(d, a, b)", SUMS_TEST, "x: u8[2, 70, 80]"),
    ("tensor_tiles", "mma_u8(d, a, b)", 0, "mma_s8u8(d, a, b)", SUMS_TEST, "x: u8[70, 48]"),
    ("conv_tensor", "is_there || BEYOND", 0, "is_there", SUMS_TEST, "z = u8[] 117"),
    ("conv_tensor", "is_there ? x + at : beyond", 0, "x + at", SUMS_TEST, "z = u8[] 117"),
    ("conv", "(SUM)load(x[at]) - from", 0, "(SUM)load(x[at])", SUMS_TEST, "group=2"),
    ("conv_direct", "- from) * (SUM)", 0, ") * (SUM)", SUMS_TEST, "z = u8[] 120"),
    ("gemm_tensor", BARRIER, 0, "", SUMS_TEST, "x: u8[130, 64]"),
    ("reduce", "if (threadIdx.x == 0)", 0, "if (threadIdx.x == 0 && row != 1)", ROWS_TEST, "ReduceL2"),
];

#[test]
fn mistakes_in_kernels_are_found() {
    let kernels = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/cuda");
    if driver().is_none() {
        return;
    }
    let changed = tempfile::tempdir().unwrap();
    for (file, text, nth, with, test, only) in MUTANTS {
        for other in std::fs::read_dir(&kernels).unwrap() {
            let other = other.unwrap();
            std::fs::copy(other.path(), changed.path().join(other.file_name())).unwrap();
        }
        let source = std::fs::read_to_string(kernels.join(file).with_extension("cu")).unwrap();
        let place = source.match_indices(text).nth(*nth).map(|(at, _)| at);
        let at = place.unwrap_or_else(|| panic!("{file} has no '{text}' {nth}"));
        let mutant = format!("{}{with}{}", &source[..at], &source[at + text.len()..]);
        std::fs::write(changed.path().join(file).with_extension("cu"), mutant).unwrap();
        let found = SCHEDULES.iter().find(|(order, time)| {
            let mut command = again(test).unwrap();
            command.env("CUDA_EMULATOR_ORDER", order).env("CUDA_EMULATOR_TIME", time).env(ONLY, only);
            let ran = command.env("TRISCORE_CUDA_KERNELS", changed.path()).output().unwrap();
            !ran.status.success()
        });
        println!("{file}: '{text}' {nth} -> '{with}': found {found:?}");
        assert!(found.is_some(), "{file}: '{text}' {nth} -> '{with}' passes in every schedule");
    }
}
