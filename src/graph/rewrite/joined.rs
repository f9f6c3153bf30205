//! Products of one matrix with several constant ones are one product: an attention's queries, keys and values.
//!
//! `[x·a | x·b] = x·[a | b]`, and each element is the same sum. One large product fills a device that three small ones leave half idle, and reads x once. Only
//! results that are moved next are joined: they become views of the joined one. An operator that computes would have been the end of its own
//! product's kernel, and would now be a kernel of its own. The scale of a product of 8-bit floats, and a bias, are joined with it.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::attributes::Attributes;
use crate::graph::edit::Uses;
use crate::graph::functions::DOMAIN;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;
use crate::tensor::{DType, Tensor};

/// What reads a result without computing anything first.
const MOVES: [&str; 6] = ["Attention", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"];

/// A product of a value with a constant matrix, and constant vectors that may be multiplied with it and added to it.
struct Part {
    op: Op,
    x: ValueId,
    weights: ValueId,
    scale: Option<ValueId>,
    bias: Option<ValueId>,
    output: ValueId,
    origins: Vec<usize>,
}

/// Joins products of the same value, and lets a `Split` take the result apart.
pub fn join_products(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let mut groups = Vec::<Vec<Part>>::new();
    for node in &graph.nodes {
        let Some(part) = part(graph, &uses, node) else { continue };
        let dtype = |part: &Part| graph.value(part.weights).dtype;
        let is_alike =
            |first: &Part| first.op == part.op && first.x == part.x && dtype(first) == dtype(&part);
        match groups.iter_mut().find(|group| group.first().is_some_and(is_alike)) {
            Some(group) => group.push(part),
            None => groups.push(vec![part]),
        }
    }
    groups.retain(|group| group.len() > 1);
    groups.iter().try_for_each(|group| join(graph, group))?;
    Ok(groups.len())
}

fn part(graph: &Graph, uses: &Uses, product: &Node) -> Option<Part> {
    let is_float8 = product.op.domain == DOMAIN && product.op.name == "MatMulFloat8";
    let is_plain = match product.op.onnx_name() {
        Some(name) => name == "MatMul" || name == "Gemm" && product.op.attributes.iter().next().is_none(),
        None => is_float8,
    };
    let (x, weights) = (product.input(0).filter(|_| is_plain)?, product.input(1)?);
    let matrix = graph.constant(weights).filter(|_| graph.constant(x).is_none())?;
    let [_, columns] = matrix.shape() else { return None };
    let mut part = Part {
        op: product.op.clone(),
        x,
        weights,
        scale: None,
        bias: product.input(2),
        output: product.output(0)?,
        origins: product.origins.clone(),
    };
    if is_float8 {
        let (scale, scaled) = part.next(graph, uses, "Mul")?;
        part.goes_on(scaled);
        part.scale = Some(scale).filter(|id| graph.constant(*id).is_some_and(|c| c.dtype() == DType::F32));
        part.scale?;
    }
    if let (None, Some((bias, sum))) = (part.bias, part.next(graph, uses, "Add")) {
        part.goes_on(sum);
        part.bias = Some(bias);
    }
    let is_vector = |id: ValueId| graph.constant(id).is_some_and(|c| c.shape() == [*columns]);
    let is_number = |id: ValueId| graph.constant(id).is_some_and(|c| c.shape().is_empty());
    let is_moved = |place: &usize| graph.node(*place).is_some_and(|n| MOVES.contains(&n.op.name.as_str()));
    let readers = uses.readers(part.output);
    let is_joined = matrix.dtype().is_float()
        && part.scale.is_none_or(|id| is_vector(id) || is_number(id))
        && part.bias.is_none_or(is_vector)
        && !uses.is_output(part.output)
        && !readers.is_empty()
        && readers.iter().all(is_moved);
    is_joined.then_some(part)
}

impl Part {
    /// The constant that its result alone is joined with next, by that operator, and the node that does it.
    fn next<'g>(&self, graph: &'g Graph, uses: &Uses, operator: &str) -> Option<(ValueId, &'g Node)> {
        let node = uses.only_reader(self.output).and_then(|place| graph.node(place))?;
        let (constant, _) = graph.constant_and_other(node).filter(|_| node.is(operator))?;
        Some((constant, node))
    }

    fn goes_on(&mut self, node: &Node) {
        self.output = node.output(0).unwrap_or(self.output);
        self.origins.extend(&node.origins);
    }

    /// A constant of its, as many times as there are columns; `otherwise` where it has none.
    fn vector(&self, graph: &Graph, id: Option<ValueId>, otherwise: Tensor) -> Result<Tensor> {
        let columns = graph.constant(self.weights).and_then(|m| m.shape().last()).copied().unwrap_or(0);
        match id.and_then(|id| graph.constant(id)).unwrap_or(&otherwise) {
            number if number.shape().is_empty() => {
                let one = number.reshape(&[1])?;
                Tensor::concat(0, &vec![&one; columns])
            }
            vector => Ok(vector.clone()),
        }
    }
}

fn join(graph: &mut Graph, parts: &[Part]) -> Result<()> {
    let Some(Part { op, x, weights, output, .. }) = parts.first() else { return Ok(()) };
    let (op, x, dtype) = (op.clone(), *x, graph.value(*output).dtype);
    let name = graph.value(*weights).name.clone();
    let (mut matrices, mut scales, mut biases, mut columns) = (vec![], vec![], vec![], vec![]);
    for part in parts {
        let Some(matrix) = graph.constant(part.weights) else { return Ok(()) };
        let of_result = if part.scale.is_some() { DType::F32 } else { matrix.dtype() };
        columns.push(matrix.shape().last().copied().unwrap_or(0));
        scales.push(part.vector(graph, part.scale, Tensor::from_slice(&[], &[1f32])?)?);
        biases.push(part.vector(graph, part.bias, Tensor::zeros(of_result, &[])?)?);
        matrices.push(matrix.clone());
    }
    let concat = |tensors: &[Tensor], axis| Tensor::concat(axis, &tensors.iter().collect::<Vec<_>>());
    let matrix = concat(&matrices, 1)?;
    let lengths =
        Tensor::from_slice(&[columns.len()], &columns.iter().map(|n| *n as i64).collect::<Vec<_>>())?;
    let shape = graph.value(*output).shape.with_last(columns.iter().sum());
    let mut origins = parts.iter().flat_map(|part| part.origins.iter().copied()).collect::<Vec<_>>();
    origins.sort_unstable();
    let mut inputs = vec![x, graph.add_constant(&format!("{name}/joined"), matrix)];
    // What is done to the result, in its order.
    let mut behind = Vec::new();
    for (what, operator, made, vectors, is_there) in [
        ("joined_scale", "Mul", "scaled", scales, parts.iter().any(|part| part.scale.is_some())),
        ("joined_bias", "Add", "sums", biases, parts.iter().any(|part| part.bias.is_some())),
    ] {
        if is_there {
            let vector = graph.add_constant(&format!("{name}/{what}"), concat(&vectors, 0)?);
            behind.push((operator, made, vector));
        }
    }
    if op.is("Gemm") {
        inputs.extend(behind.pop().map(|(_, _, bias)| bias));
    }
    let push = |graph: &mut Graph, op: Op, inputs: &[ValueId], made: &str| {
        let value = graph.add_value(&format!("{name}/{made}"), dtype, shape.clone());
        graph.push_node(op, inputs, value, &origins)
    };
    let mut joined = push(graph, op, &inputs, "products");
    for (operator, made, vector) in behind {
        joined = push(graph, Op::onnx(operator, Attributes::new()), &[joined, vector], made);
    }
    let lengths = graph.add_constant(&format!("{name}/columns"), lengths);
    for part in parts {
        graph.drop_maker(part.output);
    }
    graph.nodes.push(Node {
        name: String::new(),
        op: Op::onnx("Split", Attributes::new().with_int("axis", -1)),
        inputs: vec![Some(joined), Some(lengths)],
        outputs: parts.iter().map(|part| Some(part.output)).collect(),
        captures: Vec::new(),
        origins,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    const INPUTS: &str = "x: f32[N, 2, 2]\nv = f32[2, 1] 1 2\nw = f32[2, 2] 3 4 5 6\nb = f32[1] 7\nc = f32[2] 8 9\nt: f32[N, 2, 2]";

    #[test]
    fn products_of_the_same_value_become_one() {
        let cases = [
            (
                "p = MatMul(x, v)\nq = MatMul(x, w)\nr = Add(p, b)\ns = Add(c, q)\ny = Transpose(r)\nz = Transpose(s)",
                vec![
                    "v/products = MatMul(x, [1.0, 3.0, 4.0, 2.0, 5.0, 6.0])",
                    "v/sums = Add(v/products, [7.0, 8.0, 9.0])",
                    "r, s = Split<axis=-1>(v/sums, [1, 2])",
                    "y = Transpose(r)",
                    "z = Transpose(s)",
                ],
            ),
            // One of them without a bias, and one that computes next.
            (
                "p = MatMul(x, v)\nq = MatMul(x, w)\nr = Add(p, b)\no = MatMul(x, w)\nu = Relu(o)\nm = Transpose(u)\ny = Transpose(r)\nz = Transpose(q)",
                vec![
                    "v/products = MatMul(x, [1.0, 3.0, 4.0, 2.0, 5.0, 6.0])",
                    "v/sums = Add(v/products, [7.0, 0.0, 0.0])",
                    "r, q = Split<axis=-1>(v/sums, [1, 2])",
                    "y = Transpose(r)",
                    "z = Transpose(q)",
                ],
            ),
        ];
        for (nodes, expected) in cases {
            let (count, mut made) = after(join_products, &format!("{INPUTS}\n{nodes}\n-> y, z"));
            made.sort_by_key(|line| expected.iter().position(|e| e == line));
            assert_eq!(
                (count, made.as_slice()),
                (1, expected.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice())
            );
        }
        let flat = "x: f32[N, 2]\nv = f32[2, 1] 1 2\nb = f32[1] 7\np = Gemm(x, v, b)\nq = Gemm(x, v)\ny = Transpose(p)\nz = Transpose(q)\n-> y, z";
        let (count, made) = after(join_products, flat);
        assert_eq!(count, 1);
        assert!(
            made.contains(&"v/products = Gemm(x, [1.0, 1.0, 2.0, 2.0], [7.0, 0.0])".to_owned()),
            "{made:?}"
        );
    }

    #[test]
    fn products_of_8_bit_floats_are_joined_with_their_scales() {
        let text = "x: f8e4m3[N, 2, 2]\nv = f8e4m3[2, 1] 56 64\nw = f8e4m3[2, 2] 56\ns = f32[] 0.5\nt = f32[2] 3 4\nb = f32[2] 8 9
             p = triscore.MatMulFloat8(x, v)\nq = triscore.MatMulFloat8(x, w)\nc = Mul(p, s)\nd = Mul(q, t)\ne = Add(d, b)
             y = Transpose(c)\nz = Transpose(e)\n-> y, z";
        let (count, made) = after(join_products, text);
        let expected = [
            "v/products = triscore.MatMulFloat8(x, f8e4m3[2, 3])",
            "v/scaled = Mul(v/products, [0.5, 3.0, 4.0])",
            "v/sums = Add(v/scaled, [0.0, 8.0, 9.0])",
            "c, e = Split<axis=-1>(v/sums, [1, 2])",
            "z = Transpose(e)",
            "y = Transpose(c)",
        ];
        assert_eq!((count, made), (1, expected.map(str::to_owned).to_vec()));
        // One of which the scale is computed.
        let computed = text.replace("s = f32[] 0.5", "s: f32[]");
        assert_eq!(after(join_products, &computed).0, 0);
    }

    #[test]
    fn other_products_stay() {
        for nodes in [
            // Of different values; with something that is no vector; whose result callers get; of a factor.
            "p = MatMul(x, v)\nq = MatMul(t, w)\ny = Transpose(p)\nz = Transpose(q)",
            "p = MatMul(x, v)\nq = MatMul(x, w)\nr = Add(q, t)\ny = Transpose(p)\nz = Transpose(r)",
            "y = MatMul(x, v)\nq = MatMul(x, w)\nz = Transpose(q)",
            "p = MatMul(x, v)\nq = MatMul(x, t)\ny = Transpose(p)\nz = Transpose(q)",
            "p = MatMul(x, v)\nq = MatMul(x, w)\ny = Transpose(p)\nz = Exp(q)",
        ] {
            assert_eq!(after(join_products, &format!("{INPUTS}\n{nodes}\n-> y, z")).0, 0, "{nodes}");
        }
        let scaled = "x: f32[N, 2]\nv = f32[2, 1] 1 2\np = Gemm<alpha=0.5>(x, v)\nq = Gemm<alpha=0.5>(x, v)\ny = Transpose(p)\nz = Transpose(q)\n-> y, z";
        assert_eq!(after(join_products, scaled).0, 0);
    }
}
