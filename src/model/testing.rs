//! Small models made in memory, for tests of whatever reads them.

use bytes::Bytes;
use prost::Message;

use super::onnx::attribute_proto::AttributeType;
use super::onnx::tensor_shape_proto::{Dimension, dimension};
use super::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use super::{Model, ReadLimits};
use crate::error::Result;
use crate::tensor::DType;

/// The file of that model.
pub(crate) fn encoded(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// Reads a model as if from a file, within the default limits.
pub(crate) fn read(model: &ModelProto) -> Result<Model> {
    Model::from_bytes(encoded(model), &ReadLimits::default())
}

/// A model of that graph: IR version 10, operator set 21, and ONNX's operators for machine learning.
pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset("", 21), opset("ai.onnx.ml", 5)],
        producer_name: Some("triscore tests".to_owned()),
        graph: Some(graph),
        ..Default::default()
    }
}

pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

pub(crate) fn graph(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initialisers: Vec<TensorProto>,
) -> GraphProto {
    GraphProto {
        name: Some("g".to_owned()),
        node: nodes,
        input: inputs,
        output: outputs,
        initializer: initialisers,
        ..Default::default()
    }
}

/// A node named after its first output.
pub(crate) fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        op_type: Some(op_type.to_owned()),
        name: outputs.first().map(|n| format!("make_{n}")),
        input: owned(inputs),
        output: owned(outputs),
        ..Default::default()
    }
}

impl NodeProto {
    /// The same node in another domain.
    pub(crate) fn of(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self
    }
    /// The same node with an attribute more.
    pub(crate) fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }
}

pub(crate) fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..Default::default() }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(crate) fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }
}

/// Dimensions out of text: a number is fixed, `?` is free, anything else is free by that name.
pub(crate) fn value(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: match (*text, text.parse()) {
            ("?", _) => None,
            (_, Ok(n)) => Some(dimension::Value::DimValue(n)),
            (name, _) => Some(dimension::Value::DimParam(name.to_owned())),
        },
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype.onnx_code()),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    typed(name, type_proto::Value::TensorType(tensor))
}

pub(crate) fn typed(name: &str, kind: type_proto::Value) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(kind), ..Default::default() }),
        ..Default::default()
    }
}

/// An initialiser of f32 in raw data, counting up from 0.
pub(crate) fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let raw = (0..dims.iter().product()).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DType::F32.onnx_code()),
        dims: dims.to_vec(),
        raw_data: Some(Bytes::from(raw)),
        ..Default::default()
    }
}

/// An initialiser of f32 whose data lies in a file.
pub(crate) fn outside(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        raw_data: None,
        data_location: Some(1),
        external_data: entries.iter().map(|(k, v)| entry(k, v)).collect(),
        ..weight(name, dims)
    }
}

pub(crate) fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }
}

/// A function of that domain with one body of nodes.
pub(crate) fn function(name: &str, nodes: Vec<NodeProto>, input: &str, output: &str) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        node: nodes,
        opset_import: vec![opset("", 21), opset("local", 1)],
        ..Default::default()
    }
}

/// A layer: `y = Relu(MatMul(x, w))`, x `f32[batch, 3]`, y `f32[batch, 2]`.
pub(crate) fn layer() -> ModelProto {
    model(graph(
        vec![node("MatMul", &["x", "w"], &["h"]), node("Relu", &["h"], &["y"])],
        vec![value("x", DType::F32, &["batch", "3"])],
        vec![value("y", DType::F32, &["batch", "2"])],
        vec![weight("w", &[3, 2])],
    ))
}

/// An `If` whose two branches use a value from around them, one of them a weight of its own.
pub(crate) fn branches() -> ModelProto {
    let then = graph(
        vec![node("Mul", &["x", "two"], &["doubled"])],
        vec![],
        vec![value("doubled", DType::F32, &["batch"])],
        vec![weight("two", &[1])],
    );
    let otherwise = graph(
        vec![node("Neg", &["x"], &["negated"])],
        vec![],
        vec![value("negated", DType::F32, &["batch"])],
        vec![],
    );
    let choose = node("If", &["c"], &["y"])
        .with(subgraph("then_branch", then))
        .with(subgraph("else_branch", otherwise));
    model(graph(
        vec![node("Not", &["b"], &["c"]), choose],
        vec![value("x", DType::F32, &["batch"]), value("b", DType::Bool, &[])],
        vec![value("y", DType::F32, &["batch"])],
        vec![],
    ))
}

/// A model that calls a function of its own twice.
pub(crate) fn calls() -> ModelProto {
    let twice = function("Twice", vec![node("Add", &["a", "a"], &["b"])], "a", "b");
    let mut model = model(graph(
        vec![node("Twice", &["x"], &["h"]).of("local"), node("Twice", &["h"], &["y"]).of("local")],
        vec![value("x", DType::F32, &["batch"])],
        vec![value("y", DType::F32, &["batch"])],
        vec![],
    ));
    model.opset_import.push(opset("local", 1));
    model.functions.push(twice);
    model
}
