//! GELU as exporters before operator set 20 wrote it: `x · 0.5 · (1 + erf(x / √2))` in five nodes, in several orders.
//!
//! (Hendrycks & Gimpel 2016.) The result is the operator `Gelu`, which rounds less often: in f32 the two differ in the last place.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::attributes::Attributes;
use crate::graph::edit::Uses;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;

/// Replaces the five nodes by `Gelu`.
pub fn find_gelu(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let mut found = Vec::new();
    for node in graph.nodes.iter().filter(|n| n.is("Erf")) {
        found.extend(around(graph, &uses, node));
    }
    let count = found.len();
    for (x, output, origins) in found {
        graph.drop_maker(output);
        graph.push_node(Op::onnx("Gelu", Attributes::new()), &[x], output, &origins);
    }
    Ok(count)
}

/// What goes into the GELU around this `Erf`, what comes out of it, and which nodes it was.
fn around(graph: &Graph, uses: &Uses, erf: &Node) -> Option<(ValueId, ValueId, Vec<usize>)> {
    let scale = graph.node(uses.maker(erf.input(0)?)?)?;
    let x = scaled_input(graph, scale)?;
    let plus = next(graph, uses, erf)?;
    let one = graph.constant_and_other(plus).filter(|_| plus.is("Add"))?.0;
    if graph.scalar(Some(one)) != Some(1.0) {
        return None;
    }
    // Times x and times a half, in either order, or the half already in x: (x · 0.5) · (1 + …).
    let first = next(graph, uses, plus).filter(|n| n.is("Mul"))?;
    let other = other_input(first, plus.output(0)?)?;
    let mut parts = vec![scale, erf, plus, first];
    let output = if other == x {
        let half = next(graph, uses, first)?;
        is_half(graph, half)?;
        parts.push(half);
        half.output(0)?
    } else if graph.scalar(Some(other)) == Some(0.5) {
        let times = next(graph, uses, first).filter(|n| n.is("Mul"))?;
        (other_input(times, first.output(0)?)? == x).then_some(())?;
        parts.push(times);
        times.output(0)?
    } else {
        let half = graph.node(uses.maker(other)?)?;
        is_half(graph, half)?;
        half.inputs.contains(&Some(x)).then_some(())?;
        parts.push(half);
        first.output(0)?
    };
    let mut origins = parts.iter().flat_map(|n| n.origins.iter().copied()).collect::<Vec<_>>();
    origins.sort_unstable();
    Some((x, output, origins))
}

/// x of `x / √2` or `x · 1/√2`.
fn scaled_input(graph: &Graph, node: &Node) -> Option<ValueId> {
    let near = |value: f32, wanted: f32| (value - wanted).abs() < 1e-3;
    let root = std::f32::consts::SQRT_2;
    if node.is("Div") && near(graph.scalar(node.input(1))?, root) {
        return node.input(0);
    }
    let (constant, other) = graph.constant_and_other(node).filter(|_| node.is("Mul"))?;
    near(graph.scalar(Some(constant))?, root.recip()).then_some(other)
}

fn is_half(graph: &Graph, node: &Node) -> Option<()> {
    let half = match node.op.onnx_name()? {
        "Mul" => graph.scalar(Some(graph.constant_and_other(node)?.0))? == 0.5,
        "Div" => graph.scalar(node.input(1))? == 2.0,
        _ => false,
    };
    half.then_some(())
}

/// The one node that reads what a node makes.
fn next<'g>(graph: &'g Graph, uses: &Uses, node: &Node) -> Option<&'g Node> {
    graph.node(uses.only_reader(node.output(0)?)?)
}

fn other_input(node: &Node, one: ValueId) -> Option<ValueId> {
    match (node.input(0)?, node.input(1)?) {
        (a, b) if a == one => Some(b),
        (a, b) if b == one => Some(a),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    const CONSTANTS: &str =
        "root = f32[] 1.4142135\nrecip = f32[] 0.70710677\none = f32[] 1\nhalf = f32[] 0.5\ntwo = f32[] 2";

    #[test]
    fn every_order_is_found() {
        let rows = [
            "m = Mul(x, p)\ny = Mul(m, half)",
            "m = Mul(p, half)\ny = Mul(x, m)",
            "m = Mul(half, x)\ny = Mul(m, p)",
            "m = Mul(p, x)\ny = Div(m, two)",
        ];
        for scale in ["Div(x, root)", "Mul(recip, x)"] {
            for rest in rows {
                let text =
                    format!("x: f32[N]\n{CONSTANTS}\ns = {scale}\ne = Erf(s)\np = Add(e, one)\n{rest}\n-> y");
                assert_eq!(after(find_gelu, &text), (1, vec!["y = Gelu(x)".to_owned()]), "{scale} {rest}");
            }
        }
    }

    #[test]
    fn what_is_nearly_one_stays() {
        let rows = [
            ("Div(x, two)", "Mul(x, p)", "Mul(m, half)"),
            ("Div(x, root)", "Mul(x, p)", "Mul(m, two)"),
            ("Div(x, root)", "Add(x, p)", "Mul(m, half)"),
            ("Div(x, root)", "Mul(e, p)", "Mul(m, half)"),
        ];
        for (scale, first, second) in rows {
            let text = format!(
                "x: f32[N]\n{CONSTANTS}\ns = {scale}\ne = Erf(s)\np = Add(e, one)\nm = {first}\ny = {second}\n-> y"
            );
            assert_eq!(after(find_gelu, &text).0, 0, "{scale} {first} {second}");
        }
    }
}
