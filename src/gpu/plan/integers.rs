//! Operators on quantised tensors: sums of integers, exactly, and what brings them to floats or back to eight bits.
//!
//! A requantised result is `saturate(round_half_even(f32(sum) · m) + zero)` with `m = f32(f32(left · right) / made)`, in this order: it equals ONNX
//! Runtime's in every bit (src/int8/rescale.rs), and so do `QGemm`'s floats, and sums and products of two tensors, element by element. All of that is the
//! end of a kernel; what follows from constants alone is computed once. How the sums are found is in [`whole_sums`](super::whole_sums).
//!
//! Q/DQ pairs come as these operators where all of a group is quantised (`rewrite::to_integer_products`). A product that goes on as a float is an exact
//! sum, rounded once to a float and once by its scale; what is requantised after further floats may be a step away from ONNX Runtime's where its order of
//! roundings is another. No precision changes any of it but how those floats are stored.

use super::pieces::padded;
use super::pointwise::literal;
use super::program::Register;
use super::rows::reduction;
use super::whole_sums::{Factor, joint};
use super::{Deferred, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::{AddFactors, QParams, QType, mul_factor};
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
/// Of `QGemm`.
const GEMM_SCALES: Scales = Scales { made: 7, zero: 8, ..SCALES };

impl Planner<'_> {
    /// Takes an operator on quantised tensors; `false` for another one.
    pub(super) fn whole_products(&mut self, node: &Node) -> Result<bool> {
        let name = match (node.op.domain.as_str(), node.op.name.as_str()) {
            ("", name) => name,
            ("com.microsoft", name @ ("QGemm" | "QLinearAdd" | "QLinearMul")) => name,
            _ => return Ok(false),
        };
        match name {
            "MatMulInteger" => {
                let sum = self.whole_matmul(node, Factor::left(0, 2), Factor::right(1, 3), None)?;
                self.defer(node, 0, sum)?;
            }
            "QLinearMatMul" => {
                let sum = self.whole_matmul(node, Factor::left(0, 2), Factor::right(3, 5), None)?;
                let (left, right) = (self.of_rows(node, SCALES.left)?, self.deferred(node, SCALES.right)?);
                let y = self.requantised(node, sum, left, right, &SCALES)?;
                self.defer(node, 0, y)?;
            }
            "QGemm" => {
                let flag = |name: &str| node.op.attributes.flag(name);
                let left = Factor::left(0, 2).transposed(flag("transA"));
                let right = Factor::right(3, 5).transposed(flag("transB"));
                let sum = self.whole_matmul(node, left, right, Some(6))?;
                let (left, right) = (self.deferred(node, SCALES.left)?, self.deferred(node, SCALES.right)?);
                let y = self.requantised(node, sum, left, right, &GEMM_SCALES)?;
                self.defer(node, 0, y)?;
            }
            "ConvInteger" => {
                let sum = self.whole_conv(node, [0, 1], [2, 3], None)?;
                self.defer(node, 0, sum)?;
            }
            "QLinearConv" => {
                let sum = self.whole_conv(node, [0, 3], [2, 5], Some(8))?;
                let behind = self.shape_of(node, 0)?.len().saturating_sub(2);
                let left = self.deferred(node, SCALES.left)?;
                let right = self.of_outputs(node, SCALES.right, behind)?;
                let y = self.requantised(node, sum, left, right, &SCALES)?;
                self.defer(node, 0, y)?;
            }
            "QLinearAdd" | "QLinearMul" => {
                let y = self.whole_pair(node, name == "QLinearAdd")?;
                self.defer(node, 0, y)?;
            }
            "DynamicQuantizeLinear" => self.dynamic(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A parameter of rows: as many numbers as there are, one an element, or along the last axis but one.
    pub(super) fn of_rows(&mut self, node: &Node, input: usize) -> Result<Deferred> {
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
    pub(super) fn of_outputs(&mut self, node: &Node, input: usize, behind: usize) -> Result<Deferred> {
        let x = self.deferred(node, input)?;
        let count = x.shape().iter().product::<usize>();
        let shape = padded(0, &[count], behind);
        self.reshaped(x, &shape)
    }

    /// What follows from these inputs: where all of them are constant it is put into memory, and so computed once.
    pub(super) fn settled_if_constant(
        &mut self,
        node: &Node,
        inputs: &[usize],
        x: Deferred,
        dtype: DType,
    ) -> Result<Deferred> {
        let is_constant = |input: &usize| match node.input(*input) {
            Some(id) => self.graph.constant(id).is_some(),
            None => true,
        };
        match inputs.iter().all(is_constant) {
            true => Deferred::of(self.launch(x, dtype, None, None)?),
            false => Ok(x),
        }
    }

    /// round(sum * (left * right / made)) + zero, the even one of two, within the type's range; a float where nothing says how it is requantised.
    fn requantised(
        &mut self,
        node: &Node,
        sum: Deferred,
        left: Deferred,
        right: Deferred,
        scales: &Scales,
    ) -> Result<Deferred> {
        let (shape, to) = (self.shape_of(node, 0)?, self.dtype_of(node, 0)?);
        let float = |value: f64| literal(Register::F32, value, &[]);
        let (left, right) = (self.unbound(left)?, self.unbound(right)?);
        let common = joint(left.shape(), right.shape())?;
        let of = vec![left.cast(Register::F32), right.cast(Register::F32)];
        let mut factor = self.call("multiply", Register::F32, of, &common)?;
        let alpha = f64::from(node.op.attributes.float("alpha").unwrap_or(1.0));
        if alpha != 1.0 {
            factor = self.call("multiply", Register::F32, vec![factor, float(alpha)], &common)?;
        }
        let is_float = node.input(scales.made).is_none();
        if !is_float {
            let made = self.of_outputs(node, scales.made, 0)?.cast(Register::F32);
            let common = joint(&common, made.shape())?;
            factor = self.call("divide", Register::F32, vec![factor, made], &common)?;
        }
        let read = [scales.left, scales.right, scales.made];
        let factor = self.settled_if_constant(node, &read, factor, DType::F32)?;
        let y = self.call("multiply", Register::F32, vec![sum.cast(Register::F32), factor], &shape)?;
        if is_float {
            return Ok(y);
        }
        let (least, most) = match to {
            DType::U8 => (0.0, 255.0),
            DType::I8 => (-128.0, 127.0),
            other => return Err(ScoreError::unsupported(format!("requantising to {}", other.name()))),
        };
        let zero = match node.input(scales.zero) {
            Some(_) => self.of_outputs(node, scales.zero, 0)?.cast(Register::F32),
            None => float(0.0),
        };
        let of = vec![y, float(1.0), zero, float(least), float(most)];
        let mut y = self.call("quantize", Register::F32, of, &shape)?;
        y.program = super::cast_to(y.program, to)?;
        Ok(y)
    }

    /// The sum or the product of two quantised tensors, element by element: src/int8/elementwise.rs, to the bit.
    fn whole_pair(&mut self, node: &Node, is_sum: bool) -> Result<Deferred> {
        let (shape, to) = (self.shape_of(node, 0)?, self.dtype_of(node, 0)?);
        let [a, b, made] = [
            self.qparams(node, 1, self.input_dtype(node, 0)?)?,
            self.qparams(node, 4, self.input_dtype(node, 3)?)?,
            self.qparams(node, 6, to)?,
        ];
        let (x, mut y) = (self.deferred(node, 0)?, self.deferred(node, 3)?);
        if x.base.is_some() && y.base.is_some() {
            // One of two kernels ends before the other begins.
            let stored = self.input_dtype(node, 3)?;
            y = Deferred::of(self.launch(y, stored, None, None)?)?;
        }
        let float = |value: f32| literal(Register::F32, value.into(), &[]);
        let sum = if is_sum {
            let by = AddFactors::of(&a, &b, &made);
            let of = vec![y.cast(Register::F32), float(by.b), float(by.fixed)];
            let part = self.call("multiply_add_rounded_once", Register::F32, of, &shape)?;
            let of = vec![x.cast(Register::F32), float(by.a), part];
            self.call("multiply_add_rounded_once", Register::F32, of, &shape)?
        } else {
            let whole = |value: i32| literal(Register::I32, value.into(), &[]);
            let x = self.call("subtract", Register::I32, vec![x, whole(a.zero_point())], &shape)?;
            let y = self.call("subtract", Register::I32, vec![y, whole(b.zero_point())], &shape)?;
            let product = self.call("multiply", Register::I32, vec![x, y], &shape)?.cast(Register::F32);
            let of = vec![product, float(mul_factor(&a, &b, &made)), float(made.zero_point() as f32)];
            self.call("multiply_add_rounded_twice", Register::F32, of, &shape)?
        };
        let range = [made.qtype().min(), made.qtype().max()].map(|bound| float(bound as f32));
        let of = [sum, float(1.0), float(0.0)].into_iter().chain(range).collect();
        let mut y = self.call("quantize", Register::F32, of, &shape)?;
        y.program = super::cast_to(y.program, to)?;
        Ok(y)
    }

    /// A constant scale, and the zero point behind it, of a tensor of that type.
    fn qparams(&self, node: &Node, scale: usize, dtype: DType) -> Result<QParams> {
        let one = |list: Option<Vec<f64>>| list.and_then(|list| <[f64; 1]>::try_from(list).ok());
        let several = || ScoreError::unsupported(format!("input {scale} is not one scale"));
        let [value] = one(self.numbers(node, scale)?).ok_or_else(several)?;
        let [zero] = match node.input(scale + 1) {
            Some(_) => one(self.numbers(node, scale + 1)?).ok_or_else(several)?,
            None => [0.0],
        };
        QParams::new(value as f32, zero as i32, QType::try_from(dtype)?)
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
