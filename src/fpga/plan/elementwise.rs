//! Sums and products, tables, clamps.

use super::Planner;
use super::words::{Descriptor, Kernel, type_code};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::{Ints, QParams, QType};
use crate::layout::view::{Loops, View};

/// Axes of the elementwise kernel.
const AXES: usize = 4;

/// Elements in a row that is worth a unit of work.
const ROW: usize = 4096;

impl Planner<'_> {
    pub(super) fn binary(&mut self, node: &Node) -> Result<()> {
        let ((a, a_from), (b, b_from)) = (self.quantised(node, 0)?, self.quantised(node, 3)?);
        let to = self.made(node, 6)?;
        let shape = self.output_shape(node, 0)?;
        let (a, b) = (broadcast(&a, &shape)?, broadcast(&b, &shape)?);
        // As the larger one lies: nothing has to be moved for a sum of two that lie alike.
        let repeats = |v: &View| v.strides.iter().zip(&v.shape).any(|(s, n)| *s == 0 && *n > 1);
        let order = if repeats(&a) { b.order() } else { a.order() };
        let y = self.allocate_output(node, &order, to.qtype().size_bytes())?;
        let is_product = node.op.name == "QLinearMul";
        let (f0, f1, f2) = if is_product {
            (a_from.scale() * b_from.scale() / to.scale(), 0.0, to.zero_point() as f32)
        } else {
            sum_factors(&a_from, &b_from, &to).into()
        };
        // The innermost axis of the result is contiguous; of the operands it is that or repeated, or they are copied.
        let order = y.order();
        let (a, b) = (self.as_ordered(node, a, &order)?, self.as_ordered(node, b, &order)?);
        let loops = Loops::over(&[&y, &a, &b]).split_innermost(ROW);
        let loops =
            loops.padded(AXES).ok_or_else(|| too_many("operands whose axes lie in different orders"))?;
        let [y_strides, a_strides, b_strides] = loops.strides.as_slice() else {
            return Err(ScoreError::internal("three views have three lists of strides"));
        };
        let words = Descriptor::new().view(&a).view(&b).view(&y).ints(&loops.lengths);
        let words = words.ints(a_strides).ints(b_strides).ints(y_strides);
        let words =
            words.ints(&[&a_from, &b_from, &to].map(|p| type_code(p.qtype()))).float(f0).float(f1).float(f2);
        let words = words.ints(&[a_from.zero_point(), b_from.zero_point()]);
        let words =
            words.float(to.qtype().min() as f32).float(to.qtype().max() as f32).int(i64::from(is_product));
        let work = loops.lengths.first().copied().unwrap_or(1);
        self.operator(node, Kernel::Elementwise, words, if y.count() == 0 { 0 } else { work }, &[&a, &b], &y);
        Ok(())
    }

    /// A copy that lies in that order, unless the view repeats, which costs nothing, or does already.
    fn as_ordered(&mut self, node: &Node, view: View, order: &[usize]) -> Result<View> {
        let innermost = order.iter().rev().find(|a| view.length(**a) > 1).copied().unwrap_or(0);
        match view.stride(innermost) {
            0 => Ok(view),
            stride if stride == view.size as isize => Ok(view),
            _ => self.copied(node, &view, order),
        }
    }

    /// A function of one element.
    pub(super) fn table(&mut self, node: &Node) -> Result<()> {
        let from = self.qtype(node, 0)?;
        let x = self.view(node, 0)?;
        let tensor = self.constant(node, 1)?.clone();
        let to = QType::try_from(tensor.dtype())?;
        if tensor.len() != from.count() {
            return Err(ScoreError::bad_model(format!(
                "a table of {} entries, expected {}",
                tensor.len(),
                from.count()
            )));
        }
        let table = by_bits(from, to, Ints::of(&tensor)?.values());
        let y = self.allocate_output(node, &x.order(), to.size_bytes())?;
        self.copy(node, &x, &y, Some(&table))
    }

    /// A clamp of integers is a table, too.
    pub(super) fn clip(&mut self, node: &Node) -> Result<()> {
        let qtype = self.qtype(node, 0)?;
        let bound = |planner: &Self, i: usize, none: i32| match node.input(i) {
            None => Ok(none),
            Some(_) => Ok(Ints::of(planner.constant(node, i)?)?.values().first().copied().unwrap_or(none)),
        };
        let (low, high) = (bound(self, 1, qtype.min())?, bound(self, 2, qtype.max())?);
        let x = self.view(node, 0)?;
        let entries = (qtype.min()..=qtype.max()).map(|q| q.max(low).min(high)).collect::<Vec<_>>();
        let y = self.allocate_output(node, &x.order(), qtype.size_bytes())?;
        self.copy(node, &x, &y, Some(&by_bits(qtype, qtype, &entries)))
    }
}

/// What the integers of two operands are multiplied with, and what is added: see [`crate::int8::add`].
pub(super) fn sum_factors(a: &QParams, b: &QParams, to: &QParams) -> [f32; 3] {
    let (ra, rb) = (a.scale() / to.scale(), b.scale() / to.scale());
    let (az, bz) = (a.zero_point() as f32, b.zero_point() as f32);
    [ra, rb, to.zero_point() as f32 - ra.mul_add(az, rb * bz)]
}

/// A table that begins with the least integer of a type, as bytes that are looked up by an integer's bits: entries of another type.
pub(super) fn by_bits(from: QType, to: QType, entries: &[i32]) -> Vec<u8> {
    let count = from.count();
    let first = from.min().unsigned_abs() as usize;
    let entry = |bits: usize| entries.get((bits + first) % count).copied().unwrap_or(0);
    (0..count).flat_map(|bits| entry(bits).to_le_bytes().into_iter().take(to.size_bytes())).collect()
}

/// The view as one of a shape that it broadcasts to.
fn broadcast(view: &View, shape: &[usize]) -> Result<View> {
    let wrong = || ScoreError::bad_model(format!("{:?} does not broadcast to {shape:?}", view.shape));
    let missing = shape.len().checked_sub(view.shape.len()).ok_or_else(wrong)?;
    let mut strides = vec![0; missing];
    for (axis, length) in view.shape.iter().enumerate() {
        match shape.get(missing + axis) {
            Some(n) if n == length => strides.push(view.stride(axis)),
            Some(_) if *length == 1 => strides.push(0),
            _ => return Err(wrong()),
        }
    }
    Ok(View { shape: shape.to_vec(), strides, ..view.clone() })
}

pub(super) fn too_many(what: &str) -> ScoreError {
    ScoreError::unsupported(format!("{what}: more axes than the engine steps through at once"))
}
