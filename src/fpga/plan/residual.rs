//! Residual connections: an addition that the matrix kernel does with what it has just computed, before anything is written.
//!
//! `convolution → addition` is how every residual network ends a block. By itself the addition reads two tensors and writes a third, none
//! of which it computes much with; behind the convolution it reads one. The arithmetic is the same, integer by integer: the convolution's
//! result is rounded to its own type first.

use std::collections::HashSet;

use super::Planner;
use super::elementwise::sum_factors;
use super::words::{Descriptor, type_code};
use crate::error::Result;
use crate::graph::{Node, Uses, ValueId};
use crate::int8::QParams;
use crate::layout::view::View;

/// What is added to what a job makes.
#[derive(Debug)]
pub(super) struct Residual {
    /// The other operand.
    pub(super) view: View,
    /// It is the left one.
    is_left: bool,
    factors: [f32; 3],
    type_code: i64,
    /// How the sum is quantised.
    pub(super) to: QParams,
    /// The sum.
    pub(super) made: ValueId,
    /// The model's nodes that the addition stands for.
    pub(super) origins: Vec<usize>,
}

/// Who reads what, and the sums that are made by the nodes before them.
#[derive(Debug)]
pub(super) struct Residuals {
    pub(super) uses: Uses,
    done: HashSet<ValueId>,
}

impl Residuals {
    pub(super) fn new(uses: Uses) -> Self {
        Self { uses, done: HashSet::new() }
    }

    /// Whether a node's work is done by another.
    pub(super) fn is_done(&self, node: &Node) -> bool {
        node.output(0).is_some_and(|made| self.done.contains(&made))
    }
}

impl Planner<'_> {
    /// The addition that alone reads what a node makes, if its other operand is there already and nothing of it repeats.
    pub(super) fn residual(&self, node: &Node) -> Option<Residual> {
        let made = node.output(0)?;
        let reader = self.graph.node(self.residuals.uses.only_reader(made)?)?;
        if reader.op.name != "QLinearAdd" {
            return None;
        }
        let (is_left, other) = match (reader.input(0)?, reader.input(3)?) {
            (left, right) if right == made && left != made => (true, left),
            (left, right) if left == made && right != made => (false, right),
            _ => return None,
        };
        let view = self.views.get(&other)?.clone();
        let shape = self.output_shape(reader, 0).ok()?;
        if view.shape != shape || self.output_shape(node, 0).ok()? != shape {
            return None;
        }
        let parameters = |input: usize| self.params(reader, input + 1, self.qtype(reader, input)?);
        let (left, right, to) = (parameters(0).ok()?, parameters(3).ok()?, self.made(reader, 6).ok()?);
        let own = if is_left { left } else { right };
        Some(Residual {
            view,
            is_left,
            factors: sum_factors(&left, &right, &to),
            type_code: type_code(own.qtype()),
            to,
            made: reader.output(0)?,
            origins: reader.origins.clone(),
        })
    }

    /// A new tensor for what a node makes, or for the sum of that and a residual.
    pub(super) fn allocate_sum(
        &mut self,
        node: &Node,
        residual: Option<&Residual>,
        order: &[usize],
        size: usize,
    ) -> Result<View> {
        let Some(residual) = residual else { return self.allocate_output(node, order, size) };
        let view = self.allocate(&residual.view.shape, order, residual.to.qtype().size_bytes())?;
        self.views.insert(residual.made, view.clone());
        self.residuals.done.insert(residual.made);
        Ok(view)
    }
}

/// The words from `M_ADD` on; `strides` are those of the residual: image, row, pixel, group.
pub(super) fn words(descriptor: Descriptor, residual: Option<(&Residual, &View, [isize; 4])>) -> Descriptor {
    let Some((residual, view, strides)) = residual else {
        return descriptor.long(0).ints(&[0; 4]).ints(&[-1, 0]).ints(&[0; 5]);
    };
    let qtype = residual.to.qtype();
    let descriptor =
        descriptor.view(view).ints(&strides).int(residual.type_code).int(i64::from(residual.is_left));
    let descriptor = residual.factors.iter().fold(descriptor, |d, f| d.float(*f));
    descriptor.float(qtype.min() as f32).float(qtype.max() as f32)
}
