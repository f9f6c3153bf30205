//! Whole models quantised here: as accurate as the float ones, and every integer that the reference computes equal to ONNX Runtime's.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cpu", feature = "opencl", feature = "cli"))]

#[path = "oracle/processor.rs"]
mod processor;

use std::path::Path;

use triscore::cpu::CpuBackend;
use triscore::graph::{Graph, ValueId, encode, rewrite};
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Quantized, Scheme, quantize, quantize_float8, reference};
use triscore::{Backend, Call, CompileOptions, DType, Model, Tensor};

fn models(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// Held-out data of a model: images or rows, and the labels.
fn heldout(folder: &str) -> (Tensor, Vec<i64>) {
    let file = std::fs::File::open(models(folder).join("heldout.npz")).unwrap();
    let mut npz = npyz::npz::NpzArchive::new(std::io::BufReader::new(file)).unwrap();
    let x = npz.by_name("x").unwrap().unwrap();
    let shape = x.shape().iter().map(|d| *d as usize).collect::<Vec<_>>();
    let x = x.into_vec::<f32>().unwrap();
    let y = npz.by_name("y").unwrap().unwrap().into_vec::<i64>().unwrap();
    (Tensor::from_slice(&shape, &x).unwrap(), y)
}

fn read(proto: &triscore::model::onnx::ModelProto) -> Model {
    Model::from_bytes(encode(proto).unwrap(), &ReadLimits::default()).unwrap()
}

fn score(model: &Model, inputs: &[Tensor]) -> Vec<Tensor> {
    let cpu = CpuBackend::new();
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    let scored =
        cpu.compile(model, &cpu.probe().unwrap(), &options).unwrap().score(inputs, &Call::new()).unwrap();
    (0..scored.outputs.len()).map(|i| scored.tensor(i).unwrap().clone()).collect()
}

/// What ranges are found from: rows, one by one.
fn samples(folder: &str) -> Vec<Vec<Tensor>> {
    let (x, _) = heldout(folder);
    (0..64).map(|i| vec![x.rows(0, i..i + 1).unwrap()]).collect()
}

fn quantized(folder: &str, scheme: &Scheme, calibration: Calibration) -> Quantized {
    let model = Model::open(models(folder)).unwrap();
    quantize(&model, &samples(folder), scheme, calibration, &CpuBackend::new(), &|_, _, _| {}).unwrap()
}

fn accuracy(model: &Model, folder: &str) -> f64 {
    let (x, labels) = heldout(folder);
    let out = score(model, &[x]).remove(0);
    let logits = out.as_slice::<f32>().unwrap();
    let classes = out.shape()[1];
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as i64;
    let right = logits.chunks(classes).zip(&labels).filter(|(row, label)| best(row) == **label).count();
    right as f64 / labels.len() as f64
}

/// How many elements of integer tensors the reference and ONNX Runtime compute, and which of them differ.
fn differences(model: &Model, inputs: &[Tensor]) -> (usize, usize, Vec<String>) {
    let shapes = inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
    let float = Graph::of(model).unwrap().bind(&shapes).unwrap();
    let mut integer = float.clone();
    rewrite::to_integers(&mut integer).unwrap();
    integer.tidy().unwrap();
    rewrite::remove_identities(&mut integer).unwrap();
    integer.tidy().unwrap();
    let left = integer.nodes().iter().filter(|n| n.is("DequantizeLinear") || n.is("QuantizeLinear")).count();
    let ours = reference::run(&integer, inputs).unwrap();
    // Every quantised tensor as an output of the Q/DQ model: that does not keep ONNX Runtime from fusing.
    let integers = float.nodes().iter().filter(|n| n.is("QuantizeLinear")).filter_map(|n| n.output(0));
    let integers =
        integers.filter(|id| ours.get(id.index()).is_some_and(Option::is_some)).collect::<Vec<ValueId>>();
    let nodes = float.nodes().iter().collect::<Vec<_>>();
    let theirs = score(&read(&float.part_to_model(&nodes, float.inputs(), &integers).unwrap()), inputs);
    let (mut elements, mut wrong) = (0, Vec::new());
    for (id, theirs) in integers.iter().zip(&theirs) {
        let ours = ours[id.index()].as_ref().unwrap();
        assert!(matches!(theirs.dtype(), DType::U8 | DType::I8), "{}", theirs.dtype());
        elements += theirs.len();
        let count = ours.as_bytes().iter().zip(theirs.as_bytes()).filter(|(a, b)| a != b).count();
        if count > 0 || ours.shape() != theirs.shape() {
            let maker =
                integer.nodes().iter().find(|n| n.makes().any(|m| m == *id)).map(|n| n.op.to_string());
            wrong.push(format!("{}: {count} of {} ({maker:?})", float.value(*id).name, theirs.len()));
        }
    }
    (left, elements, wrong)
}

#[test]
fn digits_of_8_bit_floats_are_as_accurate() {
    for folder in ["digits_mlp", "digits_cnn", "digits_res", "digits_vit"] {
        let model = Model::open(models(folder)).unwrap();
        let float = accuracy(&model, folder);
        let (samples, scheme) = (samples(folder), Scheme::default());
        for calibration in [Calibration::MinMax, Calibration::Percentile(99.99)] {
            let quantised = quantize_float8(
                &model,
                &samples,
                DType::F8E4M3,
                &scheme,
                calibration,
                &CpuBackend::new(),
                &|_, _, _| {},
            );
            let quantised = quantised.unwrap();
            let own = accuracy(&read(&quantised.model), folder);
            println!("{folder}: {float:.4} as floats, {own:.4} in 8 bits; {:?}", quantised.report.outputs);
            assert!(own >= float - 0.01, "{folder}: {own} in 8 bits, {float} as floats");
        }
    }
}

#[test]
fn quantised_digits_are_as_accurate_and_equal_onnx_runtime() {
    for folder in ["digits_mlp", "digits_cnn", "digits_res", "digits_vit"] {
        let float = accuracy(&Model::open(models(folder)).unwrap(), folder);
        let quantised = quantized(folder, &Scheme::default(), Calibration::MinMax);
        let model = read(&quantised.model);
        let exact = accuracy(&model, folder);
        println!("{folder}: {float:.4} as floats, {exact:.4} quantised; {:?}", quantised.report.outputs);
        assert!(exact >= float - 0.01, "{folder}: {exact} quantised, {float} as floats");
        if let Some(reason) = processor::no_oracle() {
            println!("{folder}: integers not compared: {reason}");
            continue;
        }
        let (x, _) = heldout(folder);
        let (left, elements, wrong) = differences(&model, &[x.rows(0, 0..32).unwrap()]);
        println!("{folder}: {elements} integers compared, {left} Q/DQ nodes left");
        assert!(wrong.is_empty(), "{folder}: {}", wrong.join("\n"));
        assert!(elements > 1000 && left <= 2, "{folder}: {elements} compared, {left} Q/DQ nodes left");
    }
}
