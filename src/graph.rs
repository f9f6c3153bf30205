//! The graph that the GPU and FPGA backends compile from: typed, shaped, in one form.
//!
//! Why not the ONNX messages themselves. An operator of ONNX has changed its form up to six times: axes were
//! attributes and are inputs, `Softmax` flattened and does not, `Upsample` is `Resize`. Whoever compiles from the
//! messages must know them all. Here a model is brought into **one form** once ([`Graph::of`]): that of operator set
//! [`OPSET`]. Operators keep ONNX's names and attributes, so a reader needs no second vocabulary, an operator that
//! nobody here knows passes through whole, and every graph can be written back as a model
//! ([`Graph::to_model`]): a part of one for the host, a quantised one for everybody.
//!
//! 1. `import` reads the messages, `upgrade` brings each node into the form of [`OPSET`], `qonnx` quantisation into Q/DQ pairs;
//! 2. `types` and [`shapes`] infer element types and shapes, the batch axis staying free;
//! 3. [`fold`] computes what is constant, `edit` removes what nobody reads;
//! 4. [`rewrite`] holds the rewrites that backends share, each in a file of its own with a graph before and after;
//! 5. `partition` cuts it where a device does not take a node.
//!
//! # Invariants
//! - Nodes stand in an order in which they can run; every value is made by one node, or is an input or a constant.
//! - A value's name is unique and is the model's own where the model has it; rewrites never rename a value.
//! - A node knows which of the model's nodes it came from ([`Node::origins`]): placements are told in those.

mod attributes;
mod edit;
mod emit;
pub mod fold;
pub mod functions;
mod import;
mod node;
mod partition;
pub mod qonnx;
pub mod rewrite;
pub mod shapes;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod types;
mod upgrade;
mod value;
mod window;

use crate::error::Result;
use crate::model::Model;
use crate::model::onnx::FunctionProto;
use crate::tensor::Tensor;

pub use attributes::Attributes;
pub use edit::Uses;
pub use emit::encode;
pub use node::{Node, Op};
pub use partition::{Part, Side};
pub use shapes::{Extent, Shape};
pub use value::{Value, ValueId};
pub use window::{AutoPad, Window};

/// The operator set whose forms the nodes have; a model of a newer one keeps its own.
pub const OPSET: i64 = 21;

/// The oldest operator set that is read.
pub const OLDEST_OPSET: i64 = 6;

/// A model as values and nodes: see [the module](self).
#[derive(Debug, Clone)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// The operator sets that its nodes are of, ONNX's own first.
    opsets: Vec<(String, i64)>,
    /// Bodies of the model's own operators, for nodes that are kept as they are.
    functions: Vec<FunctionProto>,
    /// How many nodes the model has that it was made from.
    model_nodes: usize,
}

impl Graph {
    /// The graph of a model: imported, types and shapes inferred, the batch axis free.
    ///
    /// # Errors
    /// `Unsupported` for an operator set older than [`OLDEST_OPSET`] or a form that cannot be brought forward, naming
    /// the node; `BadModel` where operators and their inputs disagree.
    pub fn of(model: &Model) -> Result<Self> {
        let mut graph = import::import(model)?;
        types::infer(&mut graph)?;
        shapes::infer(&mut graph, None)?;
        Ok(graph)
    }

    /// The same graph for inputs of these shapes, in their order: all shapes inferred anew.
    ///
    /// # Errors
    /// `BadInput` where they are not as many as the inputs.
    pub fn bind(&self, inputs: &[&[usize]]) -> Result<Self> {
        let mut graph = self.clone();
        shapes::infer(&mut graph, Some(inputs))?;
        Ok(graph)
    }

    /// The nodes, in an order in which they can run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What callers give, in the order of the model.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// What callers get, in the order of the model.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The operator sets that its nodes are of; ONNX's own domain is the empty one.
    pub fn opsets(&self) -> &[(String, i64)] {
        &self.opsets
    }

    /// How many nodes the model has that it was made from.
    pub fn model_nodes(&self) -> usize {
        self.model_nodes
    }

    /// Everything that is known of a value.
    pub fn value(&self, id: ValueId) -> &Value {
        // Ids are only made by this graph's methods, which never remove a value.
        self.values.get(id.index()).unwrap_or(&value::NONE)
    }

    /// A value's data, if it is constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(ValueId::new)
    }

    fn value_mut(&mut self, id: ValueId) -> Option<&mut Value> {
        self.values.get_mut(id.index())
    }

    /// Where a node of this graph is to be found in the model: `Conv 'conv1'`.
    fn place(&self, node: &Node) -> String {
        match node.name.as_str() {
            "" => format!(
                "{} that makes '{}'",
                node.op,
                node.first_output().map_or("", |o| &self.value(o).name)
            ),
            name => format!("{} '{name}'", node.op),
        }
    }
}
