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
mod constants;
mod deferred;
mod einsum;
mod finish;
mod functions;
mod gather;
mod integers;
mod library;
mod order;
mod pad;
mod parts;
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
use text::Access;
pub(super) use text::Struct;

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
    /// Warps do, from registers: GPUs of compute capability 8.0 or later (kernels/cuda/tensor_core.cu); floats of 8 bits from 8.9 on.
    Mma { has_float8: bool, multiprocessors: usize },
    /// Warpgroups do, from shared memory, too, and floats of 8 bits: those of 9.0 (kernels/cuda/hopper.cu). What fills so many multiprocessors is worth it.
    Wgmma { multiprocessors: usize },
}

impl TensorCores {
    /// Those of a device of this compute capability.
    pub(super) fn of(capability: (u32, u32), multiprocessors: usize) -> Self {
        let multiprocessors = multiprocessors.max(1);
        match capability {
            (9, 0) => Self::Wgmma { multiprocessors },
            (8.., _) => Self::Mma { has_float8: capability >= (8, 9), multiprocessors },
            _ => Self::None,
        }
    }

    /// Whether floats of 8 bits are multiplied as they are.
    fn has_float8(self) -> bool {
        match self {
            Self::None => false,
            Self::Mma { has_float8, .. } => has_float8,
            Self::Wgmma { .. } => true,
        }
    }

    /// What tiles are shared out among.
    fn multiprocessors(self) -> usize {
        match self {
            Self::None => 0,
            Self::Mma { multiprocessors, .. } | Self::Wgmma { multiprocessors } => multiprocessors,
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
    /// What counts the parts of tiles, of all launches: zero before and after each.
    arrived: Option<Storage>,
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
            arrived: None,
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

    /// What a node makes is this.
    fn put(&mut self, node: &Node, output: usize, value: Value) {
        if let Some(id) = node.output(output) {
            self.values.insert(id, value);
        }
    }
}

/// The program with its value in the register type of elements that are stored so.
fn cast_to(program: Program, dtype: DType) -> Result<Program> {
    Ok(program.cast(Register::of(dtype)?))
}

fn element_bytes(dtype: DType) -> Result<usize> {
    dtype.size_bytes().ok_or_else(|| ScoreError::unsupported("text is not on a device"))
}

#[cfg(test)]
mod tests;
