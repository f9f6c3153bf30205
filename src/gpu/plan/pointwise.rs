//! Operators that compute each element by itself: each goes on with the programs of what it reads.

use super::functions::{Types, of_one, of_two};
use super::program::{Array, Program, Register};
use super::sources::Source;
use super::text::mapper;
use super::{Argument, BLOCK, Deferred, Operator, Planner, cast_to};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::tensor::{DType, Tensor};

/// Blocks that keep any GPU busy; threads of more elements go on with the next one.
pub(super) const MOST_BLOCKS: usize = 65_536;

impl Planner<'_> {
    /// Takes a pointwise operator; `false` for another one.
    pub(super) fn pointwise(&mut self, node: &Node) -> Result<bool> {
        let attributes = &node.op.attributes;
        let name = match (node.op.domain.as_str(), node.op.name.as_str()) {
            ("", name) => name,
            ("com.microsoft", "Gelu") => "Gelu",
            _ => return Ok(false),
        };
        let made = |of: Deferred| Ok::<_, ScoreError>(of);
        let deferred = match name {
            "Cast" | "CastLike" => {
                let to = self.dtype_of(node, 0)?;
                let x = self.deferred(node, 0)?;
                let from = self.input_dtype(node, 0)?;
                made(cast(x, from, to, saturates(node))?)?
            }
            "Clip" => self.clip(node)?,
            "Where" => {
                let of = (0..3).map(|i| self.deferred(node, i)).collect::<Result<Vec<_>>>()?;
                let register = of.get(1).map_or(Register::F32, |d| d.program.register());
                self.call("choose", register, of, &self.shape_of(node, 0)?)?
            }
            "BatchNormalization" => self.batch_norm(node)?,
            "Mean" | "Sum" | "Max" | "Min" => self.variadic(node, name)?,
            "QuantizeLinear" => self.quantize(node)?,
            "DequantizeLinear" => self.dequantize(node)?,
            _ => {
                if let Some(call) = of_one(name, attributes) {
                    let x = self.deferred(node, 0)?;
                    let register = x.program.register();
                    call.types.check(register)?;
                    let mut of = vec![x];
                    for number in call.numbers {
                        of.push(literal(register, number, &[]));
                    }
                    let made = if call.types == Types::Test { Register::Bool } else { register };
                    self.call(call.function, made, of, &self.shape_of(node, 0)?)?
                } else {
                    let is_float = self.input_dtype(node, 0).is_ok_and(DType::is_float);
                    let Some((function, types)) = of_two(name, attributes, is_float) else {
                        return Ok(false);
                    };
                    let mut of = vec![self.deferred(node, 0)?, self.deferred(node, 1)?];
                    let register = of.first().map_or(Register::F32, |d| d.program.register());
                    types.check(register)?;
                    // An exponent may be of another type.
                    if let (Some(first), "Pow", Some(second)) =
                        (of.first().map(|d| d.program.register()), name, of.get_mut(1))
                    {
                        let exponent = second.program.clone();
                        if !first.is_float() && exponent.register().is_float() {
                            let dtype = self.dtype_of(node, 0)?;
                            return self.integer_power(node, of, dtype).map(|()| true);
                        }
                        second.program = exponent.cast(first);
                    }
                    let made = if types == Types::Test { Register::Bool } else { register };
                    self.call(function, made, of, &self.shape_of(node, 0)?)?
                }
            }
        };
        self.defer(node, 0, deferred)?;
        Ok(true)
    }

    /// An integer to the power of a float is computed with floats.
    fn integer_power(&mut self, node: &Node, mut of: Vec<Deferred>, dtype: DType) -> Result<()> {
        for deferred in &mut of {
            deferred.program = deferred.program.clone().cast(Register::F64);
        }
        let mut power = self.call("power", Register::F64, of, &self.shape_of(node, 0)?)?;
        power.program = cast_to(power.program, dtype)?;
        self.defer(node, 0, power)
    }

    /// A call of what was deferred, repeated to a shape. Only one of them may go on in the kernel that it begins with, and only where it is not repeated;
    /// the others are put into memory.
    pub(super) fn call(
        &mut self,
        function: &'static str,
        register: Register,
        of: Vec<Deferred>,
        shape: &[usize],
    ) -> Result<Deferred> {
        let mut base = None;
        let (mut programs, mut origins) = (Vec::new(), Vec::new());
        for deferred in of {
            let deferred = match (&deferred.base, &base) {
                (Some(_), None) if deferred.program.shape == shape => deferred,
                (None, _) => deferred,
                _ => self.settled(deferred)?,
            };
            origins.extend(&deferred.origins);
            base = base.or(deferred.base);
            let fits = deferred.program.broadcast(shape);
            programs.push(fits.ok_or_else(|| {
                ScoreError::bad_model(format!("{:?} does not broadcast to {shape:?}", deferred.program.shape))
            })?);
        }
        if let Some(program) = Program::call(function, register, &programs) {
            return Ok(Deferred { program, base, origins });
        }
        // It would be too long: the longest goes to memory first.
        let longest = programs.iter().enumerate().max_by_key(|(_, p)| p.leaves.len()).map_or(0, |(at, _)| at);
        let mut cut = Vec::new();
        for (at, program) in programs.into_iter().enumerate() {
            let base = if program.is_given() { base.take() } else { None };
            let deferred = Deferred { program, base, origins: origins.clone() };
            cut.push(if at == longest { self.settled(deferred)? } else { deferred });
        }
        let long = || ScoreError::internal("a call of more tensors than a kernel takes");
        let base = cut.iter_mut().find_map(|d| d.base.take());
        let programs = cut.into_iter().map(|d| d.program).collect::<Vec<_>>();
        let program = Program::call(function, register, &programs).ok_or_else(long)?;
        Ok(Deferred { program, base, origins })
    }

    /// What was deferred, in memory and to be read from there.
    pub(super) fn settled(&mut self, deferred: Deferred) -> Result<Deferred> {
        let dtype = match deferred.program.register() {
            Register::F32 => self.stored(DType::F32),
            register => register.dtype(),
        };
        let array = self.launch(deferred, dtype, None, None)?;
        Ok(Deferred { program: Program::of(array)?, base: None, origins: Vec::new() })
    }

    fn clip(&mut self, node: &Node) -> Result<Deferred> {
        let (x, shape) = (self.deferred(node, 0)?, self.shape_of(node, 0)?);
        let register = x.program.register();
        let mut y = x;
        for (input, function) in [(1, "larger"), (2, "smaller")] {
            if node.input(input).is_some() {
                let bound = self.deferred(node, input)?;
                y = self.call(function, register, vec![bound, y], &shape)?;
            }
        }
        Ok(y)
    }

    /// Several tensors, joined from the first one on.
    fn variadic(&mut self, node: &Node, name: &str) -> Result<Deferred> {
        let shape = self.shape_of(node, 0)?;
        let function = match name {
            "Max" => "larger",
            "Min" => "smaller",
            _ => "add",
        };
        let mut joined = self.deferred(node, 0)?;
        let register = joined.program.register();
        Types::Same.check(register)?;
        for input in 1..node.inputs.len() {
            let next = self.deferred(node, input)?;
            joined = self.call(function, register, vec![joined, next], &shape)?;
        }
        if name == "Mean" {
            let count = literal(register, node.inputs.len() as f64, &[]);
            joined = self.call("divide", register, vec![joined, count], &shape)?;
        }
        if joined.program.shape != shape {
            joined = self.call("same", register, vec![joined], &shape)?;
        }
        Ok(joined)
    }

    /// y = (x - mean) / sqrt(variance + epsilon) * scale + bias, as one factor and one addend a channel where the four are constant.
    fn batch_norm(&mut self, node: &Node) -> Result<Deferred> {
        if node.op.attributes.flag("training_mode") {
            return Err(ScoreError::unsupported("training_mode: it scores, and does not train"));
        }
        let shape = self.shape_of(node, 0)?;
        let x = self.deferred(node, 0)?;
        let register = x.program.register();
        let epsilon = f64::from(node.op.attributes.float("epsilon").unwrap_or(1e-5));
        let channels = [shape.get(1).copied().unwrap_or(1)].into_iter();
        let channels =
            channels.chain(std::iter::repeat_n(1, shape.len().saturating_sub(2))).collect::<Vec<_>>();
        let known = (1..5).map(|i| self.numbers(node, i)).collect::<Result<Vec<_>>>();
        if let Ok(known) = known
            && let [Some(scale), Some(bias), Some(mean), Some(variance)] = known.as_slice()
        {
            let (mut by, mut plus) = (Vec::new(), Vec::new());
            for (((scale, bias), mean), variance) in scale.iter().zip(bias).zip(mean).zip(variance) {
                let factor = scale / (variance + epsilon).sqrt();
                by.push(factor as f32);
                plus.push((bias - mean * factor) as f32);
            }
            let mut of = vec![x];
            for numbers in [by, plus] {
                of.push(self.numbers_along(&numbers, &channels, register)?);
            }
            return self.call("multiply_add", register, of, &shape);
        }
        let mut channel = |input: usize| -> Result<Deferred> {
            let of = self.deferred(node, input)?;
            let of = self.settled(of)?;
            let rows = of.program.viewed(&channels, |view| view.reshaped(&channels));
            let program = rows.ok_or_else(|| ScoreError::unsupported("statistics with gaps"))?.cast(register);
            Ok(Deferred { program, ..of })
        };
        let (scale, bias, mean, variance) = (channel(1)?, channel(2)?, channel(3)?, channel(4)?);
        let raised =
            self.call("add", register, vec![variance, literal(register, epsilon, &[])], &channels)?;
        let root = self.call("square_root", register, vec![raised], &channels)?;
        let factor = self.call("divide", register, vec![scale, root], &channels)?;
        let centred = self.call("subtract", register, vec![x, mean], &shape)?;
        self.call("multiply_add", register, vec![centred, factor, bias], &shape)
    }

    /// Numbers that the planner computed, as a tensor of that shape.
    pub(super) fn numbers_along(
        &mut self,
        numbers: &[f32],
        shape: &[usize],
        register: Register,
    ) -> Result<Deferred> {
        let tensor = Tensor::from_slice(shape, numbers)?;
        let order = (0..shape.len()).collect::<Vec<_>>();
        let array = self.constant_array(tensor, &order, DType::F32)?;
        Ok(Deferred { program: Program::of(array)?.cast(register), base: None, origins: Vec::new() })
    }

    /// The shape under which a tensor is quantised: where a scale is of a block along an axis, the axis is two, of the blocks and within one.
    fn blocked(&self, node: &Node, shape: &[usize]) -> Result<Vec<usize>> {
        let Some(block) = node.op.attributes.int("block_size").filter(|b| *b != 0) else {
            return Ok(shape.to_vec());
        };
        let axis = self.axis(node, "axis", 1, shape.len())?;
        let length = shape.get(axis).copied().unwrap_or(1);
        let fits = usize::try_from(block).ok().filter(|b| length.is_multiple_of(*b));
        let Some(block) = fits else {
            return Err(ScoreError::unsupported(format!("an axis of {length} in blocks of {block}")));
        };
        let mut apart = shape.to_vec();
        apart.splice(axis..=axis, [length / block, block]);
        Ok(apart)
    }

    /// A scale or zero point, along the axis that it is of, of a tensor of that shape, which may be [`blocked`](Self::blocked).
    fn parameter(&mut self, node: &Node, input: usize, shape: &[usize]) -> Result<Deferred> {
        let of = self.deferred(node, input)?;
        let count = of.program.shape.iter().product::<usize>();
        let is_blocked = node.op.attributes.int("block_size").is_some_and(|b| b != 0);
        let along = match count {
            1 => vec![1; shape.len()],
            _ => {
                let rank = shape.len() - usize::from(is_blocked);
                let axis = self.axis(node, "axis", 1, rank)?;
                match is_blocked {
                    true => {
                        let within = axis + 1;
                        shape.iter().enumerate().map(|(a, n)| if a == within { 1 } else { *n }).collect()
                    }
                    false => (0..rank).map(|a| if a == axis { count } else { 1 }).collect(),
                }
            }
        };
        if along.iter().product::<usize>() != count {
            let what = format!("{count} scales for {shape:?}, expected one, or as many as {along:?} has");
            return Err(ScoreError::bad_model(what));
        }
        self.reshaped(of, &along)
    }

    fn quantize(&mut self, node: &Node) -> Result<Deferred> {
        let (whole, to) = (self.shape_of(node, 0)?, self.dtype_of(node, 0)?);
        let shape = self.blocked(node, &whole)?;
        let x = self.deferred(node, 0)?;
        let mut of = vec![as_f32(self.reshaped(x, &shape)?), as_f32(self.parameter(node, 1, &shape)?)];
        let (least, most) = match to {
            DType::U8 => (0.0, 255.0),
            DType::I8 => (-128.0, 127.0),
            DType::U16 => (0.0, 65_535.0),
            DType::I16 => (-32_768.0, 32_767.0),
            DType::F8E4M3 | DType::F8E5M2 => {
                let mut y = self.call("divide", Register::F32, of, &shape)?;
                // It says the type, and is zero in any model that was seen.
                if !self.is_zero(node, 2) {
                    let zero = as_f32(self.parameter(node, 2, &shape)?);
                    y = self.call("add", Register::F32, vec![y, zero], &shape)?;
                }
                let y = cast(y, DType::F32, to, saturates(node))?;
                return self.reshaped(y, &whole);
            }
            other => return Err(ScoreError::unsupported(format!("quantising to {}", other.name()))),
        };
        of.push(match node.input(2) {
            Some(_) => as_f32(self.parameter(node, 2, &shape)?),
            None => literal(Register::F32, 0.0, &[]),
        });
        of.extend([least, most].map(|bound| literal(Register::F32, bound, &[])));
        let mut y = self.call("quantize", Register::F32, of, &shape)?;
        y.program = cast_to(y.program, to)?;
        self.reshaped(y, &whole)
    }

    fn dequantize(&mut self, node: &Node) -> Result<Deferred> {
        let whole = self.shape_of(node, 0)?;
        let shape = self.blocked(node, &whole)?;
        let x = self.deferred(node, 0)?;
        let mut x = self.reshaped(x, &shape)?;
        if !self.is_zero(node, 2) {
            let zero = self.parameter(node, 2, &shape)?;
            let register = x.program.register();
            x = self.call("subtract", register, vec![x, zero], &shape)?;
        }
        let scale = self.parameter(node, 1, &shape)?;
        let y = self.call("multiply", Register::F32, vec![as_f32(x), as_f32(scale)], &shape)?;
        self.reshaped(y, &whole)
    }

    /// An attribute that names an axis, counted from the first one.
    pub(super) fn axis(&self, node: &Node, name: &str, default: i64, rank: usize) -> Result<usize> {
        axis_of(node.op.attributes.int(name).unwrap_or(default), rank)
    }

    /// Launches a kernel that computes a program for every element.
    pub(super) fn map(&mut self, program: &Program, into: &Array, origins: &[usize]) -> Result<()> {
        let count = into.view.count();
        if count == 0 {
            return Ok(());
        }
        let program = cast_to(program.clone(), into.dtype)?;
        let (generated, vector) = mapper(&program, into)?;
        let mut source = Source::new("map", "map", &[]);
        source.generated.push_str(&generated.text);
        let operator = Operator {
            source,
            grid: [count.div_ceil(vector).div_ceil(BLOCK).min(MOST_BLOCKS), 1, 1],
            block: BLOCK,
            shared_bytes: 0,
            arguments: vec![
                Argument::Struct(generated.argument),
                Argument::Unsigned(u32::try_from(count).unwrap_or(u32::MAX)),
            ],
            writes: vec![into.view.storage],
        };
        self.push(operator, origins);
        Ok(())
    }
}

/// The same number everywhere.
pub(super) fn literal(register: Register, value: f64, shape: &[usize]) -> Deferred {
    let program = Program::literal(register, register.literal(value), shape);
    Deferred { program, base: None, origins: Vec::new() }
}

fn as_f32(mut deferred: Deferred) -> Deferred {
    deferred.program = deferred.program.cast(Register::F32);
    deferred
}

/// Whether what is beyond the range of 8-bit floats becomes the greatest of them; no other type is asked about.
fn saturates(node: &Node) -> bool {
    node.op.attributes.int("saturate") != Some(0)
}

/// A value as another type: an integer that the type does not have is cut down to it, as C does.
fn cast(mut x: Deferred, from: DType, to: DType, saturates: bool) -> Result<Deferred> {
    let small = matches!(to, DType::I8 | DType::U8 | DType::I16 | DType::U16);
    let program = match (small, Register::of(from)?) {
        // Through the wide integer, so that what is cut off is cut off alike everywhere.
        (true, register) if register.is_float() => x.program.cast(Register::I64).cast(Register::I32),
        _ => cast_to(x.program, to)?,
    };
    // What the narrow type does not have must be gone before anybody goes on with it.
    let narrow = match to {
        DType::I8 => Some("as_i8"),
        DType::U8 => Some("as_u8"),
        DType::I16 => Some("as_i16"),
        DType::U16 => Some("as_u16"),
        DType::F16 if from != DType::F16 => Some("as_f16"),
        DType::Bf16 if from != DType::Bf16 => Some("as_bf16"),
        DType::F8E4M3 if from != to && saturates => Some("as_f8e4m3"),
        DType::F8E4M3 if from != to => Some("as_f8e4m3_unsaturated"),
        DType::F8E5M2 if from != to && saturates => Some("as_f8e5m2"),
        DType::F8E5M2 if from != to => Some("as_f8e5m2_unsaturated"),
        _ => None,
    };
    x.program = match narrow {
        Some(function) => {
            let register = program.register();
            Program::call(function, register, &[program])
                .ok_or_else(|| ScoreError::internal("a cast that is too long"))?
        }
        None => program,
    };
    Ok(x)
}

/// An axis counted from the first one; a negative one counts from behind.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    let inside = usize::try_from(from_start).ok().filter(|a| *a < rank.max(1));
    inside.ok_or_else(|| ScoreError::bad_model(format!("axis {axis} of a tensor of {rank} axes")))
}
