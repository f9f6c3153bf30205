//! The FPGA engine: how fast its kernels and a whole network run on a device, as ratios in one run.
//!
//! `cargo bench --bench engine` prints, for the first OpenCL device: the engine's convolution and matrix product beside ONNX Runtime's on the same cores
//! (of 16 bits, beside its own of 8: ONNX Runtime has none); networks (seeded weights, int8) end to end, and their kernels by time. On an emulated
//! device these are figures of an emulation: they tell nothing of a board.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark may stop"
)]

#[path = "../tests/oracle/cases.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod cases;
#[path = "../tests/oracle/model.rs"]
mod model;
#[path = "../hardware-tests/networks.rs"]
mod networks;

use std::time::Instant;

use cases::{Random, tensor};
use model::{Builder, ints};

use triscore::cpu::CpuBackend;
use triscore::fpga::FpgaBackend;
use triscore::graph::encode;
use triscore::int8::QType;
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize};
use triscore::{Backend, Call, CompileOptions, Model, Scorer, Tensor};

fn seeded(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    Tensor::from_slice(shape, &(0..shape.iter().product()).map(|_| next()).collect::<Vec<_>>()).unwrap()
}

/// Who is measured: gives the seconds of one round.
type Contestant<'a> = &'a dyn Fn() -> f64;

/// The least of several rounds, taken turn and turn about so that a busy machine hits all of them.
fn side_by_side<const N: usize>(contestants: [Contestant<'_>; N], rounds: usize) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for round in 0..=rounds {
        for (contestant, best) in contestants.iter().zip(&mut best) {
            let seconds = contestant();
            if round > 0 {
                *best = best.min(seconds);
            }
        }
    }
    best
}

/// A call from end to end.
fn whole(scorer: &dyn Scorer, x: &Tensor) -> f64 {
    let begin = Instant::now();
    scorer.score(std::slice::from_ref(x), &Call::new()).unwrap();
    begin.elapsed().as_secs_f64()
}

/// What a call takes between its transfers.
fn computing(scorer: &dyn Scorer, x: &Tensor) -> f64 {
    scorer.score(std::slice::from_ref(x), &Call::new()).unwrap().timing.compute.as_secs_f64()
}

/// One quantised operator: a convolution of 56 × 56 × 64 to 64 channels, 3 × 3, or a product of 1024³. With its operations.
fn operator(name: &str, activation: QType) -> (Model, Tensor, f64) {
    let mut builder = Builder::default();
    let (x_shape, w_shape, gop) = match name {
        "convolution" => {
            (vec![1, 64, 56, 56], vec![64, 64, 3, 3], 2.0 * 56.0 * 56.0 * 64.0 * 64.0 * 9.0 / 1e9)
        }
        _ => (vec![1024, 1024], vec![1024, 1024], 2.0 * 1024f64.powi(3) / 1e9),
    };
    let mut random = Random::new(7);
    let x = random.integers(activation, &x_shape);
    builder.input("x", x.dtype(), &x_shape);
    let scalar = |builder: &mut Builder, name: &str, scale: f32| {
        builder.constant(name, &Tensor::from_slice(&[], &[scale]).unwrap())
    };
    let scales =
        [scalar(&mut builder, "xs", 0.02), scalar(&mut builder, "ws", 0.01), scalar(&mut builder, "ys", 3.0)];
    let zeros = [
        builder.constant("z", &tensor(activation, &[], &[0])),
        builder.constant("wz", &tensor(QType::I8, &[], &[0])),
    ];
    let weights = tensor(
        QType::I8,
        &w_shape,
        &(0..w_shape.iter().product()).map(|_| random.range(0, 254) as i32 - 127).collect::<Vec<_>>(),
    );
    let w = builder.constant("w", &weights);
    let read = ["x", &scales[0], &zeros[0], &w, &scales[1], &zeros[1], &scales[2], &zeros[0]];
    match name {
        "convolution" => builder.node("QLinearConv", &read, "y", vec![ints("pads", &[1, 1, 1, 1])]),
        _ => builder.node("QLinearMatMul", &read, "y", vec![]),
    };
    builder.output("y", x.dtype());
    (builder.build(), x, gop)
}

/// Milliseconds that each kernel takes of one call.
fn by_kernel(scorer: &dyn Scorer, inputs: &[Tensor]) -> String {
    let scored = scorer.score(inputs, &Call::new().with_profile()).unwrap();
    let mut kernels = std::collections::BTreeMap::new();
    for launch in &scored.launches {
        *kernels.entry(launch.kernel).or_insert(0.0) += launch.time.as_secs_f64() * 1e3;
    }
    let shown = kernels.iter().map(|(kernel, ms)| format!("{kernel} {ms:.1} ms"));
    shown.collect::<Vec<_>>().join(", ")
}

fn main() {
    let (fpga, cpu) = (FpgaBackend::new(), CpuBackend::new());
    let devices = match fpga.probe() {
        Ok(devices) => devices,
        Err(e) => return println!("nothing measured: {e}"),
    };
    let device = &devices[..1];
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    // With its tuning, so that it takes all cores for one call, as the engine does.
    let on_cpu =
        |model: &Model| cpu.compile(model, &cpu.probe().unwrap(), &CompileOptions::default()).unwrap();
    println!("{}; ratios of one run", device[0]);
    for name in ["convolution", "product"] {
        for activation in [QType::I8, QType::U8] {
            let (model, x, gop) = operator(name, activation);
            let (ours, theirs) = (fpga.compile(&model, device, &options).unwrap(), on_cpu(&model));
            let [compute, end_to_end, onnx_runtime] =
                side_by_side([&|| computing(&*ours, &x), &|| whole(&*ours, &x), &|| whole(&*theirs, &x)], 30);
            println!(
                "{name} {activation:?} × I8: engine {:.0} GOPS ({:.0} with transfers), ONNX Runtime {:.0}: {:.2} ×",
                gop / compute,
                gop / end_to_end,
                gop / onnx_runtime,
                onnx_runtime / compute
            );
        }
        let of = |activation| {
            let (model, x, _) = operator(name, activation);
            (fpga.compile(&model, device, &options).unwrap(), x)
        };
        let ((eight, x), (sixteen, y)) = (of(QType::U8), of(QType::U16));
        let [eight, sixteen] = side_by_side([&|| computing(&*eight, &x), &|| computing(&*sixteen, &y)], 20);
        println!("{name} U16 × I8: engine {:.2} × the time of U8 × I8", sixteen / eight);
    }
    // What the networks are held to, measured beside them.
    let (model, conv_x, conv_gop) = operator("convolution", QType::U8);
    let convolution = fpga.compile(&model, device, &options).unwrap();
    let networks = [
        ("SqueezeNet 1.1", networks::squeezenet(224, 1000), 0.70),
        ("ResNet-50", networks::resnet(&[3, 4, 6, 3], 64, 224, 1000), 8.18),
    ];
    for (name, bytes, gop) in networks {
        let model = Model::from_bytes(bytes, &ReadLimits::default()).unwrap();
        let samples = (0..4).map(|i| vec![seeded(&[1, 3, 224, 224], i)]).collect::<Vec<_>>();
        let done =
            quantize(&model, &samples, &Scheme::default(), Calibration::MinMax, &cpu, &|_, _, _| {}).unwrap();
        let quantised = Model::from_bytes(encode(&done.model).unwrap(), &ReadLimits::default()).unwrap();
        let begin = Instant::now();
        let ours = fpga.compile(&quantised, device, &options).unwrap();
        println!(
            "{name}: {:.1} dB; loaded in {:.2} s",
            done.report.outputs[0].1.sqnr_db(),
            begin.elapsed().as_secs_f64()
        );
        let theirs = on_cpu(&quantised);
        for batch in [1, 4] {
            let x = seeded(&[batch, 3, 224, 224], 9);
            let kernel = || (0..4).map(|_| computing(&*convolution, &conv_x)).fold(f64::INFINITY, f64::min);
            let [engine, onnx_runtime, kernel] =
                side_by_side([&|| whole(&*ours, &x), &|| whole(&*theirs, &x), &kernel], 12);
            let (rate, kernel_rate) = (gop * batch as f64 / engine, conv_gop / kernel);
            println!(
                "{name}, batch {batch}: engine {:.1} images/s, {rate:.0} GOPS, {:.0} % of the convolution's {kernel_rate:.0}; ONNX Runtime {:.1} images/s",
                batch as f64 / engine,
                100.0 * rate / kernel_rate,
                batch as f64 / onnx_runtime
            );
            println!("    {}", by_kernel(&*ours, std::slice::from_ref(&x)));
        }
    }
}
