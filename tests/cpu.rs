//! What the CPU backend does with models that its guesses do not fit.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test may assert its way forward")]

use prost::Message;
use triscore::cpu::CpuBackend;
use triscore::model::ReadLimits;
use triscore::model::onnx::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};
use triscore::{Backend, Call, CompileOptions, DType, ErrorKind, Model, Tensor};

fn port(name: &str, dims: Vec<dimension::Value>) -> ValueInfoProto {
    let dim = dims.into_iter().map(|value| Dimension { value: Some(value), ..Default::default() }).collect();
    let tensor =
        type_proto::Tensor { elem_type: Some(DType::F32.onnx_code()), shape: Some(TensorShapeProto { dim }) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
}

/// `y = Reshape(x, [2, 3])` with a free first dimension: only six elements will do, and no signature says so.
fn six_elements_only() -> Model {
    let shape = TensorProto {
        name: Some("shape".to_owned()),
        dims: vec![2],
        data_type: Some(DType::I64.onnx_code()),
        int64_data: vec![2, 3],
        ..Default::default()
    };
    let node = NodeProto {
        op_type: Some("Reshape".to_owned()),
        input: vec!["x".to_owned(), "shape".to_owned()],
        output: vec!["y".to_owned()],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("g".to_owned()),
        node: vec![node],
        initializer: vec![shape],
        input: vec![port("x", vec![dimension::Value::DimParam("n".to_owned())])],
        output: vec![port(
            "y",
            vec![dimension::Value::DimParam("m".to_owned()), dimension::Value::DimValue(3)],
        )],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(17), ..Default::default() }],
        graph: Some(graph),
        ..Default::default()
    };
    Model::from_bytes(model.encode_to_vec(), &ReadLimits::default()).unwrap()
}

#[test]
fn a_model_that_refuses_the_sample_is_loaded_and_scored() {
    let cpu = CpuBackend::new();
    let model = six_elements_only();
    assert_eq!(model.signature().batch_axis(), Some(0), "its shapes look like a batch");
    let scorer = cpu.compile(&model, &cpu.probe().unwrap(), &CompileOptions::default()).unwrap();
    assert_eq!(scorer.signature().batch_axis(), None, "that its rows are independent was not seen");

    let six = Tensor::from_slice(&[6], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
    let scored = scorer.score(&[six], &Call::new()).unwrap();
    assert_eq!(scored.tensor(0).unwrap().shape(), &[2, 3]);
    let seven = Tensor::zeros(DType::F32, &[7]).unwrap();
    let e = scorer.score(&[seven], &Call::new()).unwrap_err();
    assert!(e.to_string().contains("Reshape"), "{e}");
}

#[test]
fn a_batch_larger_than_the_deployment_allows_is_refused() {
    let cpu = CpuBackend::new();
    let model = Model::open("models/digits_mlp/model.onnx").unwrap();
    let options = CompileOptions { max_batch: Some(4), ..CompileOptions::default() };
    let scorer = cpu.compile(&model, &cpu.probe().unwrap(), &options).unwrap();
    let rows = |n: usize| scorer.score(&[Tensor::zeros(DType::F32, &[n, 64]).unwrap()], &Call::new());
    assert_eq!(rows(4).unwrap().tensor(0).unwrap().shape(), &[4, 10]);
    let e = rows(5).unwrap_err();
    assert_eq!((e.kind(), scorer.limits().max_batch), (ErrorKind::TooLarge, Some(4)));
    assert!(e.to_string().contains("5 rows, at most 4"), "{e}");
}
