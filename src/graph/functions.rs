//! Operators of our own domain, each written as an ONNX function.
//!
//! Devices compute some things that ONNX has no integer operator for. So that a graph with them can still be written as a model that
//! runs anywhere, each is defined by a function of standard operators. A function says what an operator means; to the
//! bit it is defined by `int8`.

use crate::model::onnx::{
    AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, attribute_proto::AttributeType,
};

/// The domain of operators that have no name elsewhere.
pub const DOMAIN: &str = "triscore";

/// The functions of the domain that bear these names.
pub(super) fn named<'a>(names: impl Iterator<Item = &'a str>) -> Vec<FunctionProto> {
    let mut names = names.collect::<Vec<_>>();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter_map(function).collect()
}

fn function(name: &str) -> Option<FunctionProto> {
    match name {
        // The table begins with what `first` becomes.
        "Table" => Some(define(
            name,
            &["x", "table"],
            &["first"],
            vec![
                node("Cast", &["x"], "i", vec![int("to", 6)]),
                node("Constant", &[], "first_i64", vec![reference("value_int", "first", AttributeType::Int)]),
                node("Cast", &["first_i64"], "first_i32", vec![int("to", 6)]),
                node("Sub", &["i", "first_i32"], "place", vec![]),
                node("Gather", &["table", "place"], "y", vec![]),
            ],
        )),
        "QLinearLayerNormalization" => Some(define(
            name,
            &["x", "x_scale", "x_zero", "scale", "bias", "y_scale", "y_zero"],
            &["epsilon"],
            vec![
                node("DequantizeLinear", &["x", "x_scale", "x_zero"], "f", vec![]),
                node(
                    "LayerNormalization",
                    &["f", "scale", "bias"],
                    "n",
                    vec![int("axis", -1), reference("epsilon", "epsilon", AttributeType::Float)],
                ),
                node("QuantizeLinear", &["n", "y_scale", "y_zero"], "y", vec![]),
            ],
        )),
        "ConvFloat8" => Some(of_float8(name, "Conv", CONV)),
        "MatMulFloat8" => Some(of_float8(name, "MatMul", &[])),
        "Attention" => Some(attention(name, false)),
        "MaskedAttention" => Some(attention(name, true)),
        _ => None,
    }
}

/// What a `Conv` may be told.
const CONV: &[(&str, AttributeType)] = &[
    ("auto_pad", AttributeType::String),
    ("dilations", AttributeType::Ints),
    ("group", AttributeType::Int),
    ("kernel_shape", AttributeType::Ints),
    ("pads", AttributeType::Ints),
    ("strides", AttributeType::Ints),
];

/// A product of two tensors of 8-bit floats, whose sums are floats of 32 bits.
fn of_float8(name: &str, product: &str, attributes: &[(&str, AttributeType)]) -> FunctionProto {
    let float = || vec![int("to", 1)];
    let forwarded = attributes.iter().map(|(n, kind)| reference(n, n, *kind)).collect();
    let nodes = vec![
        node("Cast", &["x"], "left", float()),
        node("Cast", &["w"], "right", float()),
        node(product, &["left", "right"], "y", forwarded),
    ];
    let names = attributes.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    define(name, &["x", "w"], &names, nodes)
}

/// `softmax(q · kᵀ · scale + mask) · v`.
fn attention(name: &str, masked: bool) -> FunctionProto {
    let transposed = AttributeProto {
        name: Some("perm".to_owned()),
        r#type: Some(AttributeType::Ints.into()),
        ints: vec![0, 1, 3, 2],
        ..Default::default()
    };
    let mut nodes = vec![
        node("Transpose", &["k"], "t", vec![transposed]),
        node("MatMul", &["q", "t"], "product", vec![]),
        node("Constant", &[], "by", vec![reference("value_float", "scale", AttributeType::Float)]),
        node("Mul", &["product", "by"], "scores", vec![]),
    ];
    if masked {
        nodes.push(node("Add", &["scores", "mask"], "masked", vec![]));
    }
    let scores = if masked { "masked" } else { "scores" };
    nodes.push(node("Softmax", &[scores], "probabilities", vec![int("axis", -1)]));
    nodes.push(node("MatMul", &["probabilities", "v"], "y", vec![]));
    let inputs = ["q", "k", "v", "mask"];
    define(name, if masked { &inputs } else { &inputs[..3] }, &["scale"], nodes)
}

fn define(name: &str, inputs: &[&str], attributes: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some(DOMAIN.to_owned()),
        input: owned(inputs),
        output: owned(&["y"]),
        attribute: owned(attributes),
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(super::OPSET) }],
        ..Default::default()
    }
}

fn node(name: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(name.to_owned()),
        input: inputs.iter().map(|n| (*n).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(value),
        ..Default::default()
    }
}

/// An attribute that takes its value from the function's.
fn reference(name: &str, from: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ref_attr_name: Some(from.to_owned()),
        r#type: Some(kind.into()),
        ..Default::default()
    }
}
