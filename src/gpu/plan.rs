//! From a graph to launches of kernels: pure planning, no device.
//!
//! The graph's shapes are bound. A node becomes launches, or nothing at all where it is a matter of [views](crate::layout::view), or part of another
//! node's kernel: a value that one pointwise operator reads is not computed when its node is met but **deferred**, as a
//! [`Program`] that its reader goes on with. So a chain of pointwise operators is one kernel, and behind a product, a
//! convolution or a normalisation it is the end of that kernel. What is deferred is launched when somebody needs it in memory.
//!
//! The supported operators are those that the planner takes ([`Planner::node`]); there is no second list.

mod attention;
mod composed;
mod einsum;
mod finish;
mod functions;
mod gather;
mod integers;
mod library;
mod order;
mod pad;
mod pieces;
mod pointwise;
mod positions;
mod product;
mod program;
mod resize;
mod rows;
mod scatter;
mod sources;
mod tensor_conv;
mod tensor_map;
mod tensor_product;
mod text;
mod views;
mod wgmma;
mod wgmma_conv;
mod whole_sums;
mod windows;

use std::collections::HashMap;

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Node, Uses, ValueId};
use crate::layout::view::{Storage, View};
use crate::offload::{self, Refusal, shown};
use crate::scoring::{BackendKind, Precision};
use crate::tensor::{DType, Tensor};

pub(super) use finish::{Launch, Plan, Port, Value as PlannedArgument};
pub(super) use library::{Alternative, ConvShape, Matrix, Shape, Strided, Work};
use program::{Array, Program, Register};
use sources::Source;
pub(super) use tensor_map::{AXES, Taken, TensorMap};
pub(super) use text::Struct;
use text::{Access, writer};

/// How a graph is planned.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings {
    /// What floats of 32 bits are stored and multiplied as.
    pub(super) precision: Precision,
    /// Whether every tensor has memory of its own, which nobody writes to but its kernel: for those who look for mistakes.
    pub(super) guarded: bool,
    /// What the device multiplies tiles with.
    pub(super) tensor_cores: TensorCores,
    /// Whether there is a library of matrix products, so that a plan says what it could compute.
    pub(super) has_library: bool,
    /// Whether there is a library of convolutions.
    pub(super) has_convolutions: bool,
}

/// What a device multiplies tiles with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum TensorCores {
    /// Nothing of its own.
    #[default]
    None,
    /// Warps do, from registers: GPUs of compute capability 8.0 or later (kernels/cuda/tensor_core.cu).
    Mma,
    /// Warpgroups do, from shared memory, too: those of 9.0 (kernels/cuda/hopper.cu). What fills so many multiprocessors is worth it.
    Wgmma { multiprocessors: usize },
}

impl TensorCores {
    /// Those of a device of this compute capability.
    pub(super) fn of(capability: (u32, u32), multiprocessors: usize) -> Self {
        match capability {
            (9, 0) => Self::Wgmma { multiprocessors: multiprocessors.max(1) },
            (8.., _) => Self::Mma,
            _ => Self::None,
        }
    }

    fn is_wgmma(self) -> bool {
        matches!(self, Self::Wgmma { .. })
    }
}

/// What the GPU takes.
pub(super) struct GpuPlanner(pub(super) Settings);

impl offload::Planner for GpuPlanner {
    fn kind(&self) -> BackendKind {
        BackendKind::Gpu
    }

    fn refusals(&self, graph: &Graph) -> Result<Vec<Refusal>> {
        let mut planner = Planner::new(graph, self.0);
        let mut refused = Vec::new();
        planner.inputs()?;
        for (place, node) in graph.nodes().iter().enumerate() {
            if let Err(error) = planner.node(node) {
                // As if it had made something, so that what comes after it is judged by itself.
                for output in 0..node.outputs.len() {
                    if let Ok(array) = planner.allocate_output(node, output) {
                        planner.put(node, output, Value::Memory(array));
                    }
                }
                refused.push(Refusal { place, error, is_misplaced: false });
            }
        }
        if refused.is_empty() {
            planner.outputs()?;
        }
        Ok(refused)
    }

    fn is_nothing(&self, graph: &Graph) -> Result<bool> {
        let plan = plan(graph, self.0)?;
        Ok(plan.launches.is_empty() && plan.preparations.is_empty())
    }
}

/// Plans a graph whose shapes are bound.
///
/// # Errors
/// `Unsupported` for the first node that no kernel takes as it is, naming it, with the reason; `BadModel` for what makes no sense.
pub(super) fn plan(graph: &Graph, settings: Settings) -> Result<Plan> {
    let mut planner = Planner::new(graph, settings);
    planner.inputs()?;
    for node in graph.nodes() {
        planner.node(node).map_err(|e| e.with_at(shown(graph, node)))?;
    }
    planner.outputs()?;
    planner.finish()
}

/// A value, as far as it is there.
#[derive(Debug, Clone)]
enum Value {
    /// In memory.
    Memory(Array),
    /// To be computed by whoever needs it, once.
    Deferred(Deferred),
}

/// A value that is not computed yet.
#[derive(Debug, Clone)]
struct Deferred {
    program: Program,
    /// The kernel whose result the program begins with.
    base: Option<Box<Base>>,
    /// The model's nodes that it computes.
    origins: Vec<usize>,
}

/// A kernel that waits for what is to be done to its result.
#[derive(Debug, Clone)]
struct Base {
    operator: Operator,
    /// How it counts the elements of its result.
    access: Access,
    /// The order of axes in which its result lies best.
    order: Vec<usize>,
    /// The product or convolution that it computes, where a library may compute it instead.
    library: Option<Box<library::Form>>,
}

/// A launch whose memory has no place yet. An argument that is `Result` is filled in when it is known where the result goes.
#[derive(Debug, Clone)]
struct Operator {
    source: Source,
    grid: [usize; 3],
    block: usize,
    shared_bytes: usize,
    arguments: Vec<Argument>,
    writes: Vec<Storage>,
}

/// An argument of a kernel.
#[derive(Debug, Clone, PartialEq)]
enum Argument {
    /// Where the result goes, and what else the end of the kernel reads.
    Result,
    Struct(Struct),
    /// Storage, and bytes from its start; nothing is a null pointer.
    Pointer(Option<(Storage, usize)>),
    /// A tensor that copies take tiles of.
    Tensor(TensorMap<(Storage, usize)>),
    Int(i32),
    Unsigned(u32),
    Float(f32),
}

impl Argument {
    fn at(view: &View) -> Self {
        Self::Pointer(Some((view.storage, view.offset)))
    }
}

/// A piece of memory that is planned as one.
#[derive(Debug, Clone)]
struct Held {
    bytes: usize,
    /// What it holds for ever.
    constant: Option<Constant>,
}

/// A constant of the model, as kernels want it.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    pub(super) tensor: Tensor,
    /// The order of axes in which it lies.
    pub(super) order: Vec<usize>,
    /// What its elements are stored as.
    pub(super) dtype: DType,
}

struct Planner<'g> {
    graph: &'g Graph,
    uses: Uses,
    settings: Settings,
    values: HashMap<ValueId, Value>,
    held: Vec<Held>,
    operators: Vec<(Operator, Vec<usize>)>,
    /// What a library can do instead of an operator, by the operator's place.
    alternatives: HashMap<usize, Alternative<library::Place>>,
    inputs: Vec<(usize, Array)>,
    outputs: Vec<Array>,
}

/// Threads of a block, where a kernel does not say otherwise.
const BLOCK: usize = 256;

/// Places and strides are 32 bits.
const MOST_ELEMENTS: usize = i32::MAX as usize;

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph, settings: Settings) -> Self {
        Self {
            graph,
            uses: graph.uses(),
            settings,
            values: HashMap::new(),
            held: Vec::new(),
            operators: Vec::new(),
            alternatives: HashMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// What the model gives, in memory as callers have it.
    fn inputs(&mut self) -> Result<()> {
        for (place, id) in self.graph.inputs().iter().enumerate() {
            let value = self.graph.value(*id);
            let named = |e: ScoreError| e.with_at(format!("input '{}'", value.name));
            let dtype = value.dtype.ok_or_else(|| named(ScoreError::unsupported("it is no tensor")))?;
            let shape = value.shape.require_lengths().map_err(named)?;
            let array = self.allocate(&shape, dtype, None).map_err(named)?;
            self.values.insert(*id, Value::Memory(array.clone()));
            self.inputs.push((place, array));
        }
        Ok(())
    }

    /// What callers get, in memory as they want it.
    fn outputs(&mut self) -> Result<()> {
        for id in self.graph.outputs().to_vec() {
            let value = self.graph.value(id);
            let named = |e: ScoreError| e.with_at(format!("output '{}'", value.name));
            let dtype = value.dtype.ok_or_else(|| named(ScoreError::unsupported("its type is not known")))?;
            let array = self.memory_of(id).map_err(named)?;
            let (view, row_major) = (&array.view, (0..array.view.shape.len()).collect::<Vec<_>>());
            let is_ready = array.dtype == dtype
                && view.is_dense(&row_major)
                && self.held.get(view.storage.0).is_some_and(|h| h.constant.is_none());
            let array = match is_ready {
                true => array,
                false => {
                    let copy = self.allocate(&array.view.shape, dtype, None).map_err(named)?;
                    self.map(&cast_to(Program::of(array)?, dtype)?, &copy, &[])?;
                    copy
                }
            };
            self.outputs.push(array);
        }
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if self.pointwise(node)?
            || self.viewing(node)?
            || self.rows(node)?
            || self.product(node)?
            || self.windows(node)?
            || self.attention(node)?
            || self.gathers(node)?
            || self.scatters(node)?
            || self.positional(node)?
            || self.pads(node)?
            || self.resizes(node)?
            || self.ordered_rows(node)?
            || self.einsum(node)?
            || self.whole_products(node)?
            || self.composed(node)?
        {
            return Ok(());
        }
        Err(ScoreError::unsupported("the GPU has no kernel for it"))
    }

    /// What a value of floats of 32 bits is stored as.
    fn stored(&self, dtype: DType) -> DType {
        match (dtype, self.settings.precision) {
            (DType::F32, Precision::Bf16) => DType::Bf16,
            (DType::F32, Precision::F16) => DType::F16,
            _ => dtype,
        }
    }

    /// Memory for a tensor whose axes lie in that order, row-major without one.
    fn allocate(&mut self, shape: &[usize], dtype: DType, order: Option<&[usize]>) -> Result<Array> {
        let size = element_bytes(dtype)?;
        let count = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        let too_large = || {
            ScoreError::unsupported(format!("a tensor of {shape:?} has more than {MOST_ELEMENTS} elements"))
        };
        let count = count.filter(|n| *n <= MOST_ELEMENTS).ok_or_else(too_large)?;
        let storage = self.hold(Held { bytes: (count * size).max(1), constant: None });
        let all = (0..shape.len()).collect::<Vec<_>>();
        Ok(Array { view: View::ordered(storage, shape, order.unwrap_or(&all), size), dtype })
    }

    fn hold(&mut self, held: Held) -> Storage {
        self.held.push(held);
        Storage(self.held.len() - 1)
    }

    /// Memory for what a node makes.
    fn allocate_output(&mut self, node: &Node, output: usize) -> Result<Array> {
        let (shape, dtype) = (self.shape_of(node, output)?, self.dtype_of(node, output)?);
        let stored = self.stored(dtype);
        self.allocate(&shape, stored, None)
    }

    fn shape_of(&self, node: &Node, output: usize) -> Result<Vec<usize>> {
        let id = node.output(output).ok_or_else(|| ScoreError::bad_model("nobody reads what it makes"))?;
        self.graph.value(id).shape.require_lengths()
    }

    /// The type that the model gives to what a node makes.
    fn dtype_of(&self, node: &Node, output: usize) -> Result<DType> {
        let known = node.output(output).and_then(|id| self.graph.value(id).dtype);
        known.ok_or_else(|| ScoreError::unsupported("the type of what it makes is not known"))
    }

    /// The type that the model gives to what a node reads.
    fn input_dtype(&self, node: &Node, input: usize) -> Result<DType> {
        let known = self.input_id(node, input)?;
        let dtype = self.graph.value(known).dtype;
        dtype.ok_or_else(|| ScoreError::unsupported(format!("the type of input {input} is not known")))
    }

    fn input_id(&self, node: &Node, input: usize) -> Result<ValueId> {
        node.input(input).ok_or_else(|| ScoreError::bad_model(format!("input {input} is missing")))
    }

    fn input_shape(&self, node: &Node, input: usize) -> Result<Vec<usize>> {
        self.graph.value(self.input_id(node, input)?).shape.require_lengths()
    }

    /// The elements of a constant input; `None` where it is left out.
    fn constant(&self, node: &Node, input: usize) -> Result<Option<&'g Tensor>> {
        let Some(id) = node.input(input) else { return Ok(None) };
        let name = &self.graph.value(id).name;
        let not =
            || ScoreError::unsupported(format!("'{name}' must be constant for the GPU, and is computed"));
        self.graph.constant(id).map(Some).ok_or_else(not)
    }

    /// A constant input as integers; `None` where it is left out.
    fn integers(&self, node: &Node, input: usize) -> Result<Option<Vec<i64>>> {
        self.constant(node, input)?.map(whole).transpose()
    }

    /// A constant input as floats; `None` where it is left out.
    fn numbers(&self, node: &Node, input: usize) -> Result<Option<Vec<f64>>> {
        self.constant(node, input)?.map(floats).transpose()
    }

    /// What a node makes is this.
    fn put(&mut self, node: &Node, output: usize, value: Value) {
        if let Some(id) = node.output(output) {
            self.values.insert(id, value);
        }
    }

    /// Notes what is to be computed; computes it at once unless one node alone reads it.
    fn defer(&mut self, node: &Node, output: usize, mut deferred: Deferred) -> Result<()> {
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
    fn deferred(&mut self, node: &Node, input: usize) -> Result<Deferred> {
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
    fn memory(&mut self, node: &Node, input: usize) -> Result<Array> {
        let id = self.input_id(node, input)?;
        self.memory_of(id)
    }

    fn memory_of(&mut self, id: ValueId) -> Result<Array> {
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

    /// A constant in memory, its axes in that order, stored as that type.
    fn constant_array(&mut self, tensor: Tensor, order: &[usize], dtype: DType) -> Result<Array> {
        let (shape, size) = (tensor.shape().to_vec(), element_bytes(dtype)?);
        let bytes = (tensor.len() * size).max(1);
        let constant = Constant { tensor, order: order.to_vec(), dtype };
        let storage = self.hold(Held { bytes, constant: Some(constant) });
        Ok(Array { view: View::ordered(storage, &shape, order, size), dtype })
    }

    /// An input in memory, its axes in exactly that order and without gaps, stored as that type.
    fn dense(&mut self, node: &Node, input: usize, order: &[usize], dtype: DType) -> Result<Array> {
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
    fn ordered(&mut self, array: Array, order: &[usize], dtype: DType, origins: &[usize]) -> Result<Array> {
        if array.dtype == dtype && array.view.is_dense(order) {
            let dense = View::ordered(array.view.storage, &array.view.shape, order, array.view.size);
            return Ok(Array { view: View { offset: array.view.offset, ..dense }, dtype });
        }
        let copy = self.allocate(&array.view.shape, dtype, Some(order))?;
        self.map(&cast_to(Program::of(array)?, dtype)?, &copy, origins)?;
        Ok(copy)
    }

    /// Computes what was deferred: into memory that is given, or new one whose axes lie in that order, else in the one that suits.
    fn launch(
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
    fn launch_base(&mut self, base: Base, program: &Program, array: &Array, origins: &[usize]) -> Result<()> {
        let Base { mut operator, access, order, library } = base;
        let generated = writer(program, array, &access)?;
        let Some(generated) = generated else {
            // It cannot be written so, or read what its end reads: what the kernel computes is written as it likes best, and the rest is done from there.
            let given = program.leaves.iter().find_map(|l| match l {
                program::Leaf::Given(register) => Some(*register),
                program::Leaf::Memory(_) => None,
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
    fn offer(
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

    fn push(&mut self, operator: Operator, origins: &[usize]) {
        if operator.grid.iter().all(|n| *n > 0) {
            self.operators.push((operator, origins.to_vec()));
        }
    }
}

/// Puts what is generated for a kernel's end where it belongs.
fn complete(operator: &mut Operator, generated: text::Generated, array: &Array) {
    operator.source.generated.push_str(&generated.text);
    for argument in &mut operator.arguments {
        if *argument == Argument::Result {
            *argument = Argument::Struct(generated.argument.clone());
        }
    }
    operator.writes.push(array.view.storage);
}

/// The program with its value in the register type of elements that are stored so.
fn cast_to(program: Program, dtype: DType) -> Result<Program> {
    Ok(program.cast(Register::of(dtype)?))
}

/// The order in which the largest of what is read lies.
fn natural_order(program: &Program) -> Vec<usize> {
    let repeats = |a: &&Array| {
        (0..program.shape.len()).filter(|x| a.view.stride(*x) == 0 && a.view.length(*x) > 1).count()
    };
    match program.arrays().min_by_key(repeats) {
        Some(array) if repeats(&array) == 0 => array.view.order(),
        _ => (0..program.shape.len()).collect(),
    }
}

fn element_bytes(dtype: DType) -> Result<usize> {
    dtype.size_bytes().ok_or_else(|| ScoreError::unsupported("text is not on a device"))
}

/// The first element of a constant, everywhere in that shape.
fn one_number(number: &Tensor, shape: &[usize]) -> Result<Deferred> {
    let register = Register::of(number.dtype())?;
    let text = match (register, whole(number)) {
        // To the last digit.
        (Register::I64, Ok(value)) => {
            format!("(i64)({}ll - 1)", value.first().map_or(0, |v| v.saturating_add(1)))
        }
        _ => register.literal(floats(number)?.first().copied().unwrap_or(0.0)),
    };
    let program = Program::literal(register, text, shape);
    Ok(Deferred { program, base: None, origins: Vec::new() })
}

/// A constant's elements as integers.
fn whole(tensor: &Tensor) -> Result<Vec<i64>> {
    match tensor.dtype() {
        DType::I64 => Ok(tensor.as_slice::<i64>()?.to_vec()),
        DType::I32 => Ok(tensor.as_slice::<i32>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::I16 => Ok(tensor.as_slice::<i16>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::I8 => Ok(tensor.as_slice::<i8>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::U8 => Ok(tensor.as_slice::<u8>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::U16 => Ok(tensor.as_slice::<u16>()?.iter().map(|v| i64::from(*v)).collect()),
        DType::U32 => Ok(tensor.as_slice::<u32>()?.iter().map(|v| i64::from(*v)).collect()),
        other => Err(ScoreError::bad_model(format!("a constant of {}: expected integers", other.name()))),
    }
}

/// A constant's elements as floats.
fn floats(tensor: &Tensor) -> Result<Vec<f64>> {
    match tensor.dtype() {
        DType::F32 => Ok(tensor.as_slice::<f32>()?.iter().map(|v| f64::from(*v)).collect()),
        DType::F64 => Ok(tensor.as_slice::<f64>()?.to_vec()),
        DType::F16 => Ok(tensor.as_slice::<half::f16>()?.iter().map(|v| v.to_f64()).collect()),
        DType::Bf16 => Ok(tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_f64()).collect()),
        DType::Bool => Ok(tensor.as_bytes().iter().map(|v| f64::from(*v)).collect()),
        DType::U64 => Ok(tensor.as_slice::<u64>()?.iter().map(|v| *v as f64).collect()),
        _ => Ok(whole(tensor)?.into_iter().map(|v| v as f64).collect()),
    }
}

#[cfg(test)]
mod tests;
