//! Small graphs written as text, for tests: what is read is what [`Graph`]'s `Display` shows, about.
//!
//! ```text
//! x: f32[N, 4]                  an input
//! w = f32[4, 2] 1 2 3 …         an initialiser (fewer numbers than elements: the last one repeats)
//! y = Gemm<transB=0>(x, w)      a node; `_` leaves an input or output out; com.microsoft.Gelu(x) is of another domain
//! -> y                          the outputs
//! ```

use prost::Message;

use super::Graph;
use crate::model::onnx::attribute_proto::AttributeType;
use crate::model::onnx::tensor_shape_proto::{Dimension, dimension};
use crate::model::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use crate::model::{Model, ReadLimits};
use crate::tensor::DType;

/// The graph of a model that is written as text, in operator set 21.
pub(crate) fn graph_of(text: &str) -> Graph {
    Graph::of(&read(&model_of(text))).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// As [`graph_of`], in another operator set.
pub(crate) fn graph_of_opset(opset: i64, text: &str) -> Graph {
    let mut proto = model_of(text);
    proto.opset_import[0].version = Some(opset);
    Graph::of(&read(&proto)).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

pub(crate) fn read(proto: &ModelProto) -> Model {
    Model::from_bytes(proto.encode_to_vec(), &ReadLimits::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// The messages of a model that is written as text.
pub(crate) fn model_of(text: &str) -> ModelProto {
    let mut graph = GraphProto { name: Some("g".to_owned()), ..Default::default() };
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(outputs) = line.strip_prefix("->") {
            graph.output.extend(apart(outputs).into_iter().map(|o| match o.split_once(':') {
                Some((name, kind)) => info(name.trim(), kind.trim()),
                None => ValueInfoProto {
                    // An output needs a type; one that says nothing of the shape will do.
                    r#type: Some(tensor_type(DType::F32, None)),
                    name: Some(o.trim().to_owned()),
                    ..Default::default()
                },
            }));
        } else if let Some((outputs, right)) = line.split_once(" = ") {
            match right.split_once('(') {
                Some((op, inputs)) => graph.node.push(node(outputs, op, inputs.trim_end_matches(')'))),
                None => graph.initializer.push(initialiser(outputs, right)),
            }
        } else if let Some((name, kind)) = line.split_once(':') {
            graph.input.push(info(name, kind.trim()));
        }
    }
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    let mut domains = graph.node.iter().filter_map(|n| n.domain.clone()).collect::<Vec<_>>();
    domains.sort();
    domains.dedup();
    let others = domains.iter().filter(|d| !d.is_empty()).map(|d| opset(d, 1));
    ModelProto {
        ir_version: Some(10),
        opset_import: std::iter::once(opset("", 21)).chain(others).collect(),
        graph: Some(graph),
        ..Default::default()
    }
}

/// What commas part that are in no brackets.
fn apart(list: &str) -> Vec<&str> {
    let mut depth = 0;
    list.split(|c| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        c == ',' && depth == 0
    })
    .collect()
}

fn node(outputs: &str, op: &str, inputs: &str) -> NodeProto {
    let names = |list: &str| {
        let names = list.split(',').map(str::trim).filter(|n| !n.is_empty());
        names.map(|n| if n == "_" { String::new() } else { n.to_owned() }).collect()
    };
    let (op, attributes) = op.split_once('<').map_or((op, ""), |(op, a)| (op, a.trim_end_matches('>')));
    let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
    let mut parts: Vec<String> = Vec::new();
    for part in attributes.split(", ").filter(|a| !a.is_empty()) {
        // A comma within brackets goes on with the attribute.
        match part.contains('=') {
            true => parts.push(part.to_owned()),
            false => *parts.last_mut().unwrap() += &format!(" {part}"),
        }
    }
    NodeProto {
        name: None,
        op_type: Some(op.to_owned()),
        domain: Some(domain.to_owned()),
        input: names(inputs),
        output: names(outputs),
        attribute: parts.iter().map(|a| attribute(a)).collect(),
        ..Default::default()
    }
}

fn attribute(text: &str) -> AttributeProto {
    let (name, value) = text.split_once('=').unwrap();
    let of = |kind: AttributeType| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind.into()),
        ..Default::default()
    };
    if let Some(items) = value.strip_prefix('[') {
        let ints = items.trim_end_matches(']').split_whitespace().map(|i| i.parse().unwrap()).collect();
        return AttributeProto { ints, ..of(AttributeType::Ints) };
    }
    match (value.parse::<i64>(), value.parse::<f32>()) {
        (Ok(i), _) => AttributeProto { i: Some(i), ..of(AttributeType::Int) },
        (_, Ok(f)) => AttributeProto { f: Some(f), ..of(AttributeType::Float) },
        _ => AttributeProto { s: Some(value.to_owned().into()), ..of(AttributeType::String) },
    }
}

/// `f32[N, 4]`
fn kind(text: &str) -> (DType, Vec<String>) {
    let (dtype, dims) = text.trim().trim_end_matches(']').split_once('[').unwrap();
    let dims = dims.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned);
    (dtype.parse().unwrap(), dims.collect())
}

fn info(name: &str, text: &str) -> ValueInfoProto {
    let (dtype, dims) = kind(text);
    let dim = |d: &String| Dimension {
        value: Some(match d.parse() {
            Ok(n) => dimension::Value::DimValue(n),
            Err(_) => dimension::Value::DimParam(d.clone()),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(tensor_type(dtype, Some(shape))),
        ..Default::default()
    }
}

fn tensor_type(dtype: DType, shape: Option<TensorShapeProto>) -> TypeProto {
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx_code()), shape };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }
}

fn initialiser(name: &str, text: &str) -> TensorProto {
    let (head, numbers) = text.split_once(']').unwrap();
    let (dtype, dims) = kind(head);
    let dims = dims.iter().map(|d| d.parse().unwrap()).collect::<Vec<i64>>();
    let count = dims.iter().product::<i64>() as usize;
    let given = numbers.split_whitespace().map(|n| n.parse::<f64>().unwrap()).collect::<Vec<_>>();
    let values =
        (0..count).map(|i| given.get(i).or(given.last()).copied().unwrap_or(0.0)).collect::<Vec<_>>();
    let ints = || values.iter().map(|v| *v as i32).collect::<Vec<_>>();
    let tensor = TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(dtype.onnx_code()),
        dims,
        ..Default::default()
    };
    match dtype {
        DType::F32 => TensorProto { float_data: values.iter().map(|v| *v as f32).collect(), ..tensor },
        DType::F64 => TensorProto { double_data: values, ..tensor },
        DType::I64 => TensorProto { int64_data: values.iter().map(|v| *v as i64).collect(), ..tensor },
        _ => TensorProto { int32_data: ints(), ..tensor },
    }
}
