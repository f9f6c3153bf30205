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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::onnx::type_proto;
    use crate::model::testing::*;
    use crate::model::{Model, ReadLimits};

    fn f32s() -> TypeProto {
        value("", DType::F32, &[]).r#type.unwrap()
    }

    fn sequence(of: TypeProto) -> TypeValue {
        TypeValue::SequenceType(Box::new(type_proto::Sequence { elem_type: Some(Box::new(of)) }))
    }

    fn map(key: DType) -> TypeProto {
        let value_type = Some(Box::new(f32s()));
        let map = type_proto::Map { key_type: Some(key.onnx_code()), value_type };
        TypeProto { value: Some(TypeValue::MapType(Box::new(map))), ..Default::default() }
    }

    fn optional() -> TypeValue {
        TypeValue::OptionalType(Box::new(type_proto::Optional { elem_type: Some(Box::new(f32s())) }))
    }

    /// A model that hands an input of this type on.
    fn identity(input: ValueInfoProto, output: ValueInfoProto) -> Result<Model> {
        let (from, to) = (input.name().to_owned(), output.name().to_owned());
        read(&model(graph(vec![node("Identity", &[&from], &[&to])], vec![input], vec![output], vec![])))
    }

    #[test]
    fn ports_are_what_the_graph_declares() {
        let model = read(&layer()).unwrap();
        let shown = |ports: &[Port]| {
            ports.iter().map(|p| format!("{} {}", p.name, p.kind)).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(shown(model.signature().inputs()), "x f32[batch, 3]");
        assert_eq!(shown(model.signature().outputs()), "y f32[batch, 2]");
        assert_eq!(model.signature().batch_axis(), Some(0));

        let free =
            identity(value("x", DType::I64, &["?", "-1", "n", "0"]), value("y", DType::I64, &["", "7"]));
        let free = free.unwrap();
        assert_eq!(shown(free.signature().inputs()), "x i64[?, ?, n, 0]");
        assert_eq!(shown(free.signature().outputs()), "y i64[?, 7]");

        let open = type_proto::Tensor { elem_type: Some(1), shape: None };
        let open = identity(
            typed("x", TypeValue::TensorType(open.clone())),
            typed("y", TypeValue::TensorType(open)),
        );
        assert_eq!(shown(open.unwrap().signature().inputs()), "x f32 of any shape");

        let zipmap = identity(value("x", DType::F32, &["n"]), typed("y", sequence(map(DType::I64)))).unwrap();
        assert_eq!(shown(zipmap.signature().outputs()), "y sequence of map of i64 to f32");
    }

    #[test]
    fn weights_are_no_inputs() {
        let mut model = layer();
        let graph = model.graph.as_mut().unwrap();
        graph.input.insert(0, value("w", DType::F32, &["3", "2"]));
        for ir_version in [3, 10] {
            model.ir_version = Some(ir_version);
            let read = read(&model).unwrap();
            assert_eq!(read.signature().inputs().len(), 1);
            assert_eq!(read.signature().inputs()[0].name, "x");
        }
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        let x = || value("x", DType::F32, &["n"]);
        let y = || value("y", DType::F32, &["n"]);
        let of = |name: &str, code: i32| {
            typed(name, TypeValue::TensorType(type_proto::Tensor { elem_type: Some(code), shape: None }))
        };
        let untyped = ValueInfoProto { r#type: None, ..y() };
        use ErrorKind::{BadModel, Unsupported};
        let cases = [
            (
                of("x", 22),
                y(),
                Unsupported,
                "input 'x': element type int4 cannot pass in or out: expected one of bool",
            ),
            (x(), of("y", 14), Unsupported, "output 'y': element type complex64"),
            (x(), of("y", 0), BadModel, "output 'y': it has no element type"),
            (x(), of("y", 77), BadModel, "output 'y': element type 77"),
            (x(), untyped, BadModel, "output 'y': it is declared without a type"),
            (typed("x", sequence(f32s())), y(), Unsupported, "input 'x': sequences as inputs"),
            (typed("x", map(DType::I64).value.unwrap()), y(), Unsupported, "input 'x': maps as inputs"),
            (typed("x", optional()), y(), Unsupported, "input 'x': optional values as inputs"),
            (x(), typed("y", optional()), Unsupported, "output 'y': optional values are not supported"),
            (x(), typed("y", sequence(TypeProto::default())), BadModel, "output 'y': it is declared without"),
            (value("x", DType::F32, &["-2"]), y(), BadModel, "input 'x': a dimension of -2"),
        ];
        for (input, output, kind, message) in cases {
            let error = identity(input, output).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(error.kind(), kind, "{error}");
        }
        let many = (0..10).map(|i| value(&format!("x{i}"), DType::F32, &[])).collect();
        let model = model(graph(vec![node("Sum", &["x0"], &["y"])], many, vec![y()], vec![]));
        let mut limits = ReadLimits { max_ports: 10, ..Default::default() };
        Model::from_bytes(encoded(&model), &limits).unwrap();
        limits.max_ports = 9;
        let error = Model::from_bytes(encoded(&model), &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
}
