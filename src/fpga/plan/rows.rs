//! Softmax and layer normalisation: over rows.

use super::Planner;
use super::words::{Descriptor, Kernel, bounds, type_code};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::{LayerNorm, QParams, SoftmaxTable};
use crate::layout::view::View;

impl Planner<'_> {
    pub(super) fn softmax(&mut self, node: &Node) -> Result<()> {
        let ((x, from), to) = (self.quantised(node, 0)?, self.made(node, 3)?);
        let rank = x.shape.len();
        let axis = node.op.attributes.int("axis").unwrap_or(-1);
        if axis != -1 && usize::try_from(axis + 1) != Ok(rank) {
            return Err(ScoreError::unsupported(format!(
                "a softmax along axis {axis} of {rank}: the engine has one along the last"
            )));
        }
        let (x, y, rows) = self.rows(node, x, &to)?;
        let length = x.length(1);
        // Numbers too small for a normal float add nothing to a sum whose largest term is as large as this table's is.
        let flush = |v: &f32| if v.is_normal() { *v } else { 0.0 };
        let table = SoftmaxTable::new(&from, length, &to);
        let entries = table.entries().iter().map(flush).collect::<Vec<_>>();
        let (low, high) = bounds(&to);
        let descriptor = Descriptor::new()
            .view(&x)
            .view(&y)
            .int(length)
            .ints(&[x.stride(0), y.stride(0)])
            .ints(&[type_code(from.qtype()), type_code(to.qtype())])
            .constant(self.constants.add(bytemuck::cast_slice(&entries)))
            .float(table.steps())
            .int(to.zero_point())
            .float(low)
            .float(high);
        self.operator(node, Kernel::Softmax, descriptor, rows, &[&x], &y);
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node) -> Result<()> {
        let ((x, from), to) = (self.quantised(node, 0)?, self.made(node, 5)?);
        let scale = self.constant(node, 3)?.as_slice::<f32>()?.to_vec();
        let bias = self.constant(node, 4)?.as_slice::<f32>()?.to_vec();
        let norm =
            LayerNorm::new(&from, &scale, &bias, node.op.attributes.float("epsilon").unwrap_or(1e-5), &to)?;
        let (x, y, rows) = self.rows(node, x, &to)?;
        if x.length(1) != scale.len() {
            return Err(ScoreError::bad_model(format!("rows of {} and {} scales", x.length(1), scale.len())));
        }
        let descriptor = Descriptor::new()
            .view(&x)
            .view(&y)
            .int(x.length(1))
            .ints(&[x.stride(0), y.stride(0)])
            .ints(&[type_code(from.qtype()), type_code(to.qtype())])
            .int(from.zero_point())
            .long(norm.epsilon)
            .ints(&[norm.variance_bits, norm.normal_bits, norm.factor_bits])
            .constant(self.constants.add(bytemuck::cast_slice(&norm.factors)))
            .constant(self.constants.add(bytemuck::cast_slice(&norm.biases)))
            .int(to.zero_point())
            .ints(&[to.qtype().min(), to.qtype().max()]);
        self.operator(node, Kernel::LayerNorm, descriptor, rows, &[&x], &y);
        Ok(())
    }

    /// What goes in as rows `[rows, length]`, copied where it does not collapse to that, and what comes out likewise.
    fn rows(&mut self, node: &Node, x: View, to: &QParams) -> Result<(View, View, usize)> {
        let rank = x.shape.len();
        let Some(length) = x.shape.last().copied() else {
            return Err(ScoreError::bad_model("rows of a scalar"));
        };
        let count = x.shape.iter().rev().skip(1).product::<usize>();
        let flat = x.reshaped(&[count, length]).filter(|v| v.stride(1) == v.size as isize || length == 1);
        let order = (0..rank).collect::<Vec<_>>();
        let gaps = || ScoreError::internal("a new tensor has gaps");
        let flat = match flat {
            Some(flat) => flat,
            None => self.copied(node, &x, &order)?.reshaped(&[count, length]).ok_or_else(gaps)?,
        };
        let y = self.allocate_output(node, &order, to.qtype().size_bytes())?;
        let y = y.reshaped(&[count, length]).ok_or_else(gaps)?;
        Ok((flat, y, count))
    }
}
