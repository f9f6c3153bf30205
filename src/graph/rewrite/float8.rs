//! Products of dequantised 8-bit floats, as products of the floats themselves.
//!
//! `Σ (x · x_scale) · (w · w_scale) = (Σ x · w) · (x_scale · w_scale)`, one factor a channel where weights have one each. The sum is what tensor cores
//! compute of 8 bits, with half the bytes to read that 16 bits have; its scale and its bias are pointwise, and so the end of its kernel. Numbers in f32 have
//! room for every product of two such floats, so nothing is rounded but what a sum rounds anyway, and the scale once.
//!
//! Exporters put the pair `QuantizeLinear → DequantizeLinear` before a reshape or a transposition as often as behind it, so what only moves elements is
//! looked through, and moves the bytes.

use super::super::edit::Uses;
use super::transposed::permuted;
use crate::error::Result;
use crate::graph::attributes::Attributes;
use crate::graph::functions::DOMAIN;
use crate::graph::node::{Node, Op};
use crate::graph::shapes::Shape;
use crate::graph::{Graph, ValueId};
use crate::tensor::{DType, Tensor};

/// What moves elements, and is looked through where one scale is that of all of them.
const MOVES: [&str; 6] = ["Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// A side of a product: floats of 8 bits, and what they are multiplied by.
struct Side {
    value: ValueId,
    scale: ValueId,
    /// As many as there are scales.
    scales: usize,
    /// What moves the floats before they are multiplied, the first one first.
    moves: Vec<Node>,
}

/// Makes products of 8-bit floats of those whose sides are dequantised. Returns how many.
///
/// What cannot be said so stays as it is: scales in blocks, or along an axis that is summed over; a `Gemm` with factors.
///
/// # Errors
/// `OutOfMemory`.
pub fn to_float8_products(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let mut count = 0;
    for place in 0..graph.nodes.len() {
        let Some(node) = graph.node(place).cloned() else { continue };
        if let Some((x, w)) = sides(graph, &uses, &node) {
            replace(graph, &node, &x, &w)?;
            count += 1;
        }
    }
    Ok(count)
}

fn sides(graph: &Graph, uses: &Uses, node: &Node) -> Option<(Side, Side)> {
    let attributes = &node.op.attributes;
    let channel = match node.op.onnx_name()? {
        "Conv" => 0,
        "MatMul" => -1,
        "Gemm" => {
            let is_one = |name: &str| attributes.float(name).is_none_or(|v| v == 1.0);
            let is_plain = is_one("alpha") && (node.input(2).is_none() || is_one("beta"));
            if !is_plain {
                return None;
            }
            if attributes.flag("transB") { 0 } else { -1 }
        }
        _ => return None,
    };
    let x = side(graph, uses, node.input(0)?, None)?;
    let w = side(graph, uses, node.input(1)?, Some(channel))?;
    Some((x, w))
}

/// The floats of 8 bits behind a value; several scales only along that axis, counted from behind where it is negative.
fn side(graph: &Graph, uses: &Uses, id: ValueId, channel: Option<i64>) -> Option<Side> {
    let node = graph.node(uses.maker(id)?)?;
    if !node.is("DequantizeLinear") {
        let is_move = node.op.onnx_name().is_some_and(|name| MOVES.contains(&name));
        let mut behind = side(graph, uses, node.input(0).filter(|_| is_move)?, None)?;
        behind.moves.push(node.clone());
        return Some(behind);
    }
    let (value, scale) = (node.input(0)?, node.input(1)?);
    let attributes = &node.op.attributes;
    // A zero point is there to say the type.
    let is_zero =
        |id: ValueId| graph.constant(id).is_some_and(|z| z.as_bytes().iter().all(|b| b & 0x7f == 0));
    let is_plain = graph.value(value).dtype.is_some_and(DType::is_float8)
        && attributes.int("block_size").unwrap_or(0) == 0
        && node.input(2).is_none_or(is_zero);
    let scales = graph.value(scale).shape.element_count().filter(|_| is_plain)?;
    let rank = graph.value(value).shape.rank()? as i64;
    let from_start = |axis: i64| if axis < 0 { axis + rank } else { axis };
    let is_along = |channel: i64| from_start(channel) == from_start(attributes.int("axis").unwrap_or(1));
    let fits = scales == 1 || (graph.constant(scale).is_some() && channel.is_some_and(is_along));
    fits.then_some(Side { value, scale, scales, moves: Vec::new() })
}

/// The product in the place of one of floats.
fn replace(graph: &mut Graph, node: &Node, x: &Side, w: &Side) -> Result<()> {
    let Some(made) = node.output(0) else { return Ok(()) };
    let is_conv = node.is("Conv");
    let behind = graph.value(w.value).shape.rank().filter(|_| is_conv).unwrap_or(2).saturating_sub(2);
    let mut build = Build { graph, of: node, made };
    let mut sides = [build.moved(x), build.moved(w)];
    for (side, flag) in sides.iter_mut().zip(["transA", "transB"]) {
        if node.is("Gemm") && node.op.attributes.flag(flag) {
            *side = build.transposed(*side)?;
        }
    }
    let (name, attributes) = match is_conv {
        true => ("ConvFloat8", node.op.attributes.clone()),
        false => ("MatMulFloat8", Attributes::new()),
    };
    let scale = build.scale(x, w, behind)?;
    build.graph.add_domain(DOMAIN);
    let op = Op { domain: DOMAIN.to_owned(), name: name.to_owned(), attributes };
    let sum = build.push(op, &sides, "sum");
    let mut y = build.push(plain("Mul"), &[sum, scale], "scaled");
    if let Some(bias) = node.input(2) {
        let bias = build.along(bias, behind)?;
        y = build.push(plain("Add"), &[y, bias], "biased");
    }
    let last = match build.graph.value(made).dtype {
        Some(dtype) if dtype != DType::F32 => cast(dtype),
        _ => plain("Identity"),
    };
    graph.drop_maker(made);
    graph.push_node(last, &[y], made, &node.origins);
    Ok(())
}

fn plain(name: &str) -> Op {
    Op::onnx(name, Attributes::new())
}

fn cast(to: DType) -> Op {
    Op::onnx("Cast", Attributes::new().with_int("to", to.onnx_code().into()))
}

/// What takes a node's place, with its shape and its origins.
struct Build<'a> {
    graph: &'a mut Graph,
    of: &'a Node,
    made: ValueId,
}

impl Build<'_> {
    /// An operator whose result has the shape of the node's, of floats in 32 bits.
    fn push(&mut self, op: Op, inputs: &[ValueId], what: &str) -> ValueId {
        let made = self.graph.value(self.made);
        let (name, shape) = (format!("{}/{what}", made.name), made.shape.clone());
        let value = self.graph.add_value(&name, Some(DType::F32), shape);
        self.graph.push_node(op, inputs, value, &self.of.origins)
    }

    /// The floats of 8 bits, moved as those of 32 bits were.
    fn moved(&mut self, side: &Side) -> ValueId {
        let mut value = side.value;
        for node in &side.moves {
            let Some(read) = node.output(0) else { continue };
            let (name, shape) = (self.graph.value(read).name.clone(), self.graph.value(read).shape.clone());
            let dtype = self.graph.value(value).dtype;
            let moved = self.graph.add_value(&format!("{name}/float8"), dtype, shape);
            let mut node = node.clone();
            if let (Some(input), Some(output)) = (node.inputs.first_mut(), node.outputs.first_mut()) {
                (*input, *output) = (Some(value), Some(moved));
            }
            self.graph.nodes.push(node);
            value = moved;
        }
        value
    }

    fn transposed(&mut self, value: ValueId) -> Result<ValueId> {
        let of = self.graph.value(value);
        let constant = of.constant.as_ref().filter(|t| t.shape().len() == 2);
        if let Some(tensor) = constant.and_then(|t| permuted(t, vec![1, 0])) {
            let hint = format!("{}/transposed", of.name);
            return Ok(self.graph.add_constant(&hint, tensor?));
        }
        let (name, dtype, shape) = (format!("{}/transposed", of.name), of.dtype, of.shape.permuted(&[1, 0]));
        let to = self.graph.add_value(&name, dtype, shape);
        Ok(self.graph.push_node(plain("Transpose"), &[value], to, &self.of.origins))
    }

    /// A value as floats in 32 bits.
    fn float(&mut self, id: ValueId) -> ValueId {
        let value = self.graph.value(id);
        if value.dtype == Some(DType::F32) {
            return id;
        }
        let (name, shape) = (format!("{}/float", value.name), value.shape.clone());
        let to = self.graph.add_value(&name, Some(DType::F32), shape);
        self.graph.push_node(cast(DType::F32), &[id], to, &self.of.origins)
    }

    /// The product of two sides' scales.
    fn scale(&mut self, x: &Side, w: &Side, behind: usize) -> Result<ValueId> {
        let constants = [x, w].map(|side| self.graph.constant(side.scale).and_then(floats));
        if let [Some(of_x), Some(of_w)] = &constants {
            let by = of_x.first().copied().unwrap_or(1.0);
            let scales = of_w.iter().map(|s| by * s).collect::<Vec<_>>();
            let shape = match w.scales {
                1 => Vec::new(),
                count => std::iter::once(count).chain(std::iter::repeat_n(1, behind)).collect(),
            };
            return Ok(self.graph.add_constant("scale", Tensor::from_slice(&shape, &scales)?));
        }
        // One of them is computed. Of a tensor's only scale the rank may be 1; as a scalar it adds no axis to any result.
        let none = self.graph.add_constant("scalar", Tensor::from_slice::<i64>(&[0], &[])?);
        let mut factors = Vec::new();
        for side in [x, w] {
            let scale = self.float(side.scale);
            factors.push(match side.scales {
                1 => self.shaped(scale, none, Shape::fixed(&[])),
                _ => self.along(scale, behind)?,
            });
        }
        let shape = factors.get(1).map_or(Shape::UNKNOWN, |id| self.graph.value(*id).shape.clone());
        let to = self.graph.add_value("scale", Some(DType::F32), shape);
        Ok(self.graph.push_node(plain("Mul"), &factors, to, &self.of.origins))
    }

    /// A vector of channels as floats in 32 bits, with so many axes behind it.
    fn along(&mut self, vector: ValueId, behind: usize) -> Result<ValueId> {
        let vector = self.float(vector);
        if behind == 0 {
            return Ok(vector);
        }
        let ones = || std::iter::repeat_n(1usize, behind);
        if let Some(tensor) = self.graph.constant(vector) {
            let shape = std::iter::once(tensor.len()).chain(ones()).collect::<Vec<_>>();
            let tensor = tensor.reshape(&shape)?;
            return Ok(self.graph.add_constant("channels", tensor));
        }
        let count = self.graph.value(vector).shape.element_count();
        let shape = count.map(|n| Shape::fixed(&std::iter::once(n).chain(ones()).collect::<Vec<_>>()));
        let to = std::iter::once(-1i64).chain(ones().map(|_| 1)).collect::<Vec<_>>();
        let to = self.graph.add_constant("channels_shape", Tensor::from_slice(&[to.len()], &to)?);
        Ok(self.shaped(vector, to, shape.unwrap_or(Shape::UNKNOWN)))
    }

    fn shaped(&mut self, value: ValueId, to: ValueId, shape: Shape) -> ValueId {
        let name = format!("{}/shaped", self.graph.value(value).name);
        let shaped = self.graph.add_value(&name, Some(DType::F32), shape);
        self.graph.push_node(plain("Reshape"), &[value, to], shaped, &self.of.origins)
    }
}

/// A scale's numbers.
fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>().ok()?.to_vec(),
        DType::F16 => tensor.as_slice::<half::f16>().ok()?.iter().map(|v| v.to_f32()).collect(),
        DType::Bf16 => tensor.as_slice::<half::bf16>().ok()?.iter().map(|v| v.to_f32()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    const INPUTS: &str = "x: f8e4m3[N, 4]\ni: f8e4m3[N, 2, 5, 5]\nq: f8e5m2[N, 3, 4]\nw = f8e4m3[4, 3] 56 64\nv = f8e4m3[3, 4] 56\nk = f8e4m3[6, 2, 3, 3] 56\nb = f32[3] 1 2 3\nc = f32[6] 1\nsx = f32[] 0.5\nsw = f32[] 0.25\nsc = f32[3] 0.5 1 2\nsk = f32[6] 1 2 3 4 5 6\nz = f8e4m3[] 0\nhx = f16[] 14336\nd: f32[]";

    #[test]
    fn products_are_of_the_bytes_and_their_scale_is_behind_them() {
        // (nodes, what they become)
        let cases: [(&str, &[&str]); 6] = [
            (
                "f = DequantizeLinear(x, sx, z)\ng = DequantizeLinear(w, sw)\ny = MatMul(f, g)",
                &[
                    "y/sum = triscore.MatMulFloat8(x, f8e4m3[4, 3])",
                    "y/scaled = Mul(y/sum, [0.125])",
                    "y = Identity(y/scaled)",
                ],
            ),
            // One scale a channel, a bias, a matrix that is transposed.
            (
                "f = DequantizeLinear(x, sx)\ng = DequantizeLinear<axis=0>(v, sc)\ny = Gemm<transB=1>(f, g, b)",
                &[
                    "y/sum = triscore.MatMulFloat8(x, f8e4m3[4, 3])",
                    "y/scaled = Mul(y/sum, [0.25, 0.5, 1.0])",
                    "y/biased = Add(y/scaled, [1.0, 2.0, 3.0])",
                    "y = Identity(y/biased)",
                ],
            ),
            (
                "f = DequantizeLinear(i, sx)\ng = DequantizeLinear<axis=0>(k, sk)\ny = Conv<pads=[1 1 1 1]>(f, g, c)",
                &[
                    "y/sum = triscore.ConvFloat8<pads=[1, 1, 1, 1]>(i, f8e4m3[6, 2, 3, 3])",
                    "y/scaled = Mul(y/sum, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])",
                    "y/biased = Add(y/scaled, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])",
                    "y = Identity(y/biased)",
                ],
            ),
            // What is moved between, of either kind of floats.
            (
                "f = DequantizeLinear(x, sx)\ng = DequantizeLinear(q, sw)\nt = Transpose<perm=[0 2 1]>(g)\ny = MatMul(f, t)",
                &[
                    "t/float8 = Transpose<perm=[0, 2, 1]>(q)",
                    "y/sum = triscore.MatMulFloat8(x, t/float8)",
                    "y/scaled = Mul(y/sum, [0.125])",
                    "y = Identity(y/scaled)",
                ],
            ),
            // A scale that is computed.
            (
                "f = DequantizeLinear(x, d)\ng = DequantizeLinear<axis=1>(w, sc)\ny = MatMul(f, g)",
                &[
                    "y/sum = triscore.MatMulFloat8(x, f8e4m3[4, 3])",
                    "d/shaped = Reshape(d, [])",
                    "scale = Mul(d/shaped, [0.5, 1.0, 2.0])",
                    "y/scaled = Mul(y/sum, scale)",
                    "y = Identity(y/scaled)",
                ],
            ),
            // Of a model in 16 bits.
            (
                "f = DequantizeLinear(x, hx)\ng = DequantizeLinear(w, hx)\ny = MatMul(f, g)",
                &[
                    "y/sum = triscore.MatMulFloat8(x, f8e4m3[4, 3])",
                    "y/scaled = Mul(y/sum, [0.25])",
                    "y = Cast<to=10>(y/scaled)",
                ],
            ),
        ];
        for (nodes, expected) in cases {
            let (count, mut made) = after(to_float8_products, &format!("{INPUTS}\n{nodes}\n-> y"));
            made.sort_by_key(|line| expected.iter().position(|e| e == line));
            assert_eq!((count, made), (1, expected.iter().map(ToString::to_string).collect()), "{nodes}");
        }
    }

    #[test]
    fn what_does_not_factor_stays() {
        for nodes in [
            // Along the axis that is summed over; both sides with several; one side of floats; with a factor; a zero point that is none.
            "s = f32[4] 1 2 3 4\nf = DequantizeLinear(x, sx)\ng = DequantizeLinear<axis=0>(w, s)\ny = MatMul(f, g)",
            "s = f32[4] 1 2 3 4\nf = DequantizeLinear<axis=1>(x, s)\ng = DequantizeLinear(w, sw)\ny = MatMul(f, g)",
            "e: f32[N, 4]\ng = DequantizeLinear(w, sw)\ny = MatMul(e, g)",
            "f = DequantizeLinear(x, sx)\ng = DequantizeLinear(w, sw)\ny = Gemm<alpha=0.5>(f, g, b)",
            "o = f8e4m3[] 56\nf = DequantizeLinear(x, sx, o)\ng = DequantizeLinear(w, sw)\ny = MatMul(f, g)",
            "s = f32[2, 3] 1\nf = DequantizeLinear(x, sx)\ng = DequantizeLinear<axis=0, block_size=2>(w, s)\ny = MatMul(f, g)",
            "a = i8[4, 3] 1\nf = DequantizeLinear(x, sx)\ng = DequantizeLinear(a, sw)\ny = MatMul(f, g)",
        ] {
            assert_eq!(after(to_float8_products, &format!("{INPUTS}\n{nodes}\n-> y")).0, 0, "{nodes}");
        }
    }
}
