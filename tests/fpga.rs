//! The engine on every OpenCL device that is there, emulated ones included, held to the reference to the bit.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cpu", feature = "opencl", feature = "cli"))]

#[path = "fpga/batches.rs"]
mod batches;
#[path = "fpga/dynamic.rs"]
mod dynamic;
#[path = "fpga/faults.rs"]
mod faults;
#[path = "fpga/host.rs"]
mod host;
#[path = "fpga/moving.rs"]
mod moving;
#[path = "fpga/qonnx.rs"]
mod qonnx;

use std::path::Path;
use std::time::Duration;

use triscore::cpu::CpuBackend;
use triscore::fpga::FpgaBackend;
use triscore::graph::{Graph, encode, rewrite};
use triscore::int8::QType;
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize, reference};
use triscore::{Backend, Call, CompileOptions, Device, ErrorKind, Health, Model, Tensor};

fn models(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn heldout(folder: &str) -> Tensor {
    let file = std::fs::File::open(models(folder).join("heldout.npz")).unwrap();
    let mut npz = npyz::npz::NpzArchive::new(std::io::BufReader::new(file)).unwrap();
    let x = npz.by_name("x").unwrap().unwrap();
    let shape = x.shape().iter().map(|d| *d as usize).collect::<Vec<_>>();
    Tensor::from_slice(&shape, &x.into_vec::<f32>().unwrap()).unwrap()
}

fn quantized(folder: &str) -> Model {
    quantized_to(folder, QType::U8)
}

fn quantized_to(folder: &str, activations: QType) -> Model {
    let model = Model::open(models(folder)).unwrap();
    let x = heldout(folder);
    let samples = (0..64).map(|i| vec![x.rows(0, i..i + 1).unwrap()]).collect::<Vec<_>>();
    let scheme = Scheme { activations, ..Scheme::default() };
    let done =
        quantize(&model, &samples, &scheme, Calibration::MinMax, &CpuBackend::new(), &|_, _, _| {}).unwrap();
    // With 256 times the steps, what is lost is what the weights lose.
    let (least_db, lost) =
        (if activations.size_bytes() == 2 { 30.0 } else { 20.0 }, &done.report.outputs[0].1);
    assert!(lost.sqnr_db() > least_db, "{folder} {activations:?}: {} dB", lost.sqnr_db());
    Model::from_bytes(encode(&done.model).unwrap(), &ReadLimits::default()).unwrap()
}

/// What the reference makes of a model: its first output.
fn expected(model: &Model, inputs: &[Tensor]) -> Tensor {
    expected_of_all(model, inputs).swap_remove(0)
}

/// As [`expected`], every output.
fn expected_of_all(model: &Model, inputs: &[Tensor]) -> Vec<Tensor> {
    let shapes = inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
    let mut graph = Graph::of(model).unwrap().bind(&shapes).unwrap();
    rewrite::to_integers(&mut graph).unwrap();
    graph.tidy().unwrap();
    let values = reference::run(&graph, inputs).unwrap();
    graph.outputs().iter().map(|o| values[o.index()].clone().unwrap()).collect()
}

/// The devices that are there; none is a reason, printed.
fn devices() -> Vec<Device> {
    match FpgaBackend::new().probe() {
        Ok(devices) => devices,
        Err(e) => {
            println!("skipped: {e}");
            Vec::new()
        }
    }
}

#[test]
fn quantised_digits_equal_the_reference_on_every_device() {
    for device in devices() {
        let folders = ["digits_mlp", "digits_cnn", "digits_res", "digits_vit"];
        for (folder, activations) in folders.iter().flat_map(|f| [(*f, QType::U8), (*f, QType::U16)]) {
            let (model, x) = (quantized_to(folder, activations), heldout(folder));
            let fpga = FpgaBackend::new();
            let scorer =
                fpga.compile(&model, std::slice::from_ref(&device), &CompileOptions::default()).unwrap();
            assert!(scorer.placement().is_all_on_device());
            // No rows at all are an answer of no rows; but a Reshape to -1 of nothing says nothing, in ONNX Runtime neither.
            let fewest = if folder == "digits_vit" { 1 } else { 0 };
            for rows in [0, 1, 3, 32].into_iter().filter(|rows| *rows >= fewest) {
                let inputs = [x.rows(0, 0..rows).unwrap()];
                let scored = scorer.score(&inputs, &Call::new()).unwrap();
                let (got, expected) = (scored.tensor(0).unwrap(), expected(&model, &inputs));
                let wrong = got
                    .as_bytes()
                    .chunks(4)
                    .zip(expected.as_bytes().chunks(4))
                    .filter(|(a, b)| a != b)
                    .count();
                println!(
                    "{device}: {folder} {activations:?}, {rows} rows: {wrong} of {} differ, {:?}",
                    got.len(),
                    scored.timing
                );
                assert_eq!(wrong, 0, "{device}: {folder} {activations:?}");
            }
        }
    }
}

#[path = "oracle/cases.rs"]
mod cases;
#[path = "oracle/model.rs"]
mod model;
#[path = "oracle/processor.rs"]
mod processor;

/// Cases of each operator: `TRISCORE_CASES` says fewer for devices that are slow.
fn cases_each() -> u64 {
    std::env::var("TRISCORE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(120)
}

#[test]
fn every_operator_equals_the_reference_on_every_device() {
    let all =
        devices().iter().flat_map(|d| mismatches(&FpgaBackend::new(), d, cases_each())).collect::<Vec<_>>();
    assert!(all.is_empty(), "{} of the cases fail:\n{}", all.len(), all[..all.len().min(12)].join("\n"));
}

/// The cases of every operator whose answer is not the reference's in every bit, or that wrote where nobody may write.
fn mismatches(fpga: &FpgaBackend, device: &Device, cases: u64) -> Vec<String> {
    let (fpga, mut all) = (fpga.clone().guarded(), Vec::new());
    let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
    for activation in [QType::U8, QType::I8, QType::U16, QType::I16] {
        for operator in cases::OPERATORS.iter().chain(cases::OUR_OWN) {
            let (mut elements, mut failures) = (0, Vec::new());
            for seed in 0..cases {
                let case = cases::case(operator, activation, seed);
                let scored = fpga
                    .compile(&case.model, std::slice::from_ref(device), &options)
                    .and_then(|scorer| scorer.score(&case.inputs, &Call::new()));
                let scored = match scored {
                    Ok(scored) => scored,
                    Err(e) => {
                        failures.push(format!("{}: {e}", case.what));
                        continue;
                    }
                };
                let (got, expected) = (scored.tensor(0).unwrap(), expected(&case.model, &case.inputs));
                elements += got.len();
                let differ = |(a, b): &(&u8, &u8)| a != b;
                let wrong = got.as_bytes().iter().zip(expected.as_bytes()).filter(differ).count();
                if wrong > 0 || got.shape() != expected.shape() {
                    failures.push(format!("{}: {wrong} of {} differ", case.what, got.len()));
                }
            }
            println!(
                "{device}: {operator} {activation:?}: {elements} elements, {} cases fail",
                failures.len()
            );
            all.extend(failures.into_iter().map(|f| format!("{device}: {f}")));
        }
    }
    all
}

#[path = "../hardware-tests/networks.rs"]
mod networks;

fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut random = cases::Random::new(seed);
    let values = (0..shape.iter().product()).map(|_| random.range(0, 2000) as f32 / 1000.0 - 1.0);
    Tensor::from_slice(shape, &values.collect::<Vec<f32>>()).unwrap()
}

/// A quantised model that gives every integer tensor in it, beside its outputs.
fn with_every_integer(model: &Model) -> Model {
    let graph = Graph::of(model).unwrap();
    let made = graph.nodes().iter().filter(|n| n.is("QuantizeLinear")).filter_map(|n| n.output(0));
    let outputs = made.chain(graph.outputs().iter().copied()).collect::<Vec<_>>();
    let nodes = graph.nodes().iter().collect::<Vec<_>>();
    let proto = graph.part_to_model(&nodes, graph.inputs(), &outputs).unwrap();
    Model::from_bytes(encode(&proto).unwrap(), &ReadLimits::default()).unwrap()
}

/// Every integer tensor of whole networks, on the device and in ONNX Runtime.
#[test]
fn whole_networks_equal_onnx_runtime_in_every_tensor() {
    if let Some(reason) = processor::no_oracle() {
        return println!("skipped: {reason}");
    }
    let networks = [
        ("SqueezeNet", networks::squeezenet(64, 100), 64),
        ("a small ResNet", networks::resnet(&[1, 1, 1, 1], 16, 64, 100), 64),
        ("ResNet-50", networks::resnet(&[3, 4, 6, 3], 64, 224, 1000), 224),
    ];
    let cpu = CpuBackend::new();
    for (name, bytes, image) in networks {
        let float = Model::from_bytes(bytes, &ReadLimits::default()).unwrap();
        let samples = (0..2).map(|i| vec![noise(&[1, 3, image, image], i)]).collect::<Vec<_>>();
        let done =
            quantize(&float, &samples, &Scheme::default(), Calibration::MinMax, &cpu, &|_, _, _| {}).unwrap();
        let plain = Model::from_bytes(encode(&done.model).unwrap(), &ReadLimits::default()).unwrap();
        let model = with_every_integer(&plain);
        let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
        let x = [noise(&[1, 3, image, image], 99)];
        let expected =
            cpu.compile(&model, &cpu.probe().unwrap(), &options).unwrap().score(&x, &Call::new()).unwrap();
        for device in devices() {
            let scorer = FpgaBackend::new().compile(&model, std::slice::from_ref(&device), &options).unwrap();
            let got = scorer.score(&x, &Call::new()).unwrap();
            let mut elements = 0;
            for (i, port) in model.signature().outputs().iter().enumerate() {
                let (got, expected) = (got.tensor(i).unwrap(), expected.tensor(i).unwrap());
                let wrong = got.as_bytes().iter().zip(expected.as_bytes()).filter(|(a, b)| a != b).count();
                assert_eq!((got.shape(), wrong), (expected.shape(), 0), "{device}: {name}: {}", port.name);
                elements += got.len();
            }
            let tensors = model.signature().outputs().len();
            println!("{device}: {name}: {elements} elements of {tensors} tensors equal ONNX Runtime's");
            // Where nobody asks for what is between them, operators are fused.
            let scorer = FpgaBackend::new().compile(&plain, std::slice::from_ref(&device), &options).unwrap();
            let (got, last) =
                (scorer.score(&x, &Call::new()).unwrap(), expected.tensor(tensors - 1).unwrap());
            assert_eq!(got.tensor(0).unwrap().as_bytes(), last.as_bytes(), "{device}: {name}, fused");
        }
    }
}

/// Memory of this process in bytes, as the system counts it.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn eight_callers_get_what_one_gets_and_memory_stays() {
    const CALLS: usize = 1000;
    for device in devices() {
        let (model, x) = (quantized("digits_cnn"), heldout("digits_cnn"));
        let scorer = FpgaBackend::new()
            .compile(&model, std::slice::from_ref(&device), &CompileOptions::default())
            .unwrap();
        let inputs = (0..16).map(|i| [x.rows(0, i..i + 1 + i % 3).unwrap()]).collect::<Vec<_>>();
        let score = |i: usize| {
            scorer.score(&inputs[i % 16], &Call::new()).unwrap().tensor(0).unwrap().as_bytes().to_vec()
        };
        let serial = (0..16).map(score).collect::<Vec<_>>();
        // Every lane has seen every shape before memory is looked at.
        let run = |calls: usize| {
            std::thread::scope(|s| {
                for caller in 0..8 {
                    let (score, serial) = (&score, &serial);
                    s.spawn(move || {
                        (0..calls).for_each(|i| {
                            assert_eq!(score(i + caller), serial[(i + caller) % 16], "call {i} of {caller}")
                        })
                    });
                }
            });
        };
        run(100);
        let before = resident_bytes();
        run(CALLS);
        let grown = resident_bytes().saturating_sub(before);
        println!("{device}: 8 × {CALLS} scores equal serial ones; memory grew by {grown} bytes");
        assert!(grown < 16 << 20, "{device}: {grown} bytes more after {} scores", 8 * CALLS);
        // Rows scored together are rows scored alone.
        let together = scorer.score(&[x.rows(0, 0..5).unwrap()], &Call::new()).unwrap();
        let alone = (0..5).flat_map(|i| {
            scorer
                .score(&[x.rows(0, i..i + 1).unwrap()], &Call::new())
                .unwrap()
                .tensor(0)
                .unwrap()
                .as_bytes()
                .to_vec()
        });
        assert_eq!(together.tensor(0).unwrap().as_bytes(), alone.collect::<Vec<_>>());
        assert_eq!(scorer.health(), Health::Ready);
    }
}

#[test]
fn a_call_ends_in_time_and_the_lane_is_as_good_as_before() {
    let float = Model::from_bytes(networks::squeezenet(96, 100), &ReadLimits::default()).unwrap();
    let samples = [vec![noise(&[1, 3, 96, 96], 0)]];
    let done = quantize(
        &float,
        &samples,
        &Scheme::default(),
        Calibration::MinMax,
        &CpuBackend::new(),
        &|_, _, _| {},
    );
    let model = Model::from_bytes(encode(&done.unwrap().model).unwrap(), &ReadLimits::default()).unwrap();
    for device in devices() {
        let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
        let scorer = FpgaBackend::new().compile(&model, std::slice::from_ref(&device), &options).unwrap();
        let x = [noise(&[1, 3, 96, 96], 1)];
        let right = scorer.score(&x, &Call::new()).unwrap().tensor(0).unwrap().as_bytes().to_vec();
        for us in [0, 50, 200, 500, 1000, 3000] {
            // In the middle of staging, of computing, or not at all: whatever it meets, the next call is right.
            if let Err(e) = scorer.score(&x, &Call::new().with_timeout(Duration::from_micros(us))) {
                assert_eq!(e.kind(), ErrorKind::DeadlineExceeded, "{e}");
            }
            let after = scorer.score(&x, &Call::new()).unwrap();
            assert_eq!(after.tensor(0).unwrap().as_bytes(), right, "{device}: after a call of {us} µs");
        }
        let late = scorer.score(&x, &Call::new().with_timeout(Duration::ZERO)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(scorer.health(), Health::Ready);
    }
}

/// Two emulated devices need drivers that are told so before they start: a process of its own.
#[test]
fn lanes_spread_over_two_devices() {
    const INSIDE: &str = "TRISCORE_TEST_TWO_DEVICES";
    if std::env::var_os(INSIDE).is_none() {
        let own = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["lanes_spread_over_two_devices", "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .env("POCL_DEVICES", "pthread pthread")
            .env("CL_CONFIG_CPU_EMULATE_DEVICES", "2")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&own.stdout);
        println!("{said}");
        return assert!(own.status.success(), "{said}{}", String::from_utf8_lossy(&own.stderr));
    }
    let found = devices();
    if found.len() < 2 {
        return println!("skipped: {} devices", found.len());
    }
    let (model, x) = (quantized("digits_res"), heldout("digits_res"));
    let scorer = FpgaBackend::new().compile(&model, &found[..2], &CompileOptions::default()).unwrap();
    assert_eq!((scorer.devices().len(), scorer.limits().lanes), (2, 4));
    let right =
        [expected(&model, &[x.rows(0, 0..1).unwrap()]), expected(&model, &[x.rows(0, 1..3).unwrap()])];
    std::thread::scope(|s| {
        for caller in 0..8 {
            let (scorer, x, right) = (&scorer, &x, &right);
            s.spawn(move || {
                for i in 0..50 {
                    let which = (i + caller) % 2;
                    let rows = if which == 0 { 0..1 } else { 1..3 };
                    let scored = scorer.score(&[x.rows(0, rows).unwrap()], &Call::new()).unwrap();
                    assert_eq!(
                        scored.tensor(0).unwrap().as_bytes(),
                        right[which].as_bytes(),
                        "call {i} of {caller}"
                    );
                }
            });
        }
    });
    println!("400 scores on {} and {} equal the reference", found[0], found[1]);
}
