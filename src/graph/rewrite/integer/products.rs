//! Products on integers whose results go on as floats.
//!
//! `Σ (x - x_zero) · x_scale · (w - w_zero) · w_scale` is a sum of integers times `x_scale · w_scale`, one a channel where weights have one each. A bias in
//! integers of that scale is added to the sum, another one to the float.

use super::params::{Params, Quantised};
use super::{Target, ToIntegers};
use crate::error::Result;
use crate::graph::attributes::Attributes;
use crate::graph::{Node, ValueId};
use crate::tensor::{DType, Tensor};

fn is_of_bytes(params: &Params) -> bool {
    matches!(params.dtype, DType::U8 | DType::I8)
}

/// The two sides of a product, and along how many axes behind the channels its result runs.
struct Sides {
    x: Quantised,
    w: Quantised,
    behind: usize,
}

impl ToIntegers<'_> {
    /// Whether it is a product, or joins two tensors element by element, and all of it has 8 bits: what is read, and what is made.
    pub(super) fn is_product_of_bytes(&self, node: &Node, target: &Target<'_>) -> bool {
        let is_pair = match node.op.onnx_name() {
            Some("Add" | "Mul") => {
                (0..2).all(|input| self.activation(node, input).is_some_and(|q| is_of_bytes(&q.params)))
            }
            _ => false,
        };
        is_of_bytes(target.to) && (is_pair || self.sides(node).is_some())
    }

    fn sides(&self, node: &Node) -> Option<Sides> {
        let attributes = &node.op.attributes;
        let transposed = attributes.flag("transB");
        let (w, behind) = match node.op.onnx_name()? {
            "Conv" => {
                let w = self.weight(node, 1, |_| 0)?;
                let behind = self.graph.constant(w.value)?.shape().len().checked_sub(2)?;
                (w, behind)
            }
            "MatMul" => (self.weight(node, 1, |rank| rank - 1).or(self.activation(node, 1))?, 0),
            "Gemm" => {
                let is_one = |name: &str| attributes.float(name).is_none_or(|v| v == 1.0);
                let is_plain = is_one("alpha")
                    && (node.input(2).is_none() || is_one("beta"))
                    && !attributes.flag("transA");
                (self.weight(node, 1, |_| i64::from(!transposed)).filter(|_| is_plain)?, 0)
            }
            _ => return None,
        };
        let x = self.activation(node, 0)?;
        (is_of_bytes(&x.params) && is_of_bytes(&w.params)).then_some(Sides { x, w, behind })
    }

    /// A product whose result stays a float.
    pub(super) fn scaled_product(&mut self, at: usize) -> Result<bool> {
        let Some(node) = self.graph.node(at).cloned() else { return Ok(false) };
        let (Some(made), Some(sides)) = (node.output(0), self.sides(&node)) else { return Ok(false) };
        let whole_bias = self.bias(&node, 2, &sides.x, &sides.w)?.flatten();
        let float_bias = node.input(2).filter(|_| whole_bias.is_none());
        let along = |tensor: &Tensor| {
            let ones = std::iter::repeat_n(1, sides.behind);
            tensor.reshape(&std::iter::once(tensor.len()).chain(ones).collect::<Vec<_>>())
        };
        // A vector of channels, with axes behind it.
        let float_bias = match (float_bias, sides.behind) {
            (Some(id), 1..) => match self.floats(id)? {
                Some(tensor) => {
                    let tensor = along(&tensor)?;
                    Some(self.graph.add_constant("bias", tensor))
                }
                None => return Ok(false),
            },
            (id, _) => id,
        };
        let scaled = match float_bias {
            Some(_) => self.like(made, "scaled", DType::F32),
            None => made,
        };
        if node.is("Gemm") {
            let mut inputs = self.triple(&sides.x)?.to_vec();
            inputs.extend(self.triple(&sides.w)?);
            inputs.extend(whole_bias.map(Some));
            let attributes = Attributes::new().with_int("transB", node.op.attributes.flag("transB").into());
            self.push("com.microsoft", "QGemm", attributes, inputs, scaled, &node.origins);
        } else {
            let zeros = [self.zero_of(&sides.x)?, self.zero_of(&sides.w)?];
            let Some(zeros) = zeros.into_iter().collect::<Option<Vec<_>>>() else { return Ok(false) };
            let whole_bias = match whole_bias.map(|id| self.graph.constant(id).map(along)) {
                Some(Some(tensor)) => {
                    let tensor = tensor?;
                    Some(self.graph.add_constant("bias", tensor))
                }
                Some(None) => return Ok(false),
                None => None,
            };
            let scales = sides.w.params.scales.iter().map(|s| sides.x.params.scale() * s);
            let scales = scales.collect::<Vec<_>>();
            let scales = match scales.len() {
                1 => Tensor::from_slice(&[], &scales)?,
                n => along(&Tensor::from_slice(&[n], &scales)?)?,
            };
            let scale = self.graph.add_constant("scale", scales);
            let mut sum = self.like(made, "sum", DType::I32);
            let (name, attributes) = match node.is("Conv") {
                true => ("ConvInteger", node.op.attributes.clone()),
                false => ("MatMulInteger", Attributes::new()),
            };
            let mut inputs = vec![Some(sides.x.value), Some(sides.w.value)];
            inputs.extend(zeros);
            self.push("", name, attributes, inputs, sum, &node.origins);
            if let Some(bias) = whole_bias {
                let biased = self.like(made, "biased", DType::I32);
                self.push("", "Add", Attributes::new(), vec![Some(sum), Some(bias)], biased, &node.origins);
                sum = biased;
            }
            let float = self.like(made, "float", DType::F32);
            let cast = Attributes::new().with_int("to", DType::F32.onnx_code().into());
            self.push("", "Cast", cast, vec![Some(sum)], float, &node.origins);
            self.push("", "Mul", Attributes::new(), vec![Some(float), Some(scale)], scaled, &node.origins);
        }
        if let Some(bias) = float_bias {
            let inputs = vec![Some(scaled), Some(bias)];
            self.push("", "Add", Attributes::new(), inputs, made, &node.origins);
        }
        self.silence(at);
        Ok(true)
    }

    /// A zero point as an input: nothing where it is zero; `None` where there are several.
    fn zero_of(&self, q: &Quantised) -> Result<Option<Option<ValueId>>> {
        let is_zero = q.params.zeros.iter().all(|z| *z == 0);
        Ok(match (is_zero, q.params.is_per_tensor()) {
            (true, _) => Some(None),
            (false, true) => Some(q.params.zero_id),
            (false, false) => None,
        })
    }

    /// A value of the same shape.
    fn like(&mut self, of: ValueId, what: &str, dtype: DType) -> ValueId {
        let value = self.graph.value(of);
        let (name, shape) = (format!("{}/{what}", value.name), value.shape.clone());
        self.graph.add_value(&name, Some(dtype), shape)
    }
}
