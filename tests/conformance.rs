//! The ONNX project's own tests of operators: see the two modules.
//!
//! A case is a model, inputs, and what must come out: files that `scripts/conformance.py` wrote.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(any(all(feature = "cpu", feature = "cuda"), feature = "opencl"))]

#[cfg(all(feature = "cpu", feature = "cuda"))]
#[path = "conformance/float.rs"]
mod float;
#[cfg(feature = "opencl")]
#[path = "conformance/int8.rs"]
mod int8;

#[path = "../hardware-tests/root.rs"]
mod root;

use std::path::{Path, PathBuf};

use prost::Message;
use triscore::graph::encode;
use triscore::model::ReadLimits;
use triscore::model::onnx::TensorProto;
use triscore::{Model, Tensor};

/// Where the lists are.
fn folder() -> PathBuf {
    root::root().join("hardware-tests/conformance")
}

struct Case {
    name: String,
    model: Model,
    protos: Vec<TensorProto>,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// The names in a list.
fn names(list: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder().join(list)).unwrap();
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

impl Case {
    fn read(name: &str, folder: &Path) -> Self {
        let model = Model::open(folder.join("model.onnx")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let read = |path: PathBuf| Some(TensorProto::decode(std::fs::read(path).ok()?.as_slice()).unwrap());
        let all =
            |kind: &str| (0..).map_while(|i| read(folder.join(format!("{kind}_{i}.pb")))).collect::<Vec<_>>();
        let tensors =
            |protos: &[TensorProto]| protos.iter().map(|p| model.tensor(p).unwrap()).collect::<Vec<_>>();
        let (protos, outputs) = (all("input"), all("output"));
        let (inputs, outputs) = (tensors(&protos), tensors(&outputs));
        Self { name: name.to_owned(), model, protos, inputs, outputs }
    }

    /// The model with those of its inputs as constants, and what is to be given for the others.
    fn bound(&self, is_constant: impl Fn(usize) -> bool) -> (Model, Vec<Tensor>) {
        let mut proto = self.model.proto().clone();
        let graph = proto.graph.as_mut().unwrap();
        // In the oldest files weights are inputs, too; no case has data for those.
        let weights = graph.initializer.iter().map(|t| t.name().to_owned()).collect::<Vec<_>>();
        let given = graph.input.iter().filter(|i| !weights.iter().any(|w| w == i.name()));
        let given = given.map(|i| i.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(given.len(), self.inputs.len(), "{}: inputs", self.name);
        let mut inputs = Vec::new();
        for (place, name) in given.into_iter().enumerate() {
            if is_constant(place) {
                graph.input.retain(|i| i.name() != name);
                graph.initializer.push(TensorProto { name: Some(name), ..self.protos[place].clone() });
            } else {
                inputs.push(self.inputs[place].clone());
            }
        }
        let model = Model::from_bytes(encode(&proto).unwrap(), &ReadLimits::default());
        (model.unwrap_or_else(|e| panic!("{}: {e}", self.name)), inputs)
    }
}
