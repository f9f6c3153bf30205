//! Operators that ONNX or ONNX Runtime have on integers.

use super::{Scope, Target, ToIntegers, params::Params, params::Quantised};
use crate::error::Result;
use crate::graph::attributes::Attributes;
use crate::graph::{Node, ValueId};
use crate::tensor::{DType, Tensor};

/// ONNX Runtime's own domain.
const MICROSOFT: &str = "com.microsoft";

/// How far a bias's scale may be from the product of the other two, relatively: exporters round it in f32.
const BIAS_SCALE_TOLERANCE: f32 = 1e-4;

impl ToIntegers<'_> {
    /// Makes an integer operator of the one at that place, if there is one and all that it reads is dequantised.
    pub(super) fn operator(&mut self, at: usize, target: &Target<'_>) -> Result<bool> {
        let Some(node) = self.graph.node(at).cloned() else { return Ok(false) };
        if self.scope == Scope::Products && !self.is_product_of_bytes(&node, target) {
            return Ok(false);
        }
        match node.op.onnx_name() {
            Some("Conv") => self.conv(&node, target),
            Some("MatMul") => self.matmul(&node, target),
            Some("Gemm") => self.gemm(&node, Some(target)),
            Some("Add") => self.binary(&node, "QLinearAdd", target),
            Some("Mul") => self.binary(&node, "QLinearMul", target),
            Some("Concat") => self.concat(&node, target),
            Some("GlobalAveragePool") => {
                self.unary(&node, "QLinearGlobalAveragePool", Attributes::new(), target)
            }
            Some("AveragePool") => self.average_pool(&node, target),
            Some("Softmax") => {
                let attributes =
                    Attributes::new().with_int("axis", node.op.attributes.int("axis").unwrap_or(-1));
                self.unary(&node, "QLinearSoftmax", attributes.with_int("opset", 21), target)
            }
            Some("LayerNormalization") => self.layer_norm(&node, target),
            _ => Ok(false),
        }
    }

    fn conv(&mut self, node: &Node, target: &Target<'_>) -> Result<bool> {
        let (Some(x), Some(w)) = (self.activation(node, 0), self.weight(node, 1, |_| 0)) else {
            return Ok(false);
        };
        let Some(bias) = self.bias(node, 2, &x, &w)? else { return Ok(false) };
        let mut inputs = self.triple(&x)?.to_vec();
        inputs.extend(self.triple(&w)?);
        inputs.extend(self.scale_and_zero(target.to)?);
        inputs.extend(bias.map(Some));
        self.push_clamped(
            domain_of(&[&x.params, target.to], ""),
            "QLinearConv",
            node.op.attributes.clone(),
            inputs,
            target,
        )?;
        Ok(true)
    }

    fn matmul(&mut self, node: &Node, target: &Target<'_>) -> Result<bool> {
        let last = |rank: i64| rank - 1;
        let (Some(a), Some(b)) =
            (self.activation(node, 0), self.weight(node, 1, last).or(self.activation(node, 1)))
        else {
            return Ok(false);
        };
        let mut inputs = self.triple(&a)?.to_vec();
        inputs.extend(self.triple(&b)?);
        inputs.extend(self.scale_and_zero(target.to)?);
        let domain = domain_of(&[&a.params, &b.params, target.to], "");
        self.push_clamped(domain, "QLinearMatMul", Attributes::new(), inputs, target)?;
        Ok(true)
    }

    /// A `Gemm` whose result stays a float, as the last layer's often does.
    pub(super) fn float_gemm(&mut self, at: usize) -> Result<bool> {
        let Some(node) = self.graph.node(at).cloned() else { return Ok(false) };
        let quantised_later = |id: ValueId| {
            let readers = self.uses.readers(id).iter().filter_map(|r| self.graph.node(*r));
            readers
                .into_iter()
                .any(|n| n.is("QuantizeLinear") || super::params::clamp_of(self.graph, n).is_some())
        };
        match node.output(0) {
            Some(made) if !quantised_later(made) => {
                let done = self.gemm(&node, None)?;
                if done {
                    self.silence(at);
                }
                Ok(done)
            }
            _ => Ok(false),
        }
    }

    fn gemm(&mut self, node: &Node, target: Option<&Target<'_>>) -> Result<bool> {
        let attributes = &node.op.attributes;
        let one = |name: &str| attributes.float(name).is_none_or(|v| v == 1.0);
        let beta_matters = node.input(2).is_some();
        let transposed = attributes.flag("transB");
        let channel = |_| i64::from(!transposed);
        let (Some(a), Some(b)) = (self.activation(node, 0), self.weight(node, 1, channel)) else {
            return Ok(false);
        };
        if !one("alpha") || (beta_matters && !one("beta")) || attributes.flag("transA") {
            return Ok(false);
        }
        let Some(bias) = self.bias(node, 2, &a, &b)? else { return Ok(false) };
        let mut inputs = self.triple(&a)?.to_vec();
        inputs.extend(self.triple(&b)?);
        inputs.push(bias);
        let attributes = Attributes::new().with_int("transB", i64::from(transposed));
        match (target, node.output(0)) {
            (Some(target), _) => {
                inputs.extend(self.scale_and_zero(target.to)?);
                let domain = domain_of(&[&a.params, target.to], MICROSOFT);
                self.push_clamped(domain, "QGemm", attributes, inputs, target)?;
            }
            (None, Some(made)) => {
                let domain = domain_of(&[&a.params], MICROSOFT);
                self.push(domain, "QGemm", attributes, inputs, made, &node.origins);
            }
            (None, None) => return Ok(false),
        }
        Ok(true)
    }

    fn binary(&mut self, node: &Node, name: &str, target: &Target<'_>) -> Result<bool> {
        let (Some(a), Some(b)) = (self.activation(node, 0), self.activation(node, 1)) else {
            return Ok(false);
        };
        let mut inputs = self.triple(&a)?.to_vec();
        inputs.extend(self.triple(&b)?);
        inputs.extend(self.scale_and_zero(target.to)?);
        let domain = domain_of(&[&a.params, &b.params, target.to], MICROSOFT);
        self.push_clamped(domain, name, Attributes::new(), inputs, target)?;
        Ok(true)
    }

    fn concat(&mut self, node: &Node, target: &Target<'_>) -> Result<bool> {
        let read = (0..node.inputs.len()).map(|i| self.activation(node, i)).collect::<Option<Vec<_>>>();
        let Some(read) = read else { return Ok(false) };
        let mut inputs = self.scale_and_zero(target.to)?.to_vec();
        for q in &read {
            inputs.extend(self.triple(q)?);
        }
        let axis = node.op.attributes.int("axis").unwrap_or(0);
        let params = read.iter().map(|q| &q.params).chain([target.to]).collect::<Vec<_>>();
        let attributes = Attributes::new().with_int("axis", axis);
        self.push_clamped(domain_of(&params, MICROSOFT), "QLinearConcat", attributes, inputs, target)?;
        Ok(true)
    }

    fn average_pool(&mut self, node: &Node, target: &Target<'_>) -> Result<bool> {
        // ONNX Runtime's integer one knows no dilations, and counts what lies behind the padding where ONNX does not.
        let is_dilated = node.op.attributes.ints("dilations").is_some_and(|d| d.iter().any(|n| *n != 1));
        let counts_beyond =
            node.op.attributes.flag("ceil_mode") && node.op.attributes.flag("count_include_pad");
        if is_dilated || counts_beyond {
            return Ok(false);
        }
        let mut attributes = node.op.attributes.clone();
        attributes.take("dilations");
        self.unary(node, "QLinearAveragePool", attributes, target)
    }

    /// An operator of one tensor: it, its parameters, the result's.
    fn unary(
        &mut self,
        node: &Node,
        name: &str,
        attributes: Attributes,
        target: &Target<'_>,
    ) -> Result<bool> {
        let Some(x) = self.activation(node, 0) else { return Ok(false) };
        let mut inputs = self.triple(&x)?.to_vec();
        inputs.extend(self.scale_and_zero(target.to)?);
        self.push_clamped(domain_of(&[&x.params, target.to], MICROSOFT), name, attributes, inputs, target)?;
        Ok(true)
    }

    /// Over the last axis, with constant scale and bias.
    fn layer_norm(&mut self, node: &Node, target: &Target<'_>) -> Result<bool> {
        let Some(x) = self.activation(node, 0) else { return Ok(false) };
        let rank = self.graph.value(x.value).shape.rank().and_then(|r| i64::try_from(r).ok());
        let axis = node.op.attributes.int("axis").unwrap_or(-1);
        let is_last = axis == -1 || rank.is_some_and(|r| axis == r - 1);
        let (Some(scale), Some(bias)) = (self.float_constant(node, 1)?, self.float_constant(node, 2)?) else {
            return Ok(false);
        };
        if !is_last || node.outputs.iter().skip(1).any(Option::is_some) {
            return Ok(false);
        }
        let mut inputs = self.triple(&x)?.to_vec();
        inputs.extend([Some(scale), Some(bias)]);
        inputs.extend(self.scale_and_zero(target.to)?);
        let epsilon = node.op.attributes.float("epsilon").unwrap_or(1e-5);
        let attributes = Attributes::new().with_float("epsilon", epsilon);
        self.push_clamped(
            crate::graph::functions::DOMAIN,
            "QLinearLayerNormalization",
            attributes,
            inputs,
            target,
        )?;
        Ok(true)
    }

    /// A constant of f32, dequantised here if it was quantised.
    fn float_constant(&mut self, node: &Node, input: usize) -> Result<Option<ValueId>> {
        let Some(id) = node.input(input) else { return Ok(None) };
        if self.graph.constant(id).is_some() {
            return Ok(self.graph.constant(id).filter(|t| t.dtype() == DType::F32).map(|_| id));
        }
        let Some(values) = self.floats(id)? else { return Ok(None) };
        let name = self.graph.value(id).name.clone();
        Ok(Some(self.graph.add_constant(&name, values)))
    }

    /// A constant's floats, or those that its integers stand for; of several scales, along the one axis that it has.
    pub(super) fn floats(&self, id: ValueId) -> Result<Option<Tensor>> {
        if let Some(tensor) = self.graph.constant(id).filter(|t| t.dtype() == DType::F32) {
            return Ok(Some(tensor.clone()));
        }
        let Some(q) = self.dequantised(id) else { return Ok(None) };
        let Some(tensor) = self.graph.constant(q.value) else { return Ok(None) };
        let Some(integers) = super::integers(tensor) else { return Ok(None) };
        if !q.params.is_per_tensor() && tensor.shape() != [q.params.scales.len()] {
            return Ok(None);
        }
        let at = |i: usize| if q.params.is_per_tensor() { 0 } else { i };
        let values = integers.iter().enumerate().map(|(i, v)| {
            let (scale, zero) = (q.params.scales.get(at(i)), q.params.zeros.get(at(i)));
            (i64::from(*v) - i64::from(zero.copied().unwrap_or(0))) as f32 * scale.copied().unwrap_or(1.0)
        });
        Tensor::from_slice(tensor.shape(), &values.collect::<Vec<_>>()).map(Some)
    }

    /// A constant of 8 bits whose scales, if they are several, run along the axis that `channel` says for its rank.
    pub(super) fn weight(
        &self,
        node: &Node,
        input: usize,
        channel: impl Fn(i64) -> i64,
    ) -> Option<Quantised> {
        let q = self.dequantised(node.input(input)?)?;
        let tensor = self.graph.constant(q.value)?;
        let rank = i64::try_from(tensor.shape().len()).ok()?;
        let axis = if q.params.axis < 0 { q.params.axis + rank } else { q.params.axis };
        let expected = channel(rank);
        let length = tensor.shape().get(usize::try_from(expected).ok()?).copied();
        let runs_along = axis == expected && length == Some(q.params.scales.len());
        let is_eight = matches!(q.params.dtype, DType::U8 | DType::I8);
        (is_eight && (q.params.is_per_tensor() || runs_along)).then_some(q)
    }

    /// The bias in integers of scale `x.scale · w.scale`: `Some(None)` where there is none, `None` where it is something else.
    /// A bias in floats, or in integers of fewer bits and a scale of its own, is rounded to them.
    pub(super) fn bias(
        &mut self,
        node: &Node,
        input: usize,
        x: &Quantised,
        w: &Quantised,
    ) -> Result<Option<Option<ValueId>>> {
        let Some(id) = node.input(input) else { return Ok(Some(None)) };
        let scale = |c: usize| {
            x.params.scale() * w.params.scales.get(c).or(w.params.scales.first()).copied().unwrap_or(1.0)
        };
        if let Some(q) = self.dequantised(id).filter(|q| q.params.dtype == DType::I32) {
            let fits = |(c, s): (usize, &f32)| (s / scale(c) - 1.0).abs() < BIAS_SCALE_TOLERANCE;
            let count = q.params.scales.len();
            let agrees = (count == 1 || count == w.params.scales.len() || w.params.is_per_tensor())
                && q.params.scales.iter().enumerate().all(fits)
                && (count > 1
                    || w.params.scales.iter().enumerate().all(|(c, _)| fits((c, &q.params.scale()))))
                && q.params.zeros.iter().all(|z| *z == 0);
            return Ok(agrees.then_some(Some(q.value)));
        }
        if self.scope == Scope::Products {
            // It is added as the float that it is.
            return Ok(None);
        }
        let Some(tensor) = self.floats(id)? else { return Ok(None) };
        let (Ok(values), [_]) = (tensor.as_slice::<f32>(), tensor.shape()) else { return Ok(None) };
        let rounded =
            values.iter().enumerate().map(|(c, b)| (f64::from(*b) / f64::from(scale(c))).round_ties_even());
        let rounded = rounded.collect::<Vec<_>>();
        if rounded.iter().any(|b| b.is_nan() || b.abs() > f64::from(i32::MAX)) {
            return Ok(None);
        }
        let integers = rounded.iter().map(|b| *b as i32).collect::<Vec<_>>();
        let tensor = Tensor::from_slice(&[integers.len()], &integers)?;
        let name = self.graph.value(id).name.clone();
        Ok(Some(Some(self.graph.add_constant(&format!("{name}/integers"), tensor))))
    }
}

/// Where an operator is to be found: for 16 bits in our domain, since the others' have 8 alone.
fn domain_of(params: &[&Params], eight: &'static str) -> &'static str {
    match params.iter().all(|p| matches!(p.dtype, DType::U8 | DType::I8)) {
        true => eight,
        false => crate::graph::functions::DOMAIN,
    }
}
