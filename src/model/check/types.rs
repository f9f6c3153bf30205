//! Declared types of values: element types that exist, shapes that can be.

use super::{Checker, bad};
use crate::error::Result;
use crate::model::elements::ElementType;
use crate::model::limits::over;
use crate::model::onnx::tensor_shape_proto::{Dimension, dimension};
use crate::model::onnx::type_proto::Value as TypeValue;
use crate::model::onnx::{TypeProto, ValueInfoProto};

impl Checker<'_, '_> {
    /// Checks the declaration of a value.
    pub(super) fn value(&self, value: &ValueInfoProto) -> Result<()> {
        if value.name().is_empty() {
            return bad("it has no name");
        }
        value.r#type.as_ref().map_or(Ok(()), |kind| self.kind(kind))
    }

    /// Checks a type. The decoder bounds how deep types may nest.
    pub(super) fn kind(&self, kind: &TypeProto) -> Result<()> {
        let inner = match &kind.value {
            None => return Ok(()),
            Some(TypeValue::TensorType(t)) => {
                return self.tensor_type(t.elem_type(), t.shape.as_ref().map(|s| s.dim.as_slice()));
            }
            Some(TypeValue::SparseTensorType(t)) => {
                return self.tensor_type(t.elem_type(), t.shape.as_ref().map(|s| s.dim.as_slice()));
            }
            Some(TypeValue::SequenceType(t)) => &t.elem_type,
            Some(TypeValue::OptionalType(t)) => &t.elem_type,
            Some(TypeValue::MapType(t)) => {
                ElementType::of(t.key_type()).map_err(|e| e.with_at("key of a map"))?;
                &t.value_type
            }
            Some(TypeValue::OpaqueType(_)) => return Ok(()),
        };
        inner.as_ref().map_or(Ok(()), |kind| self.kind(kind))
    }

    fn tensor_type(&self, elem_type: i32, dims: Option<&[Dimension]>) -> Result<()> {
        // Shape inference may leave the type of an inner value open.
        if elem_type != 0 {
            ElementType::of(elem_type)?;
        }
        let dims = dims.unwrap_or_default();
        if dims.len() > self.limits.max_rank {
            return Err(over(&format!("{} dimensions", dims.len()), self.limits.max_rank, "max_rank"));
        }
        // -1 is how some exporters write a dimension that is free.
        let negative = dims.iter().find_map(|dim| match dim.value {
            Some(dimension::Value::DimValue(n)) if n < -1 => Some(n),
            _ => None,
        });
        negative.map_or(Ok(()), |n| bad(format!("a dimension of {n}: a length cannot be negative")))
    }
}

/// The element type that a value is declared with, if it is a tensor.
pub(super) fn elem_type(value: &ValueInfoProto) -> Option<i32> {
    match value.r#type.as_ref()?.value.as_ref()? {
        TypeValue::TensorType(tensor) => tensor.elem_type,
        _ => None,
    }
}
