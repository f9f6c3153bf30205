//! Products of quantised tensors: sums of integers, exactly, and what brings them to floats or back to eight bits.
//!
//! A zero point that is zero costs nothing: kernels read the stored bytes. Another one is taken away first, into 16 bits, which hold every difference.
//! Requantising is the end of the product's kernel.

use super::pointwise::literal;
use super::program::{Array, Register};
use super::rows::reduction;
use super::windows::Operand;
use super::{Deferred, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::tensor::DType;

/// Which inputs say how a result is requantised.
struct Scales {
    left: usize,
    right: usize,
    made: usize,
    zero: usize,
}

/// Of `QLinearConv` and of `QLinearMatMul`.
const SCALES: Scales = Scales { left: 1, right: 4, made: 6, zero: 7 };

impl Planner<'_> {
    /// Takes an operator on quantised tensors; `false` for another one.
    pub(super) fn whole_products(&mut self, node: &Node) -> Result<bool> {
        match node.op.onnx_name() {
            Some("MatMulInteger") => {
                let sum = self.whole_matmul(node, [0, 1], [2, 3])?;
                self.defer(node, 0, sum)?;
            }
            Some("QLinearMatMul") => {
                let sum = self.whole_matmul(node, [0, 3], [2, 5])?;
                let rank = self.shape_of(node, 0)?.len();
                let (left, right) = (self.of_rows(node, SCALES.left)?, self.deferred(node, SCALES.right)?);
                let y = self.requantised(node, sum, left, right, rank)?;
                self.defer(node, 0, y)?;
            }
            Some("ConvInteger") => {
                let sum = self.whole_conv(node, [0, 1], [2, 3])?;
                self.defer(node, 0, sum)?;
            }
            Some("QLinearConv") => {
                let sum = self.whole_conv(node, [0, 3], [2, 5])?;
                let shape = self.shape_of(node, 0)?;
                let sum = self.biased(node, 8, sum, &shape, Register::I32)?;
                let rank = shape.len();
                let left = self.deferred(node, SCALES.left)?;
                let right = self.of_outputs(node, SCALES.right, rank.saturating_sub(2))?;
                let y = self.requantised(node, sum, left, right, rank)?;
                self.defer(node, 0, y)?;
            }
            Some("DynamicQuantizeLinear") => self.dynamic(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a zero point is left out, or known to be zero.
    fn is_zero(&self, node: &Node, zero: usize) -> bool {
        node.input(zero).is_none()
            || self.integers(node, zero).is_ok_and(|list| list.is_some_and(|l| l.iter().all(|v| *v == 0)))
    }

    /// A quantised input without its zero point, which broadcasts to it.
    fn centred(&mut self, node: &Node, input: usize, zero: Deferred) -> Result<Array> {
        let x = self.deferred(node, input)?.cast(Register::I32);
        let shape = x.shape().to_vec();
        let y = self.call("subtract", Register::I32, vec![x, zero.cast(Register::I32)], &shape)?;
        self.launch(y, DType::I16, None, None)
    }

    /// A parameter of rows: as many numbers as there are, one an element, or along the last axis but one.
    fn of_rows(&mut self, node: &Node, input: usize) -> Result<Deferred> {
        let x = self.deferred(node, input)?;
        match x.shape() {
            [n] if *n > 1 => {
                let shape = [*n, 1];
                self.reshaped(x, &shape)
            }
            _ => Ok(x),
        }
    }

    /// A parameter of outputs, one or one each, with so many axes behind it.
    fn of_outputs(&mut self, node: &Node, input: usize, behind: usize) -> Result<Deferred> {
        let x = self.deferred(node, input)?;
        let count = x.shape().iter().product::<usize>();
        let shape = super::pieces::padded(0, &[count], behind);
        self.reshaped(x, &shape)
    }

    fn whole_matmul(
        &mut self,
        node: &Node,
        [a, b]: [usize; 2],
        [a_zero, b_zero]: [usize; 2],
    ) -> Result<Deferred> {
        let left = match self.is_zero(node, a_zero) {
            true => self.memory(node, a)?,
            false => {
                let zero = self.of_rows(node, a_zero)?;
                self.centred(node, a, zero)?
            }
        };
        let right = match self.is_zero(node, b_zero) {
            true => self.memory(node, b)?,
            false => {
                let zero = self.deferred(node, b_zero)?;
                self.centred(node, b, zero)?
            }
        };
        self.matmul(&left, &right, &self.shape_of(node, 0)?)
    }

    fn whole_conv(
        &mut self,
        node: &Node,
        [x, w]: [usize; 2],
        [x_zero, w_zero]: [usize; 2],
    ) -> Result<Deferred> {
        let images = match self.is_zero(node, x_zero) {
            true => self.memory(node, x)?,
            false => {
                // Padding is what stands for zero.
                let zero = self.of_outputs(node, x_zero, 0)?;
                self.centred(node, x, zero)?
            }
        };
        let weights = match self.is_zero(node, w_zero) {
            true => Operand::Input(w),
            false => {
                let rank = self.input_shape(node, w)?.len();
                let zero = self.of_outputs(node, w_zero, rank.saturating_sub(1))?;
                Operand::Memory(self.centred(node, w, zero)?)
            }
        };
        self.conv_of(node, &Operand::Memory(images), &weights)
    }

    /// round(sum * (left * right / made)) + zero, the even one of two, within the type's range.
    fn requantised(
        &mut self,
        node: &Node,
        sum: Deferred,
        left: Deferred,
        right: Deferred,
        rank: usize,
    ) -> Result<Deferred> {
        let (shape, to) = (self.shape_of(node, 0)?, self.dtype_of(node, 0)?);
        let (least, most) = match to {
            DType::U8 => (0.0, 255.0),
            DType::I8 => (-128.0, 127.0),
            other => return Err(ScoreError::unsupported(format!("requantising to {}", other.name()))),
        };
        // Scales of one axis each have the result's number of axes between them.
        let mut common = vec![1; rank];
        for scale in [&left, &right] {
            for (slot, length) in common.iter_mut().rev().zip(scale.shape().iter().rev()) {
                *slot = (*slot).max(*length);
            }
        }
        let float = |value: f64| literal(Register::F32, value, &[]);
        let made = self.of_outputs(node, SCALES.made, 0)?.cast(Register::F32);
        let (left, right) = (self.unbound(left)?, self.unbound(right)?);
        let scales = vec![left.cast(Register::F32), right.cast(Register::F32)];
        let both = self.call("multiply", Register::F32, scales, &common)?;
        let factor = self.call("divide", Register::F32, vec![both, made], &common)?;
        let y = self.call("multiply", Register::F32, vec![sum.cast(Register::F32), factor], &shape)?;
        let zero = match node.input(SCALES.zero) {
            Some(_) => self.of_outputs(node, SCALES.zero, 0)?.cast(Register::F32),
            None => float(0.0),
        };
        let of = vec![y, float(1.0), zero, float(least), float(most)];
        let mut y = self.call("quantize", Register::F32, of, &shape)?;
        y.program = super::cast_to(y.program, to)?;
        Ok(y)
    }

    /// To eight bits, by a scale and a zero point that the tensor's own range says.
    fn dynamic(&mut self, node: &Node) -> Result<()> {
        let x = self.memory(node, 0)?;
        let shape = x.view.shape.clone();
        let (axes, ones) = ((0..shape.len()).collect::<Vec<_>>(), vec![1; shape.len()]);
        let float = |value: f64| literal(Register::F32, value, &[]);
        let mut bound = |name: &str, function: &'static str| {
            let how = reduction(name).ok_or_else(|| ScoreError::internal("a reduction without a name"))?;
            let bound = self.reduced(Deferred::of(x.clone())?, &axes, &how, x.dtype)?;
            // The range has zero in it.
            let bound = self.call(function, Register::F32, vec![bound, float(0.0)], &ones)?;
            Deferred::of(self.launch(bound, DType::F32, None, None)?)
        };
        let (most, least) = (bound("ReduceMax", "larger")?, bound("ReduceMin", "smaller")?);
        let is_flat = self.call("equal", Register::Bool, vec![most.clone(), least.clone()], &ones)?;
        let range = self.call("subtract", Register::F32, vec![most, least.clone()], &ones)?;
        let range = self.call("choose", Register::F32, vec![is_flat, float(1.0), range], &ones)?;
        let scale = self.call("divide", Register::F32, vec![range, float(255.0)], &ones)?;
        let scale = self.launch(scale, DType::F32, None, None)?;
        let scaled = self.call("divide", Register::F32, vec![least, Deferred::of(scale.clone())?], &ones)?;
        let zero = self.call("subtract", Register::F32, vec![float(0.0), scaled], &ones)?;
        let zero = self.call("clip", Register::F32, vec![zero, float(0.0), float(255.0)], &ones)?;
        let zero = self.call("to_even", Register::F32, vec![zero], &ones)?.cast(Register::I32);
        let zero = self.launch(zero, DType::U8, None, None)?;
        let of = vec![
            Deferred::of(x)?,
            Deferred::of(scale.clone())?,
            Deferred::of(zero.clone())?.cast(Register::F32),
            float(0.0),
            float(255.0),
        ];
        let y = self.call("quantize", Register::F32, of, &shape)?.cast(Register::I32);
        self.defer(node, 0, y)?;
        for (output, array) in [(1, scale), (2, zero)] {
            let told = self.reshaped(Deferred::of(array)?, &[])?;
            self.defer(node, output, told)?;
        }
        Ok(())
    }
}
