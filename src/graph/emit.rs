//! From a graph, or a part of one, back to ONNX's messages.
//!
//! What is written is of the graph's own operator sets, so every node is written as it stands. Constants become
//! initialisers that share the tensors' bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::node::Node;
use super::value::ValueId;
use super::{Graph, functions};
use crate::error::{Result, ScoreError};
use crate::model::onnx::tensor_shape_proto::{Dimension, dimension};
use crate::model::onnx::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use crate::tensor::{DType, Tensor};

/// The version of the format that is written; 10 is that of operator set 21.
const IR_VERSION: i64 = 10;

/// Protobuf's own limit: a longer message cannot be read back.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

impl Graph {
    /// The whole graph as a model.
    ///
    /// # Errors
    /// `Unsupported` where an input or an output has no type, naming it.
    pub fn to_model(&self) -> Result<ModelProto> {
        let nodes = self.nodes.iter().collect::<Vec<_>>();
        self.part_to_model(&nodes, &self.inputs, &self.outputs)
    }

    /// A part of the graph as a model: these nodes, in an order in which they can run, between these values.
    ///
    /// # Errors
    /// `Unsupported` where an input or an output has no type, naming it.
    pub fn part_to_model(
        &self,
        nodes: &[&Node],
        inputs: &[ValueId],
        outputs: &[ValueId],
    ) -> Result<ModelProto> {
        let read =
            nodes.iter().flat_map(|n| n.reads()).chain(outputs.iter().copied()).collect::<BTreeSet<_>>();
        let mut initializer = Vec::new();
        for id in read.into_iter().filter(|id| !inputs.contains(id)) {
            let value = self.value(id);
            initializer.extend(value.constant.as_ref().map(|tensor| tensor_proto(&value.name, tensor)));
        }
        let graph = GraphProto {
            name: Some("triscore".to_owned()),
            node: nodes.iter().map(|node| self.node_proto(node)).collect(),
            input: inputs.iter().map(|id| self.port(*id)).collect::<Result<_>>()?,
            output: outputs.iter().map(|id| self.port(*id)).collect::<Result<_>>()?,
            initializer,
            ..Default::default()
        };
        let own = nodes.iter().filter(|n| n.op.domain == functions::DOMAIN).map(|n| n.op.name.as_str());
        let functions = self.functions.iter().cloned().chain(functions::named(own)).collect();
        let opset = |(domain, version): &(String, i64)| OperatorSetIdProto {
            domain: Some(domain.clone()),
            version: Some(*version),
        };
        Ok(ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("triscore".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            opset_import: self.opsets.iter().map(opset).collect(),
            functions,
            graph: Some(graph),
            ..Default::default()
        })
    }

    fn node_proto(&self, node: &Node) -> NodeProto {
        let name = |id: &Option<ValueId>| id.map_or_else(String::new, |id| self.value(id).name.clone());
        NodeProto {
            name: Some(node.name.clone()).filter(|n| !n.is_empty()),
            op_type: Some(node.op.name.clone()),
            domain: Some(node.op.domain.clone()).filter(|d| !d.is_empty()),
            input: node.inputs.iter().map(name).collect(),
            output: node.outputs.iter().map(name).collect(),
            attribute: node.op.attributes.iter().cloned().collect(),
            ..Default::default()
        }
    }

    fn port(&self, id: ValueId) -> Result<ValueInfoProto> {
        let value = self.value(id);
        let dtype = value
            .dtype
            .ok_or_else(|| ScoreError::unsupported(format!("'{}' has no known element type", value.name)))?;
        let shape = value.shape.extents().map(|extents| TensorShapeProto {
            dim: extents
                .iter()
                .map(|extent| Dimension {
                    value: Some(match extent.length().and_then(|n| i64::try_from(n).ok()) {
                        Some(n) => dimension::Value::DimValue(n),
                        None => dimension::Value::DimParam(extent.to_string()),
                    }),
                    ..Default::default()
                })
                .collect(),
        });
        let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx_code()), shape };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        Ok(ValueInfoProto { name: Some(value.name.clone()), r#type: Some(kind), ..Default::default() })
    }
}

/// The bytes of a model file.
///
/// # Errors
/// `TooLarge` above two gigabytes, which no reader takes.
pub fn encode(model: &ModelProto) -> Result<Bytes> {
    let length = model.encoded_len();
    if length > MAX_MESSAGE_BYTES {
        let what = format!("a model file of {length} bytes: at most {MAX_MESSAGE_BYTES} can be read back");
        return Err(ScoreError::new(crate::ErrorKind::TooLarge, what));
    }
    Ok(model.encode_to_vec().into())
}

/// A tensor's bytes, kept alive by the message that holds them.
struct Shared(Tensor);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn tensor_proto(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(tensor.dtype().onnx_code()),
        dims: tensor.shape().iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect(),
        ..Default::default()
    };
    match (tensor.dtype(), tensor.as_strings()) {
        (DType::String, Ok(texts)) => {
            proto.string_data = texts.iter().map(|t| Bytes::copy_from_slice(t.as_bytes())).collect();
        }
        _ => proto.raw_data = Some(Bytes::from_owner(Shared(tensor.clone()))),
    }
    proto
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::{graph_of, read};

    #[test]
    fn what_is_written_is_read_as_the_same_graph() {
        let text = "x: f32[N, 4]
                    w = f32[4, 2] 1 2 3
                    k = i64[1] 1
                    h = MatMul(x, w)
                    c = Clip(h, _, k)
                    m = com.microsoft.Gelu(c)
                    y = ReduceMean<keepdims=0>(m, k)
                    -> y";
        let graph = graph_of(text);
        let again = Graph::of(&read(&graph.to_model().unwrap())).unwrap();
        assert_eq!(again.to_string(), graph.to_string());
        let bytes = encode(&graph.to_model().unwrap()).unwrap();
        assert_eq!(ModelProto::decode(bytes).unwrap(), graph.to_model().unwrap());
    }

    #[test]
    fn a_part_has_the_constants_that_it_reads_and_no_others() {
        let graph = graph_of("x: f32[N, 2]\na = f32[2] 1\nb = f32[2] 2\nh = Add(x, a)\ny = Mul(h, b)\n-> y");
        let id = |name| graph.find(name).unwrap();
        let part = graph.part_to_model(&[graph.node(1).unwrap()], &[id("h")], &[id("y")]).unwrap();
        let part = Graph::of(&read(&part)).unwrap();
        assert_eq!(part.to_string(), "h: f32[N, 2]\ny: f32[N, 2] = Mul(h, [2.0, 2.0])\n-> y\n");
        let unknown = graph_of("x: f32[N]\ny = local.Own(x)\nz = Relu(y)\n-> z");
        let (y, z) = (unknown.find("y").unwrap(), unknown.find("z").unwrap());
        let error = unknown.part_to_model(&[unknown.node(1).unwrap()], &[y], &[z]).unwrap_err().to_string();
        assert!(error.contains("'y' has no known element type"), "{error}");
    }
}
