//! The ONNX project's own tests of quantised operators: the reference, and the engine on every OpenCL device.
//!
//! Scales and zero points are inputs in these models. A device takes them as constants, so for it they are bound first.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "opencl")]

use std::path::{Path, PathBuf};

use prost::Message;
use triscore::fpga::FpgaBackend;
use triscore::graph::{Graph, encode};
use triscore::model::ReadLimits;
use triscore::model::onnx::TensorProto;
use triscore::quantize::reference;
use triscore::{Backend, Call, CompileOptions, ErrorKind, Model, Tensor};

struct Case {
    name: String,
    model: Model,
    protos: Vec<TensorProto>,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware-tests/conformance");
    let names = std::fs::read_to_string(folder.join("int8.txt")).unwrap();
    let names = names.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    names.map(|name| case(name, &folder.join("int8").join(name))).collect()
}

fn case(name: &str, folder: &Path) -> Case {
    let model = Model::open(folder.join("model.onnx")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let read = |path: PathBuf| Some(TensorProto::decode(std::fs::read(path).ok()?.as_slice()).unwrap());
    let all =
        |kind: &str| (0..).map_while(|i| read(folder.join(format!("{kind}_{i}.pb")))).collect::<Vec<_>>();
    let tensors =
        |protos: &[TensorProto]| protos.iter().map(|p| model.tensor(p).unwrap()).collect::<Vec<_>>();
    let (protos, outputs) = (all("input"), all("output"));
    let (inputs, outputs) = (tensors(&protos), tensors(&outputs));
    Case { name: name.to_owned(), model, protos, inputs, outputs }
}

/// The model with every input but the first (or the weights, too) as a constant.
fn bound(case: &Case) -> Model {
    let mut proto = case.model.proto().clone();
    let graph = proto.graph.as_mut().unwrap();
    let names = graph.input.iter().map(|i| i.name().to_owned()).collect::<Vec<_>>();
    graph.input.truncate(1);
    for (name, tensor) in names.into_iter().zip(&case.protos).skip(1) {
        graph.initializer.push(TensorProto { name: Some(name), ..tensor.clone() });
    }
    Model::from_bytes(encode(&proto).unwrap(), &ReadLimits::default()).unwrap()
}

#[test]
fn the_reference_conforms() {
    for case in cases().iter().filter(|c| !c.name.ends_with("_expanded")) {
        let shapes = case.inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
        let graph = Graph::of(&case.model).unwrap().bind(&shapes).unwrap();
        let values = reference::run(&graph, &case.inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (id, expected) in graph.outputs().iter().zip(&case.outputs) {
            let got = values[id.index()].as_ref().unwrap();
            assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()), "{}", case.name);
            assert_eq!(got.as_bytes(), expected.as_bytes(), "{}", case.name);
        }
    }
}

#[test]
fn the_engine_conforms_on_every_device() {
    let fpga = FpgaBackend::new();
    let devices = match fpga.probe() {
        Ok(devices) => devices,
        Err(e) => return println!("skipped: {e}"),
    };
    for device in devices {
        let mut passed = 0;
        for case in cases() {
            let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
            match fpga.compile(&bound(&case), std::slice::from_ref(&device), &options) {
                Ok(scorer) => {
                    let scored = scorer.score(&case.inputs[..1], &Call::new()).unwrap();
                    for (i, expected) in case.outputs.iter().enumerate() {
                        let got = scored.tensor(i).unwrap();
                        assert_eq!(
                            (got.dtype(), got.shape()),
                            (expected.dtype(), expected.shape()),
                            "{}",
                            case.name
                        );
                        assert_eq!(got.as_bytes(), expected.as_bytes(), "{device}: {}", case.name);
                    }
                    passed += 1;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Unsupported, "{}: {e}", case.name);
                    println!("{device}: {}: not on the engine: {e}", case.name);
                }
            }
        }
        println!("{device}: {passed} cases conform");
        assert!(passed >= 6, "only {passed} cases run on the engine");
    }
}
