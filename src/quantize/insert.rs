//! Putting Q/DQ pairs into a float graph.
//!
//! A value is quantised where an operator that has an integer form reads or makes it, with three exceptions that cost accuracy for
//! nothing: what a `Relu` or a `Clip` reads (the clamp folds into the saturation), what stands between functions of the same element
//! (the whole chain is one table), and what the last linear layer makes (its sums scale to floats directly).
//! An operator that only moves elements gives its result its input's parameters, so that the integers pass through.

mod choose;

use std::collections::HashMap;

use super::weights::quantize_weights;
use crate::error::Result;
use crate::graph::{Attributes, Graph, Node, Op, Shape, ValueId};
use crate::int8::{QParams, QType};
use crate::tensor::{DType, Tensor};

pub use choose::{Plan, choose};

/// How a model is quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheme {
    /// The type of activations.
    pub activations: QType,
    /// Whether zero is the middle of the activations' range.
    pub symmetric: bool,
    /// Whether every output channel of a weight has a scale of its own.
    pub per_channel: bool,
    /// Nodes, by name or operator, that stay floats.
    pub exclude: Vec<String>,
}

impl Scheme {
    /// Whether a node stays as it is, by its name or its operator's.
    pub(super) fn excludes(&self, node: &Node) -> bool {
        self.exclude.iter().any(|name| *name == node.name || *name == node.op.name)
    }
}

impl Default for Scheme {
    fn default() -> Self {
        Self { activations: QType::U8, symmetric: false, per_channel: true, exclude: Vec::new() }
    }
}

/// Puts the pairs in, with these parameters for the values that the plan quantises.
///
/// # Errors
/// `BadModel` for weights that cannot be quantised, naming the node.
pub fn insert(
    graph: &mut Graph,
    plan: &Plan,
    params: &HashMap<ValueId, QParams>,
    scheme: &Scheme,
) -> Result<()> {
    // Weights first: a bias needs the parameters of the input that its layer reads, which are known by value.
    for place in plan.nodes.iter().copied() {
        let Some(node) = graph.node(place).cloned() else { continue };
        let placed = |e: crate::ScoreError| e.with_at(format!("{} '{}'", node.op, node.name));
        constants(graph, place, &node, params, scheme).map_err(placed)?;
    }
    for (value, params) in plan.values.iter().filter_map(|v| Some((*v, params.get(v)?))) {
        pair(graph, value, params)?;
    }
    graph.tidy()
}

/// Quantises the constants that a node reads.
fn constants(
    graph: &mut Graph,
    place: usize,
    node: &Node,
    params: &HashMap<ValueId, QParams>,
    scheme: &Scheme,
) -> Result<()> {
    let constant = |i: usize| {
        node.input(i).and_then(|id| graph.constant(id).cloned()).filter(|t| t.dtype() == DType::F32)
    };
    match node.op.onnx_name() {
        Some(name @ ("Conv" | "Gemm" | "MatMul")) => {
            let Some(weight) = constant(1) else { return Ok(()) };
            let axis = match name {
                "Conv" => Some(0),
                "Gemm" => Some(usize::from(!node.op.attributes.flag("transB"))),
                _ => (weight.shape().len() == 2).then_some(1),
            };
            let axis = axis.filter(|_| scheme.per_channel);
            let bias = constant(2);
            let x_scale = node.input(0).and_then(|x| params.get(&x)).map_or(1.0, QParams::scale);
            let bias_values = bias.as_ref().map(|b| b.as_slice::<f32>()).transpose()?.map(|b| (b, x_scale));
            let (weights, rounded) = quantize_weights(weight.shape(), weight.as_slice()?, axis, bias_values)?;
            let scales = weights.params.scales();
            let id = dequantized(graph, "weight", weights.values.to_tensor(QType::I8)?, scales, axis)?;
            set_input(graph, place, 1, id);
            if let Some(bias) = rounded {
                let scales = scales.iter().map(|w| x_scale * w).collect::<Vec<_>>();
                let tensor = Tensor::from_slice(&[bias.len()], &bias)?;
                let id = dequantized(graph, "bias", tensor, &scales, axis.map(|_| 0))?;
                set_input(graph, place, 2, id);
            }
        }
        Some("Add" | "Mul" | "Concat") => {
            for i in 0..node.inputs.len() {
                let Some(tensor) = node.input(i).and_then(|id| graph.constant(id).cloned()) else { continue };
                let values = tensor.as_slice::<f32>()?;
                let range = values.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
                let params = super::range::params_of(range, scheme.activations, scheme.symmetric)?;
                let integers = values.iter().map(|v| params.quantize(*v)).collect();
                let integers = crate::int8::Ints::new(tensor.shape(), integers)?.to_tensor(params.qtype())?;
                let id = dequantized_with(
                    graph,
                    "constant",
                    integers,
                    &[params.scale()],
                    &[params.zero_point()],
                    None,
                )?;
                set_input(graph, place, i, id);
            }
        }
        _ => {}
    }
    Ok(())
}

fn set_input(graph: &mut Graph, place: usize, input: usize, id: ValueId) {
    if let Some(slot) = graph.node_mut(place).and_then(|n| n.inputs.get_mut(input)) {
        *slot = Some(id);
    }
}

fn dequantized(
    graph: &mut Graph,
    hint: &str,
    integers: Tensor,
    scales: &[f32],
    axis: Option<usize>,
) -> Result<ValueId> {
    dequantized_with(graph, hint, integers, scales, &vec![0; scales.len()], axis)
}

/// A `DequantizeLinear` of a constant.
fn dequantized_with(
    graph: &mut Graph,
    hint: &str,
    integers: Tensor,
    scales: &[f32],
    zeros: &[i32],
    axis: Option<usize>,
) -> Result<ValueId> {
    let shape = axis.map_or(vec![], |_| vec![scales.len()]);
    let dtype = integers.dtype();
    let zeros = match QType::try_from(dtype) {
        Ok(qtype) => crate::int8::Ints::new(&shape, zeros.to_vec())?.to_tensor(qtype)?,
        Err(_) => Tensor::from_slice(&shape, zeros)?,
    };
    let made_shape = Shape::fixed(integers.shape());
    let attributes = match axis.map(i64::try_from) {
        Some(Ok(axis)) => Attributes::new().with_int("axis", axis),
        _ => Attributes::new(),
    };
    let integers = graph.add_constant(&format!("{hint}/quantized"), integers);
    let scale = graph.add_constant(&format!("{hint}/scale"), Tensor::from_slice(&shape, scales)?);
    let zero = graph.add_constant(&format!("{hint}/zero_point"), zeros);
    let made = graph.add_value(&format!("{hint}/dequantized"), Some(DType::F32), made_shape);
    Ok(graph.push_node(Op::onnx("DequantizeLinear", attributes), &[integers, scale, zero], made, &[]))
}

/// Quantises a value and dequantises it again for all who read it.
fn pair(graph: &mut Graph, value: ValueId, params: &QParams) -> Result<()> {
    let (name, shape) = (graph.value(value).name.clone(), graph.value(value).shape.clone());
    let dtype = DType::from(params.qtype());
    let scale = graph.add_constant(&format!("{name}/scale"), Tensor::from_slice(&[], &[params.scale()])?);
    let zero = crate::int8::Ints::new(&[], vec![params.zero_point()])?.to_tensor(params.qtype())?;
    let zero = graph.add_constant(&format!("{name}/zero_point"), zero);
    let float = |graph: &mut Graph, what: &str| {
        graph.add_value(&format!("{name}/{what}"), Some(DType::F32), shape.clone())
    };
    let quantize = Op::onnx("QuantizeLinear", Attributes::new());
    let dequantize = Op::onnx("DequantizeLinear", Attributes::new());
    if graph.inputs().contains(&value) {
        let made = float(graph, "dequantized");
        graph.replace_reads(value, made);
        let integers = graph.add_value(&format!("{name}/quantized"), Some(dtype), shape);
        graph.push_node(quantize, &[value, scale, zero], integers, &[]);
        graph.push_node(dequantize, &[integers, scale, zero], made, &[]);
        return Ok(());
    }
    // The value keeps its name and its readers, callers among them, and is what comes out of the pair.
    let before = float(graph, "float");
    graph.replace_maker(value, before);
    let integers = graph.add_value(&format!("{name}/quantized"), Some(dtype), shape);
    graph.push_node(quantize, &[before, scale, zero], integers, &[]);
    graph.push_node(dequantize, &[integers, scale, zero], value, &[]);
    Ok(())
}
