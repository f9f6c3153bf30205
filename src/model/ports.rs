//! The ports of a model: what its graph declares as inputs and outputs, as a [`Signature`].

use std::collections::HashSet;

use super::elements::ElementType;
use super::limits::{ReadLimits, over};
use super::onnx::tensor_shape_proto::dimension::Value as DimValue;
use super::onnx::type_proto::Value as TypeValue;
use super::onnx::{GraphProto, TensorShapeProto, TypeProto, ValueInfoProto};
use super::shown::shown;
use crate::error::{Result, ScoreError};
use crate::signature::{Dim, Port, PortKind, Signature};
use crate::tensor::DType;

/// The signature of a graph that was checked.
///
/// An input that is an initialiser too is left out: it is a weight, and up to version 3 of the format
/// every weight was declared so. From version 4 on it could be overridden in a call; nobody does.
///
/// # Errors
/// `Unsupported` for a type that cannot be scored, `BadModel` for a port without one, naming the port;
/// `TooLarge` for too many ports.
pub(super) fn signature(graph: &GraphProto, limits: &ReadLimits) -> Result<Signature> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let weights: HashSet<&str> = graph.initializer.iter().chain(sparse).map(|t| t.name()).collect();
    let inputs = graph.input.iter().filter(|input| !weights.contains(input.name()));
    Signature::new(
        ports(inputs, "input", input_kind, limits)?,
        ports(graph.output.iter(), "output", output_kind, limits)?,
    )
}

fn ports<'a>(
    values: impl Iterator<Item = &'a ValueInfoProto>,
    side: &str,
    kind: fn(&TypeProto) -> Result<PortKind>,
    limits: &ReadLimits,
) -> Result<Vec<Port>> {
    let mut ports = Vec::new();
    for value in values {
        if ports.len() == limits.max_ports {
            return Err(over(&format!("too many {side}s"), limits.max_ports, "max_ports"));
        }
        let untyped = || ScoreError::bad_model("it is declared without a type");
        let kind = value.r#type.as_ref().ok_or_else(untyped).and_then(kind);
        let kind = kind.map_err(|e| e.with_at(format!("{side} '{}'", shown(value.name()))))?;
        ports.push(Port { name: value.name().to_owned(), kind, optional: false });
    }
    Ok(ports)
}

fn input_kind(kind: &TypeProto) -> Result<PortKind> {
    let refused = |what| Err(ScoreError::unsupported(format!("{what} as inputs are not supported")));
    match &kind.value {
        Some(TypeValue::SequenceType(_)) => refused("sequences"),
        Some(TypeValue::MapType(_)) => refused("maps"),
        Some(TypeValue::OptionalType(_)) => refused("optional values"),
        _ => output_kind(kind),
    }
}

fn output_kind(kind: &TypeProto) -> Result<PortKind> {
    let refused = |what| Err(ScoreError::unsupported(format!("{what} are not supported")));
    let inner = |kind: &Option<Box<TypeProto>>| match kind {
        Some(kind) => output_kind(kind),
        None => Err(ScoreError::bad_model("it is a sequence or a map of no type")),
    };
    match &kind.value {
        Some(TypeValue::TensorType(tensor)) => {
            let dims = tensor.shape.as_ref().map(dims).transpose()?;
            Ok(PortKind::Tensor { dtype: dtype(tensor.elem_type())?, dims })
        }
        Some(TypeValue::SequenceType(sequence)) => {
            Ok(PortKind::Sequence(Box::new(inner(&sequence.elem_type)?)))
        }
        Some(TypeValue::MapType(map)) => match inner(&map.value_type)? {
            PortKind::Tensor { dtype: value, .. } => Ok(PortKind::Map { key: dtype(map.key_type())?, value }),
            _ => refused("maps of anything but tensors"),
        },
        Some(TypeValue::OptionalType(_)) => refused("optional values"),
        Some(TypeValue::SparseTensorType(_)) => refused("sparse tensors"),
        Some(TypeValue::OpaqueType(_)) => refused("opaque values"),
        None => Err(ScoreError::bad_model("it is declared without a type")),
    }
}

fn dtype(code: i32) -> Result<DType> {
    let kind = ElementType::of(code)?;
    DType::from_onnx(code).ok_or_else(|| {
        let known = DType::all().map(DType::name).collect::<Vec<_>>().join(", ");
        let what = format!("element type {} cannot pass in or out: expected one of {known}", kind.name);
        ScoreError::unsupported(what)
    })
}

fn dims(shape: &TensorShapeProto) -> Result<Vec<Dim>> {
    let dim = |value: &Option<DimValue>| match value {
        // -1 is how some exporters write a dimension that is free; the checks refused what is below.
        Some(DimValue::DimValue(-1)) | None => Ok(Dim::Free(None)),
        Some(DimValue::DimValue(n)) => usize::try_from(*n)
            .map(Dim::Fixed)
            .map_err(|_| ScoreError::bad_model(format!("a dimension of {n}"))),
        Some(DimValue::DimParam(name)) if name.is_empty() => Ok(Dim::Free(None)),
        Some(DimValue::DimParam(name)) => Ok(Dim::named(name)),
    };
    shape.dim.iter().map(|d| dim(&d.value)).collect()
}
