//! What operators that have no kernel of their own are made of: values that are looked at otherwise, or in memory, and tables of numbers.

use super::program::{Array, Program, Register};
use super::{Deferred, Planner, Value};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;
use crate::tensor::{DType, Tensor};

impl Deferred {
    /// What is in memory, to go on with.
    pub(super) fn of(array: Array) -> Result<Self> {
        Ok(Self { program: Program::of(array)?, base: None, origins: Vec::new() })
    }

    /// Its value as another type.
    #[must_use]
    pub(super) fn cast(mut self, register: Register) -> Self {
        self.program = self.program.cast(register);
        self
    }

    pub(super) fn register(&self) -> Register {
        self.program.register()
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.program.shape
    }
}

impl Planner<'_> {
    /// Integers that the planner computed, as a tensor of that shape.
    pub(super) fn whole_numbers(&mut self, numbers: &[i64], shape: &[usize]) -> Result<Deferred> {
        let order = (0..shape.len()).collect::<Vec<_>>();
        Deferred::of(self.constant_array(Tensor::from_slice(shape, numbers)?, &order, DType::I64)?)
    }

    /// 0, 1, 2, … along one of so many axes.
    pub(super) fn positions(&mut self, axis: usize, shape: &[usize]) -> Result<Deferred> {
        let count = shape.get(axis).copied().unwrap_or(1);
        let along = (0..shape.len()).map(|a| if a == axis { count } else { 1 }).collect::<Vec<_>>();
        self.whole_numbers(&(0..count as i64).collect::<Vec<_>>(), &along)
    }

    /// What a kernel would still go on with, in memory; else as it is.
    pub(super) fn unbound(&mut self, x: Deferred) -> Result<Deferred> {
        match x.base {
            Some(_) => self.settled(x),
            None => Ok(x),
        }
    }

    /// A value looked at otherwise; in memory and in row-major order first where that is what it takes.
    pub(super) fn looked(
        &mut self,
        x: Deferred,
        shape: &[usize],
        look: impl Fn(&View) -> Option<View>,
    ) -> Result<Deferred> {
        let x = self.unbound(x)?;
        if let Some(program) = x.program.viewed(shape, &look) {
            return Ok(Deferred { program, ..x });
        }
        let wrong = ScoreError::bad_model(format!("{:?} cannot become {shape:?}", x.shape()));
        let copy = Deferred::of(self.row_major(x)?)?;
        let program = copy.program.viewed(shape, look).ok_or(wrong)?;
        Ok(Deferred { program, ..copy })
    }

    /// The same elements in row-major order under another shape.
    pub(super) fn reshaped(&mut self, x: Deferred, shape: &[usize]) -> Result<Deferred> {
        match x.shape() == shape {
            true => Ok(x),
            false => self.looked(x, shape, |view| view.reshaped(shape)),
        }
    }

    /// A value where it lies, or computed into memory.
    pub(super) fn in_memory(&mut self, x: Deferred) -> Result<Array> {
        if let (None, true, Some(array)) = (&x.base, x.program.is_copy(), x.program.arrays().next()) {
            return Ok(array.clone());
        }
        let dtype = match x.register() {
            Register::F32 => self.stored(DType::F32),
            register => register.dtype(),
        };
        self.launch(x, dtype, None, None)
    }

    /// In memory, in row-major order.
    pub(super) fn row_major(&mut self, x: Deferred) -> Result<Array> {
        let dtype = match (x.register(), x.program.arrays().next()) {
            // What is only looked at stays stored as it is.
            (_, Some(array)) if x.base.is_none() && x.program.is_copy() => array.dtype,
            (Register::F32, _) => self.stored(DType::F32),
            (register, _) => register.dtype(),
        };
        let order = (0..x.shape().len()).collect::<Vec<_>>();
        self.launch(x, dtype, Some(&order), None)
    }

    /// Memory for what a node makes, stored as callers want it where it is theirs.
    pub(super) fn allocate_result(&mut self, node: &Node, output: usize) -> Result<Array> {
        let (shape, dtype) = (self.shape_of(node, output)?, self.dtype_of(node, output)?);
        let is_output = node.output(output).is_some_and(|id| self.uses.is_output(id));
        let stored = if is_output { dtype } else { self.stored(dtype) };
        self.allocate(&shape, stored, None)
    }

    /// What a node makes is in memory from now on.
    pub(super) fn put_memory(&mut self, node: &Node, output: usize, array: Array) {
        self.put(node, output, Value::Memory(array));
    }
}

/// So many axes of one element before and behind others.
pub(super) fn padded(before: usize, shape: &[usize], behind: usize) -> Vec<usize> {
    let ones = |n| std::iter::repeat_n(1, n);
    ones(before).chain(shape.iter().copied()).chain(ones(behind)).collect()
}
