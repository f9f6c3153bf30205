//! Models of a few nodes, made in memory.

use triscore::graph::encode;
use triscore::model::ReadLimits;
use triscore::model::onnx::attribute_proto::AttributeType;
use triscore::model::onnx::tensor_shape_proto::{Dimension, dimension};
use triscore::model::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use triscore::{DType, Model, Tensor};

/// A model that is being put together.
#[derive(Default)]
pub(crate) struct Builder {
    graph: GraphProto,
}

impl Builder {
    pub(crate) fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> String {
        self.graph.input.push(port(name, dtype, Some(shape)));
        name.to_owned()
    }

    pub(crate) fn output(&mut self, name: &str, dtype: DType) {
        self.graph.output.push(port(name, dtype, None));
    }

    pub(crate) fn constant(&mut self, name: &str, tensor: &Tensor) -> String {
        self.graph.initializer.push(TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(tensor.dtype().onnx_code()),
            dims: tensor.shape().iter().map(|n| *n as i64).collect(),
            raw_data: Some(tensor.as_bytes().to_vec().into()),
            ..Default::default()
        });
        name.to_owned()
    }

    pub(crate) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.node_of_several(op, inputs, &[output.to_owned()], attributes);
        output.to_owned()
    }

    pub(crate) fn node_of_several(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[String],
        attributes: Vec<AttributeProto>,
    ) {
        let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
        self.graph.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            domain: Some(domain.to_owned()),
            input: inputs.iter().map(|n| (*n).to_owned()).collect(),
            output: outputs.to_vec(),
            attribute: attributes,
            ..Default::default()
        });
    }

    pub(crate) fn build(mut self) -> Model {
        self.graph.name = Some("g".to_owned());
        let opset = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        let domains = self.graph.node.iter().map(NodeProto::domain).filter(|d| !d.is_empty());
        let domains = domains.collect::<std::collections::BTreeSet<_>>().into_iter();
        let proto = ModelProto {
            ir_version: Some(10),
            opset_import: std::iter::once(opset("", 21)).chain(domains.map(|d| opset(d, 1))).collect(),
            graph: Some(self.graph.clone()),
            ..Default::default()
        };
        Model::from_bytes(encode(&proto).unwrap(), &ReadLimits::default()).unwrap()
    }
}

fn port(name: &str, dtype: DType, shape: Option<&[usize]>) -> ValueInfoProto {
    let dim =
        |n: &usize| Dimension { value: Some(dimension::Value::DimValue(*n as i64)), ..Default::default() };
    let shape = shape.map(|s| TensorShapeProto { dim: s.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx_code()), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.to_owned().into()), ..attribute(name, AttributeType::String) }
}

pub(crate) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        ints: values.iter().map(|v| *v as i64).collect(),
        ..attribute(name, AttributeType::Ints)
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind.into()), ..Default::default() }
}
