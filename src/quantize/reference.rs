//! A graph of integer operators, computed with [`int8`](crate::int8): what every device must give, to the bit.
//!
//! Operators are as [`to_integers`](crate::graph::rewrite::to_integers) leaves them. It takes the graph as it is: shapes bound, one operator
//! after another, every value kept, so that the first one that a device computes differently can be named.

mod moving;
mod operators;

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Node, ValueId};
use crate::int8::{Ints, QParams, QType, WeightParams};
use crate::tensor::{DType, Tensor};

/// Every value of a graph for these inputs, by [`ValueId::index`]; `None` for what was not computed.
///
/// # Errors
/// `Unsupported` for an operator that has no integer form, naming it; what is wrong with the parameters or shapes.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
    let count = graph.inputs().len();
    if count != inputs.len() {
        return Err(ScoreError::bad_input(format!("{} tensors for {count} inputs", inputs.len())));
    }
    let mut run = Run { graph, values: Vec::new() };
    for (id, tensor) in graph.inputs().iter().zip(inputs) {
        run.set(*id, tensor.clone());
    }
    for node in graph.nodes() {
        let made = operators::compute(&run, node).map_err(|e| e.with_at(node.op.to_string()))?;
        for (id, tensor) in node.outputs.iter().zip(made) {
            if let Some(id) = id {
                run.set(*id, tensor);
            }
        }
    }
    Ok(run.values)
}

/// What is known so far.
struct Run<'a> {
    graph: &'a Graph,
    values: Vec<Option<Tensor>>,
}

impl Run<'_> {
    fn set(&mut self, id: ValueId, tensor: Tensor) {
        if self.values.len() <= id.index() {
            self.values.resize(id.index() + 1, None);
        }
        if let Some(value) = self.values.get_mut(id.index()) {
            *value = Some(tensor);
        }
    }

    /// The input at that place, constant or computed.
    fn input(&self, node: &Node, place: usize) -> Result<&Tensor> {
        let missing = || ScoreError::bad_model(format!("input {place} is missing"));
        let id = node.input(place).ok_or_else(missing)?;
        let computed = self.values.get(id.index()).and_then(Option::as_ref);
        computed.or_else(|| self.graph.constant(id)).ok_or_else(missing)
    }

    fn optional(&self, node: &Node, place: usize) -> Result<Option<&Tensor>> {
        node.input(place).map(|_| self.input(node, place)).transpose()
    }

    fn ints(&self, node: &Node, place: usize) -> Result<Ints> {
        Ints::of(self.input(node, place)?)
    }

    /// The scale and the zero point at these two places, for integers of that type.
    fn params(&self, node: &Node, place: usize, qtype: QType) -> Result<QParams> {
        let scale = self.input(node, place)?.as_slice::<f32>()?;
        let zero = self.zero_points(node, place + 1, scale.len())?;
        match (scale, zero.as_slice()) {
            ([scale], [zero]) => QParams::new(*scale, *zero, qtype),
            _ => Err(ScoreError::unsupported(format!(
                "input {place} has {} scales, expected one",
                scale.len()
            ))),
        }
    }

    fn weight_params(&self, node: &Node, place: usize, qtype: QType) -> Result<WeightParams> {
        let scales = self.input(node, place)?.as_slice::<f32>()?.to_vec();
        let zeros = self.zero_points(node, place + 1, scales.len())?;
        WeightParams::new(scales, zeros, qtype)
    }

    fn zero_points(&self, node: &Node, place: usize, count: usize) -> Result<Vec<i32>> {
        match self.optional(node, place)? {
            Some(tensor) => Ok(Ints::of(tensor)?.values().to_vec()),
            None => Ok(vec![0; count]),
        }
    }

    /// A tensor of integers, its type and its parameters, as three inputs from that place on.
    fn quantised(&self, node: &Node, place: usize) -> Result<(Ints, QParams)> {
        let tensor = self.input(node, place)?;
        let params = self.params(node, place + 1, QType::try_from(tensor.dtype())?)?;
        Ok((Ints::of(tensor)?, params))
    }

    /// The type of what the node makes: that of the zero point at that place.
    fn made_params(&self, node: &Node, place: usize) -> Result<QParams> {
        let dtype = self.optional(node, place + 1)?.map_or(DType::U8, Tensor::dtype);
        self.params(node, place, QType::try_from(dtype)?)
    }
}

#[cfg(test)]
mod tests;
