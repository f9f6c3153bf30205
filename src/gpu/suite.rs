//! Every operator and every way in which kernels are put together, on every GPU that is there and on the emulated one, against ONNX Runtime.
//!
//! A process binds to one driver, so each test runs itself again in processes of their own: one for every order of threads and every time of
//! work of the emulated driver (`hardware-tests/cuda-emulator`). Where there is neither a GPU nor a compiler for the emulated one, it says so.

mod cases;
mod convolutions;
#[path = "../../hardware-tests/emulated.rs"]
mod emulated;
mod float8;
mod library;
mod moves;
mod mutants;
mod quantised;
mod random;
mod shapes;

use cases::{ATTENTIONS, MOVING, POINTWISE, PRODUCTS, ROWS, TENSOR_PRODUCTS, TENSOR_WINDOWS, WINDOWS};
use emulated::{SCHEDULES, in_schedules, is_inside};

use super::GpuBackend;
use crate::cpu::CpuBackend;
use crate::graph::testing::{model_of, read};
use crate::model::Model;
use crate::scoring::{Backend, Call, CompileOptions, Device, Precision};
use crate::signature::{Dim, PortKind};
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor};

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
            DType::F8E4M3 => {
                Tensor::from_slice(shape, &floats.iter().map(|v| F8E4M3::from_f32(*v)).collect::<Vec<_>>())
            }
            DType::F8E5M2 => {
                Tensor::from_slice(shape, &floats.iter().map(|v| F8E5M2::from_f32(*v)).collect::<Vec<_>>())
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
        DType::F8E4M3 => tensor.as_slice::<F8E4M3>().unwrap().iter().map(|v| v.to_f32().into()).collect(),
        DType::F8E5M2 => tensor.as_slice::<F8E5M2>().unwrap().iter().map(|v| v.to_f32().into()).collect(),
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
    in_schedules(test, schedules, &[]);
}

/// Runs a test everywhere, and on the emulated one as a device of each kind of tensor cores.
fn on_all_tensor_cores(test: &str, body: impl Fn()) {
    everywhere(test, &[], body);
    let emulated: &[(&str, &[(&str, &str)])] = match is_inside() {
        true => &[],
        false => &[("80", &SCHEDULES[..2]), ("90", &SCHEDULES)],
    };
    for (capability, schedules) in emulated {
        in_schedules(test, schedules, &[("CUDA_EMULATOR_CAPABILITY", *capability)]);
    }
}

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
fn floats_are_multiplied_by_tiles_as_they_are_elsewhere() {
    let test = "gpu::suite::floats_are_multiplied_by_tiles_as_they_are_elsewhere";
    everywhere(test, &SCHEDULES[..2], || {
        run(TENSOR_PRODUCTS, &[Precision::F32]);
        run(TENSOR_WINDOWS, &[Precision::F32]);
    });
}

#[test]
fn attention_is_what_it_is_elsewhere() {
    everywhere("gpu::suite::attention_is_what_it_is_elsewhere", &SCHEDULES, || run(ATTENTIONS, &FLOATS));
}
