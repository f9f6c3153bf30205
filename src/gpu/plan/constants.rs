//! Constants of the model: as numbers that a plan depends on, and as tensors that kernels read.

use super::program::{Array, Program, Register};
use super::{Constant, Deferred, Held, Planner, element_bytes};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor};

impl<'g> Planner<'g> {
    /// The elements of a constant input; `None` where it is left out.
    pub(super) fn constant(&self, node: &Node, input: usize) -> Result<Option<&'g Tensor>> {
        let Some(id) = node.input(input) else { return Ok(None) };
        let name = &self.graph.value(id).name;
        let not =
            || ScoreError::unsupported(format!("'{name}' must be constant for the GPU, and is computed"));
        self.graph.constant(id).map(Some).ok_or_else(not)
    }

    /// A constant input as integers; `None` where it is left out.
    pub(super) fn integers(&self, node: &Node, input: usize) -> Result<Option<Vec<i64>>> {
        self.constant(node, input)?.map(whole).transpose()
    }

    /// A constant input as floats; `None` where it is left out.
    pub(super) fn numbers(&self, node: &Node, input: usize) -> Result<Option<Vec<f64>>> {
        self.constant(node, input)?.map(floats).transpose()
    }

    /// Whether an input is left out, or known to be zero.
    pub(super) fn is_zero(&self, node: &Node, input: usize) -> bool {
        node.input(input).is_none()
            || self.numbers(node, input).is_ok_and(|list| list.is_some_and(|l| l.iter().all(|v| *v == 0.0)))
    }

    /// A constant in memory, its axes in that order, stored as that type.
    pub(super) fn constant_array(&mut self, tensor: Tensor, order: &[usize], dtype: DType) -> Result<Array> {
        let (shape, size) = (tensor.shape().to_vec(), element_bytes(dtype)?);
        let bytes = (tensor.len() * size).max(1);
        let constant = Constant { tensor, order: order.to_vec(), dtype };
        let storage = self.hold(Held { bytes, constant: Some(constant) });
        Ok(Array { view: View::ordered(storage, &shape, order, size), dtype })
    }
}

/// The first element of a constant, everywhere in that shape.
pub(super) fn one_number(number: &Tensor, shape: &[usize]) -> Result<Deferred> {
    let register = Register::of(number.dtype())?;
    let text = match (register, whole(number)) {
        // To the last digit.
        (Register::I64, Ok(value)) => {
            format!("(i64)({}ll - 1)", value.first().map_or(0, |v| v.saturating_add(1)))
        }
        _ => register.literal(floats(number)?.first().copied().unwrap_or(0.0)),
    };
    let program = Program::literal(register, text, shape);
    Ok(Deferred { program, base: None, origins: Vec::new() })
}

/// A constant's elements as integers.
pub(super) fn whole(tensor: &Tensor) -> Result<Vec<i64>> {
    match tensor.dtype() {
        DType::I64 => Ok(tensor.as_slice::<i64>()?.to_vec()),
        DType::I32 => Ok(tensor.as_slice::<i32>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::I16 => Ok(tensor.as_slice::<i16>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::I8 => Ok(tensor.as_slice::<i8>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::U8 => Ok(tensor.as_slice::<u8>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::U16 => Ok(tensor.as_slice::<u16>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::U32 => Ok(tensor.as_slice::<u32>()?.iter().map(|v| i64::from(*v)).collect()),
        other => Err(ScoreError::bad_model(format!("a constant of {}: expected integers", other.name()))),
    }
}

/// A constant's elements as floats.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f64>> {
    match tensor.dtype() {
        DType::F32 => Ok(tensor.as_slice::<f32>()?.iter().map(|v| f64::from(*v)).collect()),
        DType::F64 => Ok(tensor.as_slice::<f64>()?.to_vec()),
        DType::F16 => Ok(tensor.as_slice::<half::f16>()?.iter().map(|v| v.to_f64()).collect()),
        DType::Bf16 => Ok(tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_f64()).collect()),
        DType::F8E4M3 => Ok(tensor.as_slice::<F8E4M3>()?.iter().map(|v| v.to_f32().into()).collect()),
        DType::F8E5M2 => Ok(tensor.as_slice::<F8E5M2>()?.iter().map(|v| v.to_f32().into()).collect()),
        DType::Bool => Ok(tensor.as_bytes().iter().map(|v| f64::from(*v)).collect()),
        DType::U64 => Ok(tensor.as_slice::<u64>()?.iter().map(|v| *v as f64).collect()),
        _ => Ok(whole(tensor)?.into_iter().map(|v| v as f64).collect()),
    }
}
