//! Products of one matrix with several constant ones are one product: an attention's queries, keys and values.
//!
//! `[x·a | x·b] = x·[a | b]`, and each element is the same sum. One large product fills a device that three small ones leave half idle, and reads x once. Only
//! results that are moved next are joined: they become views of the joined one. An operator that computes would have been the end of its own
//! product's kernel, and would now be a kernel of its own.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::attributes::Attributes;
use crate::graph::edit::Uses;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;
use crate::tensor::{DType, Tensor};

/// What reads a result without computing anything first.
const MOVES: [&str; 6] = ["Attention", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"];

/// A product of a value with a constant matrix, and a constant vector that may be added to it.
struct Part {
    op: &'static str,
    x: ValueId,
    weights: ValueId,
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
    let op = match product.op.onnx_name()? {
        "MatMul" => "MatMul",
        // Without a factor or a matrix that is transposed.
        "Gemm" if product.op.attributes.iter().next().is_none() => "Gemm",
        _ => return None,
    };
    let (x, weights, made) = (product.input(0)?, product.input(1)?, product.output(0)?);
    let matrix = graph.constant(weights).filter(|_| graph.constant(x).is_none())?;
    let [_, columns] = matrix.shape() else { return None };
    let is_float = matches!(matrix.dtype(), DType::F32 | DType::F16 | DType::Bf16 | DType::F64);
    let is_vector = |id: ValueId| graph.constant(id).is_some_and(|c| c.shape() == [*columns]);
    let mut part =
        Part { op, x, weights, bias: product.input(2), output: made, origins: product.origins.clone() };
    let add = uses.only_reader(made).and_then(|place| graph.node(place)).filter(|n| n.is("Add"));
    if let (None, Some(add)) = (part.bias, add) {
        let (bias, _) = graph.constant_and_other(add)?;
        (part.bias, part.output) = (Some(bias), add.output(0)?);
        part.origins.extend(&add.origins);
    }
    let is_moved = |place: &usize| graph.node(*place).is_some_and(|n| MOVES.contains(&n.op.name.as_str()));
    let readers = uses.readers(part.output);
    let is_joined = is_float
        && part.bias.is_none_or(is_vector)
        && !uses.is_output(part.output)
        && !readers.is_empty()
        && readers.iter().all(is_moved);
    is_joined.then_some(part)
}

fn join(graph: &mut Graph, parts: &[Part]) -> Result<()> {
    let Some(Part { op, x, weights, output, .. }) = parts.first() else { return Ok(()) };
    let (dtype, name) = (graph.value(*output).dtype, graph.value(*weights).name.clone());
    let (mut matrices, mut vectors, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        let Some(matrix) = graph.constant(part.weights) else { return Ok(()) };
        let length = matrix.shape().last().copied().unwrap_or(0);
        vectors.push(match part.bias.and_then(|id| graph.constant(id)) {
            Some(vector) => vector.clone(),
            None => Tensor::zeros(matrix.dtype(), &[length])?,
        });
        matrices.push(matrix.clone());
        columns.push(length);
    }
    let concat = |tensors: &[Tensor], axis| Tensor::concat(axis, &tensors.iter().collect::<Vec<_>>());
    let (matrix, vector) = (concat(&matrices, 1)?, concat(&vectors, 0)?);
    let lengths =
        Tensor::from_slice(&[columns.len()], &columns.iter().map(|n| *n as i64).collect::<Vec<_>>())?;
    let shape = graph.value(*output).shape.with_last(columns.iter().sum());
    let mut origins = parts.iter().flat_map(|part| part.origins.iter().copied()).collect::<Vec<_>>();
    origins.sort_unstable();
    let (op, x) = (Op::onnx(op, Attributes::new()), *x);
    let mut inputs = vec![x, graph.add_constant(&format!("{name}/joined"), matrix)];
    let mut bias = parts
        .iter()
        .any(|part| part.bias.is_some())
        .then(|| graph.add_constant(&format!("{name}/joined_bias"), vector));
    if op.is("Gemm") {
        inputs.extend(bias.take());
    }
    let joined = graph.add_value(&format!("{name}/products"), dtype, shape.clone());
    let mut joined = graph.push_node(op, &inputs, joined, &origins);
    if let Some(bias) = bias {
        let sum = graph.add_value(&format!("{name}/sums"), dtype, shape);
        joined = graph.push_node(Op::onnx("Add", Attributes::new()), &[joined, bias], sum, &origins);
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
