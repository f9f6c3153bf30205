//! Operators that only move elements: views where strides can say it, copies where they cannot.

use super::Planner;
use super::elementwise::{by_bits, too_many};
use super::words::{Descriptor, Kernel};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::requantize_table;
use crate::layout::view::{Loops, View};
use crate::tensor::{DType, Tensor};

/// Axes of the move kernel.
const AXES: usize = 6;

/// Elements in a row that is worth a unit of work.
const ROW: usize = 4096;

impl Planner<'_> {
    pub(super) fn moving(&mut self, node: &Node) -> Result<()> {
        let Some(name) = node.op.onnx_name() else { return Err(unknown(node)) };
        match name {
            "Identity" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" | "Transpose" | "Slice"
            | "Split" | "Gather" | "Expand" | "Pad" => {}
            _ => return Err(unknown(node)),
        }
        self.qtype(node, 0)?;
        let x = self.view(node, 0)?;
        let attributes = &node.op.attributes;
        let rank = x.shape.len();
        match name {
            "Identity" => self.define(node, 0, x),
            "Transpose" => {
                let order = attributes.lengths("perm")?.unwrap_or_else(|| (0..rank).rev().collect());
                let mut sorted = order.clone();
                sorted.sort_unstable();
                if !sorted.into_iter().eq(0..rank) {
                    return Err(ScoreError::bad_model(format!("{order:?} is no order of {rank} axes")));
                }
                self.define(node, 0, x.transposed(&order));
            }
            "Slice" => {
                let view = self.sliced(node, &x)?;
                self.define(node, 0, view);
            }
            "Split" => {
                let axis = axis(attributes.int("axis").unwrap_or(0), rank)?;
                let mut first = 0;
                for output in 0..node.outputs.len() {
                    let length = match node.output(output) {
                        Some(_) => self.output_shape(node, output)?.get(axis).copied().unwrap_or(0),
                        None => return Err(ScoreError::unsupported("a part that nobody reads")),
                    };
                    self.define(node, output, x.part(axis, first, length));
                    first += length;
                }
            }
            "Expand" => {
                let shape = self.output_shape(node, 0)?;
                let before = shape.len().saturating_sub(rank);
                let stride = |(at, _): (usize, &usize)| match at.checked_sub(before) {
                    Some(own) if x.length(own) != 1 => x.stride(own),
                    _ => 0,
                };
                let strides = shape.iter().enumerate().map(stride).collect();
                self.define(node, 0, View { shape, strides, ..x });
            }
            "Gather" => self.gather(node, &x)?,
            "Pad" => self.pad(node, &x)?,
            _ => {
                let shape = self.output_shape(node, 0)?;
                let view = match x.reshaped(&shape) {
                    Some(view) => view,
                    None => {
                        let copy = self.copied(node, &x, &(0..rank).collect::<Vec<_>>())?;
                        copy.reshaped(&shape)
                            .ok_or_else(|| ScoreError::bad_model(format!("{:?} as {shape:?}", x.shape)))?
                    }
                };
                self.define(node, 0, view);
            }
        }
        Ok(())
    }

    fn integers(&self, node: &Node, input: usize) -> Result<Option<Vec<i64>>> {
        match node.input(input) {
            None => Ok(None),
            Some(_) => Ok(Some(whole(self.constant(node, input)?)?)),
        }
    }

    fn sliced(&self, node: &Node, x: &View) -> Result<View> {
        let shape = self.output_shape(node, 0)?;
        let starts = self.integers(node, 1)?.unwrap_or_default();
        let axes = self.integers(node, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.integers(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        let cuts = starts.iter().zip(&axes).zip(&steps);
        let cuts = cuts.map(|((start, at), step)| Ok((axis(*at, x.shape.len())?, *start, *step)));
        let cuts = cuts.collect::<Result<Vec<_>>>()?;
        x.sliced(&shape, &cuts).ok_or_else(|| ScoreError::bad_model("a slice before its tensor"))
    }

    /// Of one constant index it is a view; of several, rows that are looked up.
    fn gather(&mut self, node: &Node, x: &View) -> Result<()> {
        let at = axis(node.op.attributes.int("axis").unwrap_or(0), x.shape.len())?;
        let tensor = self.constant(node, 1)?.clone();
        let length = x.length(at);
        let mut indices = Vec::new();
        for index in whole(&tensor)? {
            let from_start = if index < 0 { index + length as i64 } else { index };
            let inside = usize::try_from(from_start).ok().filter(|i| *i < length);
            indices.push(
                inside
                    .ok_or_else(|| ScoreError::bad_model(format!("index {index} of an axis of {length}")))?,
            );
        }
        let shape = self.output_shape(node, 0)?;
        if let [index] = indices.as_slice() {
            let mut one = x.clone();
            one.offset = one.offset.checked_add_signed(x.stride(at) * *index as isize).unwrap_or(one.offset);
            let ones = vec![1; tensor.shape().len()];
            one.shape.splice(at..=at, ones.iter().copied());
            one.strides.splice(at..=at, ones.iter().map(|_| 0));
            self.define(node, 0, one);
            return Ok(());
        }
        // The result with the gathered axes as one, then in the shape that it has.
        let mut flat = x.shape.clone();
        if let Some(slot) = flat.get_mut(at) {
            *slot = indices.len();
        }
        let y = self.allocate(&flat, &(0..flat.len()).collect::<Vec<_>>(), x.size)?;
        for (to, from) in indices.iter().enumerate() {
            self.copy(node, &x.part(at, *from, 1), &y.part(at, to, 1), None)?;
        }
        let view = y.reshaped(&shape).ok_or_else(|| ScoreError::internal("a new tensor has gaps"))?;
        self.define(node, 0, view);
        Ok(())
    }

    fn pad(&mut self, node: &Node, x: &View) -> Result<()> {
        let mode = node.op.attributes.text("mode").unwrap_or("constant");
        if mode != "constant" || node.input(3).is_some() {
            return Err(ScoreError::unsupported(format!(
                "padding of mode '{mode}', or along some axes: the engine pads all with a constant"
            )));
        }
        let pads = self.integers(node, 1)?.unwrap_or_default();
        if pads.iter().any(|p| *p < 0) || pads.len() != 2 * x.shape.len() {
            return Err(ScoreError::unsupported(format!(
                "pads {pads:?}: expected two for each axis, none negative"
            )));
        }
        let fill = self.view(node, 2)?;
        let y = self.allocate_output(node, &x.order(), x.size)?;
        let everywhere = View { shape: y.shape.clone(), strides: vec![0; y.shape.len()], ..fill };
        self.copy(node, &everywhere, &y, None)?;
        let mut inside = View { shape: x.shape.clone(), ..y.clone() };
        for (axis, before) in pads.iter().take(x.shape.len()).enumerate() {
            inside.offset += y.stride(axis).unsigned_abs() * usize::try_from(*before).unwrap_or(0);
        }
        self.copy(node, x, &inside, None)
    }

    pub(super) fn concat(&mut self, node: &Node) -> Result<()> {
        let to = self.made(node, 0)?;
        let mut parts = Vec::new();
        for place in (2..node.inputs.len()).step_by(3) {
            parts.push(self.quantised(node, place)?);
        }
        let Some((first, _)) = parts.first() else { return Err(ScoreError::bad_model("nothing to join")) };
        let at = axis(node.op.attributes.int("axis").unwrap_or(0), first.shape.len())?;
        let y = self.allocate_output(node, &first.order(), to.qtype().size_bytes())?;
        let mut begin = 0;
        for (x, from) in &parts {
            let mut part = View { shape: x.shape.clone(), ..y.clone() };
            part.offset += begin * y.stride(at).unsigned_abs();
            begin += x.length(at);
            let table =
                (from != &to).then(|| by_bits(from.qtype(), to.qtype(), &requantize_table(from, &to)));
            self.copy(node, x, &part, table.as_deref())?;
        }
        Ok(())
    }

    /// Copies a view into another of its shape, through a table if there is one.
    pub(super) fn copy(&mut self, node: &Node, x: &View, y: &View, table: Option<&[u8]>) -> Result<()> {
        if x.shape != y.shape {
            return Err(ScoreError::bad_model(format!("{:?} into {:?}", x.shape, y.shape)));
        }
        let loops = Loops::over(&[y, x]).split_innermost(ROW).padded(AXES);
        let loops = loops.ok_or_else(|| too_many("a move"))?;
        let [y_strides, x_strides] = loops.strides.as_slice() else {
            return Err(ScoreError::internal("two views have two lists of strides"));
        };
        let at = table.map(|t| self.constants.add(t));
        let descriptor = Descriptor::new()
            .view(x)
            .view(y)
            .ints(&loops.lengths)
            .ints(x_strides)
            .ints(y_strides)
            .constant(at.unwrap_or(0))
            .ints(&[usize::from(at.is_some()), x.size, y.size, 0])
            .long(0)
            .ints(&[0, 0]);
        // One long axis may be all there is: then it is its own work.
        let work = loops.lengths.first().copied().unwrap_or(1);
        self.operator(node, Kernel::Move, descriptor, if y.count() == 0 { 0 } else { work }, &[x], y);
        Ok(())
    }
}

fn unknown(node: &Node) -> ScoreError {
    ScoreError::unsupported(format!("{} has no kernel on the engine", node.op))
}

fn whole(tensor: &Tensor) -> Result<Vec<i64>> {
    match tensor.dtype() {
        DType::I32 => Ok(tensor.as_slice::<i32>()?.iter().map(|v| i64::from(*v)).collect()),
        _ => Ok(tensor.as_slice::<i64>()?.to_vec()),
    }
}

fn axis(axis: i64, rank: usize) -> Result<usize> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let at = usize::try_from(if axis < 0 { axis + signed } else { axis }).ok();
    at.filter(|a| *a < rank).ok_or_else(|| ScoreError::bad_model(format!("axis {axis} of {rank}")))
}
