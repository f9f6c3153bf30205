//! The graph held against ONNX Runtime: shapes, folding and rewrites must not change what a model computes.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cpu", feature = "opencl"))]

use std::path::{Path, PathBuf};

use triscore::cpu::CpuBackend;
use triscore::graph::{Graph, encode, fold, rewrite};
use triscore::model::ReadLimits;
use triscore::model::onnx::ModelProto;
use triscore::{Backend, Call, CompileOptions, DType, Dim, F8E4M3, F8E5M2, Model, Tensor, Value};

/// The models of this repository that are made of tensors of numbers.
fn models() -> Vec<(String, Model)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => open.push(path),
                Some(kind) if kind == "onnx" => {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    found.push((name, Model::open(&path).unwrap()));
                }
                _ => {}
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let numeric = |(_, m): &(String, Model)| {
        m.signature()
            .inputs()
            .iter()
            .all(|p| p.dtype().is_some_and(|d| d != DType::String) && p.dims().is_some())
    };
    found.retain(numeric);
    assert!(found.len() > 20, "the models are gone");
    found
}

/// Seeded inputs for a model; every free dimension is as long as `free` says.
fn inputs(model: &Model, free: usize) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    let port = |port: &triscore::Port| {
        let length = |d: &Dim| if let Dim::Fixed(n) = d { *n } else { free };
        let shape = port.dims().unwrap().iter().map(length).collect::<Vec<_>>();
        let values = (0..shape.iter().product()).map(|_| next()).collect::<Vec<f32>>();
        macro_rules! of {
            ($t:ty, $f:expr) => {
                Tensor::from_slice::<$t>(&shape, &values.iter().map(|v| $f(*v)).collect::<Vec<_>>()).unwrap()
            };
        }
        match port.dtype().unwrap() {
            DType::F32 => of!(f32, |v| v),
            DType::F64 => of!(f64, f64::from),
            DType::F16 => of!(half::f16, half::f16::from_f32),
            DType::Bf16 => of!(half::bf16, half::bf16::from_f32),
            DType::F8E4M3 => of!(F8E4M3, F8E4M3::from_f32),
            DType::F8E5M2 => of!(F8E5M2, F8E5M2::from_f32),
            DType::Bool => of!(bool, |v| v > 0.5),
            DType::I8 => of!(i8, |v| (v * 5.0) as i8),
            DType::I16 => of!(i16, |v| (v * 5.0) as i16),
            DType::I32 => of!(i32, |v| (v * 5.0) as i32),
            DType::I64 => of!(i64, |v| (v * 5.0) as i64),
            DType::U8 => of!(u8, |v| (v * 5.0) as u8),
            DType::U16 => of!(u16, |v| (v * 5.0) as u16),
            DType::U32 => of!(u32, |v| (v * 5.0) as u32),
            DType::U64 => of!(u64, |v| (v * 5.0) as u64),
            other => panic!("{other}"),
        }
    };
    model.signature().inputs().iter().map(port).collect()
}

fn score(model: &Model, inputs: &[Tensor]) -> triscore::Result<Vec<Value>> {
    let cpu = CpuBackend::new();
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    Ok(cpu.compile(model, &cpu.probe()?, &options)?.score(inputs, &Call::new())?.outputs)
}

fn read(proto: &ModelProto) -> Model {
    Model::from_bytes(encode(proto).unwrap(), &ReadLimits::default()).unwrap()
}

/// Equal bits, but for what stands in sequences and maps, which graphs pass on as they are.
fn assert_same(name: &str, got: &[Value], expected: &[Value]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (got, expected) in got.iter().zip(expected) {
        if let (Value::Tensor(got), Value::Tensor(expected)) = (got, expected) {
            assert_eq!(got.shape(), expected.shape(), "{name}");
            assert!(
                got.dtype() == DType::String || got.as_bytes() == expected.as_bytes(),
                "{name}: other values"
            );
        }
    }
}

/// Whether every output is a tensor; graphs of sequences and maps are not written.
fn has_tensors_only(model: &Model) -> bool {
    model.signature().outputs().iter().all(|p| p.dtype().is_some())
}

#[test]
fn every_inferred_shape_is_what_onnx_runtime_makes() {
    let (mut compared, mut unknown) = (0, 0);
    for (name, model) in models() {
        let graph = Graph::of(&model).unwrap_or_else(|e| panic!("{name}: {e}"));
        let given = inputs(&model, 2);
        let shapes = given.iter().map(Tensor::shape).collect::<Vec<_>>();
        let bound = graph.bind(&shapes).unwrap();
        // Every value that nodes make and that has a type, as an output.
        let made = bound.nodes().iter().flat_map(|n| n.makes());
        let made = made.filter(|id| bound.value(*id).dtype.is_some()).collect::<Vec<_>>();
        let nodes = bound.nodes().iter().collect::<Vec<_>>();
        let mut proto = graph.part_to_model(&nodes, graph.inputs(), &made).unwrap();
        // Declared shapes would be checked by ONNX Runtime, with a warning alone; it shall say them itself.
        for output in &mut proto.graph.as_mut().unwrap().output {
            if let Some(triscore::model::onnx::type_proto::Value::TensorType(t)) =
                output.r#type.as_mut().and_then(|t| t.value.as_mut())
            {
                t.shape = None;
            }
        }
        let values = score(&read(&proto), &given).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (id, value) in made.iter().zip(&values) {
            let tensor = value.as_tensor().unwrap();
            let inferred = bound.value(*id);
            assert_eq!(inferred.dtype, Some(tensor.dtype()), "{name}: {}", inferred.name);
            match inferred.shape.lengths() {
                Some(lengths) => {
                    assert_eq!(lengths, tensor.shape(), "{name}: {}", inferred.name);
                    compared += 1;
                }
                None => {
                    println!("{name}: unknown: {}", inferred.name);
                    unknown += 1;
                }
            }
        }
    }
    println!("{compared} shapes compared, {unknown} unknown");
    assert!(compared > 70 && unknown < compared / 5, "{compared} compared, {unknown} unknown");
}

#[test]
fn a_graph_written_back_computes_the_same() {
    for (name, model) in models().iter().filter(|(_, m)| has_tensors_only(m)) {
        let given = inputs(model, 3);
        let graph = Graph::of(model).unwrap();
        let again = read(&graph.to_model().unwrap());
        assert_same(name, &score(&again, &given).unwrap(), &score(model, &given).unwrap());
    }
}

#[test]
fn a_folded_graph_computes_the_same_with_fewer_nodes() {
    let mut folded_nodes = 0;
    for (name, model) in models().iter().filter(|(_, m)| has_tensors_only(m)) {
        let given = inputs(model, 2);
        let shapes = given.iter().map(Tensor::shape).collect::<Vec<_>>();
        let mut graph = Graph::of(model).unwrap().bind(&shapes).unwrap();
        folded_nodes +=
            fold::fold(&mut graph, Some(&CpuBackend::new())).unwrap_or_else(|e| panic!("{name}: {e}"));
        let again = read(&graph.to_model().unwrap());
        // Close, not equal: with its shapes known ONNX Runtime computes some nodes in another order.
        assert_close(name, &score(&again, &given).unwrap(), &score(model, &given).unwrap());
    }
    assert!(folded_nodes > 0, "nothing was folded");
}

/// How far outputs may be apart where a rewrite rounds in another order.
fn assert_close(name: &str, got: &[Value], expected: &[Value]) {
    for (got, expected) in got.iter().zip(expected) {
        let (got, expected) = (got.as_tensor().unwrap(), expected.as_tensor().unwrap());
        match (got.as_slice::<f32>(), expected.as_slice::<f32>()) {
            (Ok(got), Ok(expected)) => {
                let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
                for (g, e) in got.iter().zip(expected) {
                    assert!((g - e).abs() <= 2e-5 * scale, "{name}: {g} for {e}");
                }
            }
            _ => assert_same(name, &[Value::Tensor(got.clone())], &[Value::Tensor(expected.clone())]),
        }
    }
}

#[test]
fn rewrites_do_not_change_what_a_model_computes() {
    for (name, model) in models().iter().filter(|(_, m)| has_tensors_only(m)) {
        let given = inputs(model, 2);
        let mut graph = Graph::of(model).unwrap();
        let done = rewrite::simplify(&mut graph).unwrap();
        println!("{name}: {done:?}");
        let again = read(&graph.to_model().unwrap());
        assert_close(name, &score(&again, &given).unwrap(), &score(model, &given).unwrap());
    }
}

#[path = "../hardware-tests/networks.rs"]
mod networks;

#[test]
fn fusions_do_not_change_what_a_model_computes() {
    let limits = ReadLimits::default();
    let mut all = models();
    all.retain(|(_, m)| has_tensors_only(m));
    let network = |bytes: Vec<u8>| Model::from_bytes(bytes, &limits).unwrap();
    all.push(("a ResNet".to_owned(), network(networks::resnet(&[1, 1, 1, 1], 16, 64, 100))));
    all.push(("SqueezeNet".to_owned(), network(networks::squeezenet(64, 100))));
    let mut times = [0, 0];
    for (name, model) in &all {
        let given = inputs(model, 2);
        let mut graph = Graph::of(model).unwrap();
        rewrite::simplify(&mut graph).unwrap();
        for (fusion, times) in [rewrite::find_attention, rewrite::join_products].iter().zip(&mut times) {
            *times += fusion(&mut graph).unwrap();
            graph.tidy().unwrap();
        }
        // A device binds shapes before it plans: they are all still known.
        let shapes = given.iter().map(Tensor::shape).collect::<Vec<_>>();
        let bound = graph.bind(&shapes).unwrap();
        for node in bound.nodes().iter().filter(|n| n.op.domain == "triscore") {
            let made = bound.value(node.output(0).unwrap());
            assert!(made.shape.lengths().is_some(), "{name}: {} of {}", made.name, node.op);
        }
        let again = read(&graph.to_model().unwrap());
        assert_close(name, &score(&again, &given).unwrap(), &score(model, &given).unwrap());
    }
    println!("{times:?}");
    assert!(times.iter().all(|times| *times >= 2), "{times:?}");
}
