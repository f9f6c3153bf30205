//! From Q/DQ pairs to operators on integers.
//!
//! A quantised model says `DequantizeLinear → operator on floats → QuantizeLinear`, which runs anywhere and says nothing of how
//! the integers are computed with. Devices compute on the integers themselves. This rewrite makes one integer operator
//! of each such group, in the vocabulary that ONNX and ONNX Runtime have for it (`QLinearConv`, `com.microsoft.QLinearAdd`, …),
//! so that models which come in that form already need no second path, and the result still runs on ONNX Runtime.
//!
//! The rule, which is ONNX Runtime's too: an operator is fused when everything that it computes on comes from
//! `DequantizeLinear` and the only reader of its result is `QuantizeLinear`. On top of it:
//! - operators that only move elements move the integers, whatever the parameters are;
//! - any function of one element (an activation, a chain of them, `x · sigmoid(x)`) is a table of all its values;
//! - a `Relu` or a `Clip` before the `QuantizeLinear` clamps the integers;
//! - layer normalisation is an operator on integers.
//!
//! A device that computes on floats as well ([`to_integer_products`]) wants products on integers and leaves the rest as it is: what nobody requantises is
//! a sum of integers times its scale, and goes on as a float.
//!
//! What has no name elsewhere is in the domain `triscore`; each such operator is also written as an ONNX function
//! ([`functions`](crate::graph::functions)).

mod check;
mod function_of_one;
mod move_only;
mod operators;
mod params;
mod products;

use std::collections::{HashMap, HashSet};

use super::super::edit::Uses;
use super::super::{Graph, Node, Op, ValueId};
use crate::error::Result;
use crate::graph::attributes::Attributes;
use crate::tensor::{DType, Tensor};

use params::{Clamp, Params, Quantised};

pub use check::check_parameters;
pub use function_of_one::is_function_of_one;
pub use move_only::moves_integers;

/// Makes integer operators of Q/DQ groups. Returns how many.
///
/// # Errors
/// As [`check_parameters`].
pub fn to_integers(graph: &mut Graph) -> Result<usize> {
    check_parameters(graph)?;
    let mut rewrite = ToIntegers::new(graph, Scope::Everything);
    let places = 0..rewrite.graph.nodes.len();
    let mut count = rewrite.groups()?;
    for place in places {
        if rewrite.graph.node(place).is_some_and(|n| n.is("Gemm")) && rewrite.float_gemm(place)? {
            count += 1;
        }
    }
    Ok(count)
}

/// Makes products on integers of those whose sides are dequantised integers of 8 bits, and of sums and products element by element that are requantised;
/// lets integers be moved where quantised values only are.
/// Returns how many.
///
/// A product that is requantised becomes what [`to_integers`] makes of it. Another one becomes `ConvInteger` or `MatMulInteger`, times its scale, plus its
/// bias, or a `QGemm`. What cannot be said so (scales that do not factor, in blocks, computed; other types) stays as it is.
///
/// # Errors
/// `OutOfMemory`.
pub fn to_integer_products(graph: &mut Graph) -> Result<usize> {
    let mut rewrite = ToIntegers::new(graph, Scope::Products);
    let places = 0..rewrite.graph.nodes.len();
    let mut count = rewrite.groups()?;
    for place in places {
        if !rewrite.fused.contains(&place) && rewrite.scaled_product(place)? {
            count += 1;
        }
    }
    Ok(count)
}

/// What becomes integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everything,
    /// Products of 8 bits, what joins two tensors element by element, and what is moved between them.
    Products,
}

struct ToIntegers<'g> {
    graph: &'g mut Graph,
    scope: Scope,
    uses: Uses,
    /// Operators that an integer one has taken the place of, by their place.
    fused: HashSet<usize>,
    /// Operators that only move elements, by their place: what they make as integers.
    moved: HashMap<usize, Vec<Option<ValueId>>>,
}

impl<'g> ToIntegers<'g> {
    fn new(graph: &'g mut Graph, scope: Scope) -> Self {
        Self { uses: graph.uses(), graph, scope, fused: HashSet::new(), moved: HashMap::new() }
    }

    /// Every group; how many became integers.
    fn groups(&mut self) -> Result<usize> {
        let mut count = 0;
        for place in 0..self.graph.nodes.len() {
            if self.graph.node(place).is_some_and(|n| n.is("QuantizeLinear")) && self.group(place)? {
                count += 1;
            }
        }
        Ok(count)
    }

    /// The group that ends with the `QuantizeLinear` at that place.
    fn group(&mut self, place: usize) -> Result<bool> {
        let Some(quantize) = self.graph.node(place).cloned() else { return Ok(false) };
        let (Some(read), Some(made)) = (quantize.input(0), quantize.output(0)) else { return Ok(false) };
        let Some(to) = params::of_quantize(self.graph, &quantize).filter(Params::is_per_tensor) else {
            return Ok(false);
        };
        // Dequantised and quantised again, with nothing between.
        if let Some(from) = self.dequantised(read) {
            return self.requantise(&from, &to, made, place, &quantize.origins);
        }
        let (linear, unclamped, clamp, mut origins) = self.behind_clamps(read);
        origins.extend(&quantize.origins);
        let target = Target { to: &to, made, origins: &origins, clamp };
        let done = match linear {
            Some(at) => {
                let done = self.operator(at, &target)?;
                if done {
                    self.fused.insert(at);
                }
                done || self.moving(at, unclamped, &target)?
            }
            None => false,
        };
        if done || (self.scope == Scope::Everything && self.table(read, &target)?) {
            self.silence(place);
            return Ok(true);
        }
        Ok(false)
    }

    /// The operator behind `Relu`s and `Clip`s that nobody else reads, what it makes, and what that is clamped to.
    fn behind_clamps(&self, mut read: ValueId) -> (Option<usize>, ValueId, Clamp, Vec<usize>) {
        let (mut clamp, mut origins) = (Clamp::NONE, Vec::new());
        loop {
            let Some(at) = self.uses.maker(read) else { return (None, read, clamp, origins) };
            let Some(node) = self.graph.node(at) else { return (None, read, clamp, origins) };
            let is_alone = !self.uses.is_output(read) && self.uses.readers(read).len() == 1;
            origins.extend(&node.origins);
            let here = params::clamp_of(self.graph, node).filter(|_| is_alone);
            match (here, node.input(0)) {
                (Some(here), Some(input)) => {
                    clamp = here.then(clamp);
                    read = input;
                }
                _ => return (Some(at).filter(|_| is_alone), read, clamp, origins),
            }
        }
    }

    /// The integers behind a dequantised value.
    fn dequantised(&self, id: ValueId) -> Option<Quantised> {
        params::of_dequantize(self.graph, self.graph.node(self.uses.maker(id)?)?)
    }

    /// The integers behind a node's input, which must have one scale.
    fn activation(&self, node: &Node, input: usize) -> Option<Quantised> {
        self.dequantised(node.input(input)?).filter(|q| q.params.is_per_tensor())
    }

    fn requantise(
        &mut self,
        from: &Quantised,
        to: &Params,
        made: ValueId,
        place: usize,
        origins: &[usize],
    ) -> Result<bool> {
        let is_table = !from.params.same(to);
        if !from.params.is_per_tensor()
            || self.graph.constant(from.value).is_some()
            || (is_table && self.scope == Scope::Products)
        {
            return Ok(false);
        }
        if !is_table {
            self.push("", "Identity", Attributes::new(), vec![Some(from.value)], made, origins);
        } else {
            let target = Target { to, made, origins, clamp: Clamp::NONE };
            self.push_table(from, &from.params.all_values(), &target)?;
        }
        self.silence(place);
        Ok(true)
    }

    /// The node at that place makes nothing any more: another one does.
    fn silence(&mut self, place: usize) {
        if let Some(node) = self.graph.nodes.get_mut(place) {
            node.outputs = vec![None; node.outputs.len()];
        }
    }

    /// Pushes an integer operator; where the target is clamped and the integers' own range does not do it, a `Clip` behind it.
    fn push_clamped(
        &mut self,
        domain: &str,
        name: &str,
        attributes: Attributes,
        inputs: Vec<Option<ValueId>>,
        target: &Target<'_>,
    ) -> Result<()> {
        let Some((low, high)) = target.clamp.in_integers(target.to) else {
            self.push(domain, name, attributes, inputs, target.made, target.origins);
            return Ok(());
        };
        let made = self.graph.value(target.made);
        let (hint, dtype, shape) = (made.name.clone(), made.dtype, made.shape.clone());
        let unclamped = self.graph.add_value(&format!("{hint}/unclamped"), dtype, shape);
        self.push(domain, name, attributes, inputs, unclamped, target.origins);
        let low = self.graph.add_constant(&format!("{hint}/low"), target.to.integer(low)?);
        let high = self.graph.add_constant(&format!("{hint}/high"), target.to.integer(high)?);
        let inputs = vec![Some(unclamped), Some(low), Some(high)];
        self.push("", "Clip", Attributes::new(), inputs, target.made, target.origins);
        Ok(())
    }

    fn push(
        &mut self,
        domain: &str,
        name: &str,
        attributes: Attributes,
        inputs: Vec<Option<ValueId>>,
        made: ValueId,
        origins: &[usize],
    ) {
        if !domain.is_empty() {
            self.graph.add_domain(domain);
        }
        let mut origins = origins.to_vec();
        origins.sort_unstable();
        origins.dedup();
        self.graph.nodes.push(Node {
            name: String::new(),
            op: Op { domain: domain.to_owned(), name: name.to_owned(), attributes },
            inputs,
            outputs: vec![Some(made)],
            captures: Vec::new(),
            origins,
        });
    }

    /// A zero point as a value: where a model leaves it out, zeros.
    fn zero_point(&mut self, params: &Params) -> Result<ValueId> {
        match params.zero_id {
            Some(id) => Ok(id),
            None => {
                let zeros = params.zeros()?;
                Ok(self.graph.add_constant("zero_point", zeros))
            }
        }
    }

    /// A scale and a zero point as two inputs.
    fn scale_and_zero(&mut self, params: &Params) -> Result<[Option<ValueId>; 2]> {
        Ok([Some(params.scale_id), Some(self.zero_point(params)?)])
    }

    /// A tensor, its scale and its zero point as three inputs.
    fn triple(&mut self, q: &Quantised) -> Result<[Option<ValueId>; 3]> {
        let [scale, zero] = self.scale_and_zero(&q.params)?;
        Ok([Some(q.value), scale, zero])
    }
}

/// What an integer operator is to make.
struct Target<'a> {
    to: &'a Params,
    made: ValueId,
    origins: &'a [usize],
    clamp: Clamp,
}

/// Tensors of integers that operators compute on.
fn is_quantised(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::U8 | DType::I8 | DType::U16 | DType::I16))
}

/// A tensor's elements as integers, whatever quantised type they have.
fn integers(tensor: &Tensor) -> Option<Vec<i32>> {
    match tensor.dtype() {
        DType::U8 => tensor.as_slice::<u8>().ok().map(|s| s.iter().map(|v| i32::from(*v)).collect()),
        DType::I8 => tensor.as_slice::<i8>().ok().map(|s| s.iter().map(|v| i32::from(*v)).collect()),
        DType::U16 => tensor.as_slice::<u16>().ok().map(|s| s.iter().map(|v| i32::from(*v)).collect()),
        DType::I16 => tensor.as_slice::<i16>().ok().map(|s| s.iter().map(|v| i32::from(*v)).collect()),
        DType::I32 => tensor.as_slice::<i32>().ok().map(<[i32]>::to_vec),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
