//! Operators that only move elements: they move the integers.
//!
//! `quantise(dequantise(q))` with the same parameters is `q` (the quotient is within an ulp of an integer), so the pair around such an
//! operator does nothing; with other parameters it is a table behind it.

use super::{Quantised, Scope, Target, ToIntegers};
use crate::error::Result;
use crate::graph::{Node, ValueId};

/// Operators whose first input is moved and whose others say how. A maximum of integers is the integer of the maximum.
const MOVING: &[&str] = &[
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "Pad",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Those that move integers of any type on a device that computes on floats as well.
const MOVING_BYTES: &[&str] = &[
    "DepthToSpace",
    "Expand",
    "Flatten",
    "MaxPool",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

impl ToIntegers<'_> {
    /// Lets the operator at that place move integers, and makes the target from the output `read` of it.
    pub(super) fn moving(&mut self, at: usize, read: ValueId, target: &Target<'_>) -> Result<bool> {
        let Some(node) = self.graph.node(at).cloned() else { return Ok(false) };
        let Some(x) = self.activation(&node, 0).filter(|_| moves_integers(&node)) else { return Ok(false) };
        let Some(output) = node.outputs.iter().position(|o| *o == Some(read)) else { return Ok(false) };
        let is_same = x.params.same(target.to) && target.clamp.in_integers(target.to).is_none();
        let moves_bytes = node.op.onnx_name().is_some_and(|name| MOVING_BYTES.contains(&name));
        if self.scope == Scope::Products && !(is_same && moves_bytes) {
            return Ok(false);
        }
        if !self.moved.contains_key(&at) && !self.push_moving(at, &node, &x)? {
            return Ok(false);
        }
        let Some(moved) = self.moved.get(&at).and_then(|m| m.get(output)).copied().flatten() else {
            return Ok(false);
        };
        if is_same {
            let inputs = vec![Some(moved)];
            self.push("", "Identity", Default::default(), inputs, target.made, target.origins);
        } else {
            let from = Quantised { value: moved, ..x };
            self.push_table(&from, &from.params.all_values(), target)?;
        }
        Ok(true)
    }

    fn push_moving(&mut self, at: usize, node: &Node, x: &Quantised) -> Result<bool> {
        let mut inputs = node.inputs.clone();
        if let Some(first) = inputs.first_mut() {
            *first = Some(x.value);
        }
        if node.is("Pad") && !self.pad_value(node, x, &mut inputs)? {
            return Ok(false);
        }
        let mut outputs = Vec::new();
        for output in &node.outputs {
            outputs.push(output.map(|id| {
                let value = self.graph.value(id);
                let (name, shape) = (format!("{}/integers", value.name), value.shape.clone());
                self.graph.add_value(&name, Some(x.params.dtype), shape)
            }));
        }
        self.graph.nodes.push(Node {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs,
            outputs: outputs.clone(),
            captures: Vec::new(),
            origins: node.origins.clone(),
        });
        self.moved.insert(at, outputs);
        Ok(true)
    }

    /// What is filled in, as an integer: nothing said is a zero.
    fn pad_value(&mut self, node: &Node, x: &Quantised, inputs: &mut Vec<Option<ValueId>>) -> Result<bool> {
        let value = match node.input(2) {
            None => Some(0.0),
            id => id.and_then(|id| self.graph.constant(id)?.as_slice::<f32>().ok()?.first().copied()),
        };
        let Some(value) = value else { return Ok(false) };
        let integer = x.params.integer(x.params.quantise(value))?;
        let id = self.graph.add_constant("pad_value", integer);
        inputs.resize(inputs.len().max(3), None);
        if let Some(input) = inputs.get_mut(2) {
            *input = Some(id);
        }
        Ok(true)
    }
}

/// Whether an operator, as it is configured, only moves the elements of its first input: then it moves integers as well.
pub fn moves_integers(node: &Node) -> bool {
    let is_moving = node.op.onnx_name().is_some_and(|name| MOVING.contains(&name));
    is_moving
        && match node.op.onnx_name() {
            Some("MaxPool") => node.outputs.iter().skip(1).all(Option::is_none),
            Some("Resize") => {
                let attributes = &node.op.attributes;
                attributes.text("mode").unwrap_or("nearest") == "nearest"
                    && attributes.text("coordinate_transformation_mode") != Some("tf_crop_and_resize")
            }
            _ => true,
        }
}
