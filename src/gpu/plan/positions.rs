//! Operators whose results depend on where an element stands: triangles, diagonals, one-hot rows, ranges, and what only a shape says.
//!
//! None has a kernel: 0, 1, 2, … along an axis is a constant that broadcasts, and the rest are pointwise calls, which grow into their readers' kernels.

use super::constants::one_number;
use super::pointwise::literal;
use super::program::{Program, Register};
use super::{Deferred, Planner, cast_to};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;
use crate::model;
use crate::tensor::{DType, Tensor};

impl Planner<'_> {
    /// Takes an operator of positions; `false` for another one.
    pub(super) fn positional(&mut self, node: &Node) -> Result<bool> {
        let y = match node.op.onnx_name() {
            Some("OneHot") => self.one_hot(node)?,
            Some("Trilu") => self.triangle(node)?,
            Some("EyeLike") => self.diagonal(node)?,
            Some("Range") => self.range(node)?,
            Some("ConstantOfShape") => {
                let value = node.op.attributes.tensor("value").map(model::attribute_tensor).transpose()?;
                let value = value.map_or_else(|| Tensor::from_slice(&[], &[0f32]), Ok)?;
                one_number(&value, &self.shape_of(node, 0)?)?
            }
            Some("Shape") => {
                let lengths = self.input_shape(node, 0)?;
                let rank = lengths.len() as i64;
                let bound = |name: &str, default: i64| {
                    let bound = node.op.attributes.int(name).unwrap_or(default);
                    let from_start = if bound < 0 { bound.saturating_add(rank) } else { bound };
                    usize::try_from(from_start.clamp(0, rank)).unwrap_or(0)
                };
                let lengths = lengths.get(bound("start", 0)..bound("end", rank)).unwrap_or_default();
                let numbers = lengths.iter().map(|n| *n as i64).collect::<Vec<_>>();
                self.whole_numbers(&numbers, &[numbers.len()])?
            }
            Some("Size") => {
                let count = self.input_shape(node, 0)?.iter().product::<usize>();
                self.whole_numbers(&[count as i64], &[])?
            }
            _ => return Ok(false),
        };
        self.defer(node, 0, y)?;
        Ok(true)
    }

    /// The second of two values where the position along an axis is the index, else the first; an index that is no position is never met.
    fn one_hot(&mut self, node: &Node) -> Result<Deferred> {
        let shape = self.shape_of(node, 0)?;
        let axis = self.axis(node, "axis", -1, shape.len())?;
        let along = shape.iter().enumerate().map(|(a, n)| if a == axis { 1 } else { *n }).collect::<Vec<_>>();
        let indices = self.deferred(node, 0)?;
        let indices = self.reshaped(indices, &along)?.cast(Register::I64);
        let depth = shape.get(axis).copied().unwrap_or(0) as f64;
        let number = |value: f64| literal(Register::I64, value, &[]);
        let is_negative = self.call("less", Register::Bool, vec![indices.clone(), number(0.0)], &along)?;
        let from_end = self.call("add", Register::I64, vec![indices.clone(), number(depth)], &along)?;
        let indices = self.call("choose", Register::I64, vec![is_negative, from_end, indices], &along)?;
        let own = self.positions(axis, &shape)?;
        let is_met = self.call("equal", Register::Bool, vec![own, indices], &shape)?;
        let values = self.deferred(node, 2)?;
        let values = self.settled(values)?;
        let register = values.register();
        let ones = vec![1; shape.len()];
        let value = |at: isize| {
            let look = |view: &View| {
                let offset = view.offset.checked_add_signed(view.stride(0) * at)?;
                Some(View { offset, shape: ones.clone(), strides: vec![0; ones.len()], ..view.clone() })
            };
            let program = values.program.viewed(&ones, look);
            let program = program.ok_or_else(|| ScoreError::bad_model("its values are not two"))?;
            Ok::<_, ScoreError>(Deferred { program, base: None, origins: Vec::new() })
        };
        let (off, on) = (value(0)?, value(1)?);
        self.call("choose", register, vec![is_met, on, off], &shape)
    }

    /// Row plus `k` and column of each element of the last two axes.
    fn row_and_column(&mut self, shape: &[usize], k: i64) -> Result<(Deferred, Deferred, Vec<usize>)> {
        let Some(first) = shape.len().checked_sub(2) else {
            return Err(ScoreError::bad_model(format!("a matrix of {shape:?}")));
        };
        let matrix = shape.get(first..).unwrap_or_default().to_vec();
        let rows = self.positions(0, &matrix)?;
        let own = rows.shape().to_vec();
        // No diagonal is further away than that.
        let k = k.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        let shift = literal(Register::I64, k as f64, &[]);
        let rows = self.call("add", Register::I64, vec![rows, shift], &own)?;
        Ok((rows, self.positions(1, &matrix)?, matrix))
    }

    /// What is on one side of a diagonal, zero on the other.
    fn triangle(&mut self, node: &Node) -> Result<Deferred> {
        let shape = self.shape_of(node, 0)?;
        let k = self.integers(node, 1)?.and_then(|k| k.first().copied()).unwrap_or(0);
        let (rows, columns, matrix) = self.row_and_column(&shape, k)?;
        let sides = match node.op.attributes.int("upper").unwrap_or(1) != 0 {
            true => vec![rows, columns],
            false => vec![columns, rows],
        };
        let is_kept = self.call("less_or_equal", Register::Bool, sides, &matrix)?;
        let x = self.deferred(node, 0)?;
        let register = x.register();
        self.call("choose", register, vec![is_kept, x, literal(register, 0.0, &[])], &shape)
    }

    fn diagonal(&mut self, node: &Node) -> Result<Deferred> {
        let (shape, dtype) = (self.shape_of(node, 0)?, self.dtype_of(node, 0)?);
        let k = node.op.attributes.int("k").unwrap_or(0);
        let (rows, columns, matrix) = self.row_and_column(&shape, k)?;
        let mut y = self.call("equal", Register::Bool, vec![rows, columns], &matrix)?;
        y.program = cast_to(y.program, dtype)?;
        Ok(y)
    }

    fn range(&mut self, node: &Node) -> Result<Deferred> {
        let count = self.shape_of(node, 0)?.first().copied().unwrap_or(0);
        let dtype = self.dtype_of(node, 0)?;
        let missing = || ScoreError::bad_model("it has no start or no delta");
        let tensor = if dtype.is_float() {
            let first = |list: Option<Vec<f64>>| list.and_then(|l| l.first().copied()).ok_or_else(missing);
            let (start, delta) = (first(self.numbers(node, 0)?)?, first(self.numbers(node, 2)?)?);
            let values = (0..count).map(|i| start + i as f64 * delta);
            match dtype {
                DType::F64 => Tensor::from_slice(&[count], &values.collect::<Vec<f64>>())?,
                _ => Tensor::from_slice(&[count], &values.map(|v| v as f32).collect::<Vec<_>>())?,
            }
        } else {
            let first = |list: Option<Vec<i64>>| list.and_then(|l| l.first().copied()).ok_or_else(missing);
            let (start, delta) = (first(self.integers(node, 0)?)?, first(self.integers(node, 2)?)?);
            let values = (0..count).map(|i| start.wrapping_add(delta.wrapping_mul(i as i64)));
            Tensor::from_slice(&[count], &values.collect::<Vec<i64>>())?
        };
        let stored = tensor.dtype();
        let program = Program::of(self.constant_array(tensor, &[0], stored)?)?;
        Ok(Deferred { program: cast_to(program, dtype)?, base: None, origins: Vec::new() })
    }
}
