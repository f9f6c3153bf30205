//! Scales and zero points as a graph states them, and clamps in terms of them.

use super::{integers, is_quantised};
use crate::error::Result;
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::{DType, Tensor};

/// How integers stand for numbers: `x = (q - zero_point) · scale`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<i32>,
    pub(super) scale_id: ValueId,
    /// `None` where the model leaves it out.
    pub(super) zero_id: Option<ValueId>,
    pub(super) dtype: DType,
    /// Along which axis several scales run.
    pub(super) axis: i64,
    scale_shape: Vec<usize>,
}

/// A tensor of integers and what they stand for.
#[derive(Debug, Clone)]
pub(super) struct Quantised {
    pub(super) value: ValueId,
    pub(super) params: Params,
}

/// The parameters of a `QuantizeLinear`.
pub(super) fn of_quantize(graph: &Graph, node: &Node) -> Option<Params> {
    of(graph, node, graph.value(node.output(0)?).dtype?)
}

/// What a `DequantizeLinear` reads.
pub(super) fn of_dequantize(graph: &Graph, node: &Node) -> Option<Quantised> {
    let value = node.input(0).filter(|_| node.is("DequantizeLinear"))?;
    let params = of(graph, node, graph.value(value).dtype?)?;
    Some(Quantised { value, params })
}

fn of(graph: &Graph, node: &Node, dtype: DType) -> Option<Params> {
    let attributes = &node.op.attributes;
    let is_plain = attributes.int("block_size").unwrap_or(0) == 0;
    if !is_plain || !(is_quantised(Some(dtype)) || dtype == DType::I32) {
        return None;
    }
    let scale_id = node.input(1)?;
    let scale = graph.constant(scale_id)?;
    let scales = scale.as_slice::<f32>().ok()?.to_vec();
    let zero_id = node.input(2);
    let zeros = match zero_id {
        Some(id) => integers(graph.constant(id)?)?,
        None => vec![0; scales.len()],
    };
    let axis = attributes.int("axis").unwrap_or(1);
    let scale_shape = scale.shape().to_vec();
    let fits = zeros.len() == scales.len() && scales.iter().all(|s| s.is_normal() && *s > 0.0);
    fits.then_some(Params { scales, zeros, scale_id, zero_id, dtype, axis, scale_shape })
}

impl Params {
    /// One scale and zero point for the whole tensor.
    pub(super) fn is_per_tensor(&self) -> bool {
        self.scales.len() == 1
    }

    /// Whether two tensors' integers stand for the same numbers.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.scales, &self.zeros, self.dtype) == (&other.scales, &other.zeros, other.dtype)
    }

    pub(super) fn scale(&self) -> f32 {
        self.scales.first().copied().unwrap_or(1.0)
    }

    pub(super) fn zero(&self) -> i32 {
        self.zeros.first().copied().unwrap_or(0)
    }

    /// The least and the greatest integer of the type.
    pub(super) fn range(&self) -> (i32, i32) {
        match self.dtype {
            DType::U8 => (0, 255),
            DType::I8 => (-128, 127),
            DType::U16 => (0, 65_535),
            DType::I16 => (-32_768, 32_767),
            _ => (i32::MIN, i32::MAX),
        }
    }

    /// `saturate(round_half_even(x / scale) + zero_point)`; what is not a number becomes the least integer.
    pub(super) fn quantise(&self, x: f32) -> i32 {
        let (low, high) = self.range();
        let rounded = (x / self.scale()).round_ties_even();
        match rounded.is_nan() {
            true => low,
            false => {
                (rounded as i64).saturating_add(self.zero().into()).clamp(low.into(), high.into()) as i32
            }
        }
    }

    /// What each integer of the type stands for, from the least on.
    pub(super) fn all_values(&self) -> Vec<f32> {
        let (low, high) = self.range();
        (low..=high).map(|q| (q - self.zero()) as f32 * self.scale()).collect()
    }

    /// Zeros in the shape of the scale.
    pub(super) fn zeros(&self) -> Result<Tensor> {
        self.tensor(&self.scale_shape, &vec![0; self.scales.len()])
    }

    /// One integer of the type.
    pub(super) fn integer(&self, value: i32) -> Result<Tensor> {
        self.tensor(&[], &[value])
    }

    /// Integers of the type; what does not fit was clamped to its range before.
    pub(super) fn tensor(&self, shape: &[usize], values: &[i32]) -> Result<Tensor> {
        match self.dtype {
            DType::U8 => Tensor::from_slice(shape, &values.iter().map(|v| *v as u8).collect::<Vec<_>>()),
            DType::I8 => Tensor::from_slice(shape, &values.iter().map(|v| *v as i8).collect::<Vec<_>>()),
            DType::U16 => Tensor::from_slice(shape, &values.iter().map(|v| *v as u16).collect::<Vec<_>>()),
            DType::I16 => Tensor::from_slice(shape, &values.iter().map(|v| *v as i16).collect::<Vec<_>>()),
            _ => Tensor::from_slice(shape, values),
        }
    }
}

/// The range that activations before a `QuantizeLinear` clamp to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Clamp {
    low: f32,
    high: f32,
}

impl Clamp {
    /// Everything passes.
    pub(super) const NONE: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };

    /// First this one, then `next`.
    pub(super) fn then(self, next: Self) -> Self {
        let through = |x: f32| x.max(next.low).min(next.high);
        Self { low: through(self.low), high: through(self.high) }
    }

    /// The same range in integers; `None` where the type's own range clamps as much. Rounding is monotonic, so clamping before or
    /// after it is the same.
    pub(super) fn in_integers(self, to: &Params) -> Option<(i32, i32)> {
        let range = to.range();
        let bounds = (to.quantise(self.low), to.quantise(self.high));
        (bounds != range).then_some(bounds)
    }
}

/// What a `Relu` or a `Clip` with constant bounds clamps to.
pub(super) fn clamp_of(graph: &Graph, node: &Node) -> Option<Clamp> {
    match node.op.onnx_name()? {
        "Relu" => Some(Clamp { low: 0.0, ..Clamp::NONE }),
        "Clip" => {
            let bound = |i: usize, none: f32| match node.input(i) {
                None => Some(none),
                id => graph.constant(id?)?.as_slice::<f32>().ok()?.first().copied(),
            };
            Some(Clamp { low: bound(1, f32::NEG_INFINITY)?, high: bound(2, f32::INFINITY)? })
        }
        _ => None,
    }
}
