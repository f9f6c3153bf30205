//! Floats of 8 bits: the weights of products, and what they are multiplied with.
//!
//! A float keeps its relative precision over its whole range, so an outlier costs the other values little, and the range is simply what was seen: its
//! greatest magnitude becomes the greatest number of the type ("FP8 Formats for Deep Learning", Micikevicius et al. 2022). Only products are quantised,
//! which is where 8 bits are faster; everything between them stays as it was, and no result is rounded that a product does not read.

use std::collections::HashMap;

use super::insert::{Plan, Scheme};
use super::range::Observed;
use super::{Calibration, Progress, Quantized, observe, report, require_samples, simplified};
use crate::error::{Result, ScoreError};
use crate::graph::{Attributes, Graph, Node, Op, Shape, ValueId};
use crate::model::Model;
use crate::scoring::Backend;
use crate::tensor::{DType, Element, F8E4M3, F8E5M2, Tensor};

/// Quantises the products of a model whose right side is constant: weights to [`DType::F8E4M3`], what they are multiplied with to that type of floats.
/// Of the scheme, whether weights have a scale for each channel, and what is left out, count.
///
/// # Errors
/// `BadConfig` for a type that is no 8-bit float, and for a calibration that is about integers; `BadInput` without samples, for samples that do not fit the
/// model, and for values that are infinite or no numbers; `Unsupported` where the model has no such product; what the runtime says.
pub fn quantize_float8(
    model: &Model,
    samples: &[Vec<Tensor>],
    activations: DType,
    scheme: &Scheme,
    calibration: Calibration,
    runtime: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Quantized> {
    let most = match activations {
        DType::F8E4M3 => F8E4M3::MAX.to_f32(),
        DType::F8E5M2 => F8E5M2::MAX.to_f32(),
        other => {
            return Err(ScoreError::bad_config(format!("activations of {other}: expected 8-bit floats")));
        }
    };
    if matches!(calibration, Calibration::Entropy | Calibration::Mse) {
        let what = "entropy and squared error weigh the steps of integers, which floats have not: expected min-max or percentile";
        return Err(ScoreError::bad_config(what));
    }
    require_samples(samples)?;
    let mut float = simplified(model, samples, runtime)?;
    let products = float.nodes().iter().enumerate().filter(|(_, node)| !scheme.excludes(node));
    let products = products.filter_map(|(at, node)| Product::of(&float, at, node)).collect::<Vec<_>>();
    if products.is_empty() {
        let what = "none of its products has a constant matrix on the right, or all are excluded";
        return Err(ScoreError::unsupported(what));
    }
    let mut read = products.iter().map(|p| p.x).collect::<Vec<_>>();
    read.sort_unstable();
    read.dedup();
    let mut scales = HashMap::new();
    for (id, seen) in observe(&float, &read, samples, runtime, progress)? {
        let named = |e: ScoreError| e.with_at(format!("'{}'", float.value(id).name));
        scales.insert(id, scale(&seen, calibration, most).map_err(named)?);
    }
    let before = float.clone();
    let mut pairs = HashMap::new();
    for product in &products {
        let x = match pairs.get(&product.x) {
            Some(pair) => *pair,
            None => {
                let scale = scales.get(&product.x).copied().unwrap_or(1.0);
                let pair = pair(&mut float, product.x, activations, scale)?;
                pairs.insert(product.x, pair);
                pair
            }
        };
        let placed = |e: ScoreError| e.with_at(format!("'{}'", before.value(product.made).name));
        let weights = product.weights(&mut float, scheme.per_channel).map_err(placed)?;
        if let Some(node) = float.node_mut(product.at) {
            node.inputs.splice(0..2, [Some(x), Some(weights)]);
        }
    }
    float.tidy()?;
    let values = products.iter().map(|p| p.made).collect();
    let plan = Plan { values, ..Plan::default() };
    let report = report::compare(&before, &float, &plan, samples, runtime, progress)?;
    Ok(Quantized { model: float.to_model()?, report })
}

/// What the greatest magnitude is divided by to become the greatest number of the type.
fn scale(seen: &Observed, calibration: Calibration, most: f32) -> Result<f32> {
    let (low, high) = seen.range(calibration, crate::int8::QType::I8)?;
    Ok(normal((-low).max(high) / most))
}

/// A scale that can be divided by.
fn normal(scale: f32) -> f32 {
    if scale.is_normal() { scale } else { 1.0 }
}

/// A product whose right side is constant.
struct Product {
    at: usize,
    x: ValueId,
    weights: Tensor,
    /// Which axis of the weights is that of the channels; nothing where they are several matrices.
    axis: Option<usize>,
    made: ValueId,
}

impl Product {
    fn of(graph: &Graph, at: usize, node: &Node) -> Option<Self> {
        let (x, made) = (node.input(0)?, node.output(0)?);
        let weights = graph.constant(node.input(1)?).filter(|t| t.dtype() == DType::F32)?;
        if graph.constant(x).is_some() || graph.value(x).dtype != Some(DType::F32) {
            return None;
        }
        let attributes = &node.op.attributes;
        let axis = match (node.op.onnx_name()?, weights.shape()) {
            ("Conv", _) => Some(0),
            ("MatMul", [_, _]) => Some(1),
            ("MatMul", _) => None,
            ("Gemm", [_, _]) => Some(usize::from(!attributes.flag("transB"))),
            _ => return None,
        };
        Some(Self { at, x, weights: weights.clone(), axis, made })
    }

    /// The weights as floats of 8 bits, dequantised.
    fn weights(&self, graph: &mut Graph, per_channel: bool) -> Result<ValueId> {
        let (shape, values) = (self.weights.shape(), self.weights.as_slice::<f32>()?);
        if values.iter().any(|w| !w.is_finite()) {
            return Err(ScoreError::bad_model("weights that are infinite or no numbers"));
        }
        let axis = self.axis.filter(|_| per_channel);
        let length = |axis: usize| shape.get(axis).copied().unwrap_or(1).max(1);
        let (channels, inner) =
            axis.map_or((1, 1), |axis| (length(axis), shape.iter().skip(axis + 1).product::<usize>().max(1)));
        let mut scales = vec![0f32; channels];
        for (at, value) in values.iter().enumerate() {
            if let Some(most) = scales.get_mut(at / inner % channels) {
                *most = most.max(value.abs());
            }
        }
        scales.iter_mut().for_each(|most| *most = normal(*most / F8E4M3::MAX.to_f32()));
        let scale_of = |at: usize| scales.get(at / inner % channels).copied().unwrap_or(1.0);
        let quantised = values.iter().enumerate().map(|(at, w)| F8E4M3::from_f32(w / scale_of(at)));
        let quantised = Tensor::from_slice(shape, &quantised.collect::<Vec<_>>())?;
        let name = graph.value(self.made).name.clone();
        let weights = graph.add_constant(&format!("{name}/weight/quantized"), quantised);
        let scales = match axis {
            Some(_) => Tensor::from_slice(&[channels], &scales)?,
            None => Tensor::from_slice(&[], &scales)?,
        };
        let scale = graph.add_constant(&format!("{name}/weight/scale"), scales);
        let attributes = axis.and_then(|a| i64::try_from(a).ok());
        let attributes =
            attributes.map_or(Attributes::new(), |axis| Attributes::new().with_int("axis", axis));
        let to = graph.add_value(&format!("{name}/weight"), Some(DType::F32), Shape::fixed(shape));
        Ok(graph.push_node(Op::onnx("DequantizeLinear", attributes), &[weights, scale], to, &[]))
    }
}

/// A value quantised and dequantised; who read it before reads it still.
fn pair(graph: &mut Graph, value: ValueId, dtype: DType, scale: f32) -> Result<ValueId> {
    let (name, shape) = (graph.value(value).name.clone(), graph.value(value).shape.clone());
    let zero = match dtype {
        DType::F8E5M2 => zero::<F8E5M2>(),
        _ => zero::<F8E4M3>(),
    };
    let scale = graph.add_constant(&format!("{name}/scale"), Tensor::from_slice(&[], &[scale])?);
    let zero = graph.add_constant(&format!("{name}/zero_point"), zero?);
    let onnx = |name: &str| Op::onnx(name, Attributes::new());
    let quantised = graph.add_value(&format!("{name}/quantized"), Some(dtype), shape.clone());
    graph.push_node(onnx("QuantizeLinear"), &[value, scale, zero], quantised, &[]);
    let made = graph.add_value(&format!("{name}/dequantized"), Some(DType::F32), shape);
    Ok(graph.push_node(onnx("DequantizeLinear"), &[quantised, scale, zero], made, &[]))
}

/// What says the type.
fn zero<T: Element + Default>() -> Result<Tensor> {
    Tensor::from_slice(&[], &[T::default()])
}
