//! The engine on every OpenCL device that is there, emulated ones included, held to the reference to the bit.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cpu", feature = "opencl", feature = "cli"))]

use std::path::Path;

use triscore::cpu::CpuBackend;
use triscore::fpga::FpgaBackend;
use triscore::graph::{Graph, encode, rewrite};
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize, reference};
use triscore::{Backend, Call, CompileOptions, Device, Model, Tensor};

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
    let model = Model::open(models(folder)).unwrap();
    let x = heldout(folder);
    let samples = (0..64).map(|i| vec![x.rows(0, i..i + 1).unwrap()]).collect::<Vec<_>>();
    let done = quantize(
        &model,
        &samples,
        &Scheme::default(),
        Calibration::MinMax,
        &CpuBackend::new(),
        &|_, _, _| {},
    );
    Model::from_bytes(encode(&done.unwrap().model).unwrap(), &ReadLimits::default()).unwrap()
}

/// What the reference makes of a model.
fn expected(model: &Model, inputs: &[Tensor]) -> Tensor {
    let shapes = inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
    let mut graph = Graph::of(model).unwrap().bind(&shapes).unwrap();
    rewrite::to_integers(&mut graph).unwrap();
    graph.tidy().unwrap();
    let values = reference::run(&graph, inputs).unwrap();
    values[graph.outputs()[0].index()].clone().unwrap()
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
        for folder in ["digits_mlp", "digits_cnn", "digits_res"] {
            let (model, x) = (quantized(folder), heldout(folder));
            let fpga = FpgaBackend::new();
            let scorer =
                fpga.compile(&model, std::slice::from_ref(&device), &CompileOptions::default()).unwrap();
            assert!(scorer.placement().is_all_on_device());
            for rows in [1, 3, 32] {
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
                    "{device}: {folder}, {rows} rows: {wrong} of {} differ, {:?}",
                    got.len(),
                    scored.timing
                );
                assert_eq!(wrong, 0, "{device}: {folder}");
            }
        }
    }
}

#[path = "oracle/cases.rs"]
mod cases;
#[path = "oracle/model.rs"]
mod model;

#[test]
fn every_operator_equals_the_reference_on_every_device() {
    for device in devices() {
        let fpga = FpgaBackend::new();
        let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
        for activation in [triscore::int8::QType::U8, triscore::int8::QType::I8] {
            for operator in cases::OPERATORS {
                let (mut elements, mut refused, mut failures) = (0, Vec::new(), Vec::new());
                for seed in 0..120 {
                    let case = cases::case(operator, activation, seed);
                    let scorer = match fpga.compile(&case.model, std::slice::from_ref(&device), &options) {
                        Ok(scorer) => scorer,
                        Err(e) => {
                            refused.push(format!("{}: {e}", case.what));
                            continue;
                        }
                    };
                    let scored = scorer
                        .score(&case.inputs, &Call::new())
                        .unwrap_or_else(|e| panic!("{}: {e}", case.what));
                    let (got, expected) = (scored.tensor(0).unwrap(), expected(&case.model, &case.inputs));
                    elements += got.len();
                    let differ = |(a, b): &(&u8, &u8)| a != b;
                    let wrong = got.as_bytes().iter().zip(expected.as_bytes()).filter(differ).count();
                    if wrong > 0 || got.shape() != expected.shape() {
                        failures.push(format!("{}: {wrong} of {} differ", case.what, got.len()));
                    }
                }
                println!(
                    "{device}: {operator} {activation:?}: {elements} elements, {} differ, {} refused",
                    failures.len(),
                    refused.len()
                );
                assert!(failures.is_empty(), "{}", failures[..failures.len().min(8)].join("\n"));
                assert!(refused.is_empty(), "{}", refused[..refused.len().min(8)].join("\n"));
            }
        }
    }
}
