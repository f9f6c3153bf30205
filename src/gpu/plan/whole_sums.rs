//! Sums of products of 8-bit integers, each less its zero point: exactly, on tensor cores where they take them.
//!
//! `Σ (a - z)(b - y) = Σ a b - z Σ b - y Σ a + k z y`: kernels multiply the bytes as they are stored, and what the zero points have in the sums is taken
//! off at the end of the kernel. `Σ b` is computed once where b is constant. Constant weights lose their zero point before they are uploaded, if what
//! remains has 8 bits. Beyond an image is a zero, which is the zero point among integers: tensor cores are given it there, so that every place of the
//! result has the same share of it. Other kernels of convolutions leave out what is beyond, and take it off each element that they read. Where the sums and
//! the shares together might not fit 32 bits, or other weights have a zero point, it is taken off each element first, into 16 bits.

use super::pieces::padded;
use super::pointwise::literal;
use super::program::{Array, Register};
use super::rows::reduction;
use super::windows::Operand;
use super::{Deferred, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::Ints;
use crate::layout::view::{Storage, View};
use crate::tensor::{DType, Tensor};

/// What an asynchronous copy moves: the zero points that stand beyond an image.
const PIECE: usize = 16;

/// A side of a product among a node's inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factor {
    input: usize,
    /// Where its zero point is: one, or one a row on the left and one a column on the right.
    zero: usize,
    is_left: bool,
    is_transposed: bool,
}

impl Factor {
    pub(super) fn left(input: usize, zero: usize) -> Self {
        Self { input, zero, is_left: true, is_transposed: false }
    }

    pub(super) fn right(input: usize, zero: usize) -> Self {
        Self { is_left: false, ..Self::left(input, zero) }
    }

    pub(super) fn transposed(self, is_transposed: bool) -> Self {
        Self { is_transposed, ..self }
    }
}

/// A side in memory, and its zero point, if that is another number than zero.
struct Side {
    array: Array,
    zero: Option<Deferred>,
    /// What is in memory, if it is constant.
    constant: Option<Tensor>,
}

impl Planner<'_> {
    /// A constant input of 8 bits less its zero points along an axis, if that has 8 bits, too.
    fn counted_from_zero(
        &self,
        node: &Node,
        input: usize,
        zero: usize,
        axis: usize,
    ) -> Result<Option<Tensor>> {
        let Ok(Some(tensor)) = self.constant(node, input) else { return Ok(None) };
        let Ok(zeros) = self.integers(node, zero) else { return Ok(None) };
        if !matches!(tensor.dtype(), DType::I8 | DType::U8) {
            return Ok(None);
        }
        let zeros = zeros.unwrap_or_default();
        let length = tensor.shape().get(axis).copied().unwrap_or(1).max(1);
        if zeros.len() > 1 && zeros.len() != length {
            return Ok(None);
        }
        let inner = tensor.shape().iter().skip(axis + 1).product::<usize>().max(1);
        let zero_of = |at: usize| match zeros.as_slice() {
            [] => 0,
            [one] => *one,
            several => several.get(at / inner % length).copied().unwrap_or(0),
        };
        let integers = Ints::of(tensor)?;
        let values = integers.values().iter().enumerate();
        let values = values.map(|(at, v)| i8::try_from(i64::from(*v) - zero_of(at)).ok());
        let values = values.collect::<Option<Vec<_>>>();
        values.map(|values| Tensor::from_slice(tensor.shape(), &values)).transpose()
    }

    /// A quantised input without its zero point, which broadcasts to it.
    fn centred(&mut self, array: &Array, zero: Deferred) -> Result<Array> {
        let x = Deferred::of(array.clone())?;
        let shape = x.shape().to_vec();
        let y = self.call("subtract", Register::I32, vec![x, zero], &shape)?;
        self.launch(y, DType::I16, None, None)
    }

    fn side(&mut self, node: &Node, factor: Factor) -> Result<Side> {
        let rank = self.input_shape(node, factor.input)?.len();
        let behind = if factor.is_left != factor.is_transposed { 2 } else { 1 };
        let constant =
            self.counted_from_zero(node, factor.input, factor.zero, rank.saturating_sub(behind))?;
        let is_zero = constant.is_some() || self.is_zero(node, factor.zero);
        let array = match &constant {
            Some(tensor) => self.operand_array(node, &Operand::Constant(tensor.clone()))?,
            None => self.memory(node, factor.input)?,
        };
        let zero = match (is_zero, factor.is_left) {
            (true, _) => None,
            (false, true) => Some(self.of_rows(node, factor.zero)?.cast(Register::I32)),
            (false, false) => Some(self.deferred(node, factor.zero)?.cast(Register::I32)),
        };
        let zero = zero.map(|zero| self.unbound(zero)).transpose()?;
        let array = match factor.is_transposed {
            true => Array { view: array.view.transposed(&[1, 0]), dtype: array.dtype },
            false => array,
        };
        Ok(Side { array, zero, constant })
    }

    /// The sums of a product of matrices, with integers added to them where that input is there.
    pub(super) fn whole_matmul(
        &mut self,
        node: &Node,
        left: Factor,
        right: Factor,
        bias: Option<usize>,
    ) -> Result<Deferred> {
        for factor in [left, right].into_iter().filter(|f| f.is_transposed) {
            let shape = self.input_shape(node, factor.input)?;
            if shape.len() != 2 {
                let what = format!("input {} has {} axes, expected 2", factor.input, shape.len());
                return Err(ScoreError::bad_model(what));
            }
        }
        let shape = self.shape_of(node, 0)?;
        let (mut a, mut b) = (self.side(node, left)?, self.side(node, right)?);
        let (rows, columns) = (a.array.view.shape.len(), b.array.view.shape.len());
        let depth = a.array.view.length(rows.saturating_sub(1));
        let is_apart = rows >= 2
            && columns >= 2
            && fits(depth, a.array.dtype, b.array.dtype, a.zero.is_some() && b.zero.is_some());
        if !is_apart {
            for side in [&mut a, &mut b] {
                if let Some(zero) = side.zero.take() {
                    side.array = self.centred(&side.array, zero)?;
                }
            }
        }
        let mut y = self.matmul(&a.array, &b.array, &shape)?;
        let mut shares = Vec::new();
        // Sums along the depth: the last axis but one on the right, the last one on the left.
        for (zero, other, factor, axis) in
            [(&a.zero, &b, right, columns.saturating_sub(2)), (&b.zero, &a, left, rows.saturating_sub(1))]
        {
            let Some(zero) = zero else { continue };
            let sums = match &other.constant {
                Some(tensor) => {
                    let own = if factor.is_transposed { 1 - axis.min(1) } else { axis };
                    let mut shape = other.array.view.shape.clone();
                    if let Some(length) = shape.get_mut(axis) {
                        *length = 1;
                    }
                    self.whole_constant(sums_along(tensor, &[own])?.reshape(&shape)?)?
                }
                None => self.sums_of(&other.array, &[axis])?,
            };
            shares.push(self.share(zero, sums)?);
        }
        let mut plus = self.added(node, bias, 0)?;
        for share in shares {
            plus = Some(self.less(plus, share)?);
        }
        if let (Some(z), Some(y)) = (&a.zero, &b.zero) {
            let common = joint(z.shape(), y.shape())?;
            let both = self.call("multiply", Register::I32, vec![z.clone(), y.clone()], &common)?;
            let depth = literal(Register::I32, depth as f64, &[]);
            let both = self.call("multiply", Register::I32, vec![both, depth], &common)?;
            let nothing = literal(Register::I32, 0.0, &[]);
            let both = self.call("subtract", Register::I32, vec![nothing, both], &common)?;
            plus = Some(self.less(plus, both)?);
        }
        if let Some(plus) = plus {
            // A zero point brings the other side's sums with it.
            let of_left = b.zero.as_ref().map(|_| left.input);
            let of_right = a.zero.as_ref().map(|_| right.input);
            let read = [left.zero, right.zero].into_iter().chain(of_left).chain(of_right).chain(bias);
            let read = read.collect::<Vec<_>>();
            let plus = self.settled_if_constant(node, &read, plus, DType::I32)?;
            y = self.call("add", Register::I32, vec![y, plus], &shape)?;
        }
        Ok(y)
    }

    /// What a zero point has in sums of products with what has these sums.
    fn share(&mut self, zero: &Deferred, sums: Deferred) -> Result<Deferred> {
        let common = joint(zero.shape(), sums.shape())?;
        self.call("multiply", Register::I32, vec![zero.clone(), sums], &common)
    }

    /// The sums along some axes of what is in memory.
    fn sums_of(&mut self, array: &Array, axes: &[usize]) -> Result<Deferred> {
        let how = reduction("ReduceSum").ok_or_else(|| ScoreError::internal("a reduction without a name"))?;
        let sums = self.reduced(Deferred::of(array.clone())?, axes, &how, array.dtype)?;
        Deferred::of(self.launch(sums, DType::I32, None, None)?)
    }

    fn whole_constant(&mut self, tensor: Tensor) -> Result<Deferred> {
        let order = (0..tensor.shape().len()).collect::<Vec<_>>();
        let dtype = tensor.dtype();
        Deferred::of(self.constant_array(tensor, &order, dtype)?)
    }

    fn less(&mut self, from: Option<Deferred>, share: Deferred) -> Result<Deferred> {
        let from = from.unwrap_or_else(|| literal(Register::I32, 0.0, &[]));
        let common = joint(from.shape(), share.shape())?;
        self.call("subtract", Register::I32, vec![from, share], &common)
    }

    /// What is added to sums, one or one each, with so many axes behind it.
    fn added(&mut self, node: &Node, input: Option<usize>, behind: usize) -> Result<Option<Deferred>> {
        let Some(input) = input.filter(|input| node.input(*input).is_some()) else { return Ok(None) };
        let x = match behind {
            0 => self.deferred(node, input)?,
            _ => self.of_outputs(node, input, behind)?,
        };
        self.unbound(x.cast(Register::I32)).map(Some)
    }

    /// The sums of a convolution, with an integer added for each channel where that input is there.
    pub(super) fn whole_conv(
        &mut self,
        node: &Node,
        [x, w]: [usize; 2],
        [x_zero, w_zero]: [usize; 2],
        bias: Option<usize>,
    ) -> Result<Deferred> {
        let rank = self.input_shape(node, w)?.len();
        let weights = match self.counted_from_zero(node, w, w_zero, 0)? {
            Some(tensor) => Operand::Constant(tensor),
            None if self.is_zero(node, w_zero) => Operand::Input(w),
            None => {
                let zero = self.of_outputs(node, w_zero, rank.saturating_sub(1))?.cast(Register::I32);
                let array = self.memory(node, w)?;
                Operand::Memory(self.centred(&array, zero)?)
            }
        };
        let form = self.conv_form(node, &Operand::Input(x), &weights)?;
        let behind = form.shape.len().saturating_sub(2);
        let mut plus = self.added(node, bias, behind)?;
        let zero = match self.is_zero(node, x_zero) {
            true => None,
            false => Some(self.of_outputs(node, x_zero, 0)?),
        };
        let zero = zero.map(|zero| self.unbound(zero)).transpose()?;
        let (own, stored) = (self.input_dtype(node, x)?, self.operand_dtype(node, &weights)?);
        let depth = form.inputs * form.window.kernel.iter().product::<usize>();
        let is_apart = zero.is_none() || fits(depth, own, stored, false);
        let beyond = match &zero {
            Some(zero) => {
                let piece = self.call("same", zero.register(), vec![zero.clone()], &[PIECE])?;
                Some(self.launch(piece, own, None, None)?)
            }
            None => None,
        };
        let of = Operand::Input(x);
        let on_tensor_cores = match is_apart {
            true => self.conv_on_tensor_cores(node, &form, &of, &weights, beyond.as_ref())?,
            false => None,
        };
        let y = match (on_tensor_cores, zero) {
            (Some(y), None) => y,
            (Some(y), Some(zero)) => {
                let axes = (1..rank).collect::<Vec<_>>();
                let sums = match &weights {
                    Operand::Constant(tensor) => self.whole_constant(sums_along(tensor, &axes)?)?,
                    _ => {
                        let array = self.operand_array(node, &weights)?;
                        self.sums_of(&array, &axes)?
                    }
                };
                let sums = self.reshaped(sums, &padded(0, &[form.groups * form.outputs], behind))?;
                let share = self.share(&zero.cast(Register::I32), sums)?;
                plus = Some(self.less(plus, share)?);
                y
            }
            (None, _) => self.conv_anyhow(node, &form, &of, &weights, beyond.as_ref())?,
        };
        let Some(plus) = plus else { return Ok(y) };
        let read = [w, x_zero, w_zero].into_iter().chain(bias).collect::<Vec<_>>();
        let plus = self.settled_if_constant(node, &read, plus, DType::I32)?;
        self.call("add", Register::I32, vec![y, plus], &form.shape)
    }
}

/// A tensor's sums along some axes, which are one long then.
fn sums_along(tensor: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    for axis in axes {
        if let Some(length) = shape.get_mut(*axis) {
            *length = 1;
        }
    }
    let to = View::row_major(Storage(0), &shape, 1);
    let to = super::program::broadcast(&to, tensor.shape());
    let to = to.ok_or_else(|| ScoreError::internal("sums along axes that there are not"))?;
    let mut sums = vec![0i64; shape.iter().product()];
    let mut at = vec![0usize; to.shape.len()];
    for value in Ints::of(tensor)?.values() {
        let place = at.iter().enumerate().map(|(axis, n)| n * to.stride(axis).unsigned_abs()).sum::<usize>();
        if let Some(sum) = sums.get_mut(place) {
            *sum += i64::from(*value);
        }
        for (axis, count) in at.iter_mut().enumerate().rev() {
            *count += 1;
            if *count < to.length(axis) {
                break;
            }
            *count = 0;
        }
    }
    let sums = sums.into_iter().map(i32::try_from).collect::<std::result::Result<Vec<_>, _>>();
    let sums = sums.map_err(|_| ScoreError::unsupported("sums of weights that do not fit 32 bits"))?;
    Tensor::from_slice(&shape, &sums)
}

/// Whether sums of so many products, and the zero points' shares in them, fit 32 bits.
fn fits(depth: usize, left: DType, right: DType, both: bool) -> bool {
    let most = |dtype: DType| if dtype == DType::U8 { 255 } else { 128 };
    let terms = if both { 4 } else { 2 };
    depth.saturating_mul(most(left) * most(right) * terms) <= i32::MAX as usize
}

/// The shape that two shapes broadcast to.
pub(super) fn joint(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let (longer, shorter) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let mut joint = longer.to_vec();
    for (slot, length) in joint.iter_mut().rev().zip(shorter.iter().rev()) {
        *slot = match (*slot, *length) {
            (own, other) if own == other || other == 1 => own,
            (1, other) => other,
            _ => return Err(ScoreError::bad_model(format!("{a:?} and {b:?} do not broadcast"))),
        };
    }
    Ok(joint)
}
