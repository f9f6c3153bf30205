//! Dynamic quantisation: weights are integers, and so is what they are multiplied with, with a scale that is found anew for every call.
//!
//! A transformer's activations have a few values that are hundreds of times larger than the rest, in places that change; no range that was
//! seen before suits them. Here each product finds the range of what comes in (`DynamicQuantizeLinear`), multiplies integers
//! (`MatMulInteger`) and scales the sums. Nothing has to be calibrated; everything between the products stays float.

use super::insert::{Plan, Scheme};
use super::weights::quantize_weights;
use super::{Progress, Quantized, report, simplified};
use crate::error::{Result, ScoreError};
use crate::graph::{Attributes, Graph, Node, Op, Shape, ValueId};
use crate::int8::QType;
use crate::model::Model;
use crate::scoring::Backend;
use crate::tensor::{DType, Tensor};

/// Quantises the products of a model whose right side is constant; `samples` are what both models are compared on.
///
/// # Errors
/// `BadInput` for samples that do not fit the model; `Unsupported` where the model has no such product; what the runtime says.
pub fn quantize_dynamic(
    model: &Model,
    samples: &[Vec<Tensor>],
    scheme: &Scheme,
    runtime: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Quantized> {
    let float = simplified(model, samples, runtime)?;
    let mut quantised = float.clone();
    let mut made = Vec::new();
    for (place, node) in float.nodes().iter().enumerate() {
        if scheme.excludes(node) {
            continue;
        }
        if let Some(product) = Product::of(&float, node) {
            let placed = |e: ScoreError| e.with_at(format!("{} '{}'", node.op, node.name));
            product.insert(&mut quantised, place, scheme).map_err(placed)?;
            made.push(product.made);
        }
    }
    if made.is_empty() {
        let what = "none of its products has a constant matrix on the right, or all are excluded";
        return Err(ScoreError::unsupported(what));
    }
    quantised.tidy()?;
    let plan = Plan { values: made, shared: std::collections::HashMap::new(), nodes: Vec::new() };
    let report = report::compare(&float, &quantised, &plan, samples, runtime, progress)?;
    Ok(Quantized { model: quantised.to_model()?, report })
}

/// `made = x · weights + bias`.
struct Product {
    x: ValueId,
    /// `[depth, columns]`, row by row.
    weights: Vec<f32>,
    shape: [usize; 2],
    bias: Option<ValueId>,
    made: ValueId,
}

impl Product {
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let tensor = node.input(1).and_then(|id| graph.constant(id))?;
        let (weights, [rows, columns]) = (tensor.as_slice::<f32>().ok()?, tensor.shape()) else {
            return None;
        };
        let (x, made) = (node.input(0)?, node.output(0)?);
        let plain = Self { x, weights: weights.to_vec(), shape: [*rows, *columns], bias: None, made };
        if node.is("MatMul") {
            return Some(plain);
        }
        let attributes = &node.op.attributes;
        let is_one = |name| attributes.float(name).is_none_or(|v| v == 1.0);
        if !node.is("Gemm") || attributes.flag("transA") || !is_one("alpha") || !is_one("beta") {
            return None;
        }
        let bias = node.input(2);
        if !attributes.flag("transB") {
            return Some(Self { bias, ..plain });
        }
        let turned = (0..*columns).flat_map(|k| weights.iter().skip(k).step_by((*columns).max(1)).copied());
        Some(Self { bias, weights: turned.collect(), shape: [*columns, *rows], ..plain })
    }

    /// Replaces the node at that place.
    fn insert(&self, graph: &mut Graph, place: usize, scheme: &Scheme) -> Result<()> {
        let origins = graph.node(place).map(|n| n.origins.clone()).unwrap_or_default();
        let name = graph.value(self.made).name.clone();
        let axis = scheme.per_channel.then_some(1);
        let (weights, _) = quantize_weights(&self.shape, &self.weights, axis, None)?;
        let scales = weights.params.scales();
        let scale_shape = if axis.is_some() { vec![scales.len()] } else { vec![] };
        let w = graph.add_constant(&format!("{name}/weight/quantized"), weights.values.to_tensor(QType::I8)?);
        let w_scale = Tensor::from_slice(&scale_shape, scales)?;
        let w_scale = graph.add_constant(&format!("{name}/weight/scale"), w_scale);
        let (x_shape, y_shape) = (graph.value(self.x).shape.clone(), graph.value(self.made).shape.clone());
        let (i32, f32) = (Some(DType::I32), Some(DType::F32));
        let one = || Shape::fixed(&[]);
        let [q, scale, zero] = self.dynamic(graph, &name, x_shape, &origins);
        let mut push = |op: Op, inputs: &[ValueId], what: &str, dtype: Option<DType>, shape: Shape| {
            let made = graph.add_value(&format!("{name}/{what}"), dtype, shape);
            graph.push_node(op, inputs, made, &origins)
        };
        let onnx = |name: &str| Op::onnx(name, Attributes::new());
        let sums = push(onnx("MatMulInteger"), &[q, w, zero], "sums", i32, y_shape.clone());
        let to_float = Op::onnx("Cast", Attributes::new().with_int("to", DType::F32.onnx_code().into()));
        let sums = push(to_float, &[sums], "sums/float", f32, y_shape.clone());
        let factor_shape = if axis.is_some() { Shape::fixed(&scale_shape) } else { one() };
        let factor = push(onnx("Mul"), &[scale, w_scale], "scale", f32, factor_shape);
        let mut result = push(onnx("Mul"), &[sums, factor], "product", f32, y_shape.clone());
        if let Some(bias) = self.bias {
            result = push(onnx("Add"), &[result, bias], "sum", f32, y_shape);
        }
        // The node's own value is made by the last of them.
        if let Some(node) = graph.node_mut(place) {
            node.outputs = vec![None];
        }
        graph.replace_maker(result, self.made);
        Ok(())
    }

    /// The integers of what comes in, their scale and zero point. Products of one tensor share them.
    fn dynamic(&self, graph: &mut Graph, name: &str, shape: Shape, origins: &[usize]) -> [ValueId; 3] {
        let made =
            |n: &Node| (n.is("DynamicQuantizeLinear") && n.input(0) == Some(self.x)).then(|| n.clone());
        if let Some(node) = graph.nodes().iter().find_map(made)
            && let (Some(q), Some(scale), Some(zero)) = (node.output(0), node.output(1), node.output(2))
        {
            return [q, scale, zero];
        }
        let q = graph.add_value(&format!("{name}/input/quantized"), Some(DType::U8), shape);
        let scale = graph.add_value(&format!("{name}/input/scale"), Some(DType::F32), Shape::fixed(&[]));
        let zero = graph.add_value(&format!("{name}/input/zero_point"), Some(DType::U8), Shape::fixed(&[]));
        graph.push_node(Op::onnx("DynamicQuantizeLinear", Attributes::new()), &[self.x], q, origins);
        let last = graph.nodes().len().saturating_sub(1);
        if let Some(node) = graph.node_mut(last) {
            node.outputs = vec![Some(q), Some(scale), Some(zero)];
        }
        [q, scale, zero]
    }
}
