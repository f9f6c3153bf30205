//! Layer normalisation as exporters before operator set 17 wrote it: nine nodes from `ReduceMean` to `Add`.
//!
//! `y = (x - mean(x)) / sqrt(mean((x - mean(x))²) + epsilon) · scale + bias` over the last axes (Ba et al. 2016, equation 3).

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::attributes::Attributes;
use crate::graph::edit::Uses;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;

struct Found {
    x: ValueId,
    scale: ValueId,
    bias: ValueId,
    output: ValueId,
    epsilon: f32,
    origins: Vec<usize>,
}

/// Replaces the nine nodes by `LayerNormalization` over the last axis.
pub fn find_layer_norm(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let found = graph.nodes.iter().filter_map(|node| before(graph, &uses, node)).collect::<Vec<_>>();
    let count = found.len();
    for one in found {
        graph.drop_maker(one.output);
        let attributes = Attributes::new().with_int("axis", -1).with_float("epsilon", one.epsilon);
        let op = Op::onnx("LayerNormalization", attributes);
        graph.push_node(op, &[one.x, one.scale, one.bias], one.output, &one.origins);
    }
    Ok(count)
}

/// The layer normalisation that ends with this `Add` of the bias.
fn before(graph: &Graph, uses: &Uses, add: &Node) -> Option<Found> {
    let maker = |id: ValueId| graph.node(uses.maker(id)?);
    let (bias, scaled) = graph.constant_and_other(add).filter(|_| add.is("Add"))?;
    let times = maker(scaled).filter(|n| n.is("Mul"))?;
    let (scale, normal) = graph.constant_and_other(times)?;
    let divide = maker(normal).filter(|n| n.is("Div"))?;
    let root = maker(divide.input(1)?).filter(|n| n.is("Sqrt"))?;
    let plus = maker(root.input(0)?).filter(|n| n.is("Add"))?;
    let (epsilon, variance) = graph.constant_and_other(plus)?;
    let mean_of_squares = maker(variance).filter(|n| is_mean(graph, n))?;
    let square = maker(mean_of_squares.input(0)?)?;
    let centred = square.input(0)?;
    let is_square = match square.op.onnx_name()? {
        "Pow" => graph.scalar(square.input(1)) == Some(2.0),
        "Mul" => square.input(1) == Some(centred),
        _ => false,
    };
    // Some exporters subtract the mean twice, once for either use.
    let subtract = maker(centred).filter(|n| is_square && n.is("Sub"))?;
    let again = maker(divide.input(0)?).filter(|n| n.is("Sub"))?;
    let x = subtract.input(0)?;
    let mean = |n: &Node| maker(n.input(1)?).filter(|m| is_mean(graph, m) && m.input(0) == Some(x));
    (again.input(0) == Some(x)).then_some(())?;
    let (first, second) = (mean(subtract)?, mean(again)?);
    // The scale and the bias are one number an element of the last axis.
    let last = graph.value(x).shape.extents()?.last()?.length()?;
    let fits = |id| graph.floats(Some(id)).is_some_and(|(shape, _)| shape == [last]);
    (fits(scale) && fits(bias)).then_some(())?;
    let parts = [first, second, subtract, again, square, mean_of_squares, plus, root, divide, times, add];
    // Nobody else may read what is inside: it would have to be computed all the same.
    let inside = parts.iter().take(parts.len() - 1).filter_map(|n| n.output(0));
    let read_inside = |id| {
        let within = |r: &usize| graph.node(*r).is_some_and(|n| parts.iter().any(|p| std::ptr::eq(*p, n)));
        !uses.is_output(id) && uses.readers(id).iter().all(within)
    };
    inside.into_iter().all(read_inside).then_some(())?;
    let mut origins = parts.iter().flat_map(|n| n.origins.iter().copied()).collect::<Vec<_>>();
    origins.sort_unstable();
    origins.dedup();
    let epsilon = graph.scalar(Some(epsilon))?;
    Some(Found { x, scale, bias, output: add.output(0)?, epsilon, origins })
}

/// A mean over the last axis that keeps it.
fn is_mean(graph: &Graph, node: &Node) -> bool {
    let axes = node.input(1).and_then(|id| graph.value(id).shape.integers());
    let rank = node.input(0).and_then(|id| graph.value(id).shape.rank()).and_then(|r| i64::try_from(r).ok());
    let is_last = |axis: i64| axis == -1 || rank.is_some_and(|r| axis == r - 1);
    node.is("ReduceMean")
        && node.op.attributes.int("keepdims").unwrap_or(1) == 1
        && matches!(axes.as_deref(), Some([axis]) if is_last(*axis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    fn text(square: &str, mean: &str, outputs: &str) -> String {
        format!(
            "x: f32[N, 4, 3]
             last = i64[1] -1
             two = f32[] 2
             eps = f32[] 0.5
             g = f32[3] 1 2 3
             b = f32[3] 4 5 6
             m = ReduceMean(x, last)
             d = Sub(x, m)
             s = {square}
             v = {mean}
             e = Add(v, eps)
             r = Sqrt(e)
             n = Div(d, r)
             t = Mul(n, g)
             y = Add(t, b)
             -> {outputs}"
        )
    }

    #[test]
    fn the_nine_nodes_become_one() {
        let expected = "y = LayerNormalization<axis=-1, epsilon=0.5>(x, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])";
        for square in ["Pow(d, two)", "Mul(d, d)"] {
            let (count, nodes) = after(find_layer_norm, &text(square, "ReduceMean(s, last)", "y"));
            assert_eq!((count, nodes), (1, vec![expected.to_owned()]), "{square}");
        }
    }

    #[test]
    fn what_is_read_from_outside_or_is_another_norm_stays() {
        for (square, mean, outputs) in [
            ("Pow(d, two)", "ReduceMean(s, last)", "y, n"),
            ("Pow(d, eps)", "ReduceMean(s, last)", "y"),
            ("Pow(d, two)", "ReduceSum(s, last)", "y"),
            ("Mul(d, x)", "ReduceMean(s, last)", "y"),
        ] {
            assert_eq!(
                after(find_layer_norm, &text(square, mean, outputs)).0,
                0,
                "{square} {mean} {outputs}"
            );
        }
    }
}
