//! What is computed later: values whose kernel is launched when somebody needs them in memory, with all that was to be done to them by then.

use super::constants::one_number;
use super::program::{Array, Leaf, Program, Register};
use super::text::{Access, Generated, writer};
use super::{Argument, Base, Deferred, Operator, Planner, Value, cast_to, library};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, ValueId};
use crate::layout::view::View;
use crate::tensor::DType;

impl Planner<'_> {
    /// Notes what is to be computed; computes it at once unless one node alone reads it.
    pub(super) fn defer(&mut self, node: &Node, output: usize, mut deferred: Deferred) -> Result<()> {
        let Some(id) = node.output(output) else { return Ok(()) };
        deferred.origins.extend(&node.origins);
        deferred.origins.sort_unstable();
        deferred.origins.dedup();
        let is_copy = deferred.base.is_none() && deferred.program.is_copy();
        let value = match self.uses.only_reader(id) {
            Some(_) => Value::Deferred(deferred),
            None if is_copy && !self.uses.is_output(id) => Value::Deferred(deferred),
            None if self.uses.readers(id).is_empty() && !self.uses.is_output(id) => Value::Deferred(deferred),
            None => {
                let dtype = self.dtype_of(node, output)?;
                let (stored, order) = match self.uses.is_output(id) {
                    true => (dtype, Some((0..deferred.program.shape.len()).collect::<Vec<_>>())),
                    false => (self.stored(dtype), None),
                };
                Value::Memory(self.launch(deferred, stored, order.as_deref(), None)?)
            }
        };
        self.values.insert(id, value);
        Ok(())
    }

    /// An input, as a program to go on with.
    pub(super) fn deferred(&mut self, node: &Node, input: usize) -> Result<Deferred> {
        let id = self.input_id(node, input)?;
        if let Some(Value::Deferred(deferred)) = self.values.get(&id) {
            // Who reads it twice should not have it computed twice.
            let is_read_once = node.inputs.iter().flatten().filter(|i| **i == id).count() == 1;
            if is_read_once || deferred.base.is_none() {
                return Ok(deferred.clone());
            }
        }
        if let Some(number) = self.graph.constant(id).filter(|t| t.len() == 1) {
            return one_number(number, number.shape());
        }
        Ok(Deferred { program: Program::of(self.memory_of(id)?)?, base: None, origins: Vec::new() })
    }

    /// An input in memory.
    pub(super) fn memory(&mut self, node: &Node, input: usize) -> Result<Array> {
        let id = self.input_id(node, input)?;
        self.memory_of(id)
    }

    pub(super) fn memory_of(&mut self, id: ValueId) -> Result<Array> {
        match self.values.get(&id).cloned() {
            Some(Value::Memory(array)) => Ok(array),
            Some(Value::Deferred(deferred)) => {
                let dtype = self.graph.value(id).dtype.unwrap_or(DType::F32);
                let stored = if self.uses.is_output(id) { dtype } else { self.stored(dtype) };
                let array = self.launch(deferred, stored, None, None)?;
                self.values.insert(id, Value::Memory(array.clone()));
                Ok(array)
            }
            None => {
                let name = &self.graph.value(id).name;
                let missing = || ScoreError::unsupported(format!("'{name}' is not on the device"));
                let tensor = self.graph.constant(id).cloned().ok_or_else(missing)?;
                let order = (0..tensor.shape().len()).collect::<Vec<_>>();
                let dtype = tensor.dtype();
                let array = self.constant_array(tensor, &order, dtype)?;
                self.values.insert(id, Value::Memory(array.clone()));
                Ok(array)
            }
        }
    }

    /// An input in memory, its axes in exactly that order and without gaps, stored as that type.
    pub(super) fn dense(
        &mut self,
        node: &Node,
        input: usize,
        order: &[usize],
        dtype: DType,
    ) -> Result<Array> {
        let id = self.input_id(node, input)?;
        if let (None, Some(tensor)) = (self.values.get(&id), self.graph.constant(id)) {
            return self.constant_array(tensor.clone(), order, dtype);
        }
        if let Some(Value::Deferred(deferred)) = self.values.get(&id).cloned() {
            let array = self.launch(deferred, dtype, Some(order), None)?;
            self.values.insert(id, Value::Memory(array));
        }
        let array = self.memory_of(id)?;
        self.ordered(array, order, dtype, &node.origins)
    }

    /// A tensor in memory, its axes in exactly that order and without gaps, stored as that type: where it lies, or a copy.
    pub(super) fn ordered(
        &mut self,
        array: Array,
        order: &[usize],
        dtype: DType,
        origins: &[usize],
    ) -> Result<Array> {
        if array.dtype == dtype && array.view.is_dense(order) {
            let dense = View::ordered(array.view.storage, &array.view.shape, order, array.view.size);
            return Ok(Array { view: View { offset: array.view.offset, ..dense }, dtype });
        }
        let copy = self.allocate(&array.view.shape, dtype, Some(order))?;
        self.map(&cast_to(Program::of(array)?, dtype)?, &copy, origins)?;
        Ok(copy)
    }

    /// Computes what was deferred: into memory that is given, or new one whose axes lie in that order, else in the one that suits.
    pub(super) fn launch(
        &mut self,
        deferred: Deferred,
        dtype: DType,
        order: Option<&[usize]>,
        into: Option<&Array>,
    ) -> Result<Array> {
        let Deferred { program, base, origins } = deferred;
        // A tensor that is only looked at otherwise is there already.
        if base.is_none()
            && into.is_none()
            && program.is_copy()
            && let Some(array) = program.arrays().next()
            && array.dtype == dtype
            && order.is_none_or(|order| array.view.is_dense(order))
        {
            return Ok(array.clone());
        }
        let program = cast_to(program, dtype)?;
        let order = order.map(<[usize]>::to_vec);
        let order = order
            .or_else(|| base.as_ref().map(|b| b.order.clone()))
            .unwrap_or_else(|| natural_order(&program));
        let array = match into {
            Some(array) => array.clone(),
            None => self.allocate(&program.shape, dtype, Some(&order))?,
        };
        match base {
            None => self.map(&program, &array, &origins)?,
            Some(base) => self.launch_base(*base, &program, &array, &origins)?,
        }
        Ok(array)
    }

    /// Launches a kernel whose end is known now.
    pub(super) fn launch_base(
        &mut self,
        base: Base,
        program: &Program,
        array: &Array,
        origins: &[usize],
    ) -> Result<()> {
        let Base { mut operator, access, order, library } = base;
        let generated = writer(program, array, &access)?;
        let Some(generated) = generated else {
            // It cannot be written so, or read what its end reads: what the kernel computes is written as it likes best, and the rest is done from there.
            let given = program.leaves.iter().find_map(|l| match l {
                Leaf::Given(register) => Some(*register),
                Leaf::Memory(_) => None,
            });
            let register = given.unwrap_or(Register::F32);
            let plain = self.allocate(&program.shape, register.dtype(), Some(&order))?;
            let alone = Program::given(register, &program.shape);
            let refused = || ScoreError::internal("a kernel's own order cannot be written");
            let generated = writer(&alone, &plain, &access)?.ok_or_else(refused)?;
            complete(&mut operator, generated, &plain);
            self.offer(library.as_deref(), &alone, &plain, &access)?;
            self.push(operator, origins);
            let rest = program.with_given(&plain);
            return self.map(&rest, array, origins);
        };
        complete(&mut operator, generated, array);
        self.offer(library.as_deref(), program, array, &access)?;
        self.push(operator, origins);
        Ok(())
    }

    /// Notes what a library can do instead of the operator that is pushed next.
    pub(super) fn offer(
        &mut self,
        form: Option<&library::Form>,
        program: &Program,
        array: &Array,
        access: &Access,
    ) -> Result<()> {
        let Some(form) = form else { return Ok(()) };
        if let Some(alternative) = self.in_library(form, program, array, access)? {
            self.alternatives.insert(self.operators.len(), alternative);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, operator: Operator, origins: &[usize]) {
        if operator.grid.iter().all(|n| *n > 0) {
            self.operators.push((operator, origins.to_vec()));
        }
    }
}

/// Puts what is generated for a kernel's end where it belongs.
fn complete(operator: &mut Operator, generated: Generated, array: &Array) {
    operator.source.generated.push_str(&generated.text);
    for argument in &mut operator.arguments {
        if *argument == Argument::Result {
            *argument = Argument::Struct(generated.argument.clone());
        }
    }
    operator.writes.push(array.view.storage);
}

/// The order in which the largest of what is read lies.
pub(super) fn natural_order(program: &Program) -> Vec<usize> {
    let repeats = |a: &&Array| {
        (0..program.shape.len()).filter(|x| a.view.stride(*x) == 0 && a.view.length(*x) > 1).count()
    };
    match program.arrays().min_by_key(repeats) {
        Some(array) if repeats(&array) == 0 => array.view.order(),
        _ => (0..program.shape.len()).collect(),
    }
}
