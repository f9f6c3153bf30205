//! Batch normalisation folded into the convolution or the matrix product before it.
//!
//! With its statistics fixed it is `y = x·a + b` for each channel, `a = scale / sqrt(variance + epsilon)` and
//! `b = bias - mean·a` (Ioffe & Szegedy 2015, section 3.1), and a linear layer times `a` is a linear layer. The factors
//! are computed in f64 and the weights rounded once.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::node::Node;
use crate::graph::value::ValueId;
use crate::tensor::Tensor;

/// Folds every batch normalisation whose input is made for it alone by a convolution or a `Gemm` with constant weights.
pub fn fold_batch_norm(graph: &mut Graph) -> Result<usize> {
    let mut count = 0;
    loop {
        let uses = graph.uses();
        let mut found = None;
        for (place, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.is("BatchNormalization")) {
            let linear =
                node.input(0).filter(|x| uses.only_reader(*x) == Some(place)).and_then(|x| uses.maker(x));
            let folded = linear.and_then(|at| Some((at, folded(graph, graph.node(at)?, node)?)));
            if let Some((linear, folded)) = folded {
                found = Some((linear, place, folded));
                break;
            }
        }
        let Some((linear, norm, (weights, bias))) = found else { return Ok(count) };
        apply(graph, linear, norm, weights?, bias?)?;
        count += 1;
    }
}

type Folded = (Result<Tensor>, Result<Tensor>);

/// The weights and the bias of the layer with the normalisation in them.
fn folded(graph: &Graph, linear: &Node, norm: &Node) -> Option<Folded> {
    let (shape, weights) = graph.floats(linear.input(1))?;
    // Which axis of the weights is the output channel.
    let axis = match linear.op.onnx_name()? {
        "Conv" => 0,
        "ConvTranspose" if linear.op.attributes.int("group").unwrap_or(1) == 1 => 1,
        "Gemm" if plain_gemm(linear) => usize::from(!linear.op.attributes.flag("transB")),
        _ => return None,
    };
    let channels = *shape.get(axis)?;
    let per_channel = |i: usize| graph.floats(norm.input(i)).map(|(_, v)| v).filter(|v| v.len() == channels);
    let (scale, shift) = (per_channel(1)?, per_channel(2)?);
    let (mean, variance) = (per_channel(3)?, per_channel(4)?);
    let epsilon = f64::from(norm.op.attributes.float("epsilon").unwrap_or(1e-5));
    let factor = scale.iter().zip(variance).map(|(s, v)| f64::from(*s) / (f64::from(*v) + epsilon).sqrt());
    let factor = factor.collect::<Vec<_>>();
    let bias = match linear.input(2) {
        None => vec![0.0; channels],
        id => graph.floats(id).map(|(_, v)| v).filter(|v| v.len() == channels)?.to_vec(),
    };
    let inner: usize = shape.iter().skip(axis + 1).product();
    let scaled = weights.iter().enumerate().map(|(i, w)| {
        let channel = i / inner.max(1) % channels.max(1);
        (f64::from(*w) * factor.get(channel).copied().unwrap_or(1.0)) as f32
    });
    let parts = bias.iter().zip(mean).zip(&factor).zip(shift);
    let shifted = parts.map(|(((b, m), f), s)| ((f64::from(*b) - f64::from(*m)) * f + f64::from(*s)) as f32);
    Some((
        Tensor::from_slice(shape, &scaled.collect::<Vec<_>>()),
        Tensor::from_slice(&[channels], &shifted.collect::<Vec<_>>()),
    ))
}

fn plain_gemm(node: &Node) -> bool {
    let one = |name: &str| node.op.attributes.float(name).is_none_or(|v| v == 1.0);
    one("alpha") && one("beta")
}

/// The layer takes the new weights and makes what the normalisation made.
fn apply(graph: &mut Graph, linear: usize, norm: usize, weights: Tensor, bias: Tensor) -> Result<()> {
    let output = graph.node(norm).and_then(|n| n.output(0));
    let origins = graph.node(norm).map(|n| n.origins.clone()).unwrap_or_default();
    let name = output.map(|o| graph.value(o).name.clone()).unwrap_or_default();
    let weights = graph.add_constant(&format!("{name}/weight"), weights);
    let bias = graph.add_constant(&format!("{name}/bias"), bias);
    if let Some(node) = graph.nodes.get_mut(norm) {
        node.outputs = vec![None];
    }
    if let Some(node) = graph.nodes.get_mut(linear) {
        node.inputs.resize(3, None);
        set(&mut node.inputs, 1, weights);
        set(&mut node.inputs, 2, bias);
        node.outputs = vec![output];
        node.origins.extend(origins);
    }
    graph.tidy()
}

fn set(inputs: &mut [Option<ValueId>], at: usize, id: ValueId) {
    if let Some(input) = inputs.get_mut(at) {
        *input = Some(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;
    use crate::graph::testing::graph_of;

    const STATISTICS: &str =
        "scale = f32[2] 2 3\nshift = f32[2] 1 -1\nmean = f32[2] 5 7\nvariance = f32[2] 4 9";

    #[test]
    fn a_convolution_takes_the_normalisation_in() {
        let text = format!(
            "x: f32[N, 1, 4, 4]\nw = f32[2, 1, 1, 1] 10 20\n{STATISTICS}
             c = Conv(x, w)
             y = BatchNormalization<epsilon=0.0>(c, scale, shift, mean, variance)
             -> y"
        );
        // a = 2/2, 3/3; b = 1 - 5·1, -1 - 7·1.
        let expected = vec!["y = Conv(x, [10.0, 20.0], [-4.0, -8.0])".to_owned()];
        assert_eq!(after(fold_batch_norm, &text), (1, expected));
        let mut graph = graph_of(&text);
        fold_batch_norm(&mut graph).unwrap();
        assert_eq!(graph.nodes()[0].origins, [0, 1], "placements name both");
    }

    #[test]
    fn a_gemm_does_too_and_its_bias_counts() {
        let text = format!(
            "x: f32[N, 2]\nw = f32[2, 2] 1 2 3 4\nb = f32[2] 1 2\n{STATISTICS}
             c = Gemm(x, w, b)
             y = BatchNormalization<epsilon=5.0>(c, scale, shift, mean, variance)
             -> y"
        );
        // a = 2/3, 3/sqrt(14); along the second axis of w.
        let (count, nodes) = after(fold_batch_norm, &text);
        assert_eq!(count, 1);
        assert!(
            nodes[0].starts_with("y = Gemm(x, [0.6666667, 1.6035675, 2.0, 3.207135], [-1.666666"),
            "{nodes:?}"
        );
    }

    #[test]
    fn it_stays_where_it_cannot_be_folded() {
        let rows = [
            ("c = Relu(x)", "y"),
            // Somebody else reads what the convolution makes.
            ("c = Conv(x, w)", "y, c"),
            ("c = Conv(x, v)", "y"),
        ];
        for (node, outputs) in rows {
            let text = format!(
                "x: f32[N, 2, 4, 4]\nv: f32[2, 2, 1, 1]\nw = f32[2, 2, 1, 1] 1\n{STATISTICS}\n{node}
                 y = BatchNormalization(c, scale, shift, mean, variance)\n-> {outputs}"
            );
            assert_eq!(after(fold_batch_norm, &text).0, 0, "{node} -> {outputs}");
        }
    }
}
