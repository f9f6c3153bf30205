//! A constant added behind a linear layer becomes the layer's bias.
//!
//! `Conv` then `Add` of one number a channel is a `Conv` with a bias. `MatMul` of a constant matrix, then `Add` of one number
//! a column, is a `Gemm` where the rows are two-dimensional; with more axes `MatMul` has no bias, and backends take the two
//! nodes together.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::attributes::Attributes;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;
use crate::tensor::Tensor;

/// Makes biases of what is added to a `Conv` without one and to a two-dimensional `MatMul`.
pub fn absorb_bias(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let mut found = Vec::new();
    for (place, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.is("Add")) {
        let Some((constant, made)) = graph.constant_and_other(node) else { continue };
        let linear = uses.maker(made).filter(|_| uses.only_reader(made) == Some(place));
        let bias = linear.and_then(|at| bias(graph, graph.node(at)?, constant));
        if let (Some(linear), Some(bias)) = (linear, bias) {
            found.push((linear, place, bias));
        }
    }
    let count = found.len();
    for (linear, add, bias) in found {
        let (output, origins) = match graph.node(add) {
            Some(node) => (node.output(0), node.origins.clone()),
            None => continue,
        };
        let name = output.map(|o| graph.value(o).name.clone()).unwrap_or_default();
        let bias = graph.add_constant(&format!("{name}/bias"), bias?);
        if let Some(node) = graph.nodes.get_mut(add) {
            node.outputs = vec![None];
        }
        if let Some(node) = graph.nodes.get_mut(linear) {
            if node.is("MatMul") {
                node.op = Op::onnx("Gemm", Attributes::new());
            }
            node.inputs.truncate(2);
            node.inputs.push(Some(bias));
            node.outputs = vec![output];
            node.origins.extend(origins);
        }
    }
    Ok(count)
}

/// What is added, as one number a channel, if it is that.
fn bias(graph: &Graph, linear: &Node, added: ValueId) -> Option<Result<Tensor>> {
    if linear.input(2).is_some() {
        return None;
    }
    let weights = graph.constant(linear.input(1)?)?.shape();
    let (channels, behind) = match linear.op.onnx_name()? {
        "Conv" => (*weights.first()?, weights.len().checked_sub(2)?),
        "MatMul" if weights.len() == 2 && graph.value(linear.input(0)?).shape.rank() == Some(2) => {
            (*weights.get(1)?, 0)
        }
        _ => return None,
    };
    let (shape, values) = graph.floats(Some(added))?;
    // [channels, 1, 1], with ones before; or one number for all.
    let (before, rest) = shape.split_at(shape.len().saturating_sub(behind));
    let is_channel = values.len() == channels
        && before.last() == Some(&channels)
        && before.len() <= 2
        && rest.len() == behind
        && rest.iter().all(|n| *n == 1);
    let values = match values {
        [one] if shape.len() <= behind + 2 => vec![*one; channels],
        _ if is_channel => values.to_vec(),
        _ => return None,
    };
    Some(Tensor::from_slice(&[channels], &values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    #[test]
    fn what_is_added_becomes_a_bias() {
        let image = "x: f32[N, 1, 4, 4]\nw = f32[2, 1, 3, 3] 1";
        let rows = "x: f32[N, 3]\nw = f32[3, 2] 1 2";
        let cases = [
            (
                image,
                "b = f32[2, 1, 1] 5 6",
                "Conv(x, w)",
                "Add(c, b)",
                "y = Conv(x, f32[2, 1, 3, 3], [5.0, 6.0])",
            ),
            (
                image,
                "b = f32[1, 2, 1, 1] 5 6",
                "Conv(x, w)",
                "Add(b, c)",
                "y = Conv(x, f32[2, 1, 3, 3], [5.0, 6.0])",
            ),
            (image, "b = f32[] 5", "Conv(x, w)", "Add(c, b)", "y = Conv(x, f32[2, 1, 3, 3], [5.0, 5.0])"),
            (
                rows,
                "b = f32[2] 5 6",
                "MatMul(x, w)",
                "Add(c, b)",
                "y = Gemm(x, [1.0, 2.0, 2.0, 2.0, 2.0, 2.0], [5.0, 6.0])",
            ),
        ];
        for (inputs, bias, linear, add, expected) in cases {
            let text = format!("{inputs}\n{bias}\nc = {linear}\ny = {add}\n-> y");
            assert_eq!(after(absorb_bias, &text), (1, vec![expected.to_owned()]));
        }
    }

    #[test]
    fn other_sums_stay() {
        let image = "x: f32[N, 1, 4, 4]\nw = f32[2, 1, 3, 3] 1";
        let cases = [
            // One number a column of pixels; a bias is there; three axes.
            (image, "b = f32[2] 5 6", "Conv(x, w)"),
            (image, "b = f32[2, 2, 2] 5 6", "Conv(x, w)"),
            (
                "x: f32[N, 1, 4, 4]\nw = f32[2, 1, 3, 3] 1\nv = f32[2] 1",
                "b = f32[2, 1, 1] 5 6",
                "Conv(x, w, v)",
            ),
            ("x: f32[N, 5, 3]\nw = f32[3, 2] 1 2", "b = f32[2] 5 6", "MatMul(x, w)"),
        ];
        for (inputs, bias, linear) in cases {
            let text = format!("{inputs}\n{bias}\nc = {linear}\ny = Add(c, b)\n-> y");
            assert_eq!(after(absorb_bias, &text).0, 0, "{bias} to {linear}");
        }
    }
}
