//! Attention as exporters write it: two products with a softmax between them, the scale and the mask where each of them likes them.
//!
//! `y = softmax(q · kᵀ · scale + mask) · v` (Vaswani et al. 2017, equation 1), for `q`, `k` and `v` of `[batch, heads, length, width]`. The result is
//! `triscore.Attention(q, k, v)` or `triscore.MaskedAttention(q, k, v, mask)`, so that a device never writes the product of
//! all with all to memory. Scales are found on `q`, on `k`, and behind the product; they are multiplied in f64 and rounded once.

use crate::error::Result;
use crate::graph::edit::Uses;
use crate::graph::functions::DOMAIN;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;
use crate::graph::{Attributes, Graph};

struct Found {
    q: ValueId,
    /// `k` before it is transposed, and the order of its axes that makes `[batch, heads, length, width]` of it, if it has another.
    k: (ValueId, Option<[i64; 4]>),
    v: ValueId,
    mask: Option<ValueId>,
    scale: f32,
    output: ValueId,
    origins: Vec<usize>,
}

/// Replaces what it finds.
pub fn find_attention(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let found = graph.nodes.iter().filter_map(|node| around(graph, &uses, node)).collect::<Vec<_>>();
    let count = found.len();
    for one in found {
        graph.drop_maker(one.output);
        let k = match one.k {
            (k, None) => k,
            (k, Some(order)) => {
                let (dtype, name) = (graph.value(k).dtype, graph.value(k).name.clone());
                let shape = graph.value(k).shape.permuted(&order);
                let made = graph.add_value(&format!("{name}/heads"), dtype, shape);
                let transpose = Op::onnx("Transpose", Attributes::new().with_ints("perm", &order));
                graph.push_node(transpose, &[k], made, &one.origins)
            }
        };
        let name = if one.mask.is_some() { "MaskedAttention" } else { "Attention" };
        let attributes = Attributes::new().with_float("scale", one.scale);
        let op = Op { domain: DOMAIN.to_owned(), name: name.to_owned(), attributes };
        let inputs = [one.q, k, one.v].into_iter().chain(one.mask).collect::<Vec<_>>();
        graph.push_node(op, &inputs, one.output, &one.origins);
    }
    if count > 0 {
        graph.add_domain(DOMAIN);
        graph.tidy()?;
    }
    Ok(count)
}

/// The attention around this `Softmax`.
fn around(graph: &Graph, uses: &Uses, softmax: &Node) -> Option<Found> {
    let maker = |id: ValueId| graph.node(uses.maker(id)?).filter(|_| uses.only_reader(id).is_some());
    let is_last = matches!(softmax.op.attributes.int("axis").unwrap_or(-1), -1 | 3);
    let mut origins = softmax.origins.clone();
    let probabilities = softmax.output(0).filter(|_| softmax.is("Softmax") && is_last)?;
    let out = graph.node(uses.only_reader(probabilities)?).filter(|n| n.is("MatMul"))?;
    let v = out.input(1).filter(|_| out.input(0) == Some(probabilities))?;
    // Backwards from the softmax: a mask, a scale, the product.
    let (mut scale, mut mask) = (1f64, None);
    let mut scores = softmax.input(0)?;
    let mut node = maker(scores)?;
    if node.is("Add") {
        let (a, b) = (node.input(0)?, node.input(1)?);
        let leads_to_product =
            |id: &ValueId| maker(*id).is_some_and(|n| n.is("MatMul") || scaled(graph, n).is_some());
        let (inner, other) = if leads_to_product(&a) { (a, b) } else { (b, a) };
        (scores, mask) = (inner, Some(other));
        origins.extend(&node.origins);
        node = maker(scores)?;
    }
    if let Some((inner, factor)) = scaled(graph, node) {
        (scores, scale) = (inner, scale * factor);
        origins.extend(&node.origins);
        node = maker(scores)?;
    }
    let product = Some(node).filter(|n| n.is("MatMul"))?;
    origins.extend(product.origins.iter().chain(&out.origins));
    let unscaled = |id: ValueId, scale: &mut f64, origins: &mut Vec<usize>| match maker(id)
        .and_then(|n| Some((n, scaled(graph, n)?)))
    {
        Some((node, (inner, factor))) => {
            *scale *= factor;
            origins.extend(&node.origins);
            inner
        }
        None => id,
    };
    let q = unscaled(product.input(0)?, &mut scale, &mut origins);
    let transposed = unscaled(product.input(1)?, &mut scale, &mut origins);
    let transpose = maker(transposed).filter(|n| n.is("Transpose"))?;
    origins.extend(&transpose.origins);
    let before = unscaled(transpose.input(0)?, &mut scale, &mut origins);
    let k = match transpose.op.attributes.ints("perm")? {
        [0, 1, 3, 2] => (before, None),
        // The heads are taken apart and the matrix is transposed in one go.
        [0, 2, 3, 1] => (before, Some([0, 2, 1, 3])),
        _ => return None,
    };
    let has_four_axes = |id: ValueId| graph.value(id).shape.rank() == Some(4);
    ([q, k.0, v].into_iter().all(has_four_axes)).then_some(())?;
    let scale = scale as f32;
    scale.is_finite().then_some(())?;
    origins.sort_unstable();
    origins.dedup();
    Some(Found { q, k, v, mask, scale, output: out.output(0)?, origins })
}

/// What a node multiplies by a number, and the number.
fn scaled(graph: &Graph, node: &Node) -> Option<(ValueId, f64)> {
    if node.is("Div") {
        let by = graph.scalar(node.input(1)).filter(|by| *by != 0.0)?;
        return Some((node.input(0)?, 1.0 / f64::from(by)));
    }
    let (constant, other) = graph.constant_and_other(node).filter(|_| node.is("Mul"))?;
    Some((other, f64::from(graph.scalar(Some(constant))?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    const INPUTS: &str = "q: f32[N, 2, 5, 8]\nk: f32[N, 2, 5, 8]\nv: f32[N, 2, 5, 8]\nm: f32[N, 1, 1, 5]
        half = f32[] 0.5\nfour = f32[] 4";

    fn found(nodes: &str, outputs: &str) -> (usize, Vec<String>) {
        after(find_attention, &format!("{INPUTS}\n{nodes}\n-> {outputs}"))
    }

    #[test]
    fn attention_is_found_however_it_is_scaled_and_masked() {
        let t = "t = Transpose<perm=[0 1 3 2]>(k)";
        let cases = [
            (
                format!("{t}\ns = MatMul(q, t)\np = Softmax(s)\ny = MatMul(p, v)"),
                "y = triscore.Attention<scale=1>(q, k, v)",
            ),
            (
                format!(
                    "{t}\ns = MatMul(q, t)\nd = Div(s, four)\ne = Add(d, m)\np = Softmax(e)\ny = MatMul(p, v)"
                ),
                "y = triscore.MaskedAttention<scale=0.25>(q, k, v, m)",
            ),
            (
                format!("{t}\ns = MatMul(q, t)\ne = Add(m, s)\np = Softmax<axis=3>(e)\ny = MatMul(p, v)"),
                "y = triscore.MaskedAttention<scale=1>(q, k, v, m)",
            ),
            // Half of the scale on either side, as PyTorch exports it.
            (
                format!(
                    "a = Mul(q, half)\n{t}\nb = Mul(t, half)\ns = MatMul(a, b)\np = Softmax(s)\ny = MatMul(p, v)"
                ),
                "y = triscore.Attention<scale=0.25>(q, k, v)",
            ),
        ];
        for (nodes, expected) in cases {
            assert_eq!(found(&nodes, "y"), (1, vec![expected.to_owned()]), "{nodes}");
        }
        // Heads and transposition in one: the heads stay to be taken apart.
        let text = "k2: f32[N, 5, 2, 8]\nt = Transpose<perm=[0 2 3 1]>(k2)\ns = MatMul(q, t)\np = Softmax(s)\ny = MatMul(p, v)";
        assert_eq!(
            found(text, "y").1,
            [
                "k2/heads = Transpose<perm=[0, 2, 1, 3]>(k2)",
                "y = triscore.Attention<scale=1>(q, k2/heads, v)"
            ]
        );
    }

    #[test]
    fn what_others_read_and_what_is_no_attention_stays() {
        let t = "t = Transpose<perm=[0 1 3 2]>(k)\ns = MatMul(q, t)";
        for (nodes, outputs) in [
            (format!("{t}\np = Softmax(s)\ny = MatMul(p, v)"), "y, p"),
            (format!("{t}\np = Softmax(s)\ny = MatMul(p, v)"), "y, s"),
            (format!("{t}\np = Softmax<axis=1>(s)\ny = MatMul(p, v)"), "y"),
            (format!("{t}\np = Softmax(s)\ny = MatMul(v, p)"), "y"),
            (format!("{t}\ne = Exp(s)\np = Softmax(e)\ny = MatMul(p, v)"), "y"),
            ("s = MatMul(q, k)\np = Softmax(s)\ny = MatMul(p, v)".to_owned(), "y"),
        ] {
            assert_eq!(found(&nodes, outputs).0, 0, "{nodes} -> {outputs}");
        }
    }
}
