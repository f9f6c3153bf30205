//! The edges of a plan: how the host stages what goes in and what comes out.
//!
//! A model's first operator quantises floats and its last one dequantises. The host copies those tensors anyway, into the memory that is
//! transferred; doing it there makes a transfer a quarter of its size, and puts elements into the order that the first kernel wants.

use super::Planner;
use crate::error::{Result, ScoreError};
use crate::graph::{Node, ValueId};
use crate::int8::{QParams, QType};
use crate::layout::view::{Storage, View, channels_last};
use crate::tensor::DType;

/// What staging does to each element.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Staging {
    /// Nothing.
    Copy,
    /// Floats become integers, on the way in.
    Quantize(QParams),
    /// Integers become floats, on the way out.
    Dequantize(QParams),
    /// Sums become floats by a scale for each index of the last axis, on the way out.
    Scale(Vec<f32>),
}

/// What is staged in.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct InputPort {
    /// Which of the graph's inputs it is; several ports may stage the same one.
    pub(in super::super) input: usize,
    pub(in super::super) staging: Staging,
    /// Where its first element lies in the arena.
    pub(in super::super) offset: usize,
    pub(in super::super) shape: Vec<usize>,
    pub(in super::super) strides: Vec<isize>,
    /// Bytes of an element in the arena.
    pub(in super::super) size: usize,
}

/// What is staged out.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct OutputPort {
    /// The type that callers get.
    pub(in super::super) dtype: DType,
    pub(in super::super) staging: Staging,
    pub(in super::super) offset: usize,
    pub(in super::super) shape: Vec<usize>,
    pub(in super::super) strides: Vec<isize>,
    pub(in super::super) size: usize,
}

/// An input whose storage has no place yet.
#[derive(Debug)]
pub(super) struct PlannedInput {
    input: usize,
    staging: Staging,
    pub(super) view: View,
}

impl PlannedInput {
    pub(super) fn at(self, at: impl Fn(Storage) -> usize) -> InputPort {
        let View { storage, offset, shape, strides, size } = self.view;
        InputPort {
            input: self.input,
            staging: self.staging,
            offset: at(storage) + offset,
            shape,
            strides,
            size,
        }
    }
}

/// An output whose storage has no place yet.
#[derive(Debug)]
pub(super) struct PlannedOutput {
    dtype: DType,
    staging: Staging,
    pub(super) view: View,
}

impl PlannedOutput {
    pub(super) fn at(self, at: impl Fn(Storage) -> usize) -> OutputPort {
        let View { storage, offset, shape, strides, size } = self.view;
        OutputPort {
            dtype: self.dtype,
            staging: self.staging,
            offset: at(storage) + offset,
            shape,
            strides,
            size,
        }
    }
}

impl Planner<'_> {
    /// Inputs that are integers already.
    pub(super) fn inputs(&mut self) -> Result<()> {
        for (place, id) in self.graph.inputs().iter().enumerate() {
            let value = self.graph.value(*id);
            let named = |e: ScoreError| e.with_at(format!("input '{}'", value.name));
            if let Some(qtype) = value.dtype.and_then(|d| QType::try_from(d).ok()) {
                let shape = value.shape.require_lengths().map_err(named)?;
                self.stage_in(place, *id, &shape, Staging::Copy, qtype).map_err(named)?;
            }
        }
        Ok(())
    }

    /// Stages an input so that a value of integers is on the device, in the order that its readers want.
    fn stage_in(
        &mut self,
        place: usize,
        made: ValueId,
        shape: &[usize],
        staging: Staging,
        qtype: QType,
    ) -> Result<()> {
        let wants_channels_last = |n: &Node| {
            let is_window = matches!(
                n.op.name.as_str(),
                "QLinearConv" | "QLinearAveragePool" | "QLinearGlobalAveragePool" | "MaxPool"
            );
            is_window && n.input(0) == Some(made)
        };
        let order = match self.graph.nodes().iter().any(wants_channels_last) {
            true => channels_last(shape.len()),
            false => (0..shape.len()).collect(),
        };
        let view = self.allocate(shape, &order, qtype.size_bytes())?;
        self.views.insert(made, view.clone());
        self.inputs.push(PlannedInput { input: place, staging, view });
        Ok(())
    }

    /// Why a node cannot stand where it stands: floats come in and go out, and the engine does not compute with them on the way.
    pub(super) fn misplaced(&self, node: &Node) -> Option<&'static str> {
        let makes_floats = node.is("DequantizeLinear") || node.op.name == "QGemm" && node.input(7).is_none();
        if node.is("QuantizeLinear") {
            let is_input = node.input(0).is_some_and(|id| self.graph.inputs().contains(&id));
            return (!is_input).then_some("it quantises floats that are made on the way");
        }
        let made = node.output(0).filter(|_| makes_floats)?;
        let read_again = self.graph.nodes().iter().any(|n| n.reads().any(|r| r == made));
        let is_output = self.graph.outputs().contains(&made);
        (read_again || !is_output).then_some("floats are computed with after it")
    }

    /// A `QuantizeLinear` of an input is staged in; a `DequantizeLinear` that makes an output is staged out, once all is planned.
    pub(super) fn edge(&mut self, node: &Node) -> Result<()> {
        let place = node.input(0).and_then(|id| self.graph.inputs().iter().position(|i| *i == id));
        match (place, node.output(0)) {
            (Some(place), Some(made)) if node.is("QuantizeLinear") => {
                let shape = self.output_shape(node, 0)?;
                let to = self.made(node, 1)?;
                self.stage_in(place, made, &shape, Staging::Quantize(to), to.qtype())
            }
            // Its parameters are looked at here, so that what is wrong with them is said of this node.
            _ => {
                let qtype = self.qtype(node, 0)?;
                self.view(node, 0)?;
                self.params(node, 1, qtype).map(|_| ())
            }
        }
    }

    /// What callers get.
    pub(super) fn outputs(&mut self) -> Result<()> {
        for id in self.graph.outputs().to_vec() {
            let value = self.graph.value(id);
            let (name, dtype) = (value.name.clone(), value.dtype);
            let planned = self.output(id).map_err(|e| e.with_at(format!("output '{name}'")))?;
            self.outputs.push(PlannedOutput { dtype: dtype.unwrap_or(DType::F32), ..planned });
        }
        Ok(())
    }

    fn output(&mut self, id: ValueId) -> Result<PlannedOutput> {
        let maker = self.graph.nodes().iter().find(|n| n.makes().any(|m| m == id)).cloned();
        let missing = || ScoreError::unsupported("it is not made on the device");
        let dtype = DType::F32;
        match maker {
            Some(node) if node.is("DequantizeLinear") => {
                let qtype = self.qtype(&node, 0)?;
                let from = self.params(&node, 1, qtype)?;
                let view = node.input(0).and_then(|i| self.views.get(&i)).cloned().ok_or_else(missing)?;
                let view = self.forward(&node, view)?;
                Ok(PlannedOutput { dtype, staging: Staging::Dequantize(from), view })
            }
            Some(node) if node.op.name == "QGemm" && node.input(7).is_none() => {
                let view = self.views.get(&id).cloned().ok_or_else(missing)?;
                let (qtype, wtype) =
                    (self.qtype(&node, 0)?, QType::try_from(self.constant(&node, 3)?.dtype())?);
                let (from, weights) = (self.params(&node, 1, qtype)?, self.weight_params(&node, 4, wtype)?);
                let columns = view.shape.last().copied().unwrap_or(1);
                let scales = (0..columns).map(|c| from.scale() * weights.channel(c).0).collect();
                Ok(PlannedOutput { dtype, staging: Staging::Scale(scales), view })
            }
            Some(node) => {
                let view = self.views.get(&id).cloned().ok_or_else(missing)?;
                let view = self.forward(&node, view)?;
                Ok(PlannedOutput { dtype, staging: Staging::Copy, view })
            }
            None => Err(missing()),
        }
    }

    /// The view, or a copy of one that goes backwards: the host reads from the first byte on.
    fn forward(&mut self, node: &Node, view: View) -> Result<View> {
        match view.strides.iter().any(|s| *s < 0) {
            true => self.copied(node, &view, &(0..view.shape.len()).collect::<Vec<_>>()),
            false => Ok(view),
        }
    }
}
