//! A linear layer takes in what is done to its result before anybody else sees it: one operator of our domain ([`Epilogue`]).
//!
//! Each step of the chain must be the only reader of the one before; then nobody misses what is not written any more.

use crate::error::Result;
use crate::graph::edit::Uses;
use crate::graph::epilogue::{ACTIVATIONS, LAYERS};
use crate::graph::functions::DOMAIN;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;
use crate::graph::{Attributes, Epilogue, Graph};

struct Found {
    layer: usize,
    epilogue: Epilogue,
    bias: Option<ValueId>,
    residual: Option<ValueId>,
    attributes: Attributes,
    output: ValueId,
    origins: Vec<usize>,
}

/// Takes into each linear layer what is done to its result.
pub fn fuse_epilogues(graph: &mut Graph) -> Result<usize> {
    let (mut count, mut uses) = (0, graph.uses());
    // One after the other: the last addition of a chain may belong to either of two layers, and has one of them.
    for layer in 0..graph.nodes.len() {
        let Some(found) = behind(graph, &uses, layer) else { continue };
        graph.drop_maker(found.output);
        if let Some(node) = graph.node_mut(found.layer) {
            node.op =
                Op { domain: DOMAIN.to_owned(), name: found.epilogue.name(), attributes: found.attributes };
            node.inputs.resize(found.epilogue.layer_inputs(), None);
            node.inputs.extend([found.bias, found.residual].into_iter().flatten().map(Some));
            node.outputs = vec![Some(found.output)];
            node.origins = found.origins;
        }
        graph.add_domain(DOMAIN);
        (count, uses) = (count + 1, graph.uses());
    }
    if count > 0 {
        graph.tidy()?;
    }
    Ok(count)
}

/// The chain behind the layer at that place, as far as each of its values is read by the next node alone.
fn behind(graph: &Graph, uses: &Uses, layer: usize) -> Option<Found> {
    let node = graph.node(layer)?;
    let name = LAYERS.into_iter().find(|l| node.is(l))?;
    let mut found = Found {
        layer,
        epilogue: Epilogue { layer: name, ..Epilogue::default() },
        bias: None,
        residual: None,
        attributes: node.op.attributes.clone(),
        output: node.output(0)?,
        origins: node.origins.clone(),
    };
    let shape = graph.value(found.output).shape.clone();
    while let Some(add) = next(graph, uses, found.output).filter(|n| n.is("Add")) {
        let other = *add.inputs.iter().flatten().find(|id| **id != found.output)?;
        let is_bias = name == "MatMul" && is_bias(graph, other, node);
        let is_residual = graph.constant(other).is_none()
            && shape.rank().is_some()
            && graph.value(other).shape == shape
            && !comes_from(graph, uses, other, layer);
        match (is_bias, is_residual) {
            (true, _) if found.bias.is_none() && found.residual.is_none() => found.bias = Some(other),
            (_, true) if found.residual.is_none() => found.residual = Some(other),
            _ => break,
        }
        found.take(add)?;
    }
    found.epilogue.bias = found.bias.is_some();
    found.epilogue.residual = found.residual.is_some();
    // The attributes of both are the operator's; of those two, one would be taken for the other.
    let clashes = |activation: &str| name == "Gemm" && ["LeakyRelu", "HardSigmoid"].contains(&activation);
    if let Some((activation, nodes)) = activation(graph, uses, found.output).filter(|(a, _)| !clashes(a)) {
        found.epilogue.activation = Some(activation);
        if let Some(first) = nodes.first() {
            first.op.attributes.iter().for_each(|a| found.attributes.set(a.clone()));
        }
        for node in nodes {
            found.take(node)?;
        }
    }
    let does = found.epilogue.bias || found.epilogue.residual || found.epilogue.activation.is_some();
    does.then_some(found)
}

impl Found {
    /// The chain goes up to this node's result.
    fn take(&mut self, node: &Node) -> Option<()> {
        self.output = node.output(0)?;
        self.origins.extend(&node.origins);
        Some(())
    }
}

/// The one node that reads a value.
fn next<'g>(graph: &'g Graph, uses: &Uses, value: ValueId) -> Option<&'g Node> {
    graph.node(uses.only_reader(value)?)
}

/// The activation of a value that nobody else reads, and its nodes.
fn activation<'g>(graph: &'g Graph, uses: &Uses, value: ValueId) -> Option<(&'static str, Vec<&'g Node>)> {
    if let Some(node) = next(graph, uses, value) {
        let name = ACTIVATIONS.into_iter().find(|a| node.is(a))?;
        return Some((name, vec![node]));
    }
    let [a, b] = uses.readers(value) else { return None };
    let (a, b) = (graph.node(*a)?, graph.node(*b)?);
    let (sigmoid, product) = if a.is("Sigmoid") { (a, b) } else { (b, a) };
    let gate = sigmoid.output(0)?;
    let is_silu = sigmoid.is("Sigmoid")
        && product.is("Mul")
        && !uses.is_output(value)
        && next(graph, uses, gate).is_some_and(|n| std::ptr::eq(n, product))
        && product.inputs.contains(&Some(value));
    is_silu.then_some(("Silu", vec![sigmoid, product]))
}

/// Whether a constant is one number a column of what a product makes.
fn is_bias(graph: &Graph, value: ValueId, product: &Node) -> bool {
    let columns = product.input(1).and_then(|w| graph.value(w).shape.extents()?.last()?.length());
    graph.floats(Some(value)).is_some_and(|(shape, _)| columns.is_some_and(|n| shape == [n]))
}

/// Whether a value is computed from what the node at that place makes.
fn comes_from(graph: &Graph, uses: &Uses, value: ValueId, place: usize) -> bool {
    let mut seen = vec![false; graph.nodes.len()];
    let mut open = vec![value];
    while let Some(id) = open.pop() {
        let Some(maker) = uses.maker(id) else { continue };
        if maker == place {
            return true;
        }
        if seen.get_mut(maker).is_some_and(|seen| !std::mem::replace(seen, true)) {
            open.extend(graph.node(maker).into_iter().flat_map(Node::reads));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;
    use crate::graph::testing::graph_of;

    const IMAGE: &str = "x: f32[N, 2, 4, 4]\nr: f32[N, 2, 4, 4]\nw = f32[2, 2, 1, 1] 1\nb = f32[2] 1 2";
    const ROWS: &str = "x: f32[N, 5, 3]\nr: f32[N, 5, 2]\nw = f32[3, 2] 1\nb = f32[2] 1 2";

    #[test]
    fn what_follows_a_layer_is_taken_into_it() {
        let cases = [
            (IMAGE, "c = Conv(x, w)\ny = Relu(c)", "y = triscore.ConvRelu(x, [1.0, 1.0, 1.0, 1.0], _)"),
            (
                IMAGE,
                "c = Conv<group=1>(x, w, b)\na = Add(r, c)\ny = LeakyRelu<alpha=0.5>(a)",
                "y = triscore.ConvAddLeakyRelu<group=1, alpha=0.5>(x, [1.0, 1.0, 1.0, 1.0], [1.0, 2.0], r)",
            ),
            (
                IMAGE,
                "c = Conv(x, w)\ns = Sigmoid(c)\ny = Mul(c, s)",
                "y = triscore.ConvSilu(x, [1.0, 1.0, 1.0, 1.0], _)",
            ),
            (
                ROWS,
                "c = MatMul(x, w)\na = Add(b, c)\ny = Gelu(a)",
                "y = triscore.MatMulBiasGelu(x, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0])",
            ),
            (
                ROWS,
                "c = MatMul(x, w)\na = Add(c, b)\ny = Add(a, r)",
                "y = triscore.MatMulBiasAdd(x, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0], r)",
            ),
        ];
        for (inputs, nodes, expected) in cases {
            let (count, made) = after(fuse_epilogues, &format!("{inputs}\n{nodes}\n-> y"));
            assert_eq!((count, made), (1, vec![expected.to_owned()]), "{nodes}");
        }
        // Of two layers that are added up, one has the addition.
        let text = format!("{IMAGE}\nc = Conv(x, w)\nd = Conv(r, w)\ny = Add(c, d)\n-> y");
        let (count, made) = after(fuse_epilogues, &text);
        assert_eq!((count, made.len()), (1, 2), "{made:?}");
        let mut graph = graph_of(&format!("{IMAGE}\nc = Conv(x, w)\na = Add(c, r)\ny = Relu(a)\n-> y"));
        fuse_epilogues(&mut graph).unwrap();
        assert_eq!(graph.nodes()[0].origins, [0, 1, 2], "placements name all of them");
        let bound = graph.bind(&[&[3, 2, 4, 4], &[3, 2, 4, 4]]).unwrap();
        assert_eq!(bound.value(graph.outputs()[0]).shape.lengths(), Some(vec![3, 2, 4, 4]));
    }

    #[test]
    fn what_others_read_or_what_repeats_stays() {
        for (inputs, nodes, outputs) in [
            (IMAGE, "c = Conv(x, w)\ny = Relu(c)", "y, c"),
            (IMAGE, "c = Conv(x, w)\ny = Softmax(c)", "y"),
            (IMAGE, "v: f32[2, 1, 1]\nc = Conv(x, w)\ny = Add(c, v)", "y"),
            (IMAGE, "c = Conv(x, w)\ns = Sigmoid(c)\ny = Mul(c, s)", "y, s"),
            // It adds to itself what was made of it.
            (IMAGE, "c = Conv(x, w)\ne = Exp(c)\ny = Add(c, e)", "y"),
            ("x: f32[N, 3]\nw = f32[3, 2] 1", "c = Gemm(x, w)\ny = LeakyRelu<alpha=0.5>(c)", "y"),
            (ROWS, "k = f32[5, 2] 1\nc = MatMul(x, w)\ny = Add(c, k)", "y"),
        ] {
            assert_eq!(after(fuse_epilogues, &format!("{inputs}\n{nodes}\n-> {outputs}")).0, 0, "{nodes}");
        }
    }
}
