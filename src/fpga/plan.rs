//! From a graph of integer operators to launches of the engine's kernels: pure planning, no device.
//!
//! The graph's shapes are bound. Every operator becomes descriptors (words that a kernel reads) or nothing at all, where it is a matter of
//! [views](super::view). What the kernels read and never write (packed weights, biases, factors, tables) goes into one block of constants;
//! everything else lies in one arena, where storage that is not alive at the same time shares bytes.

mod arena;
mod conv;
mod elementwise;
mod matrix;
mod moving;
mod pack;
mod ports;
mod product;
mod residual;
mod rows;
mod windows;
mod words;

use std::collections::HashMap;

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Node, ValueId, functions};
use crate::int8::{Ints, QParams, QType, WeightParams};
use crate::tensor::{DType, Tensor};

use super::tile::Tile;
use crate::layout::view::{Storage, View};
use crate::offload::{self, Refusal, shown};
use crate::scoring::BackendKind;
pub(super) use ports::{InputPort, OutputPort, Staging};
use residual::Residuals;
pub(super) use words::Kernel;
use words::{Constants, Descriptor};

/// What is uploaded once: everything that a model needs on a device for inputs of one shape.
#[derive(Debug)]
pub(super) struct Plan {
    /// Descriptors, one after another.
    pub(super) words: Vec<i32>,
    /// What kernels read and never write.
    pub(super) constants: Vec<u8>,
    /// What is launched, in this order.
    pub(super) launches: Vec<Launch>,
    /// The arena's size, with room behind it for vector loads that go over the end.
    pub(super) arena_bytes: usize,
    /// Constants that lie in the arena because kernels read them as they read activations: where, and what.
    pub(super) residents: Vec<(usize, Vec<u8>)>,
    /// Bytes of the arena that nobody may write to, from and to; only where that is looked at.
    pub(super) guards: Vec<(usize, usize)>,
    /// What callers give, in the graph's order.
    pub(super) inputs: Vec<InputPort>,
    /// What callers get, in the graph's order.
    pub(super) outputs: Vec<OutputPort>,
}

/// One operator's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) kernel: Kernel,
    /// Where its descriptor begins.
    pub(super) at: usize,
    /// How much of it there is; any range of it can be done by itself.
    pub(super) work: usize,
    /// The model's nodes that it computes.
    pub(super) origins: Vec<usize>,
}

/// So many bytes behind the arena may be read, not written: the widest vector load begins at the last byte.
const SLACK_BYTES: usize = 64;

/// Plans a graph for an engine of that size; guarded, with bytes between storages that nobody may write to.
///
/// # Errors
/// `Unsupported` for the first node that the engine does not take as it is, naming it, with the reason; `BadModel` for parameters that make no sense.
pub(super) fn plan(graph: &Graph, tile: Tile, guarded: bool) -> Result<Plan> {
    let mut planner = Planner { tile, guarded, ..Planner::new(graph) };
    planner.inputs()?;
    for node in graph.nodes() {
        planner.node(node).map_err(|e| e.with_at(shown(graph, node)))?;
    }
    planner.outputs()?;
    planner.finish()
}

/// What the engine takes, whatever its size.
pub(super) struct EnginePlanner;

impl offload::Planner for EnginePlanner {
    fn kind(&self) -> BackendKind {
        BackendKind::Fpga
    }

    fn refusals(&self, graph: &Graph) -> Result<Vec<Refusal>> {
        refusals(graph)
    }

    fn is_nothing(&self, graph: &Graph) -> Result<bool> {
        Ok(plan(graph, Tile::default(), false)?.launches.is_empty())
    }
}

/// What the engine does not take of a graph; `Err` where something is wrong with what goes in or comes out.
fn refusals(graph: &Graph) -> Result<Vec<Refusal>> {
    let mut planner = Planner::new(graph);
    let mut refused = Vec::new();
    planner.inputs()?;
    for (place, node) in graph.nodes().iter().enumerate() {
        if let Err(error) = planner.node(node) {
            // As if it had made something, so that what comes after it is judged by itself.
            for output in 0..node.outputs.len() {
                let dtype = node.output(output).and_then(|id| graph.value(id).dtype);
                if let Ok(shape) = planner.output_shape(node, output)
                    && let size = dtype.and_then(DType::size_bytes).unwrap_or(1)
                    && let Ok(view) = planner.allocate(&shape, &(0..shape.len()).collect::<Vec<_>>(), size)
                {
                    planner.define(node, output, view);
                }
            }
            let is_misplaced = planner.misplaced(node).is_some();
            refused.push(Refusal { place, error, is_misplaced });
        }
    }
    if refused.is_empty() {
        planner.outputs()?;
    }
    Ok(refused)
}

struct Planner<'g> {
    graph: &'g Graph,
    tile: Tile,
    guarded: bool,
    views: HashMap<ValueId, View>,
    /// The bytes of each storage.
    storages: Vec<usize>,
    operators: Vec<Operator>,
    constants: Constants,
    residents: Vec<(Storage, Vec<u8>)>,
    inputs: Vec<ports::PlannedInput>,
    outputs: Vec<ports::PlannedOutput>,
    residuals: Residuals,
}

/// A launch whose storage has no place yet.
struct Operator {
    kernel: Kernel,
    descriptor: Descriptor,
    work: usize,
    reads: Vec<Storage>,
    writes: Storage,
    origins: Vec<usize>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            tile: Tile::default(),
            guarded: false,
            views: HashMap::new(),
            storages: Vec::new(),
            operators: Vec::new(),
            constants: Constants::default(),
            residents: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            residuals: Residuals::new(graph.uses()),
        }
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if let Some(reason) = self.misplaced(node) {
            return Err(ScoreError::unsupported(reason));
        }
        match node.op.name.as_str() {
            // At the edges they are the host's staging, and are dealt with there.
            "QuantizeLinear" | "DequantizeLinear" => self.edge(node),
            "QLinearConv" | "ConvInteger" => self.conv(node),
            "QLinearMatMul" => self.matmul(node),
            "MatMulInteger" => self.matmul_integer(node),
            "QGemm" => self.gemm(node),
            "QLinearAdd" if self.residuals.is_done(node) => Ok(()),
            "QLinearAdd" | "QLinearMul" => self.binary(node),
            "QLinearConcat" => self.concat(node),
            "QLinearGlobalAveragePool" | "QLinearAveragePool" | "MaxPool" => self.pool(node),
            "QLinearSoftmax" => self.softmax(node),
            "QLinearLayerNormalization" => self.layer_norm(node),
            "Table" if node.op.domain == functions::DOMAIN => self.table(node),
            "Clip" => self.clip(node),
            _ => self.moving(node),
        }
    }

    /// The view of an input, which must be on the device: a constant is put there.
    fn view(&mut self, node: &Node, input: usize) -> Result<View> {
        let missing = || ScoreError::bad_model(format!("input {input} is missing"));
        let id = node.input(input).ok_or_else(missing)?;
        if let Some(view) = self.views.get(&id) {
            return Ok(view.clone());
        }
        let tensor = self.graph.constant(id).cloned().ok_or_else(|| {
            ScoreError::unsupported(format!("'{}' is not on the device", self.graph.value(id).name))
        })?;
        let view = self.resident(&tensor)?;
        self.views.insert(id, view.clone());
        Ok(view)
    }

    /// Puts a constant into the arena.
    fn resident(&mut self, tensor: &Tensor) -> Result<View> {
        let size = element_bytes(tensor)?;
        let view = View::row_major(self.storage(tensor.size_bytes().max(1)), tensor.shape(), size);
        self.residents.push((view.storage, tensor.as_bytes().to_vec()));
        Ok(view)
    }

    fn storage(&mut self, bytes: usize) -> Storage {
        self.storages.push(bytes);
        Storage(self.storages.len() - 1)
    }

    /// A new tensor whose axes lie in that order.
    fn allocate(&mut self, shape: &[usize], order: &[usize], size: usize) -> Result<View> {
        let bytes = shape.iter().try_fold(size, |product, n| product.checked_mul(*n));
        let too_large = || ScoreError::unsupported(format!("a tensor of {shape:?} does not fit memory"));
        let bytes = bytes.filter(|b| i32::try_from(*b).is_ok()).ok_or_else(too_large)?;
        Ok(View::ordered(self.storage(bytes.max(1)), shape, order, size))
    }

    /// A new tensor for what a node makes, its axes in that order.
    fn allocate_output(&mut self, node: &Node, order: &[usize], size: usize) -> Result<View> {
        let shape = self.output_shape(node, 0)?;
        let view = self.allocate(&shape, order, size)?;
        self.define(node, 0, view.clone());
        Ok(view)
    }

    fn output_shape(&self, node: &Node, output: usize) -> Result<Vec<usize>> {
        let id = node.output(output).ok_or_else(|| ScoreError::bad_model("nobody reads what it makes"))?;
        self.graph.value(id).shape.require_lengths()
    }

    fn define(&mut self, node: &Node, output: usize, view: View) {
        if let Some(id) = node.output(output) {
            self.views.insert(id, view);
        }
    }

    fn operator(
        &mut self,
        node: &Node,
        kernel: Kernel,
        descriptor: Descriptor,
        work: usize,
        reads: &[&View],
        writes: &View,
    ) {
        if work > 0 {
            self.operators.push(Operator {
                kernel,
                descriptor,
                work,
                reads: reads.iter().map(|v| v.storage).collect(),
                writes: writes.storage,
                origins: node.origins.clone(),
            });
        }
    }

    /// The last operator does the work of these nodes of the model, too.
    fn also_for(&mut self, origins: &[usize]) {
        if let Some(operator) = self.operators.last_mut() {
            operator.origins.extend(origins);
            operator.origins.sort_unstable();
            operator.origins.dedup();
        }
    }

    /// The last operator writes this, too.
    fn also_writes(&mut self, view: &View) {
        if let Some(operator) = self.operators.last_mut() {
            operator.reads.push(view.storage);
        }
    }

    fn constant(&self, node: &Node, input: usize) -> Result<&Tensor> {
        let id =
            node.input(input).ok_or_else(|| ScoreError::bad_model(format!("input {input} is missing")))?;
        let name = &self.graph.value(id).name;
        let not = || ScoreError::unsupported(format!("'{name}' is not constant"));
        self.graph.constant(id).ok_or_else(not)
    }

    /// The type of a quantised input.
    fn qtype(&self, node: &Node, input: usize) -> Result<QType> {
        let dtype = node.input(input).and_then(|id| self.graph.value(id).dtype);
        let dtype =
            dtype.ok_or_else(|| ScoreError::unsupported(format!("input {input} has no known type")))?;
        QType::try_from(dtype)
    }

    /// The scale and the zero point at these places, for integers of that type.
    fn params(&self, node: &Node, input: usize, qtype: QType) -> Result<QParams> {
        let weights = self.weight_params(node, input, qtype)?;
        match (weights.scales(), weights.zero_points()) {
            ([scale], [zero]) => QParams::new(*scale, *zero, qtype),
            (scales, _) => Err(ScoreError::unsupported(format!("{} scales for an activation", scales.len()))),
        }
    }

    fn weight_params(&self, node: &Node, input: usize, qtype: QType) -> Result<WeightParams> {
        let scales = self.constant(node, input)?.as_slice::<f32>()?.to_vec();
        let zeros = self.zero_points(node, input + 1, scales.len())?;
        WeightParams::new(scales, zeros, qtype)
    }

    /// A tensor's view and parameters, as three inputs from that place on.
    fn quantised(&mut self, node: &Node, input: usize) -> Result<(View, QParams)> {
        let qtype = self.qtype(node, input)?;
        Ok((self.view(node, input)?, self.params(node, input + 1, qtype)?))
    }

    /// A tensor whose scale does not matter, and its zero point at that place.
    fn unscaled(&mut self, node: &Node, input: usize, zero: usize) -> Result<(View, QParams)> {
        let qtype = self.qtype(node, input)?;
        let zeros = self.zero_points(node, zero, 1)?;
        let [zero] = zeros.as_slice() else {
            return Err(ScoreError::unsupported(format!("{} zero points for an activation", zeros.len())));
        };
        Ok((self.view(node, input)?, QParams::new(1.0, *zero, qtype)?))
    }

    /// Zero points alone, for weights of that type.
    fn unscaled_weights(&self, node: &Node, zero: usize, qtype: QType) -> Result<WeightParams> {
        let zeros = self.zero_points(node, zero, 1)?;
        WeightParams::new(vec![1.0; zeros.len()], zeros, qtype)
    }

    fn zero_points(&self, node: &Node, input: usize, count: usize) -> Result<Vec<i32>> {
        match node.input(input) {
            Some(_) => Ok(Ints::of(self.constant(node, input)?)?.values().to_vec()),
            None => Ok(vec![0; count]),
        }
    }

    /// The parameters of what a node makes, as two inputs.
    fn made(&self, node: &Node, input: usize) -> Result<QParams> {
        let dtype = node.output(0).and_then(|id| self.graph.value(id).dtype);
        let qtype =
            QType::try_from(dtype.ok_or_else(|| ScoreError::unsupported("its result has no known type"))?)?;
        self.params(node, input, qtype)
    }

    /// The view if its last axis is contiguous, else a row-major copy.
    fn contiguous_rows(&mut self, node: &Node, view: View) -> Result<View> {
        let last = view.shape.len().saturating_sub(1);
        if view.stride(last) == view.size as isize || view.length(last) == 1 {
            return Ok(view);
        }
        let order = (0..view.shape.len()).collect::<Vec<_>>();
        self.copied(node, &view, &order)
    }

    /// A copy whose axes lie in that order.
    fn copied(&mut self, node: &Node, view: &View, order: &[usize]) -> Result<View> {
        let copy = self.allocate(&view.shape, order, view.size)?;
        self.copy(node, view, &copy, None)?;
        Ok(copy)
    }

    fn finish(self) -> Result<Plan> {
        let places = arena::place(
            &self.storages,
            &self.operators,
            &self.residents,
            &self.inputs,
            &self.outputs,
            self.guarded,
        );
        let at = |storage: Storage| places.offsets.get(storage.0).copied().unwrap_or(0);
        let mut words = Vec::new();
        let mut launches = Vec::new();
        for operator in &self.operators {
            let begin = words.len();
            operator.descriptor.write(&mut words, at)?;
            launches.push(Launch {
                kernel: operator.kernel,
                at: begin,
                work: operator.work,
                origins: operator.origins.clone(),
            });
        }
        Ok(Plan {
            words,
            constants: self.constants.into_bytes(),
            launches,
            arena_bytes: places.bytes + SLACK_BYTES,
            residents: self.residents.into_iter().map(|(storage, bytes)| (at(storage), bytes)).collect(),
            guards: places.guards.clone(),
            inputs: self.inputs.into_iter().map(|i| i.at(at)).collect(),
            outputs: self.outputs.into_iter().map(|o| o.at(at)).collect(),
        })
    }
}

fn element_bytes(tensor: &Tensor) -> Result<usize> {
    tensor.dtype().size_bytes().ok_or_else(|| ScoreError::unsupported("text is not on a device"))
}

#[cfg(test)]
mod tests;
